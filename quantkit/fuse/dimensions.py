"""Sizes read at run time are read from the graph's inputs where they are the same.

Exporters take the batch size from the Shape of some inner tensor. Read from there it would pull that tensor out of the
u8 region; the graph's input has it too.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import is_standard, new_initializer, scalar
from quantkit.types import Decision

_INT64 = ir.TensorType(ir.DataType.INT64)


def _symbols(graph: ir.Graph) -> dict[str, tuple[ir.Value, int]]:
    """The name of a symbolic dimension -> (graph input, axis) that has it first."""
    found: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        if value.is_initializer() or value.shape is None:
            continue
        for axis, dim in enumerate(value.shape):
            if not isinstance(dim, int) and dim.value is not None:
                found.setdefault(dim.value, (value, axis))
    return found


def _whole_shape(node: ir.Node | None) -> ir.Value | None:
    """What a Shape node without start and end measures."""
    if node is None or not is_standard(node, "Shape") or {"start", "end"} & set(node.attributes):
        return None
    return node.inputs[0]


def read_sizes_from_inputs(model: ir.Model) -> list[Decision]:
    """Gather(Shape(inner), i) -> Gather(Shape(graph input), j) where the sizes have the same symbol."""
    graph, decisions = model.graph, []
    symbols = _symbols(graph)
    for node in list(graph):
        if not is_standard(node, "Gather"):
            continue
        measured = _whole_shape(node.inputs[0].producer() if node.inputs[0] is not None else None)
        index = scalar(node.inputs[1])
        if measured is None or measured.shape is None or index is None or measured in graph.inputs:
            continue
        dim = measured.shape[int(index)]
        if isinstance(dim, int) or dim.value not in symbols:
            continue
        source, axis = symbols[dim.value]
        shape = ir.node("Shape", [source], name=f"{node.name}/Shape")
        made = shape.outputs[0]
        made.name, made.type, made.shape = f"{node.name}/Shape_output", _INT64, ir.Shape([len(source.shape or ())])
        graph.insert_before(node, shape)
        node.replace_input_with(0, made)
        node.replace_input_with(1, _same_rank(graph, node, axis))
        decisions.append(Decision("fuse", "rewritten", node.name or "", f"size {dim.value} read from {source.name}"))
    for node in reversed(list(graph)):
        if is_standard(node, "Shape") and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
    return decisions


def _same_rank(graph: ir.Graph, node: ir.Node, axis: int) -> ir.Value:
    """The index `axis` in the shape of the node's own index, which the rank of its output depends on."""
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return new_initializer(graph, f"{node.name}/axis", np.full(value.const_value.shape.numpy(), axis, np.int64))
