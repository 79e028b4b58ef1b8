"""Where a model's error can be measured: at its outputs, or before what turns a small error into another answer.

Detectors end in NonMaxSuppression or TopK: the boxes of two equally good runs come in another order and number, so that
their outputs have no distance. The tensors that such a tail reads have one.
"""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fuse.graph import is_standard

UNSTEADY = ("ArgMax", "ArgMin", "Compress", "Multinomial", "NonMaxSuppression", "NonZero", "TopK", "Unique")
"""Ops whose result jumps when values that are nearly equal, or near a threshold, change places."""


def judged_tensors(graph: ir.Graph) -> list[str]:
    """Names of the float tensors that tell how near a quantized model is to this one, in graph order.

    An output that no op of UNSTEADY leads to stands for itself; any other is replaced by the float tensors that its
    unsteady part reads. A graph without such ops gives its outputs.
    """
    unsteady = _unsteady_nodes(graph)
    if not unsteady:
        return [value.name or "" for value in graph.outputs]
    found: dict[str, None] = {}
    seen: set[ir.Value] = set()
    for output in graph.outputs:
        if output.producer() not in unsteady:
            found[output.name or ""] = None
        else:
            _collect(output, unsteady, seen, found)
    return list(found)


def _unsteady_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes with an op of UNSTEADY, in a body or at top level, and all that depend on them."""
    nodes: set[ir.Node] = set()
    for node in graph:
        jumps = any(is_standard(n, *UNSTEADY) for n in (node, *_inner_nodes(node)))
        if jumps or any(value is not None and value.producer() in nodes for value in node.inputs):
            nodes.add(node)
    return nodes


def _inner_nodes(node: ir.Node) -> list[ir.Node]:
    """All nodes in the bodies of a node (If, Loop, Scan)."""
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [inner for body in bodies for inner in body.all_nodes()]


def _collect(value: ir.Value, unsteady: set[ir.Node], seen: set[ir.Value], found: dict[str, None]) -> None:
    """Adds the first float tensors on every way up from `value` that no unsteady node makes."""
    stack = [value]
    while stack:
        value = stack.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        if node not in unsteady and value.dtype == ir.DataType.FLOAT:
            found[value.name or ""] = None
        else:
            stack.extend(v for v in node.inputs if v is not None)
