"""From real ranges and weights to integers: the formulas of docs/numerics.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.errors import ModelError
from quantkit.types import BIAS_LIMIT, QMAX, QMIN, WEIGHT_MAX, QuantParams, Range

ACC_LIMIT = 1 << 31
BLOCK_VALUES = 1 << 22
"""Weights rounded together: 32 MiB in float64."""
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Scales stay normal float32 numbers: denormals lose digits, and some CPUs flush them to zero."""


def params_from_range(span: Range) -> QuantParams:
    """scale = (high - low) / 255 in float32, zero_point = rne(-low / scale); the range is widened to hold 0 exactly.

    A tensor that is always 0 gets scale 1, zero point 0.
    """
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    if low == high:
        return QuantParams(1.0, 0)
    scale = float(np.float32(max((high - low) / (QMAX - QMIN), SMALLEST_SCALE)))
    zero_point = int(np.clip(np.rint(-low / scale), QMIN, QMAX))
    return QuantParams(scale, zero_point)


def quantize_array(x: np.ndarray, params: QuantParams) -> np.ndarray:
    """clip(rint(x / scale) + zero_point, 0, 255): float32 any shape -> uint8, ties to even. ONNX QuantizeLinear-19."""
    q = np.rint(x.astype(np.float32) / np.float32(params.scale)) + np.float32(params.zero_point)
    return np.clip(q, QMIN, QMAX).astype(np.uint8)


@dataclass(frozen=True)
class QuantizedWeights:
    """values: s8, the shape of the FP32 weights; scale: f32 [C]; bias: int32 [C] in units of x_scale * scale."""

    values: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def channel_rows(weights: np.ndarray, axis: int) -> np.ndarray:
    """The weights as float64 [C, K], one row an output channel."""
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64)


def weight_scales(rows: np.ndarray, *, per_channel: bool = True) -> np.ndarray:
    """absmax / 127 of each row as float32 [C]; dead channels (all zero) get 1; one scale for all if not per_channel."""
    return scales_of_peaks(_peaks(rows), per_channel=per_channel)


def _peaks(rows: np.ndarray) -> np.ndarray:
    """The largest magnitude of each row, float64 [C]."""
    return np.abs(rows).max(axis=1, initial=0.0)


def scales_of_peaks(peak: np.ndarray, *, per_channel: bool = True) -> np.ndarray:
    """peak / 127 as float32 [C]: see weight_scales."""
    if not per_channel:
        peak = np.full_like(peak, peak.max(initial=0.0))
    return np.where(peak > 0, np.maximum(peak / WEIGHT_MAX, SMALLEST_SCALE), 1.0).astype(np.float32)


def scale_for_bias(scale: np.ndarray, bias: np.ndarray, x_scale: float) -> np.ndarray:
    """Raises a channel's weight scale where |bias / (x_scale * scale)| would reach 2^30. float32 [C] -> float32 [C]."""
    least = np.abs(bias.astype(np.float64)) / (x_scale * (BIAS_LIMIT - 1))
    raised = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    return np.where(least > scale, raised, scale).astype(np.float32)


def quantize_weights(weights: np.ndarray, bias: np.ndarray, x_scale: float, *, axis: int, per_channel: bool = True,
                     name: str = "weights") -> QuantizedWeights:  # fmt: skip
    """Symmetric s8 weights per output channel, and the int32 bias.

    weights: float32, output channels on `axis`; bias: float32 [C].
    w_q = clip(rne(w / s_w), -127, 127), b_q = rne(b / (x_scale s_w)) in float64.
    Raises ModelError where an accumulator could leave int32: |b_q| + 255 * sum|w_q| >= 2^31.
    """
    scale = scale_for_bias(base_scales(weights, axis=axis, per_channel=per_channel), bias, x_scale)
    q = rounded_rows(weights, scale, axis=axis)
    return finish_weights(q, scale, weights.shape, bias, x_scale, axis=axis, name=name)


def base_scales(weights: np.ndarray, *, axis: int, per_channel: bool = True) -> np.ndarray:
    """`weight_scales` of the weights as they lie, float32 [C], some channels at a time."""
    peak = [_peaks(channel_rows(weights[place], axis)) for _, place in _blocks(weights, axis)]
    return scales_of_peaks(np.concatenate([np.zeros(0), *peak]), per_channel=per_channel)


def rounded_rows(weights: np.ndarray, scale: np.ndarray, *, axis: int) -> np.ndarray:
    """clip(rne(w / s_w), -127, 127) as s8 [C, K], one row an output channel."""
    channels = weights.shape[axis]
    q = np.empty((channels, weights.size // max(channels, 1)), np.int8)
    for start, place in _blocks(weights, axis):
        rows = channel_rows(weights[place], axis)
        rounded = np.rint(rows / scale[start : start + len(rows), None].astype(np.float64))
        q[start : start + len(rows)] = np.clip(rounded, -WEIGHT_MAX, WEIGHT_MAX)
    return q


def _blocks(weights: np.ndarray, axis: int) -> list[tuple[int, tuple[slice, ...]]]:
    """(first channel, index) of parts of about BLOCK_VALUES weights."""
    channels = weights.shape[axis]
    step = max(1, BLOCK_VALUES * channels // max(weights.size, 1))
    return [(start, (*[slice(None)] * axis, slice(start, start + step))) for start in range(0, channels, step)]


def finish_weights(q: np.ndarray, scale: np.ndarray, shape: tuple[int, ...], bias: np.ndarray, x_scale: float, *,
                   axis: int, name: str) -> QuantizedWeights:  # fmt: skip
    """Weights already rounded to s8 rows [C, K], put back into `shape`, with the int32 bias that belongs to them."""
    return with_bias(in_shape(q, shape, axis), scale, magnitudes(q), bias, x_scale, name=name)


def magnitudes(q: np.ndarray) -> np.ndarray:
    """int64 [C]: sum |w_q| of each row of s8 [C, K]."""
    return np.abs(q, dtype=np.int16).sum(axis=1, dtype=np.int64)


def in_shape(q: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Rows s8 [C, K] as weights of `shape`, contiguous, output channels on `axis`."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(q.reshape(moved), 0, axis))


def with_bias(values: np.ndarray, scale: np.ndarray, sums: np.ndarray, bias: np.ndarray, x_scale: float, *,
              name: str) -> QuantizedWeights:  # fmt: skip
    """s8 weights with their int32 bias. sums: their `magnitudes`. Raises ModelError as `quantize_weights` does."""
    b_q = np.rint(bias.astype(np.float64) / (x_scale * scale.astype(np.float64)))
    worst = np.abs(b_q) + QMAX * sums
    if worst.size and worst.max() >= ACC_LIMIT:
        channel = int(worst.argmax())
        raise ModelError(
            f"{name}: channel {channel} could reach {worst.max():.3g} in a 32-bit accumulator "
            f"({values.size // scale.size} products); keep the node in FP32 with --keep-fp32"
        )
    return QuantizedWeights(values, scale, b_q.astype(np.int32))


def requantize_table(x: QuantParams, y: QuantParams) -> bytes:
    """T[q] = clamp(rne((q - zp_x) * s_x / s_y) + zp_y, 0, 255) in float64, for q in 0..255: 256 bytes."""
    real = (np.arange(256, dtype=np.float64) - x.zero_point) * x.scale
    return np.clip(np.rint(real / y.scale) + y.zero_point, QMIN, QMAX).astype(np.uint8).tobytes()
