"""quantkit's ops as standard operators that compute the engine's bits: integers held in float32 or int32, scales of 1.

A DequantizeLinear with scale 1 gives x - zero_point, a float32 operator on such integers is exact below 2^24 in any
order of its sums, one Mul is the multiplier of docs/numerics.md, and a QuantizeLinear with scale 1 rounds once. What
has tables in the engine has the same tables here. What has no such form is written out as `quantkit.foreign.qdq` does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateHashedInitializersPass

from quantkit.foreign.exact_edges import quantized
from quantkit.foreign.exact_rows import ROWS, count_of, dimensions, is_open, linear_resize, rank_of
from quantkit.foreign.exact_sums import EXACT_BELOW, accumulator
from quantkit.foreign.qdq import finish, put_in_place, write_bodies, write_node
from quantkit.foreign.site import Site, clamp_bounds
from quantkit.foreign.unit import (
    apart,
    as_bytes,
    integers,
    looked_up,
    number,
    real_of_int32,
    rounded,
    sloped,
)
from quantkit.fuse.activations import ACTIVATIONS, lookup_table
from quantkit.fuse.functions import emit_base
from quantkit.fuse.graph import Reject, is_standard, quantkit_name
from quantkit.fuse.opnames import BINARY, MOVEMENT, PRODUCTS, WEIGHTED, OpName
from quantkit.types import QuantParams

REAL = QuantParams(1.0, 0)
EDGE = OpName("QuantizeLinear", "static")
"""A standard QuantizeLinear: where FP32 values enter a region."""
Steps = Callable[[QuantParams], ir.Value]
"""The float32 value of an op in steps of a target's scale."""


def write_exact(model: ir.Model) -> None:
    """Writes out every static and dynamic quantkit node of a loaded model, in place; its functions go.

    Equal numbers are held once: the 1 of all scales, and parts of weights that nodes share.
    """
    _write_graph(model.graph)
    write_bodies(model.graph, _write_graph)
    finish(model)
    DeduplicateHashedInitializersPass()(model)


def _write_graph(graph: ir.Graph) -> None:
    for node in list(graph):
        name = EDGE if is_standard(node, "QuantizeLinear") and len(node.inputs) == 3 else quantkit_name(node)
        if name is None or name.level == "float":
            continue
        if name.level == "static" and name.base in FORMS and not name.is_stream:
            site = Site(graph, node, name)
            try:
                made = FORMS[name.base](site)
            except Reject:
                site.abandon()
            else:
                outputs = [made] if isinstance(made, ir.Value) else made
                put_in_place(node, site.emitter.nodes, outputs, name.base)
                continue
        if name is not EDGE:
            write_node(graph, node, name)


def _activated(site: Site, steps: Steps) -> ir.Value:
    """The u8 result of an op whose value in steps of a scale is steps(its parameters), with the activation."""
    if site.name.to_float:
        return steps(REAL)
    y = site.params(site.y)
    if site.pre:
        pre = site.params(site.pre)
        numbers = {key: value.as_float() for key, value in site.node.attributes.items() if key in NUMBERS}
        table = lookup_table(site.name.activation, numbers, pre.scale, pre.zero_point, y.scale, y.zero_point)
        return looked_up(site, rounded(site, steps(pre), site.pre), as_bytes(table))
    if site.name.is_wide:
        return rounded(site, WIDES[site.name.activation](site, steps(REAL), y.scale), site.y)
    return rounded(site, steps(y), site.y, *clamp_bounds(site, y))


NUMBERS = ("alpha", "beta", "scale", "shift")
"""Attributes of activations that are tables."""


def _wide_hard_swish(site: Site, v: ir.Value, step: float) -> ir.Value:
    """(v * clamp(v + 3, 0, 6)) * f32(scale / (6 s_y)) + f32(shift / s_y); scale and shift: numbers or one a channel."""
    given = site.node.attributes

    def attribute(key: str, default: float) -> np.ndarray:
        if key not in given:
            return np.float64(default)  # type: ignore[return-value]
        if given[key].type == ir.AttributeType.FLOAT:
            return np.float64(given[key].as_float())  # type: ignore[return-value]
        return given[key].as_tensor().numpy().astype(np.float64)

    near = site.emit("Clip", [v, number(site, -3.0), number(site, 3.0)])  # OpenVINO knows the other order
    gate = site.emit("Add", [near, number(site, 3.0)])
    factor = site.constant("wide_scale", (attribute("scale", 1.0) / (6.0 * step)).astype(np.float32))
    shift = site.constant("wide_shift", (attribute("shift", 0.0) / step).astype(np.float32))
    return site.emit("Add", [apart(site, site.emit("Mul", [site.emit("Mul", [v, gate]), factor])), shift])


def _wide_leaky_relu(site: Site, v: ir.Value, step: float) -> ir.Value:
    """v * f32(1 / s_y), or v * f32(alpha / s_y) where v < 0."""
    alpha = site.node.attributes["alpha"].as_float()
    negative = site.emit("Less", [v, number(site, 0.0)])
    slope = site.emit("Where", [negative, site.constant("below", np.float32(alpha / step)),
                                site.constant("above", np.float32(1.0 / step))])  # fmt: skip
    return site.emit("Mul", [v, slope])


WIDES: dict[str, Callable[[Site, ir.Value, float], ir.Value]] = {
    **{f"Wide{name}": _wide_hard_swish
       for name in ("HardSwish", "HardSwishAffine", "HardSwishScaled", "HardSwishScaledShifted")},
    "WideLeakyRelu": _wide_leaky_relu,
}  # fmt: skip
"""Activations on the sums: (site, real value, output scale) -> value in steps of that scale."""


def _weighted(site: Site) -> ir.Value:
    x, scale = site.params(site.operands[1:3]), site.array(4).astype(np.float64)

    def steps(target: QuantParams) -> ir.Value:
        sums, factor = accumulator(site, (scale * x.scale / target.scale).astype(np.float32), target)
        value = site.emit("Mul", [sums, site.constant("multiplier", site.over_channels(factor))])
        return site.emit("Add", [value, _scaled(site, 8, target.scale)]) if site.name.add else value

    return _activated(site, steps)


def _scaled(site: Site, first: int, step: float) -> ir.Value:
    """f32(q - zp) * f32(s / step) of the triple at `first`."""
    q, zero_point = site.operands[first], site.operands[first + 2]
    own = site.params(site.operands[first + 1 : first + 3])
    factor = site.constant("scaled", np.float32(own.scale / step))
    return apart(site, site.emit("DequantizeLinear", [q, factor, zero_point]))


def _binary(site: Site) -> ir.Value:
    def steps(target: QuantParams) -> ir.Value:
        if site.name.base == "Mul":
            a, b = (site.params(site.operands[i + 1 : i + 3]) for i in (0, 3))
            product = site.emit("Mul", [integers(site, site.operands[i : i + 3]) for i in (0, 3)])
            return site.emit("Mul", [product, site.constant("factor", np.float32(a.scale * b.scale / target.scale))])
        return site.emit(site.name.base, [_scaled(site, i, target.scale) for i in (0, 3)])

    return _activated(site, steps)


def _product(site: Site) -> ir.Value:
    a, b, y = (site.params(pair) for pair in (site.operands[1:3], site.operands[4:6], site.y))
    triples = [site.operands[i] for i in (0, 3, 2, 5)]
    sums = site.cast(site.emit("MatMulInteger", triples), ir.DataType.FLOAT)
    factor = site.constant("factor", np.float32(a.scale * b.scale / y.scale))
    return rounded(site, site.emit("Mul", [sums, factor]), site.y)


def _unary(site: Site) -> ir.Value:
    x, y = site.params(site.operands[1:3]), site.params(site.y)
    numbers = {key: value.as_float() for key, value in site.node.attributes.items()}
    table = as_bytes(lookup_table(site.name.base, numbers, x.scale, x.zero_point, y.scale, y.zero_point))
    if site.name.base in BELOW:
        slopes = (numbers.get("alpha", 0.0) * x.scale / y.scale, x.scale / y.scale)
        below, above = (np.full(1, slope, np.float32) for slope in slopes)
        plain = sloped(site, site.operands[:3], (below, above), 0, table.reshape(1, 256))
        if plain is not None:
            return plain
    return looked_up(site, site.operands[0], table)


BELOW = ("Relu", "LeakyRelu")
"""Activations that are a slope below 0, `alpha` or 0, and 1 above."""


def _concat(site: Site) -> ir.Value:
    """An input whose parameters are not those of the output goes through a table."""
    y, parts = site.params(site.y), []
    for first in range(0, len(site.operands), 3):
        own = site.params(site.operands[first + 1 : first + 3])
        steps = (np.arange(256) - own.zero_point) * own.scale / y.scale
        table = (np.rint(np.clip(steps, -y.zero_point, 255 - y.zero_point)) + y.zero_point).astype(np.uint8)
        triple, slope = site.operands[first : first + 3], np.full(1, own.scale / y.scale, np.float32)
        if own == y:
            parts.append(triple[0])
        else:
            plain = sloped(site, triple, (slope, slope), 0, table.reshape(1, 256))
            parts.append(looked_up(site, triple[0], table) if plain is None else plain)
    return site.emit("Concat", parts, {"axis": site.node.attributes["axis"]})


def _mean(site: Site, total: ir.Value, counts: np.ndarray) -> ir.Value:
    """f32(total) * f32(s_x / (s_y * count)), rounded. total: float32 sums of x - zp_x; counts: of how many values."""
    x, y = site.params(site.operands[1:3]), site.params(site.y)
    factor = site.constant("factor", (x.scale / (y.scale * np.maximum(counts, 1))).astype(np.float32))
    return rounded(site, site.emit("Mul", [total, factor]), site.y)


def _average_pool(site: Site) -> ir.Value:
    """A depthwise convolution with weights of 1 sums the windows."""
    own = site.node.attributes
    if own["ceil_mode"].as_int() or ("dilations" in own and set(own["dilations"].as_ints()) != {1}):
        raise Reject("windows that reach beyond the padding, or dilated ones")
    kernel, pads = list(own["kernel_shape"].as_ints()), list(own["pads"].as_ints())
    strides, channels = own["strides"].as_ints(), dimensions(site.operands[0], [1])[0]
    counts: np.ndarray = np.array(np.prod(kernel), np.float64)
    if any(pads) and not own["count_include_pad"].as_int():
        spatial = dimensions(site.operands[0], range(2, 2 + len(kernel)))
        counts = np.ones(())
        for size, k, s, before, after in zip(spatial, kernel, strides, pads, pads[len(kernel) :], strict=False):
            starts = np.arange(0, size + before + after - k + 1, s) - before
            counts = counts[..., None] * (np.minimum(starts + k, size) - np.maximum(starts, 0))
    ones = site.constant("ones", np.ones((channels, 1, *kernel), np.float32))
    geometry = {"kernel_shape": kernel, "strides": own["strides"], "pads": pads, "group": channels}
    total = site.emit("Conv", [integers(site, site.operands[:3]), ones], geometry)
    return _mean(site, total, counts)


def _reduce_mean(site: Site) -> ir.Value:
    x, own = site.operands[0], site.node.attributes
    rank = rank_of(x)
    axes = list(own["axes"].as_ints()) if "axes" in own else list(range(2, rank))
    axes = [axis % rank for axis in axes or range(rank)]
    keep = own["keepdims"].as_int() if "keepdims" in own else 1
    reduced = site.constant("axes", np.array(axes, np.int64))
    centred = apart(site, integers(site, site.operands[:3]))  # OpenVINO loses zero points that it moves behind sums
    if not is_open(x, axes) and 255 * count_of(x, axes) < EXACT_BELOW:
        return _mean(site, site.emit("ReduceSum", [centred, reduced], {"keepdims": keep}), np.array(count_of(x, axes)))
    sums = site.emit("ReduceSum", [site.cast(centred, ir.DataType.INT32), reduced], {"keepdims": keep})
    total = real_of_int32(site, sums)
    if is_open(x, axes):
        return rounded(site, site.emit("Mul", [total, _factor_of_open(site, reduced)]), site.y)
    return _mean(site, total, np.array(count_of(x, axes)))


COUNTS = 4096
"""Open sizes that make up to this count have their factors in a table: some runtimes divide float64 as float32."""


def _factor_of_open(site: Site, axes: ir.Value) -> ir.Value:
    """f32(s_x / (s_y * count)) where the sizes that make the count are known at run time only."""
    x, y = site.params(site.operands[1:3]), site.params(site.y)
    sizes = site.emit("Gather", [site.emit("Shape", [site.operands[0]]), axes], {"axis": 0})
    count = site.emit("ReduceProd", [site.cast(sizes, ir.DataType.FLOAT)], {"keepdims": 0})
    steps = site.emit("Mul", [site.cast(count, ir.DataType.DOUBLE), site.constant("y_step", np.float64(y.scale))])
    divided = site.emit("Div", [site.constant("x_step", np.float64(x.scale)), steps])
    table = (x.scale / (y.scale * np.maximum(np.arange(COUNTS), 1))).astype(np.float32)
    last = number(site, COUNTS - 1)
    index = site.cast(site.emit("Min", [count, last]), ir.DataType.INT32)
    known = site.emit("Gather", [site.constant("factors", table), index], {"axis": 0})
    return site.emit("Where", [site.emit("Less", [last, count]), site.cast(divided, ir.DataType.FLOAT), known])


def _on_bytes(site: Site) -> list[ir.Value]:
    """What moves values, or takes their maximum, does it to the bytes: OpenVINO may lose scales around it."""
    data = 2 if site.name.base == "ResizeLike" else 1
    if site.params(site.operands[1:3]) != site.params(site.y):
        raise Reject("it changes the scale")
    extra = [value for value in site.operands[3 * data :] if value is not None]
    moved = [site.operands[3 * i] for i in range(data)]
    result = emit_base(site.emitter, site.name, moved, extra, site.node.attributes)  # type: ignore[arg-type]
    return [result] if isinstance(result, ir.Value) else list(result)


def _resize(site: Site) -> ir.Value | list[ir.Value]:
    linear = site.node.attributes["mode"].as_string() == "linear"
    return linear_resize(site) if linear else _on_bytes(site)


RESIZES = ("ResizeScales", "ResizeSizes", "ResizeLike")
FORMS: dict[str, Callable[[Site], ir.Value | list[ir.Value]]] = {
    **dict.fromkeys((*(base for base in MOVEMENT if base != "Pad"), "Split", "MaxPool"), _on_bytes),
    **dict.fromkeys(WEIGHTED, _weighted),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(ACTIVATIONS, _unary),
    "Concat": _concat,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _reduce_mean,
    "ReduceMean": _reduce_mean,
    **dict.fromkeys(RESIZES, _resize),
    EDGE.base: quantized,
    **ROWS,
}
"""Base op -> its exact form."""
