"""Weights and biases of foreign models as the engine takes them: s8 per output channel, zero point 0, int32 bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.foreign.linear import Linear, constant_dequantize, linear_of
from quantkit.fuse.graph import Reject, constant, conv_layout
from quantkit.quantize.qparams import ACC_LIMIT, QuantizedWeights
from quantkit.types import QMAX, QMIN, QuantParams

OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 0, "Gemm": 0, "MatMul": 1}
"""Base op -> the axis of its weight that counts output channels; of ConvTranspose as quantkit has it."""
Weights = tuple[np.ndarray, np.ndarray]
"""s8 weights and their scale, float32 [C]."""
SAME_SCALE = 1e-6
"""Bias scales this close (relative) to x_scale * w_scale are that product in float32: the integers stay."""
BIAS_TOLERANCE = 0.25
"""Steps of the output by which rounding a bias to int32 may move a result; above, the node is not converted."""


def integer_weights(value: ir.Value | None, base: str) -> Weights:
    """(s8 weights in ONNX's shape, scale float32 [C]) of a weight input. Raises Reject with the reason.

    u8 weights and zero points other than 0 are shifted where the result fits -128..127.
    """
    q, linear = _integers(value)
    axis, channels = OUTPUT_AXIS[base], q.shape[OUTPUT_AXIS[base]]
    if linear.scale.size > 1 and (linear.axis % q.ndim != axis or linear.scale.size != channels):
        raise Reject(f"its weights are quantized along axis {linear.axis}, not the output channels")
    return q, np.broadcast_to(linear.scale, (channels,)).astype(np.float32)


def transposed_weights(node: ir.Node) -> Weights:
    """The same of a ConvTranspose as ONNX has it; the weights in the layout of Conv: [C_out, C_in / group, *kernel]."""
    q, linear = _integers(node.inputs[1])
    if linear.scale.size not in (1, q.shape[linear.axis % q.ndim]):
        raise Reject(f"{linear.scale.size} scales along axis {linear.axis} of weights {list(q.shape)}")
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    if group < 1 or q.shape[0] % group:
        raise Reject(f"{q.shape[0]} input channels in {group} groups")
    turned, scale = (conv_layout(v, group) for v in (q, np.broadcast_to(linear.along(q.ndim)[0], q.shape)))
    rows = scale.reshape(len(scale), -1)
    if (rows != rows[:, :1]).any():
        raise Reject(f"its weights are quantized along axis {linear.axis}, not the output channels")
    return np.ascontiguousarray(turned), rows[:, 0].astype(np.float32)


def _integers(value: ir.Value | None) -> tuple[np.ndarray, Linear]:
    """Weights as s8 with zero point 0, and their parameters."""
    node = constant_dequantize(value)
    if node is None:
        raise Reject("its weights are not quantized")
    q, linear = constant(node.inputs[0]), linear_of(node)
    assert q is not None
    if linear.zero_point.dtype not in (np.uint8, np.int8):
        raise Reject(f"its weights are {linear.zero_point.dtype}")
    shifted = q.astype(np.int32) - linear.along(q.ndim)[1]
    if shifted.size and (shifted.min() < -128 or shifted.max() > 127):
        points = ", ".join(str(z) for z in np.unique(linear.zero_point)[:3])
        raise Reject(f"its weights have zero point {points}: less it they are {shifted.min()}..{shifted.max()}, not s8")
    if not (np.isfinite(linear.scale) & (linear.scale > 0)).all():
        raise Reject("a scale of its weights is not positive")
    return shifted.astype(np.int8), linear


def integer_bias(value: ir.Value | None, unit: np.ndarray, output_scale: float | None) -> np.ndarray:
    """The bias as int32 [C] in units of `unit` = x_scale * w_scale (float64 [C]); integers of that scale stay.

    output_scale: of the quantized output, None for a float one. Raises Reject where rounding would show.
    """
    node = constant_dequantize(value)
    if node is not None:
        q, linear = constant(node.inputs[0]), linear_of(node)
        assert q is not None
        scale = np.broadcast_to(linear.scale.astype(np.float64), unit.shape)
        if q.shape == unit.shape and not linear.zero_point.any() and np.allclose(scale, unit, rtol=SAME_SCALE, atol=0):
            return q.astype(np.int32)
    real = constant(value)
    if real is None or real.shape != unit.shape:
        raise Reject("its bias is not one constant a channel")
    exact = real.astype(np.float64) / unit
    rounded = np.rint(exact)
    if not np.isfinite(exact).all() or (np.abs(rounded) >= ACC_LIMIT).any():
        raise Reject("its bias does not fit 32 bits in units of x_scale * w_scale")
    if output_scale is not None and (np.abs(exact - rounded) * unit / output_scale).max(initial=0.0) > BIAS_TOLERANCE:
        raise Reject("its bias has another scale, in which rounding it would show in the output")
    return rounded.astype(np.int32)


def quantized_weights(
    node: ir.Node, base: str, x: QuantParams, y: QuantParams | None, given: Weights | None = None
) -> QuantizedWeights:
    """Weights (input 1, or `given`) and bias (input 2) of a fused node with input parameters x and output parameters y
    (None: it ends in float32). Raises Reject, also where an accumulator could leave 32 bits."""
    weights, scale = given or integer_weights(node.inputs[1], base)
    unit = np.float64(x.scale) * scale.astype(np.float64)
    bias = integer_bias(node.inputs[2], unit, y.scale if y else None)
    rows = np.moveaxis(weights, OUTPUT_AXIS[base], 0)  # a view: what is written there changes weights
    low, high = _reach(rows.reshape(scale.size, -1).astype(np.int64), bias.astype(np.int64), x.zero_point)
    too_far = (low < -ACC_LIMIT) | (high >= ACC_LIMIT)
    if y is not None:
        ends = [requantized(end, (unit / y.scale).astype(np.float32), y) for end in (low, high)]
        rows[too_far & (ends[0] == ends[1])] = 0  # tiny weights under a huge bias: the bias alone decides the output
        too_far &= ends[0] != ends[1]
    if too_far.any():
        i = int(too_far.argmax())
        raise Reject(f"the accumulator of channel {i} could reach {low[i]}..{high[i]}, beyond 32 bits")
    return QuantizedWeights(weights, scale, bias)


def _reach(rows: np.ndarray, bias: np.ndarray, zero_point: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and largest accumulator of each channel, and of any part of its sum. rows: int64 [C, K]."""
    start = bias - zero_point * rows.sum(axis=1)
    return start + QMAX * np.minimum(rows, 0).sum(axis=1), start + QMAX * np.maximum(rows, 0).sum(axis=1)


def requantized(acc: np.ndarray, multiplier: np.ndarray, y: QuantParams) -> np.ndarray:
    """clamp(rne(f32(acc) * m) + zp_y, 0, 255) for accumulators int64 [C]."""
    return np.clip(np.rint(acc.astype(np.float32) * multiplier) + np.float32(y.zero_point), QMIN, QMAX)
