"""The converted form: s8 weights, activations quantized at run time by DynamicQuantizeLinear; and back to FP32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant, new_initializer, quantkit_name, replace_nodes
from quantkit.fuse.opnames import CONVOLUTIONS, DOMAIN, OpName
from quantkit.load.constants import release
from quantkit.quantize.apply import finish_model
from quantkit.quantize.qparams import WEIGHT_MAX, channel_rows, weight_scales
from quantkit.types import Decision

BLOCK_VALUES = 1 << 22
"""Weights rounded together: 32 MiB in float64."""


def _axis(name: OpName) -> int:
    return 1 if name.base == "MatMul" else 0


def _quantize_rows(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(s8 weights of the same shape, float32 scale [C]); some channels at a time, as the arithmetic is in float64."""
    channels = weights.shape[axis]
    step = max(1, BLOCK_VALUES * channels // max(weights.size, 1))
    q, scale = np.empty(weights.shape, np.int8), np.empty(channels, np.float32)
    for start in range(0, channels, step):
        place = (*[slice(None)] * axis, slice(start, start + step))
        rows = channel_rows(weights[place], axis)
        scale[start : start + step] = weight_scales(rows)
        rounded = np.rint(rows / scale[start : start + step, None].astype(np.float64))
        moved = np.moveaxis(q[place], axis, 0)
        moved[...] = np.clip(rounded, -WEIGHT_MAX, WEIGHT_MAX).reshape(moved.shape)
    return q, scale


def to_dynamic(model: ir.Model) -> list[Decision]:
    """Gives every fused weighted node of a fused FP32 model s8 weights (`DynQ...`); spells out the other fused nodes.

    The scale and the bias are stored in the shape in which they broadcast: [C, 1, 1] behind a 2D convolution.
    Works in place; returns a Decision for each node.
    """
    decisions = []
    graph = model.graph
    for node in list(graph):
        name = quantkit_name(node)
        if name is None or name.level != "float" or not name.is_weighted:
            continue
        array = constant(node.inputs[1])
        bias = constant(node.inputs[2])
        assert array is not None
        assert bias is not None
        q, scale = _quantize_rows(array, _axis(name))
        shape = (-1, *([1] * (array.ndim - 2))) if name.base in CONVOLUTIONS else (-1,)
        weight = new_initializer(graph, f"{node.name}/weight_quantized", q)
        w_scale = new_initializer(graph, f"{node.name}/weight_scale", scale.reshape(shape))
        shift = new_initializer(graph, f"{node.name}/bias_float", bias.reshape(shape))
        inputs = [node.inputs[0], weight, w_scale, shift, *node.inputs[3:]]
        new = ir.node(name.at("dynamic").op_type, inputs, node.attributes, domain=DOMAIN, name=node.name)
        used = node.inputs[1].const_value  # type: ignore[union-attr]
        replace_nodes(graph, [node], new, node.outputs[0])
        del array
        release(used)
        decisions.append(Decision("convert", "quantized", node.name or "", f"weights s8 per channel -> {new.op_type}"))
    _spell_out_unweighted(model)
    finish_model(model)
    return decisions


def _spell_out_unweighted(model: ir.Model) -> None:
    """Fused FP32 nodes without weights (SiLU, AddRelu...) become standard ops again."""
    from quantkit.fuse.expand import expand_in_place

    expand_in_place(model, only_unweighted=True)


def to_float(model: ir.Model) -> None:
    """Turns the `DynQ...` nodes of a converted model back into fused FP32 nodes, weights dequantized. In place."""
    graph = model.graph
    for node in list(graph):
        name = quantkit_name(node)
        if name is None or name.level != "dynamic":
            continue
        q, scale, bias = (constant(value) for value in node.inputs[1:4])
        assert q is not None
        assert scale is not None
        assert bias is not None
        shape = [1] * q.ndim
        shape[_axis(name)] = -1
        weights = (q.astype(np.float64) * scale.reshape(shape).astype(np.float64)).astype(np.float32)
        inputs = [
            node.inputs[0],
            new_initializer(graph, f"{node.name}/weight", weights),
            new_initializer(graph, f"{node.name}/bias", bias.reshape(-1)),
            *node.inputs[4:],
        ]
        new = ir.node(name.at("float").op_type, inputs, node.attributes, domain=DOMAIN, name=node.name)
        replace_nodes(graph, [node], new, node.outputs[0])
    model.functions.clear()
    for key, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[key]
