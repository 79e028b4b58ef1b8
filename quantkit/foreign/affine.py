"""Factors and shifts by channel between DequantizeLinear and QuantizeLinear, as integer depthwise 1x1 convolutions.

BatchNormalization, Mul, Add, Sub and Div by a constant a channel, and depthwise 1x1 convolutions with float weights:
y = a x + b. The integer weights are the signs of `a` times TOP, their scales |a| / TOP, so that nothing is rounded but
the bias, by at most half a step of x a / TOP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.foreign.linear import activation_params, constant_dequantize, dequantized, linear_of
from quantkit.fuse.graph import Reject, constant, is_standard, new_initializer, only_consumer
from quantkit.quantize.qparams import ACC_LIMIT

TOP = 127
RANKS = (3, 4)
"""[N, C, W] and [N, C, H, W]: what the engine's convolutions take."""


@dataclass(frozen=True)
class Affine:
    """y = gain * x + shift, float64 [C], of what `source` holds."""

    source: ir.Value
    gain: np.ndarray
    shift: np.ndarray


def absorb_affines(model: ir.Model) -> None:
    """Rewrites every affine map by channel that reads a quantized activation, in place; the rest stays as it is."""
    for node in list(model.graph):
        if node.graph is None or node.op_type not in MAPS or node.domain:
            continue
        try:
            _rewrite(model.graph, node)
        except Reject:
            continue  # it has its reason from convert


def real_constant(value: ir.Value | None) -> np.ndarray:
    """A constant, or one behind DequantizeLinear, in float64. Raises Reject for what is computed at run time."""
    array, node = constant(value), constant_dequantize(value)
    if array is None and node is not None:
        q = constant(node.inputs[0])
        array = None if q is None else dequantized(q, linear_of(node))
    if array is None or array.dtype.kind != "f":
        raise Reject("parameters that are not constant")
    return array.astype(np.float64)


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    """The chain of maps from `node` on, each the only reader of the one before it, becomes one convolution."""
    first = MAPS[node.op_type](node)
    producer = first.source.producer()
    if producer is None or not is_standard(producer, "DequantizeLinear") or first.source.const_value is not None:
        raise Reject("its input is not quantized")
    if node.outputs[0].is_graph_output():
        raise Reject("its float32 output is asked for")
    step = activation_params(producer).scale
    chain, gain, shift = [node], first.gain, first.shift
    while (follower := only_consumer(chain[-1].outputs[0])) is not None and follower.op_type in MAPS:
        try:
            after = MAPS[follower.op_type](follower)
        except Reject:
            break
        graph_output = follower.outputs[0].is_graph_output()
        if after.source is not chain[-1].outputs[0] or after.gain.size != gain.size or graph_output:
            break
        chain.append(follower)
        gain, shift = gain * after.gain, shift * after.gain + after.shift
    _replace(graph, chain, _convolution(graph, node, Affine(first.source, gain, shift), step))


def _convolution(graph: ir.Graph, node: ir.Node, affine: Affine, step: float) -> list[ir.Node]:
    """DequantizeLinear of the integer weights, and Conv. step: the scale of the source."""
    source, gain, shift = affine.source, affine.gain, affine.shift
    least = np.abs(shift) / (step * ACC_LIMIT / 2)  # below that the bias would not fit its integers
    scale = np.maximum(np.maximum(np.abs(gain) / TOP, least), np.finfo(np.float32).tiny).astype(np.float32)
    q = np.clip(np.rint(gain / scale), -TOP, TOP).astype(np.int8)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Reject("factors or shifts that are not finite")
    spatial = len(source.shape) - 2  # type: ignore[arg-type]
    parts = {"weight": q.reshape(-1, 1, *[1] * spatial), "weight_scale": scale,
             "weight_zero_point": np.zeros(scale.shape, np.int8), "bias": shift.astype(np.float32)}  # fmt: skip
    weight, w_scale, zero_point, bias = (new_initializer(graph, f"{node.name}/{k}", a) for k, a in parts.items())
    real = ir.node("DequantizeLinear", [weight, w_scale, zero_point], {"axis": 0}, name=f"{node.name}/weight")
    out = real.outputs[0]
    out.name, out.shape, out.type = f"{node.name}/weight_real", weight.shape, ir.TensorType(ir.DataType.FLOAT)
    ones = [1] * spatial
    attributes: dict[str, Any] = {"kernel_shape": ones, "strides": ones, "dilations": ones, "pads": [0] * 2 * spatial,
                                  "group": int(gain.size)}  # fmt: skip
    return [real, ir.node("Conv", [source, out, bias], attributes, name=node.name)]


def _replace(graph: ir.Graph, chain: list[ir.Node], made: list[ir.Node]) -> None:
    old, new = chain[-1].outputs[0], made[-1].outputs[0]
    new.shape, new.type, name = old.shape, old.type, old.name
    graph.insert_before(chain[0], made)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(chain[::-1], safe=True)
    new.name = name


def _channels(value: ir.Value | None) -> tuple[ir.Value, int]:
    """The value and its number of channels. Raises Reject where rank or channels are unknown or unfit."""
    if value is None or value.shape is None or len(value.shape) not in RANKS or not isinstance(value.shape[1], int):
        raise Reject("an input of unknown shape, or without channels and spatial dimensions")
    return value, value.shape[1]


def _batchnorm(node: ir.Node) -> Affine:
    """gain = gamma / sqrt(variance + epsilon), shift = beta - gain mean: ONNX BatchNormalization-15."""
    source, channels = _channels(node.inputs[0])
    gamma, beta, mean, variance = (real_constant(value) for value in node.inputs[1:5])
    if node.attributes.get_int("training_mode", 0) or any(out.uses() for out in node.outputs[1:]):
        raise Reject("it is in training mode")
    spread = variance + node.attributes.get_float("epsilon", 1e-5)
    if gamma.shape != (channels,) or (spread <= 0).any():
        raise Reject("its parameters do not fit")
    gain = gamma / np.sqrt(spread)
    return Affine(source, gain, beta - gain * mean)


def _depthwise(node: ir.Node) -> Affine:
    source, channels = _channels(node.inputs[0])
    if constant_dequantize(node.inputs[1]) is not None:
        raise Reject("its weights are integers")
    weight = real_constant(node.inputs[1])
    if weight.size != channels or weight.shape[0] != channels or node.attributes.get_int("group", 1) != channels:
        raise Reject("it is no 1x1 convolution of single channels")
    steps = (node.attributes.get_ints("strides") or (), node.attributes.get_ints("pads") or ())
    if set(steps[0]) - {1} or any(steps[1]) or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise Reject("strides or pads")
    bias = real_constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(channels)
    return Affine(source, weight.reshape(-1), bias)


STEPS: dict[str, Callable[[np.ndarray, bool], tuple[np.ndarray, np.ndarray]]] = {
    "Mul": lambda c, first: (c, 0 * c),
    "Div": lambda c, first: (1 / c, 0 * c),
    "Add": lambda c, first: (np.ones_like(c), c),
    "Sub": lambda c, first: (np.ones_like(c), -c) if first else (-np.ones_like(c), c),
}
"""op -> (gain, shift) of a constant; first: the tensor is the first operand."""


def _binary(node: ir.Node) -> Affine:
    for index in (0, 1):
        other = node.inputs[1 - index]
        if constant(other) is None:
            continue
        source, channels = _channels(node.inputs[index])
        values = real_constant(other)
        rank = len(source.shape)  # type: ignore[arg-type]
        shape = (1,) * (rank - values.ndim) + values.shape
        by_channel = [size == 1 or axis == 1 for axis, size in enumerate(shape)]
        if values.size != channels or channels == 1 or len(shape) != rank or not all(by_channel):
            raise Reject("a constant that is not one number a channel")
        if node.op_type == "Div" and (index == 1 or (values == 0).any()):
            raise Reject("a division by what is not constant, or by 0")
        return Affine(source, *STEPS[node.op_type](values.reshape(-1), index == 0))
    raise Reject("no constant operand")


MAPS: dict[str, Callable[[ir.Node], Affine]] = {
    "BatchNormalization": _batchnorm,
    "Conv": _depthwise,
    **dict.fromkeys(STEPS, _binary),
}
"""op -> the affine map that a node of it is; raises Reject where it is none."""
