"""Softmax as it was before opset 13: over all axes from one on, which converters write as Flatten, Softmax, Reshape."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fuse.graph import is_standard, only_consumer, replace_nodes, same_shape
from quantkit.types import Decision


def _int(node: ir.Node, key: str, default: int) -> int:
    return node.attributes[key].as_int() if key in node.attributes else default


def _flattened(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """(Flatten before, Reshape behind) of a Softmax over the last axis alone of what is flattened, else None."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    behind = only_consumer(node.outputs[0])
    if before is None or behind is None or not is_standard(before, "Flatten") or not is_standard(behind, "Reshape"):
        return None
    x = before.inputs[0]
    if x is None or x.shape is None or only_consumer(before.outputs[0]) is not node:
        return None
    rank = len(x.shape)
    shape = behind.inputs[1].producer() if behind.inputs[1] is not None else None
    measured = shape is not None and is_standard(shape, "Shape") and not shape.attributes and shape.inputs[0] is x
    last = _int(before, "axis", 1) % rank == rank - 1 and _int(node, "axis", -1) in (1, -1)
    return (before, behind) if last and (measured or same_shape(x, behind.outputs[0])) else None


def restore_softmax(model: ir.Model) -> list[Decision]:
    """Flatten -> Softmax -> Reshape to the shape before, where only the last axis is meant -> one Softmax."""
    decisions = []
    for node in [n for n in model.graph if is_standard(n, "Softmax")]:
        found = _flattened(node)
        if found is None:
            continue
        before, behind = found
        shape = behind.inputs[1].producer()  # type: ignore[union-attr]
        new = ir.node("Softmax", [before.inputs[0]], {"axis": -1}, name=node.name)
        replace_nodes(model.graph, [before, node, behind], new, behind.outputs[0])
        if shape is not None and not shape.outputs[0].uses() and not shape.outputs[0].is_graph_output():
            model.graph.remove(shape, safe=True)
        decisions.append(Decision("fuse", "fused", node.name or "", "Flatten + Softmax + Reshape -> Softmax"))
    return decisions
