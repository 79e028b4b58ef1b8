"""A graph as a table of nodes with its edges drawn in lanes beside it: readable from 10 to 1000 nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from quantkit.report import text
from quantkit.report.elements import fixed, hidden_caption

ROW, LANE, MARGIN = 24, 14, 14
"""Pixels; page.css gives the table's rows the same height, so that the lanes of neighbours meet."""
MIDDLE = ROW // 2
SHOWN_CHARACTERS = 44
COLUMNS = ("node", "op", "shape", "runs in", "kernel", "µs")


def assign_lanes(nodes: Sequence[Mapping[str, Any]]) -> list[int]:
    """A lane for every node: free from its row to the row of its last user. nodes: "feeds", indices of earlier ones."""
    last_use = list(range(len(nodes)))
    for i, node in enumerate(nodes):
        for feed in node["feeds"]:
            last_use[feed] = i
    busy_until: list[int] = []
    lanes = []
    for i in range(len(nodes)):
        lane = next((k for k, until in enumerate(busy_until) if until <= i), len(busy_until))
        if lane == len(busy_until):
            busy_until.append(0)
        busy_until[lane] = last_use[i]
        lanes.append(lane)
    return lanes


def lane_table(nodes: Sequence[Mapping[str, Any]], times: Mapping[str, Mapping[str, Any]], caption: str) -> str:
    """HTML table of the nodes in graph order. A filled dot runs in the engine, a hollow one in onnxruntime.

    nodes: entries of `inspect.placed_nodes`. times: node name -> {"us"}.
    """
    lanes = assign_lanes(nodes)
    width = 2 * MARGIN + LANE * max(lanes, default=0)
    drawn: list[list[str]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for feed in node["feeds"]:
            for row in range(feed, i + 1):
                drawn[row].append(edge_in_row(lanes, feed, i, row))
    rows = []
    for i, node in enumerate(nodes):
        kind = "native" if node["runs_on"] == "native" else "elsewhere"
        dot = f'<circle cx="{MARGIN + LANE * lanes[i]}" cy="{MIDDLE}" r="5"/>'
        edges = f'<path d="{"".join(drawn[i])}"/>' if drawn[i] else ""
        lane = f'<td><svg class="{kind}" width="{width}" height="{ROW}" aria-hidden="true">{edges}{dot}</svg></td>'
        rows.append(f"<tr>{lane}{_cells(node, times.get(node['name'], {}).get('us'))}</tr>")
    head = "".join(f'<th scope="col"{_mark(name)}>{name}</th>' for name in COLUMNS)
    return (
        f'<table class="lanes">{hidden_caption(caption)}<thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def edge_in_row(lanes: Sequence[int], start: int, stop: int, row: int) -> str:
    """The part in `row` of the path from the dot in row `start` to the dot in row `stop`.

    Down the producer's lane, then over to the consumer's between the last two dots. Coordinates are the row's own;
    what lies above or below it is drawn by its neighbours.
    """
    x0, x1 = (MARGIN + LANE * lanes[i] for i in (start, stop))
    top = MIDDLE if row == start else 0
    if x0 == x1 or row < stop - 1:
        return f"M{x0} {top}V{MIDDLE if row == stop else ROW}"
    if row == stop - 1:
        straight = f"M{x0} {top}V{MIDDLE}" if top < MIDDLE else f"M{x0} {MIDDLE}"
        return f"{straight}c0 {ROW - 8} {x1 - x0} 8 {x1 - x0} {ROW}"
    return f"M{x0} {MIDDLE - ROW}c0 {ROW - 8} {x1 - x0} 8 {x1 - x0} {ROW}"


def _cells(node: Mapping[str, Any], microseconds: float | None) -> str:
    native = node["runs_on"] == "native"
    name, title = node["name"] or text.MISSING, "" if native else f' title="{escape(node["reason"] or "", quote=True)}"'
    where = "engine" if native else "onnxruntime"
    return (
        f'<th scope="row" title="{escape(name, quote=True)}">{escape(shortened(name))}</th>'
        f"<td>{escape(node['op'])}</td><td>{text.shape(node['shape'])}</td><td{title}>{where}</td>"
        f'<td>{escape(node["kernel"] or text.MISSING)}</td><td class="n">{fixed(microseconds, 0)}</td>'
    )


def _mark(name: str) -> str:
    return ' class="n"' if name == COLUMNS[-1] else ""


def shortened(name: str) -> str:
    """The end of a long name: what tells its layer from the others."""
    return name if len(name) <= SHOWN_CHARACTERS else "…" + name[1 - SHOWN_CHARACTERS :]
