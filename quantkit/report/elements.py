"""Pieces of HTML that every section of a report is made of. All text that is given is escaped here."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from html import escape

from quantkit.report import text

BREAKS = re.compile(r"(?<=[/_.:-])(?=[^/_.:-])")
"""Where a long name may go on in the next line: behind a separator."""


def html_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str, numeric: Container[int] = ()
) -> str:
    """A table in a box that scrolls; the first column names its row, columns in `numeric` are right-aligned.

    caption: what the table shows, for those who hear it.
    """
    marks = [' class="n"' if i in numeric else "" for i in range(len(headers))]
    head = "".join(
        f'<th scope="col"{m}>{escape(cell)}</th>' if cell else f"<td{m}></td>"
        for m, cell in zip(marks, headers, strict=True)
    )
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{m}>{escape(cell)}</td>" for m, cell in zip(marks[1:], others, strict=True))
        lines.append(f'<tr><th scope="row"{marks[0]}>{escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table>{hidden_caption(caption)}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def hidden_caption(caption: str) -> str:
    """A table's caption for screen readers only: on the page, the heading says it."""
    return f'<caption class="unseen">{escape(caption)}</caption>'


def figure(chart: str, caption: str, key: str = "") -> str:
    """A chart (SVG) under its caption, with its legend below it."""
    legend = f'<p class="soft key">{key}</p>' if key else ""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}{legend}</figure>"


def legend_entry(color: str, name: str, hollow: bool = False) -> str:
    """One entry of a legend. color: name of a CSS variable."""
    style = f"border:2px solid var(--{color})" if hollow else f"background:var(--{color})"
    return f'<span><i style="{style}"></i>{escape(name)}</span>'


def number_cell(value: float | None, shown: str, bad: bool = False) -> str:
    """A right-aligned cell that sorts by `value`, marked if `bad`."""
    return f'<td class="n{" bad" if bad else ""}" data-v="{"" if value is None else value}">{shown}</td>'


def fixed(value: float | None, digits: int) -> str:
    """`value` with so many digits behind the point."""
    return text.MISSING if value is None else f"{value:.{digits}f}"


def breakable(name: str) -> str:
    """A name that may be broken behind its separators."""
    return "<wbr>".join(escape(part) for part in BREAKS.split(name))
