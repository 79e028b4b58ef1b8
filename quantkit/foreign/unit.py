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

    By Clip, Round, Add and Cast: OpenVINO adds the zero point of a QuantizeLinear before it rounds.
    """
    zero_point = site.params(pair).zero_point
    bounds = [number(site, float(bound - zero_point)) for bound in (low, high)]
    whole = site.emit("Round", [site.emit("Clip", [steps, *bounds])])
    return site.cast(site.emit("Add", [whole, number(site, float(zero_point))]), ir.DataType.UINT8)


def looked_up(site: Site, x: ir.Value | None, table: np.ndarray) -> ir.Value:
    """table[x] of u8 x; a table of 256 values."""
    return site.emit("Gather", [site.constant("table", table), site.cast(x, ir.DataType.INT32)], {"axis": 0})


def as_bytes(table: bytes) -> np.ndarray:
    """A table of the engine as uint8."""
    return np.frombuffer(table, np.uint8)
