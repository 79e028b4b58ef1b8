"""The oracle of normalizations: sums in int64, one float64 factor a group, then float32 step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from quantkit.execute.oracle_arithmetic import params, requantize
from quantkit.types import QuantParams

Attributes = Mapping[str, Any]
Inputs = Sequence[np.ndarray]


def _normalized(x: np.ndarray, axes: tuple[int, ...], origin: int | None, x_params: QuantParams,
                epsilon: float) -> np.ndarray:  # fmt: skip
    """float32 f32(n x - S) * f32(s_x / sqrt(V / n^2 s_x^2 + epsilon) / n) over `axes`, about the mean or `origin`."""
    x = x.astype(np.int64)
    count = math.prod(x.shape[axis] for axis in axes)
    total = x.sum(axis=axes, keepdims=True) if origin is None else np.int64(count * origin)
    about = 0 if origin is None else origin
    spread = count * ((x - about) ** 2).sum(axis=axes, keepdims=True)
    if origin is None:
        spread = spread - total * total
    square = x_params.scale * x_params.scale
    deviation = np.sqrt(spread.astype(np.float64) / float(count * count) * square + epsilon)
    factor = (x_params.scale / deviation / count).astype(np.float32)
    return (count * x - total).astype(np.float32) * factor


def _in_steps(value: np.ndarray, y: QuantParams) -> np.ndarray:
    return (value.astype(np.float64) / y.scale).astype(np.float32)


def _layer(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QLayerNormalization: x triple, scale, bias, y pair; over the axes from `axis` on."""
    x, x_params, y = inputs[0], params(*inputs[1:3]), params(*inputs[5:7])
    axes = tuple(range(int(attributes.get("axis", -1)) % x.ndim, x.ndim))
    with np.errstate(all="ignore"):
        normal = _normalized(x, axes, None, x_params, float(attributes.get("epsilon", 1e-5)))
        return [requantize(normal * _in_steps(inputs[3], y) + _in_steps(inputs[4], y), y)]


def _root_mean_square(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QRMSNormalization: x triple, scale, y pair; as layer normalization, about 0 instead of the mean."""
    x, x_params, y = inputs[0], params(*inputs[1:3]), params(*inputs[4:6])
    axes = tuple(range(int(attributes.get("axis", -1)) % x.ndim, x.ndim))
    with np.errstate(all="ignore"):
        normal = _normalized(x, axes, x_params.zero_point, x_params, float(attributes.get("epsilon", 1e-5)))
        return [requantize(normal * _in_steps(inputs[3], y) + np.float32(0), y)]


def _group(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QGroupNormalization: x triple, scale and bias [C, 1...], y pair."""
    x, x_params, y = inputs[0], params(*inputs[1:3]), params(*inputs[5:7])
    grouped = x.reshape(x.shape[0], int(attributes["num_groups"]), -1)
    with np.errstate(all="ignore"):
        normal = _normalized(grouped, (2,), None, x_params, float(attributes.get("epsilon", 1e-5)))
        return [requantize(normal.reshape(x.shape) * _in_steps(inputs[3], y) + _in_steps(inputs[4], y), y)]


def _lrn(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QLRN: x triple, y pair. The factor is linear in the sum of squares S, between 128 values an octave."""
    x, x_params, y = inputs[0], params(*inputs[1:3]), params(*inputs[3:5])
    size, alpha, beta, bias = (attributes[key] for key in ("size", "alpha", "beta", "bias"))
    real = x.astype(np.int64) - x_params.zero_point
    squares = np.zeros_like(real)
    channels = x.shape[1]
    for shift in range(-((size - 1) // 2), size // 2 + 1):  # channel c gets the square of channel c + shift
        to = slice(max(0, -shift), max(0, min(channels, channels - shift)))
        of = slice(to.start + shift, max(to.stop + shift, to.start + shift))
        squares[:, to] += real[:, of] ** 2
    squares = np.maximum(squares, 1)
    octave = np.frexp(squares.astype(np.float64))[1] - 1
    width = np.ldexp(1.0, octave - 7)
    begin = np.floor(squares / width) * width

    def factor(at: np.ndarray) -> np.ndarray:
        power = (bias + alpha / size * (x_params.scale * x_params.scale) * at) ** -beta
        return np.asarray(x_params.scale / y.scale * power).astype(np.float32)

    rise = factor(begin + width).astype(np.float64) - factor(begin)
    steps = ((squares - begin) / width * 65536).astype(np.float32)
    product = factor(begin) + steps * (rise / 65536).astype(np.float32)
    return [requantize(real.astype(np.float32) * product, y)]


NORMALIZATIONS: dict[str, Callable[[Attributes, Inputs], list[np.ndarray]]] = {
    "LayerNormalization": _layer,
    "RMSNormalization": _root_mean_square,
    "GroupNormalization": _group,
    "LRN": _lrn,
}
