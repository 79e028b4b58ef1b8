"""Exact forms of softmax, normalizations, PRelu and linear resizing: int32, float64 and tables, as docs/numerics.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.foreign.site import Site
from quantkit.foreign.unit import apart, as_bytes, integers, looked_up, rounded, sloped
from quantkit.fuse.activations import lookup_table
from quantkit.fuse.graph import Reject

DOUBLE, FLOAT, INT32 = ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.INT32
WEIGHT_ONE = 2048
"""The engine's 1 of the weights of linear interpolation."""


def rank_of(x: ir.Value | None) -> int:
    """Raises Reject where it is not known."""
    if x is None or x.shape is None:
        raise Reject("its input has no known rank")
    return len(x.shape)


def is_open(x: ir.Value | None, axes: Iterable[int]) -> bool:
    """Whether the size of one of the axes is known at run time only."""
    return x is None or x.shape is None or not all(isinstance(x.shape[axis], int) for axis in axes)


def dimensions(x: ir.Value | None, axes: Sequence[int]) -> list[int]:
    """The sizes of some axes. Raises Reject where one is open."""
    if x is None or x.shape is None or is_open(x, axes):
        raise Reject("a size that its numbers depend on is open")
    return [x.shape[axis] for axis in axes]  # type: ignore[misc]


def count_of(x: ir.Value | None, axes: Sequence[int]) -> int:
    """How many values the axes span."""
    return math.prod(dimensions(x, axes))


def _axes(site: Site, axes: Sequence[int]) -> ir.Value:
    return site.constant("axes", np.array(axes, np.int64))


def _double(site: Site, value: float) -> ir.Value:
    return site.constant("double", np.float64(value))


def _softmax(site: Site) -> ir.Value:
    """E[max - x] * f32(1 / (sum * s_y)), E[d] = rne(2^24 exp(-d s_x))."""
    x, y = site.params(site.operands[1:3]), site.params(site.y)
    axis = site.node.attributes["axis"].as_int()
    real = integers(site, site.operands[:3])
    below = site.emit("Sub", [_largest(site, real, axis), real])
    table = site.constant("exponentials", np.rint(2.0**24 * np.exp(-np.arange(256) * x.scale)).astype(np.float32))
    entries = site.emit("Gather", [table, site.cast(below, INT32)], {"axis": 0})
    total = site.emit("ReduceSum", [site.cast(entries, DOUBLE), _axes(site, [axis])], {"keepdims": 1})
    inverse = site.emit("Div", [_double(site, 1.0), site.emit("Mul", [total, _double(site, y.scale)])])
    return rounded(site, site.emit("Mul", [entries, site.cast(inverse, FLOAT)]), site.y)


REDUCE_MAX_AXES_INPUT_OPSET = 18


def _largest(site: Site, value: ir.Value, axis: int) -> ir.Value:
    if site.emitter.opset >= REDUCE_MAX_AXES_INPUT_OPSET:
        return site.emit("ReduceMax", [value, _axes(site, [axis])], {"keepdims": 1})
    return site.emit("ReduceMax", [value], {"axes": [axis], "keepdims": 1})


def _normalized(site: Site, centred: ir.Value, axes: Sequence[int], count: int, mean: bool) -> ir.Value:
    """f32(n x - S) * f32(s_x / sqrt(V / n^2 s_x^2 + epsilon) / n) over `axes`. centred: float64 x - zp_x.

    V = n sum(x^2) - S^2 with a mean, else n sum((x - zp_x)^2), S = n zp_x.
    """
    scale, epsilon = site.params(site.operands[1:3]).scale, site.node.attributes["epsilon"].as_float()

    def total(value: ir.Value) -> ir.Value:
        return site.emit("ReduceSum", [value, _axes(site, axes)], {"keepdims": 1})

    n = _double(site, count)
    spread = site.emit("Mul", [total(site.emit("Mul", [centred, centred])), n])
    whole = site.emit("Mul", [centred, n])
    if mean:
        sums = total(centred)
        spread = site.emit("Sub", [spread, site.emit("Mul", [sums, sums])])
        whole = site.emit("Sub", [whole, sums])
    variance = site.emit(
        "Mul", [site.emit("Div", [spread, _double(site, count * count)]), _double(site, scale * scale)]
    )
    deviation = site.emit("Sqrt", [site.emit("Add", [variance, _double(site, epsilon)])])
    factor = site.emit("Div", [site.emit("Div", [_double(site, scale), deviation]), n])
    return site.emit("Mul", [site.cast(whole, FLOAT), site.cast(factor, FLOAT)])


def _finished(site: Site, normal: ir.Value) -> ir.Value:
    """normal * f32(scale / s_y) + f32(bias / s_y), rounded."""
    step = site.params(site.y).scale
    gain, *shift = ((site.array(i).astype(np.float64) / step).astype(np.float32) for i in range(3, len(site.operands)))
    value = site.emit("Mul", [normal, site.constant("gain", gain)])
    if shift:
        value = site.emit("Add", [apart(site, value), site.constant("shift", shift[0])])
    return rounded(site, value, site.y)


def _over_last(mean: bool) -> Callable[[Site], ir.Value]:
    def form(site: Site) -> ir.Value:
        axis = site.node.attributes["axis"].as_int()
        axes = list(range(axis, 0))
        count = math.prod(site.array(3).shape)
        return _finished(site, _normalized(site, _centred(site), axes, count, mean))

    return form


def _centred(site: Site) -> ir.Value:
    return site.cast(integers(site, site.operands[:3]), DOUBLE)


def _group(site: Site) -> ir.Value:
    x, groups = site.operands[0], site.node.attributes["num_groups"].as_int()
    count = count_of(x, range(1, rank_of(x))) // groups
    shape = site.constant("groups", np.array([0, groups, -1], np.int64))
    grouped = site.emit("Reshape", [_centred(site), shape])
    normal = _normalized(site, grouped, [2], count, True)
    return _finished(site, site.emit("Reshape", [normal, site.emit("Shape", [x])]))


def _prelu(site: Site) -> ir.Value:
    """A table for each channel: table[256 channel + x]."""
    x, y, slope = site.params(site.operands[1:3]), site.params(site.y), site.array(3).reshape(-1)
    rank = rank_of(site.operands[0])
    steps = (x.scale, x.zero_point, y.scale, y.zero_point)
    table = as_bytes(b"".join(lookup_table("LeakyRelu", {"alpha": float(alpha)}, *steps) for alpha in slope))
    ratio = x.scale / y.scale
    slopes = (slope.astype(np.float64) * ratio).astype(np.float32), np.full(1, ratio, np.float32)
    plain = sloped(site, site.operands[:3], slopes, rank, table.reshape(-1, 256))
    if plain is not None:
        return plain
    if slope.size == 1:
        return looked_up(site, site.operands[0], table)
    starts = (256 * np.arange(slope.size, dtype=np.int32)).reshape(-1, *[1] * (rank - 2))
    at = site.emit("Add", [site.cast(site.operands[0], INT32), site.constant("starts", starts)])
    return site.emit("Gather", [site.constant("tables", table), at], {"axis": 0})


def _coordinates(size: int, out: int, scale: float, mode: str) -> np.ndarray:
    """The input coordinate of each output index: ONNX Resize-19. float64 [out], inside the input."""
    i = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        at = i / scale
    elif mode == "align_corners":
        at = i * (size - 1) / max(out - 1, 1)
    else:
        at = (i + 0.5) / scale - 0.5 if out > 1 or mode == "half_pixel" else np.zeros(out)
    return np.clip(at, 0, size - 1)


def linear_resize(site: Site) -> ir.Value:
    """(sum of w_row * w_column * x over 2 x 2 neighbours + 2^21) >> 22 in int32."""
    own = site.node.attributes
    sizes, outs = dimensions(site.operands[0], (2, 3)), dimensions(site.node.outputs[0], (2, 3))
    ratios = [out / size for size, out in zip(sizes, outs, strict=True)]
    if site.name.base == "ResizeScales":
        ratios = [float(scale) for scale in site.array(3)[2:]]
    value = site.cast(site.operands[0], INT32)
    for axis, size, out, ratio in zip((2, 3), sizes, outs, ratios, strict=True):
        at = _coordinates(size, out, ratio, own["coordinate_transformation_mode"].as_string())
        below = np.floor(at).astype(np.int64)
        weight = np.rint((at - below) * WEIGHT_ONE).astype(np.int32).reshape(-1, *[1] * (3 - axis))
        parts = []
        for what, index, share in (("below", below, WEIGHT_ONE - weight), ("above", below + 1, weight)):
            picked = site.constant(what, np.minimum(index, size - 1))
            taken = site.emit("Gather", [value, picked], {"axis": axis})
            parts.append(site.emit("Mul", [taken, site.constant(f"{what}_weight", share)]))
        value = site.emit("Add", parts)
    half, one = (site.constant(what, np.int32(n)) for what, n in (("half", WEIGHT_ONE**2 // 2), ("one", WEIGHT_ONE**2)))
    return site.cast(site.emit("Div", [site.emit("Add", [value, half]), one]), ir.DataType.UINT8)


ROWS: dict[str, Callable[[Site], ir.Value]] = {
    "Softmax": _softmax,
    "LayerNormalization": _over_last(True),
    "RMSNormalization": _over_last(False),
    "GroupNormalization": _group,
    "PRelu": _prelu,
}
"""Base op -> its exact form."""
