"""The exact form of a QuantizeLinear of FP32 values: a true division, whichever way a runtime divides."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.foreign.site import Site
from quantkit.foreign.unit import number
from quantkit.fuse.graph import Reject
from quantkit.types import QuantParams

ULPS = 4
"""How far f32((j - 1/2) s) may be from where j begins, in units in the last place."""
SLACK = 2.0**-10
"""More than the float32 products and sums in front of the table are wrong by: 2^-14 at 256."""
LEAST_SCALE = 1e-30
"""Halves of it are normal numbers of float32."""


def quantized(site: Site) -> ir.Value:
    """u8 clamp(rne(x / s) + zp, 0, 255) of float32 x, NaN -> 255: what x * f32(1 / s) says, or one less.

    OpenVINO multiplies by 1 / s, and rounds ties otherwise: one pixel's step grows in the layers behind. A product
    finds the byte j that x reaches at most; x below the float32 at which j begins means j - 1.
    """
    x, (scale, zero_point) = site.operands[0], site.y
    if x is None or x.dtype != ir.DataType.FLOAT or scale is None or scale.shape is None or len(scale.shape):
        raise Reject("it is not one scale of float32 values")
    p = site.params(site.y)
    if p.scale < LEAST_SCALE or zero_point is None or zero_point.dtype != ir.DataType.UINT8:
        raise Reject("its scale is too small, or its integers have signs")
    steps = site.emit("Mul", [x, site.constant("inverse", np.float32(1.0 / p.scale))])
    top = number(site, 254.5 - p.zero_point)
    below_top = site.emit("Where", [site.emit("Less", [steps, top]), steps, top])  # NaN is not less
    inside = site.emit("Max", [below_top, number(site, float(-p.zero_point))])
    at_most = site.emit("Floor", [site.emit("Add", [inside, number(site, p.zero_point + 1.5 - SLACK)])])
    begins = site.constant("begins", thresholds(p))
    start = site.emit("Gather", [begins, site.cast(at_most, ir.DataType.INT32)], {"axis": 0})
    one_less = site.cast(site.emit("Less", [x, start]), ir.DataType.FLOAT)
    return site.cast(site.emit("Sub", [at_most, one_less]), ir.DataType.UINT8)


def thresholds(p: QuantParams) -> np.ndarray:
    """For each byte j the least float32 that becomes j or more; -inf for 0. float32 [256]."""
    scale, wanted = np.float32(p.scale), np.arange(256) - p.zero_point
    low = ((wanted - 0.5) * p.scale).astype(np.float32)
    for _ in range(ULPS):
        low = np.nextafter(low, np.float32(-np.inf))
    rows = [low]
    for _ in range(2 * ULPS):
        rows.append(np.nextafter(rows[-1], np.float32(np.inf)))
    reaches = np.rint(np.stack(rows) / scale) >= wanted
    least = np.take_along_axis(np.stack(rows), reaches.argmax(axis=0)[None], axis=0)[0]
    least[0] = -np.inf
    return least
