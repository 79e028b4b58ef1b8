"""Ops of the oracle that only move bytes. move(x uint8, attributes, *own inputs, fill) -> list of outputs.

fill: the output's zero point, which is what the constant 0 looks like. Source: the ONNX operator of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quantkit.errors import ModelError

Attributes = Mapping[str, Any]
Move = Callable[..., list[np.ndarray]]


def _reshape(x: np.ndarray, attributes: Attributes, shape: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    copies = not attributes.get("allowzero", 0)
    return [x.reshape([x.shape[i] if n == 0 and copies else n for i, n in enumerate(shape.tolist())])]


def _flatten(x: np.ndarray, attributes: Attributes, *, fill: np.ndarray) -> list[np.ndarray]:
    axis = attributes.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return [x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))]


def _transpose(x: np.ndarray, attributes: Attributes, *, fill: np.ndarray) -> list[np.ndarray]:
    return [x.transpose(attributes.get("perm"))]


def _squeeze(x: np.ndarray, attributes: Attributes, axes: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    return [x.squeeze(tuple(axes.tolist()))]


def _unsqueeze(x: np.ndarray, attributes: Attributes, axes: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    return [np.expand_dims(x, tuple(axes.tolist()))]


def _slice(
    x: np.ndarray,
    attributes: Attributes,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray,
    steps: np.ndarray,
    *,
    fill: np.ndarray,
) -> list[np.ndarray]:
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(*(v.tolist() for v in (starts, ends, axes, steps)), strict=True):
        index[axis] = slice(start, end, step)
    return [x[tuple(index)]]


def _pad(x: np.ndarray, attributes: Attributes, pads: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    """Constant padding with the zero point; negative pads crop."""
    if attributes.get("mode", "constant") != "constant":
        raise ModelError(f"QPad has mode {attributes['mode']!r}; only constant padding is a quantkit op")
    begin, end = pads[: x.ndim].tolist(), pads[x.ndim :].tolist()
    crop = tuple(slice(max(-b, 0), n - max(-e, 0)) for b, e, n in zip(begin, end, x.shape, strict=True))
    grow = [(max(b, 0), max(e, 0)) for b, e in zip(begin, end, strict=True)]
    return [np.pad(x[crop], grow, constant_values=fill.item())]


def _split(x: np.ndarray, attributes: Attributes, sizes: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis=attributes.get("axis", 0))


def _depth_to_space(x: np.ndarray, attributes: Attributes, *, fill: np.ndarray) -> list[np.ndarray]:
    n, c, h, w = x.shape
    b = attributes["blocksize"]
    if attributes.get("mode", "DCR") == "DCR":
        ordered = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        ordered = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [ordered.reshape(n, c // (b * b), h * b, w * b)]


COORDINATES: dict[str, Callable[[np.ndarray, Any, int, int], np.ndarray]] = {
    "half_pixel": lambda i, scale, size, out: (i + np.float32(0.5)) / scale - np.float32(0.5),
    "pytorch_half_pixel": lambda i, scale, size, out: (
        (i + np.float32(0.5)) / scale - np.float32(0.5) if out > 1 else i * np.float32(0)
    ),
    "asymmetric": lambda i, scale, size, out: i / scale,
    "align_corners": lambda i, scale, size, out: i * np.float32(size - 1) / np.float32(max(out - 1, 1)),
}
"""Resize coordinate_transformation_mode: (output index float32, scale, input size, output size) -> input coordinate."""

ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda v: np.ceil(v.astype(np.float64) - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v.astype(np.float64) + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
"""Resize nearest_mode: input coordinate -> index, before it is clamped to the input."""


def _linear(x: np.ndarray, attributes: Attributes, scales: list[np.float32], sizes: list[int]) -> list[np.ndarray]:
    """Linear resize in integers: weights of 11 bits an axis, coordinates in float64, halves round up."""
    coordinate = COORDINATES[attributes.get("coordinate_transformation_mode", "half_pixel")]
    total = x.astype(np.int64)
    shift = 0
    for axis, (scale, out) in enumerate(zip(scales, sizes, strict=True)):
        size = x.shape[axis]
        if axis < x.ndim - 2:
            continue
        at = np.clip(coordinate(np.arange(out, dtype=np.float64), np.float64(scale), size, out), 0, size - 1)
        below = np.floor(at).astype(np.int64)
        weight = np.rint((at - below) * 2048).astype(np.int64).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        above = np.minimum(below + 1, size - 1)
        total = total.take(below, axis=axis) * (2048 - weight) + total.take(above, axis=axis) * weight
        shift += 11
    return [((total + (1 << shift - 1)) >> shift).astype(np.uint8)]


def _nearest(x: np.ndarray, attributes: Attributes, scales: list[np.float32], sizes: list[int]) -> list[np.ndarray]:
    """Nearest resize, axis by axis; coordinates in float32."""
    coordinate = COORDINATES[attributes.get("coordinate_transformation_mode", "half_pixel")]
    rounding = ROUNDINGS[attributes.get("nearest_mode", "round_prefer_floor")]
    for axis, (scale, out) in enumerate(zip(scales, sizes, strict=True)):
        size = x.shape[axis]
        if size != out:
            index = rounding(coordinate(np.arange(out, dtype=np.float32), scale, size, out))
            x = x.take(np.clip(index, 0, size - 1).astype(np.int64), axis=axis)
    return [x]


INTERPOLATIONS = {"nearest": _nearest, "linear": _linear}
"""Resize mode -> (x, attributes, scales, sizes) -> [y]."""


def _interpolated(x: np.ndarray, attributes: Attributes, scales: list[Any], sizes: list[int]) -> list[np.ndarray]:
    mode = attributes.get("mode", "nearest")
    if mode not in INTERPOLATIONS:
        raise ModelError(f"a quantkit Resize has mode {mode!r}; it can be {' or '.join(INTERPOLATIONS)}")
    return INTERPOLATIONS[mode](x, attributes, scales, sizes)


def _resize_scales(x: np.ndarray, attributes: Attributes, scales: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    factors = list(scales.astype(np.float32))
    sizes = [int(np.float32(n) * s) for n, s in zip(x.shape, factors, strict=True)]
    return _interpolated(x, attributes, factors, sizes)


def _resize_sizes(x: np.ndarray, attributes: Attributes, sizes: np.ndarray, *, fill: np.ndarray) -> list[np.ndarray]:
    kind = np.float64 if attributes.get("mode", "nearest") == "linear" else np.float32
    factors = [kind(out) / kind(n) for out, n in zip(sizes.tolist(), x.shape, strict=True)]
    return _interpolated(x, attributes, factors, sizes.tolist())


def resize_like(x: np.ndarray, like: np.ndarray, attributes: Attributes) -> list[np.ndarray]:
    """[u8 [N, C, H, W] of `x` resized to the spatial sizes of `like`]."""
    sizes = np.array([*x.shape[:2], *like.shape[2:]])
    return _resize_sizes(x, attributes, sizes, fill=np.zeros(0))


MOVES: dict[str, Move] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Pad": _pad,
    "ResizeScales": _resize_scales,
    "ResizeSizes": _resize_sizes,
    "DepthToSpace": _depth_to_space,
    "Gather": lambda x, attributes, indices, *, fill: [x.take(indices, axis=attributes.get("axis", 0))],
}

VARIADIC_MOVES: dict[str, Move] = {"Split": _split}
"""Ops whose name ends with the number of their outputs."""
