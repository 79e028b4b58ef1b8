"""What every exact form is made of: integers as float32 and back, tables, numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.foreign.site import Pair, Site


def number(site: Site, value: float) -> ir.Value:
    """A float32 scalar."""
    return site.constant("number", np.float32(value))


def integers(site: Site, triple: Sequence[ir.Value | None]) -> ir.Value:
    """float32 q - zero point, by a scale of 1. triple: q, its scale (not read), its zero point; or q alone, of s8."""
    return site.emit("DequantizeLinear", [triple[0], number(site, 1.0), *triple[2:]])


def rounded(site: Site, steps: ir.Value, pair: Pair, low: int = 0, high: int = 255) -> ir.Value:
    """clamp(rne(steps) + zero point, low, high) of float32 values in steps of the scale of `pair`.

    Round stands before the QuantizeLinear because OpenVINO adds the zero point before it rounds, and multiplies what
    stands in front into its scale. Saturation is the clamp to (0, 255).
    """
    if (low, high) != (0, 255):
        zero_point = site.params(pair).zero_point
        steps = site.emit("Clip", [steps, *(number(site, float(bound - zero_point)) for bound in (low, high))])
    return site.emit("QuantizeLinear", [site.emit("Round", [steps]), number(site, 1.0), pair[1]])


def apart(site: Site, value: ir.Value) -> ir.Value:
    """The same value behind a Clip that does nothing, |value| <= 2^31: runtimes join no arithmetic across it.

    They would multiply a factor into weights, or multiply and add without rounding in between. The Clip itself they
    compute with what stands in front of it.
    """
    return site.emit("Clip", [value, number(site, -(2.0**31)), number(site, 2.0**31)])


def real_of_int32(site: Site, value: ir.Value) -> ir.Value:
    """float32 of int32. Without the Clip, OpenVINO would compute in the u8 of a QuantizeLinear behind it."""
    return apart(site, site.cast(value, ir.DataType.FLOAT))


def looked_up(site: Site, x: ir.Value | None, table: np.ndarray) -> ir.Value:
    """table[x] of u8 x; a table of 256 values."""
    return site.emit("Gather", [site.constant("table", table), site.cast(x, ir.DataType.INT32)], {"axis": 0})


def sloped(site: Site, triple: Sequence[ir.Value | None], slopes: tuple[np.ndarray, np.ndarray], rank: int,
           tables: np.ndarray) -> ir.Value | None:  # fmt: skip
    """u8 rne((q - zp) * slope) + zp_y, the slope of the first array below 0, else of the second: float32 [C] or [1].

    None where that is not `tables`, uint8 [C or 1, 256], for every byte. rank: of q, whose axis 1 is C.
    """
    x, y = site.params(triple[1:]), site.params(site.y)
    v = (np.arange(256) - x.zero_point).astype(np.float32)
    below, above = (slope.reshape(-1, 1) for slope in slopes)
    steps = np.rint(v * np.where(v < 0, below, above))
    if not np.array_equal(np.clip(steps + y.zero_point, 0, 255), tables):
        return None
    real = integers(site, triple)
    parts = [site.constant(what, slope.reshape(-1, *[1] * (rank - 2)) if slope.size > 1 else slope.reshape(()))
             for what, slope in zip(("below", "above"), slopes, strict=True)]  # fmt: skip
    same = np.array_equal(below, above)
    slope = parts[0] if same else site.emit("Where", [site.emit("Less", [real, number(site, 0.0)]), *parts])
    return rounded(site, apart(site, site.emit("Mul", [real, slope])), site.y)


def as_bytes(table: bytes) -> np.ndarray:
    """A table of the engine as uint8."""
    return np.frombuffer(table, np.uint8)
