"""Residual sums of transformers in float32: each sum that a normalization reads, and those that it is made of.

A few channels of such a sum are 50 times as large as the others, and what a block adds to it is small beside it: one
scale of 8 bits for all of them loses what the blocks work out.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from quantkit.fuse.graph import is_standard, quantkit_name, replace_nodes
from quantkit.fuse.opnames import DOMAIN, STREAM_NORMALIZATIONS, OpName

FLOAT_SUM = OpName("Add", "float", to_float=True)


def is_in_stream(value: ir.Value | None) -> bool:
    """Whether a value of a fused graph is a sum that stays float32, or tokens in one row for such a sum."""
    node = value.producer() if value is not None else None
    return node is not None and (quantkit_name(node) == FLOAT_SUM or joins_tokens(node))


def joins_tokens(node: ir.Node) -> bool:
    """Whether a node is a Concat, along any axis but the last, that a sum in float32 reads.

    A class token of 0.02 beside patches of 3 has one of 256 levels for itself, and the normalization behind the sum
    makes it as large as the others: 17 dB at the class token of a DINOv2 with random weights, 33 without.
    """
    if not is_standard(node, "Concat") or node.outputs[0].shape is None:
        return False
    axis, rank = node.attributes["axis"].as_int(), len(node.outputs[0].shape)
    is_read = any(quantkit_name(use.node) == FLOAT_SUM for use in node.outputs[0].uses())
    return is_read and axis not in (-1, rank - 1)


def sums_in_float(model: ir.Model) -> int:
    """Rewrites the residual sums of a fused FP32 `model` to `AddFloat`, in place; one that a layer took in is taken out
    of it. Returns how many there are: 0 leaves the model as it was."""
    found: set[ir.Node] = set()
    for node in reversed(list(model.graph)):
        if _is_sum(node) and any(_normalizes(use.node) or use.node in found for use in node.outputs[0].uses()):
            found.add(node)
    for node in [node for node in model.graph if node in found]:
        _rewrite(model.graph, node)
    return len(found)


def _is_sum(node: ir.Node) -> bool:
    """An Add of two tensors of one rank and width, alone or at the end of a layer; one of them may be a constant, as
    the places of a vision transformer's patches are."""
    name = quantkit_name(node)
    if name is not None:
        return name.level == "float" and name.is_weighted and name.add and not name.activation
    a, b = node.inputs if is_standard(node, "Add") else (None, None)
    if a is None or b is None or (a.const_value is not None and b.const_value is not None):
        return False
    if a.dtype != ir.DataType.FLOAT or a.shape is None or b.shape is None:
        return False
    return 0 < len(a.shape) == len(b.shape) and isinstance(a.shape[-1], int) and a.shape[-1] == b.shape[-1]


def _normalizes(node: ir.Node) -> bool:
    name = quantkit_name(node)
    return is_standard(node, *STREAM_NORMALIZATIONS) if name is None else name.base in STREAM_NORMALIZATIONS


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    name, out = quantkit_name(node), node.outputs[0]
    if name is None:
        summed = ir.node(FLOAT_SUM.op_type, list(node.inputs), domain=DOMAIN, name=node.name)
        replace_nodes(graph, [node], summed, out)
        return
    plain = replace(name, add=False)
    layer = ir.node(plain.op_type, list(node.inputs[:3]), node.attributes, domain=DOMAIN, name=node.name)
    product = layer.outputs[0]
    product.name, product.shape, product.type = f"{out.name}/product", out.shape, out.type
    graph.insert_before(node, layer)
    summed = ir.node(FLOAT_SUM.op_type, [product, node.inputs[3]], domain=DOMAIN, name=f"{node.name}/Add")
    replace_nodes(graph, [node], summed, out)
