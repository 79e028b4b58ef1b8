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
    zero_point = list(triple[2:])
    return site.emit("DequantizeLinear", [triple[0], number(site, 1.0), *zero_point])


def rounded(site: Site, steps: ir.Value, pair: Pair) -> ir.Value:
    """clamp(rne(steps) + zero point, 0, 255) of float32 values in steps of the scale of `pair`."""
    return site.emit("QuantizeLinear", [steps, number(site, 1.0), pair[1]])


def looked_up(site: Site, x: ir.Value | None, table: bytes) -> ir.Value:
    """table[x] of u8 x; a table of 256 bytes."""
    entries = site.constant("table", np.frombuffer(table, np.uint8))
    return site.emit("Gather", [entries, site.cast(x, ir.DataType.INT32)], {"axis": 0})
