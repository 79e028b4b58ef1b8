"""The rounding steps that every op of the oracle is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from quantkit.errors import ModelError
from quantkit.types import QMAX, QMIN, QuantParams


def params(scale: np.ndarray, zero_point: np.ndarray) -> QuantParams:
    """Per-tensor parameters from their two scalar tensors. ModelError unless both hold one element."""
    if scale.size != 1 or zero_point.size != 1 or zero_point.dtype != np.uint8:
        raise ModelError(
            f"scale {scale.shape} and zero point {zero_point.shape} {zero_point.dtype}: need scalars, the latter u8"
        )
    return QuantParams(float(scale.item()), int(zero_point.item()))


def pairs(inputs: Sequence[np.ndarray]) -> list[QuantParams]:
    """[scale, zero point, scale, zero point...] as parameters."""
    return [params(*inputs[i : i + 2]) for i in range(0, len(inputs), 2)]


def requantize(value: np.ndarray, p: QuantParams, low: int = QMIN, high: int = QMAX) -> np.ndarray:
    """uint8 clamp(rne(value) + zero point, low, high). value: float32 or float64, already divided by the scale.

    NaN gives 255. The clamp comes first, which is the same and cannot overflow.
    """
    clamped = np.clip(value, value.dtype.type(low - p.zero_point), value.dtype.type(high - p.zero_point))
    rounded = np.rint(clamped) + value.dtype.type(p.zero_point)
    return np.where(np.isnan(value), QMAX, rounded).astype(np.uint8)


def quantize_linear(x: np.ndarray, p: QuantParams) -> np.ndarray:
    """uint8 clamp(rne(x / scale) + zero point, 0, 255) of float32 x: a true float32 division, NaN gives 255."""
    with np.errstate(over="ignore", invalid="ignore"):
        return requantize(x / np.float32(p.scale), p)


def dequantize_linear(q: np.ndarray, p: QuantParams) -> np.ndarray:
    """float32 f32(q - zero point) * scale of uint8 q."""
    return (q.astype(np.int32) - p.zero_point).astype(np.float32) * np.float32(p.scale)


def lookup_table(function: Callable[[np.ndarray], np.ndarray], x: QuantParams, y: QuantParams) -> np.ndarray:
    """The 256 bytes T[q] = clamp(rne(function((q - zp_x) * s_x) / s_y) + zp_y, 0, 255), in float64."""
    with np.errstate(all="ignore"):
        real = (np.arange(256, dtype=np.float64) - x.zero_point) * x.scale
        return requantize(function(real) / y.scale, y)
