"""The layers and the graph of a comparison, as sections of its HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from quantkit.report import charts, text
from quantkit.report.elements import (
    breakable,
    figure,
    fixed,
    hidden_caption,
    html_table,
    legend_entry,
    number_cell,
)
from quantkit.report.explain import CLIPPED_MUCH
from quantkit.report.lanes import lane_table

if TYPE_CHECKING:
    from quantkit.report.compare import Comparison

REASONS_SHOWN = 50
COLUMNS = ("#", "layer", "op", "introduced dB", "accumulated dB", "range", "clipped", "dead", "µs", "kernel", "ISA")
TEXT_COLUMNS = ("layer", "op", "range", "kernel", "ISA")


def layers_section(comparison: Comparison) -> str:
    """Chart, sortable table and distributions; empty if the error by layer was not measured."""
    layers = comparison.layers
    if not layers:
        return ""
    points = [(layer.name, layer.sqnr_db, layer.introduced_db) for layer in layers]
    worst = min(layers, key=lambda layer: layer.sqnr_db)
    label = f"Signal to quantization noise of every layer; the least is {worst.sqnr_db:.1f} dB, at {worst.name}"
    key = legend_entry("s1", "accumulated: errors of all layers before it included") + legend_entry(
        "s2", "introduced: its own, on exact inputs", hollow=True
    )
    chart = figure(
        charts.layer_chart(points, label), "Signal to quantization noise along the model; higher is better.", key
    )
    head = "".join(f'<th scope="col"{_mark(name)}>{name}</th>' for name in COLUMNS)
    rows = "".join(_layer_row(i, comparison.layer_entry(layer)) for i, layer in enumerate(layers))
    tools = (
        '<div class="tools"><label for="layer-filter">Filter</label><input id="layer-filter" type="search" '
        'placeholder="name, op, kernel"><span id="layer-count" class="soft" role="status"></span></div>'
    )
    table = (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Table of layers">'
        f'<table id="layers" class="sortable">{hidden_caption("Error, range and time of every layer")}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    sentences = "".join(f"<li>{escape(entry.sentence)}</li>" for entry in comparison.advice)
    advice = f'<h3 id="advice">What adds most noise, and what to try</h3><ul class="plain">{sentences}</ul>'
    return f'{advice}<div class="pair"><div>{chart}</div><div>{_histograms(comparison)}</div></div>{tools}{table}'


def _mark(name: str) -> str:
    order = ' aria-sort="ascending"' if name == COLUMNS[0] else ""
    return ("" if name in TEXT_COLUMNS else ' class="n"') + order


def _layer_row(index: int, entry: dict[str, Any]) -> str:
    clipped = entry["clipped"]
    span = text.MISSING if entry["low"] is None else f"{entry['low']:.3g} to {entry['high']:.3g}"
    kernel = (entry["kernel"] or text.MISSING).removesuffix(f"_{entry['isa']}")
    cells = [
        number_cell(index + 1, str(index + 1)),
        f'<th scope="row" class="name">{breakable(entry["name"])}</th>',
        f"<td>{escape(entry['op'])}</td>",
        number_cell(entry["introduced_db"], fixed(entry["introduced_db"], 1)),
        number_cell(entry["sqnr_db"], fixed(entry["sqnr_db"], 1)),
        f'<td data-v="{"" if entry["low"] is None else entry["high"] - entry["low"]}">{span}</td>',
        number_cell(clipped, text.MISSING if clipped is None else f"{100 * clipped:.3f} %",
                    bad=(clipped or 0) > CLIPPED_MUCH),
        number_cell(entry["dead_channels"], text.MISSING if entry["channels"] is None else
                    f"{entry['dead_channels']} of {entry['channels']}"),
        number_cell(entry["us"], fixed(entry["us"], 1)),
        f"<td><code>{escape(kernel)}</code></td>",
        f"<td>{escape(entry['isa'])}</td>",
    ]  # fmt: skip
    return f'<tr data-layer="{index}">{"".join(cells)}</tr>'


def _histograms(comparison: Comparison) -> str:
    """One distribution a layer; page.js shows the chosen one, without it all are shown."""
    figures, options = [], []
    worst = min(range(len(comparison.layers)), key=lambda i: comparison.layers[i].sqnr_db)
    for i, layer in enumerate(comparison.layers):
        if not layer.histogram or not layer.histogram["counts"]:
            continue
        chosen = (layer.low, layer.high) if layer.low is not None and layer.high is not None else None
        shown = "float32, no range" if chosen is None else f"range {chosen[0]:.4g} to {chosen[1]:.4g}"
        label = f"{layer.name}: FP32 values of {layer.tensor}; {shown}"
        chart = charts.histogram_chart(
            layer.histogram["low"], layer.histogram["high"], layer.histogram["counts"], chosen, label
        )
        figures.append(f'<div data-histogram="{i}">{figure(chart, label)}</div>')
        chosen_mark = " selected" if i == worst else ""
        options.append(f'<option value="{i}"{chosen_mark}>{i + 1}. {escape(layer.name)}</option>')
    return (
        '<div id="distribution" class="tools"><label for="layer-select">Distribution in</label>'
        f'<select id="layer-select">{"".join(options)}</select></div>{"".join(figures)}'
        '<p class="note">The band is the range that the 256 values cover; bars outside it are clipped to its ends.</p>'
    )


def graph_section(comparison: Comparison) -> str:
    """The fused graph, node by node, with where each runs, and reasons for what runs in onnxruntime."""
    if not comparison.nodes:
        return ""
    native = sum(node["runs_on"] == "native" for node in comparison.nodes)
    note = f"{native} of {len(comparison.nodes)} nodes run in the engine"
    others = [node for node in comparison.nodes if node["runs_on"] != "native"]
    rows = [[node["name"], node["op"], node["reason"]] for node in others[:REASONS_SHOWN]]
    reasons = html_table(["in onnxruntime", "op", "why"], rows, "Nodes that run in onnxruntime, and why")
    key = legend_entry("s1", "engine") + legend_entry("s2", "onnxruntime", hollow=True)
    return (
        f"<p>{note}, {text.percent(comparison.coverage['native_macs'])} of the multiply-accumulates.</p>"
        '<p class="soft key">'
        + key
        + '</p><div class="scroll tall" tabindex="0" role="region" aria-label="Table of nodes">'
        f"{lane_table(comparison.nodes, comparison.layer_times, f'The fused graph: {note}')}"
        f"</div>{reasons if others else ''}"
    )
