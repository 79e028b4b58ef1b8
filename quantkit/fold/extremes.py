"""ReduceMax is written as the pooling that it is: poolings have an INT8 form."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    add_constant,
    constant,
    data_input,
    decide,
    graph_of,
    input_at,
    opset,
    replace_node,
    rewrite_nodes,
    unused_node_name,
    unused_value_name,
)
from quantkit.types import Decision

SQUEEZE_WITH_INPUT = 13
"""The opset from which the axes of Squeeze are an input."""
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
PASSED = frozenset({"Concat", "Flatten", "ReduceMax", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
                    "Unsqueeze"})  # fmt: skip
"""What may lie between a maximum and the product that reads it."""


def pool_maxima(model: ir.Model) -> list[Decision]:
    """ReduceMax (keepdims 0) over float32: where two axes are left, a GlobalMaxPool; over one axis of known size of an
    image, a MaxPool. With a Transpose before it if the axes are not the last ones, and a Squeeze behind it.

    Only where products read it: for others (a GRU, outputs) u8 would be a rounding that gains nothing."""
    if opset(model) < SQUEEZE_WITH_INPUT:
        return []
    return rewrite_nodes(model, ("ReduceMax",), _rewrite)


def _rewrite(node: ir.Node) -> Decision | None:
    x, axes = data_input(node), _axes(node)
    if x.shape is None or x.dtype != ir.DataType.FLOAT or x.producer() is None or not axes:
        return None
    rank = len(x.shape)
    axes = sorted({axis % rank for axis in axes})
    left = [axis for axis in range(rank) if axis not in axes]
    if rank not in (3, 4) or node.attributes.get_int("keepdims", 1) != 0 or not _feeds_products(node):
        return None
    size = x.shape[axes[0]]
    if len(left) == 2:
        pool: tuple[str, dict[str, list[int]]] = ("GlobalMaxPool", {})
    elif len(left) == 3 and isinstance(size, int) and size > 0:
        window, ones = [1, size], [1, 1]
        pool = ("MaxPool", {"kernel_shape": window, "strides": window, "pads": [0] * 4, "dilations": ones})
    else:
        return None
    decision = decide(node, "rewritten", f"ReduceMax over axes {axes} as {pool[0]}")
    if left + axes != list(range(rank)):
        x = _before(node, "Transpose", x, {"perm": left + axes})
    pooled = _before(node, pool[0], x, pool[1])
    last = add_constant(graph_of(node), f"{node.name}_axes", np.arange(len(left), rank, dtype=np.int64))
    replace_node(node, "Squeeze", [pooled, last])
    return decision


def _feeds_products(node: ir.Node) -> bool:
    waiting, seen = [node], {node}
    while waiting:
        for out in waiting.pop().outputs:
            readers = {use.node for use in out.uses()} - seen
            if any(reader.op_type in PRODUCTS for reader in readers):
                return True
            passed = {reader for reader in readers if reader.op_type in PASSED}
            waiting += passed
            seen |= passed
    return False


def _axes(node: ir.Node) -> list[int]:
    """Empty where they are not known, or all."""
    listed = node.attributes.get_ints("axes")
    array = constant(input_at(node, 1))
    return list(listed) if listed is not None else [] if array is None else [int(axis) for axis in array.reshape(-1)]


def _before(node: ir.Node, op_type: str, x: ir.Value, attributes: dict[str, list[int]]) -> ir.Value:
    graph, kind = graph_of(node), op_type.lower()
    out = ir.Value(name=unused_value_name(graph, f"{node.outputs[0].name}_{kind}"), type=x.type)
    made = ir.Node("", op_type, [x], ir.convenience.convert_attributes(attributes), outputs=[out])
    made.name = unused_node_name(graph, f"{node.name}_{kind}")
    graph.insert_before(node, made)
    return out
