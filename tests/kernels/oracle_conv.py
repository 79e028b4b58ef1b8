"""Quantized convolution from its definition: int64 sums over taps, then the requantization in float32, step by step.

Shares no code and no algorithm with the engine: the input is padded as a whole, each tap is one integer matrix product,
and rounding comes before the clamp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from quantkit.execute._engine import lib

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution. pads: top, left, bottom, right. Channels are totals over the groups."""

    batch: int = 1
    size: tuple[int, int] = (5, 5)
    in_c: int = 8
    out_c: int = 8
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        """floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1, per ONNX Conv."""
        sizes = [
            (self.size[i] + self.pads[i] + self.pads[i + 2] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        ]
        return sizes[0], sizes[1]


def accumulate(g: Geometry, x: Array, w: Array, bias: Array, zero_point: int) -> Array:
    """int64 [n, out_h, out_w, out_c] of x u8 [n, h, w, in_c] and w s8 [out_c, kh, kw, in_c / groups]."""
    top, left, bottom, right = g.pads
    real = np.pad(x.astype(np.int64) - zero_point, ((0, 0), (top, bottom), (left, right), (0, 0)))
    out_h, out_w = g.out_size
    per_in, per_out = g.in_c // g.groups, g.out_c // g.groups
    acc = np.zeros((g.batch, out_h, out_w, g.out_c), np.int64) + bias.astype(np.int64)
    for ky in range(g.kernel[0]):
        for kx in range(g.kernel[1]):
            ys = ky * g.dilation[0] + np.arange(out_h) * g.stride[0]
            xs = kx * g.dilation[1] + np.arange(out_w) * g.stride[1]
            seen = real[:, ys][:, :, xs]
            for group in range(g.groups):
                out = slice(group * per_out, (group + 1) * per_out)
                tap = w[out, ky, kx].astype(np.int64)
                acc[..., out] += seen[..., group * per_in : (group + 1) * per_in] @ tap.T
    return acc


def requantize(
    acc: Array,
    multiplier: Array,
    zero_point: int,
    low: int,
    high: int,
    residual: Array | None = None,
    residual_zero_point: int = 0,
    residual_multiplier: float = 0.0,
    table: Array | None = None,
    wide: Mapping[str, Any] | None = None,
) -> Array:
    """u8: clamp(rne(f32(acc) * m [+ f32(r - zp_r) * m_r]) + zero_point, low, high), then the table.

    wide: the fields of qk_epilogue for an activation of the float32 value before it is rounded.
    """
    value = acc.astype(np.float32) * multiplier.astype(np.float32)
    if residual is not None:
        centred = (residual.astype(np.int64) - residual_zero_point).astype(np.float32)
        value = value + centred * np.float32(residual_multiplier)
    if wide:
        value = _activated(value, wide)
    assert value.dtype == np.float32
    q = np.clip(np.rint(value.astype(np.float64)) + zero_point, low, high).astype(np.uint8)
    return q if table is None else table[q]


def _activated(v: Array, wide: Mapping[str, Any]) -> Array:
    """float32, every step rounded: HardSwish with a scale and a shift for each channel, or LeakyRelu."""
    if wide["activation"] == lib.QK_HARD_SWISH:
        sixfold = v * np.clip(v + np.float32(3), np.float32(0), np.float32(6))
        return sixfold * wide["activation_scale"] + wide.get("activation_shift", np.float32(0))
    return v * np.where(v < 0, np.float32(wide["falling"]), np.float32(wide["rising"]))
