"""The exact sums of weighted ops: float32 operators on integers, in parts of which none can reach 2^24."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.foreign.site import Site
from quantkit.foreign.unit import apart, integers, real_of_int32
from quantkit.fuse.functions import ATTRIBUTES
from quantkit.fuse.graph import Reject, conv_layout
from quantkit.fuse.opnames import CONVOLUTIONS
from quantkit.types import QuantParams

EXACT_BELOW = 1 << 24
"""float32 holds every integer up to here."""
COARSE = 256
"""float32 holds multiples of it up to 2^32: what of a bias does not fit into the sums."""


def accumulator(site: Site, factor: np.ndarray, target: QuantParams) -> tuple[ir.Value, np.ndarray]:
    """f32(acc) of a weighted op, acc = bias + sum (x - zp_x) * w, and its factors float32 [C] into steps of `target`.

    One float32 operator where no order of its sums can leave 2^24. What does not fit is added: a float32 addition of
    two integers that float32 holds rounds once, as f32(acc) does; more than two are added in int32. Grouped
    convolutions of larger sums are a ConvInteger.
    Raises Reject for a grouped ConvTranspose of which a sum may reach 2^24.
    """
    bias, weights = site.array(6).astype(np.int64), site.array(3)
    runs = _runs(site)
    if not runs:
        if site.name.base == "ConvTranspose":
            raise Reject("a grouped ConvTranspose has no integer form in ONNX")
        return real_of_int32(site, site.accumulator()), factor
    constant, values = _constant_channels(site, bias, factor, target)
    bias, factor = np.where(constant, values, bias), np.where(constant, np.float32(1), factor)
    if constant.any():
        weights = np.where(np.expand_dims(constant, _others(site)), np.int8(0), weights)
    inside = bias if _reach(site, runs[0], bias) < EXACT_BELOW else (bias + COARSE // 2) % COARSE - COARSE // 2
    if _reach(site, runs[0], inside) >= EXACT_BELOW:
        inside = np.zeros_like(bias)
    terms = [_sums(site, weights, run, inside if run == runs[0] else None) for run in runs]
    return _total(site, terms, bias - inside), factor


def _total(site: Site, terms: list[ir.Value], rest: np.ndarray) -> ir.Value:
    """f32(the sum of the terms and the rest), rounded once. terms: integers below 2^24; rest: int64 [C]."""
    if rest.any() and (rest % COARSE == 0).all():
        terms = [*terms, site.constant("bias_rest", site.over_channels(rest.astype(np.float32)))]
        rest = np.zeros_like(rest)
    if len(terms) == 1 and not rest.any():
        return terms[0]
    if len(terms) == 2 and not rest.any():
        return apart(site, site.emit("Add", terms))
    total = site.constant("bias_int32", site.over_channels(rest.astype(np.int32)))
    for term in terms:
        total = site.emit("Add", [total, site.cast(term, ir.DataType.INT32)])
    return real_of_int32(site, total)


def _constant_channels(site: Site, bias: np.ndarray, factor: np.ndarray,
                       target: QuantParams) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Channels whose bias is beyond 2^24 and whose result is one number of steps whatever x is: which, and that number.

    Weights next to 0 have such biases. Only results that are rounded next are meant: bool [C], int64 [C].
    """
    if site.name.add or site.name.to_float or (site.name.is_wide and not site.pre):
        return np.zeros(len(bias), bool), bias
    above, below = _extremes(site).sum(axis=2)
    ends = [np.rint((bias + end).astype(np.float32) * factor) for end in (-below, above)]
    least, most = (np.clip(end, -target.zero_point, 255 - target.zero_point).astype(np.int64) for end in ends)
    return (np.abs(bias) >= EXACT_BELOW) & (least == most), least


def _inner_axis(site: Site) -> int:
    """The axis of the input channels in the weights."""
    return 0 if site.name.base == "MatMul" else 1


def _others(site: Site) -> tuple[int, ...]:
    """The axes of the weights that are not the output channels."""
    rank = site.array(3).ndim
    return tuple(range(rank - 1)) if site.name.base == "MatMul" else tuple(range(1, rank))


def _extremes(site: Site) -> np.ndarray:
    """The largest and the least sum of (x - zp_x) * w by output and input channel: int64 [2, C, input channels], >= 0.

    Every partial sum, in any order, lies between the second, negative, and the first: products of one sign grow alone.
    """
    zero_point = site.params(site.operands[1:3]).zero_point
    weights = np.moveaxis(site.array(3).astype(np.int64), _inner_axis(site), 1)
    weights = weights.reshape(*weights.shape[:2], -1)
    most, least = np.maximum(weights, 0).sum(axis=2), np.maximum(-weights, 0).sum(axis=2)
    above, below = 255 - zero_point, zero_point
    return np.stack([most * above + least * below, least * above + most * below])


def _reach(site: Site, run: slice, bias: np.ndarray) -> int:
    """The largest magnitude of a partial sum over some input channels and the bias."""
    return int((_extremes(site)[:, :, run].sum(axis=2) + np.abs(bias)).max())


def _runs(site: Site) -> list[slice]:
    """Input channels whose sums stay below 2^24 whatever x is: one run if all do; none if that is impossible."""
    size = _extremes(site).reshape(-1, site.array(3).shape[_inner_axis(site)])
    if (size.sum(axis=1) < EXACT_BELOW).all():
        return [slice(0, size.shape[1])]
    grouped = "group" in site.node.attributes and site.node.attributes["group"].as_int() != 1
    if grouped or size.max() >= EXACT_BELOW:
        return []
    reached = np.cumsum(size, axis=1)
    runs, begin, before = [], 0, np.zeros(len(size), np.int64)
    while begin < size.shape[1]:
        inside = (reached[:, begin:] - before[:, None] < EXACT_BELOW).all(axis=0)
        end = begin + int(inside.argmin() if not inside.all() else inside.size)
        runs.append(slice(begin, end))
        begin, before = end, reached[:, end - 1]
    return runs


def _sums(site: Site, weights: np.ndarray, run: slice, bias: np.ndarray | None) -> ir.Value:
    """float32 [bias +] sum (x - zp_x) * w over a run of the input channels.

    The weights are cast, not dequantized: runtimes then take them for constants of float32.
    """
    base, inner = site.name.base, _inner_axis(site)
    x = site.operands[0]
    if run != slice(0, weights.shape[inner]):
        ends = [site.constant(what, np.array([n], np.int64)) for what, n in (("begin", run.start), ("end", run.stop))]
        x = site.emit("Slice", [x, *ends, site.constant("channels", np.array([-1 if inner == 0 else 1], np.int64))])
        x.type = ir.TensorType(ir.DataType.UINT8)
    part = weights[:, run] if inner else weights[run]
    own = {key: site.node.attributes[key] for key in ATTRIBUTES[base]} if base in CONVOLUTIONS else {}
    if base == "ConvTranspose":
        part = conv_layout(part, own["group"].as_int())
    operands = [x, *site.operands[1:3]]
    shared = np.array_equal(part, site.array(3))  # other nodes may have them too
    weight = site.operands[3] if shared else site.constant("weight", np.ascontiguousarray(part))
    data = [integers(site, operands), site.cast(weight, ir.DataType.FLOAT)]
    if base in CONVOLUTIONS:
        extra = [] if bias is None or not bias.any() else [site.constant("bias", bias.astype(np.float32))]
        return apart(site, site.emit(base, [*data, *extra], own))
    product = site.emit("Gemm", data, {"transB": 1}) if base == "Gemm" else site.emit("MatMul", data)
    if bias is not None and bias.any():
        product = site.emit("Add", [product, site.constant("bias", bias.astype(np.float32))])
    return apart(site, product)
