"""The comparison as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantkit.report.compare import Comparison

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid #8884; }
th { font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
p { color: #777; }
"""


def comparison_page(comparison: Comparison, fp32: str, int8: str) -> str:
    """A complete page with the tables of `Comparison.to_text`, every layer included."""
    title = f"{int8} against {fp32}"
    sections = [
        html_table(["", "FP32", "INT8", "INT8 vs FP32"], comparison.summary_rows()),
        html_table(["", "value", ""], comparison.fact_rows()),
    ]
    if comparison.layers:
        sections += ["<h2>Error by layer</h2>", html_table(["layer", "op", "SQNR"], comparison.layer_rows())]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *sections,
            f"<p>Measured on {escape(comparison.measured_on())}; {comparison.samples} samples.</p>",
            "</body>\n</html>\n",
        ]
    )


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of escaped text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
