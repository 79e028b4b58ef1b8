"""Plain-text tables and numbers for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MISSING = "-"
RULE_WIDTH = 79
"""A table may be wider than a terminal, its rule is not: it would wrap."""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; a column whose cells all start like a number is right-aligned."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [bool(rows) and all(_is_number(cell) for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if aligned_right else cell.ljust(width)
            for cell, width, aligned_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [headers, *rows]
    ]
    return "\n".join([lines[0], "-" * min(RULE_WIDTH, max(map(len, lines))), *lines[1:]])


def _is_number(cell: str) -> bool:
    return cell == MISSING or cell[:1].isdigit() or (cell[:1] in "+-" and cell[1:2].isdigit())


def percent(fraction: float | None) -> str:
    """`0.884` -> `88.40 %`."""
    return MISSING if fraction is None else f"{100 * fraction:.2f} %"


def decibel(value: float | None) -> str:
    """`19.43` -> `19.4 dB`."""
    return MISSING if value is None else f"{value:.1f} dB"


def threads(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread" if count == 1 else f"{count} threads"


def times(ratio: float | None) -> str:
    """`2.5` -> `2.50x`."""
    return MISSING if ratio is None else f"{ratio:.2f}x"


def size(count: int | None) -> str:
    """A number of bytes in the largest decimal unit that keeps it at 1 or more."""
    if count is None:
        return MISSING
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def preformatted(shown: str) -> str:
    """Text for a notebook, which would set a bare <pre> in its own proportional font and wrap it."""
    return f'<pre style="font-family:monospace;white-space:pre;overflow-x:auto">{escape(shown)}</pre>'


def shape(dimensions: Sequence[int | str | None] | None) -> str:
    """`(None, 3, 224, 224)` -> `?x3x224x224`; a scalar is `scalar`."""
    if dimensions is None:
        return MISSING
    return "x".join("?" if d is None else str(d) for d in dimensions) or "scalar"
