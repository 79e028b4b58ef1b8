"""The exact sums of weighted ops: float32 operators on integers, in parts of which none can reach 2^24."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.foreign.site import Site
from quantkit.foreign.unit import integers
from quantkit.fuse.functions import ATTRIBUTES
from quantkit.fuse.graph import Reject, conv_layout
from quantkit.fuse.opnames import CONVOLUTIONS

EXACT_BELOW = 1 << 24
"""float32 holds every integer up to here."""


def accumulator(site: Site) -> ir.Value:
    """f32(acc) of a weighted op, acc = bias + sum (x - zp_x) * w.

    One float32 operator where no order of its sums can leave 2^24, else several over parts of the input channels,
    added in int32; grouped convolutions as large as that by ConvInteger. The sums become int32 in every case: it keeps
    runtimes from multiplying what follows into the weights.
    Raises Reject for a grouped ConvTranspose of which a sum may reach 2^24.
    """
    bias = site.array(6)
    runs = _runs(site, bias)
    if not runs:
        if site.name.base == "ConvTranspose":
            raise Reject("a grouped ConvTranspose has no integer form in ONNX")
        return site.cast(site.accumulator(), ir.DataType.FLOAT)
    if len(runs) == 1:
        total = _sums(site, runs[0], bias.astype(np.float32))
    else:
        total = site.constant("bias_int32", site.over_channels(bias))
        for run in runs:
            total = site.emit("Add", [total, _sums(site, run, None)])
    return site.cast(total, ir.DataType.FLOAT)


def _inner_axis(site: Site) -> int:
    """The axis of the input channels in the weights."""
    return 0 if site.name.base == "MatMul" else 1


def _runs(site: Site, bias: np.ndarray) -> list[slice]:
    """Input channels whose sums stay below 2^24 whatever x is: one run if all do with the bias; none if impossible."""
    zero_point = site.params(site.operands[1:3]).zero_point
    weights = np.abs(np.moveaxis(site.array(3).astype(np.int64), _inner_axis(site), 1))
    largest = max(zero_point, 255 - zero_point)
    size = largest * weights.reshape(*weights.shape[:2], -1).sum(axis=2)  # [C, input channels]
    if (size.sum(axis=1) + np.abs(bias.astype(np.int64)) < EXACT_BELOW).all():
        return [slice(0, size.shape[1])]
    grouped = "group" in site.node.attributes and site.node.attributes["group"].as_int() != 1
    if grouped or size.max() >= EXACT_BELOW:
        return []
    reached = np.cumsum(size, axis=1)
    runs, begin, before = [], 0, np.zeros(len(bias), np.int64)
    while begin < size.shape[1]:
        inside = (reached[:, begin:] - before[:, None] < EXACT_BELOW).all(axis=0)
        end = begin + int(inside.argmin() if not inside.all() else inside.size)
        runs.append(slice(begin, end))
        begin, before = end, reached[:, end - 1]
    return runs


def _sums(site: Site, run: slice, bias: np.ndarray | None) -> ir.Value:
    """int32 [bias +] sum (x - zp_x) * w over a run of the input channels."""
    base, inner, weights = site.name.base, _inner_axis(site), site.array(3)
    x = site.operands[0]
    if run != slice(0, weights.shape[inner]):
        ends = [site.constant(what, np.array([n], np.int64)) for what, n in (("begin", run.start), ("end", run.stop))]
        x = site.emit("Slice", [x, *ends, site.constant("channels", np.array([-1 if inner == 0 else 1], np.int64))])
        x.type = ir.TensorType(ir.DataType.UINT8)
    part = np.take(weights, np.arange(run.start, run.stop), axis=inner)
    own = {key: site.node.attributes[key] for key in ATTRIBUTES[base]} if base in CONVOLUTIONS else {}
    if base == "ConvTranspose":
        part = conv_layout(part, own["group"].as_int())
    operands = [x, *site.operands[1:3]]
    data = [integers(site, operands), integers(site, [site.constant("weight", np.ascontiguousarray(part))])]
    if base in CONVOLUTIONS:
        extra = [] if bias is None else [site.constant("bias", bias)]
        return site.cast(site.emit(base, [*data, *extra], own), ir.DataType.INT32)
    product = site.emit("Gemm", data, {"transB": 1}) if base == "Gemm" else site.emit("MatMul", data)
    if bias is not None and bias.any():
        product = site.emit("Add", [product, site.constant("bias", bias)])
    return site.cast(product, ir.DataType.INT32)
