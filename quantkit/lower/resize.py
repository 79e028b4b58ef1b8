"""Resize of images, nearest and linear."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref

NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
"""nearest_mode of ONNX Resize -> how a source coordinate becomes an index."""


WEIGHT_ONE = 2048
"""Fixed-point 1 of the weights of linear interpolation: 255 * 2048^2 is below 2^30."""


def _source_coordinates(size: int, out: int, scale: float, mode: str) -> np.ndarray:
    """The input coordinate of each output index: ONNX Resize-19. float64 [out]."""
    i = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        x = i / scale
    elif mode == "align_corners":
        x = i * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
    else:
        x = (i + 0.5) / scale - 0.5 if not (mode == "pytorch_half_pixel" and out == 1) else np.zeros(out)
    return x


def _nearest_map(x: np.ndarray, size: int, rounding: str) -> np.ndarray:
    """The input index of each output index: int32 [out]."""
    return np.clip(NEAREST[rounding](x), 0, size - 1).astype(np.int32)


def _linear_map(x: np.ndarray, size: int) -> np.ndarray:
    """int32 [out, 2]: the index below each coordinate, and the weight of the one above it."""
    inside = np.clip(x, 0, size - 1)
    below = np.floor(inside)
    weight = np.rint((inside - below) * WEIGHT_ONE)
    return np.ascontiguousarray(np.stack([below, weight], axis=1).astype(np.int32))


def _sizes(context: Lowering, node: ir.Node, name: OpName, dims: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """(dimensions of the output, its size over that of the input along each axis)."""
    if name.base == "ResizeLike":
        out = [*dims[:2], *context.view(node.inputs[3]).dims[2:]]
        return out, [o / d for o, d in zip(out, dims, strict=True)]
    array = constant(node.inputs[3])
    assert array is not None
    if name.base == "ResizeSizes":
        out = [dims[0], *(int(d) for d in array[1:])]
        return out, [o / d for o, d in zip(out, dims, strict=True)]
    scales = [float(s) for s in array]
    return [dims[0], *(math.floor(d * s) for d, s in zip(dims[1:], scales[1:], strict=True))], scales


def lower_resize(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [N, C, H, W] -> u8 with other H and W, by constant scales or sizes, or the H and W of a tensor `like`.

    Nearest neighbour by maps of indices, linear by maps of indices and weights. ONNX Resize-19.
    """
    x, pitch = context.pixels(context.view(node.inputs[0]))
    dims, scales = _sizes(context, node, name, x.dims)
    mode = node.attributes["coordinate_transformation_mode"].as_string()
    coordinates = {i: _source_coordinates(x.dims[i], dims[i], scales[i], mode) for i in (2, 3)}
    linear = node.attributes["mode"].as_string() == "linear"
    if linear:
        rows, columns = (_linear_map(at, x.dims[i]) for i, at in coordinates.items())
    else:
        rounding = node.attributes["nearest_mode"].as_string()
        rows, columns = (_nearest_map(at, x.dims[i], rounding) for i, at in coordinates.items())
    out = context.allocate(node.outputs[0], dims)
    params = {
        "batch": x.dims[0], "in_h": x.dims[2], "in_w": x.dims[3], "out_h": dims[2], "out_w": dims[3],
        "channels": x.dims[1], "in_pitch": pitch, "out_pitch": context.pixels(out)[1], "rows": rows, "columns": columns,
    }  # fmt: skip
    context.emit("QK_BLEND" if linear else "QK_RESIZE", [Ref(x.buffer, x.offset)], Ref(out.buffer, out.offset), params)
