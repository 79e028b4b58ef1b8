"""A graph as a list of nodes with its edges drawn in lanes beside it: readable from 10 to 1000 nodes, on any screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from quantkit.report import text
from quantkit.report.charts import svg

ROW, LANE, MARGIN = 24, 14, 14
NAME_WIDTH, OP_WIDTH, SHAPE_WIDTH, KERNEL_WIDTH, TIME_WIDTH = 300, 130, 110, 210, 70
SHOWN_CHARACTERS = 44


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


def lane_graph(nodes: Sequence[Mapping[str, Any]], times: Mapping[str, Mapping[str, Any]], label: str) -> str:
    """SVG of the nodes in graph order. A filled dot runs in the engine, a hollow one in onnxruntime.

    nodes: entries of `inspect.placed_nodes`. times: node name -> {"us"}.
    """
    lanes = assign_lanes(nodes)
    left = 2 * MARGIN + LANE * max(lanes, default=0)
    columns = [left]
    for width in (NAME_WIDTH, OP_WIDTH, SHAPE_WIDTH, KERNEL_WIDTH):
        columns.append(columns[-1] + width)
    parts = [_edge(lanes, feed, i) for i, node in enumerate(nodes) for feed in node["feeds"]]
    for i, node in enumerate(nodes):
        parts.append(_row(node, lanes[i], i, columns, times.get(node["name"], {}).get("us")))
    width, height = columns[-1] + TIME_WIDTH, ROW * len(nodes) + 8
    return svg("".join(parts), label, width, height, ' class="lanes"')


def _at(lane: int, row: int) -> tuple[int, int]:
    return MARGIN + LANE * lane, ROW * row + ROW // 2 + 4


def _edge(lanes: Sequence[int], start: int, stop: int) -> str:
    """Down the producer's lane, then over to the consumer in the last half row."""
    (x0, y0), (x1, y1) = _at(lanes[start], start), _at(lanes[stop], stop)
    if x0 == x1:
        return f'<path class="edge" d="M{x0} {y0}V{y1}"/>'
    bend = y1 - ROW
    return f'<path class="edge" d="M{x0} {y0}V{bend}C{x0} {y1 - 8} {x1} {bend + 8} {x1} {y1}"/>'


def _row(node: Mapping[str, Any], lane: int, row: int, columns: Sequence[int], microseconds: float | None) -> str:
    x, y = _at(lane, row)
    native = node["runs_on"] == "native"
    where = node["kernel"] if native else "onnxruntime"
    cells = [
        _shortened(node["name"] or "-"),
        node["op"],
        text.shape(node["shape"]),
        where,
        "" if microseconds is None else f"{microseconds:.0f} us",
    ]
    title = f"{node['name']}: {node['op']}, {where}" + ("" if native else f". {node['reason']}")
    texts = "".join(
        f'<text x="{column}" y="{y}" class="middle{" mono" if i in (2, 3) else ""}">{escape(cell)}</text>'
        for i, (column, cell) in enumerate(zip(columns, cells, strict=True))
    )
    kind = "native" if native else "elsewhere"
    return f'<g class="{kind}"><title>{escape(title)}</title><circle cx="{x}" cy="{y}" r="5"/>{texts}</g>'


def _shortened(name: str) -> str:
    return name if len(name) <= SHOWN_CHARACTERS else "…" + name[1 - SHOWN_CHARACTERS :]
