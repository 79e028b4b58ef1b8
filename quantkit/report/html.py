"""The comparison as one HTML page that needs no other file, no network and no script to be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from quantkit.report import charts, text
from quantkit.report.lanes import lane_graph
from quantkit.report.verdict import headline, sentence

if TYPE_CHECKING:
    from quantkit.report.changes import SampleChange
    from quantkit.report.compare import Comparison

KINDS = {
    "broken": "broken by INT8",
    "fixed": "fixed by INT8",
    "changed": "another answer",
    "same": "same answer",
}
POINTS_SHOWN = 2000
"""Samples in the confidence chart: about 60 bytes each; all that changed, then the others in order."""
CLIPPED_MUCH = 0.001
"""A share of clipped values that the table marks."""


def comparison_page(comparison: Comparison, fp32: str, int8: str) -> str:
    """A complete page: verdict, accuracy, changed samples, speed, layers, graph, how to reproduce it.

    fp32, int8: file names to show.
    """
    title = f"{int8} against {fp32}"
    sections = {
        "accuracy": ("Accuracy", _accuracy(comparison)),
        "samples": ("Samples", _samples(comparison)),
        "speed": ("Speed", _speed(comparison)),
        "layers-part": ("Layers", _layers(comparison)),
        "graph": ("Graph", _graph(comparison)),
        "reproduce": ("Reproduce", _reproduce(comparison, fp32, int8)),
    }
    sections = {key: (name, body) for key, (name, body) in sections.items() if body}
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in sections.items())
    numbers = "".join(
        f'<div class="number"><b>{escape(n.value)}</b><span class="what">{escape(n.name)}</span>'
        f"<span>{escape(n.detail)}</span></div>"
        for n in headline(comparison)
    )
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>{body}</section>'
        for key, (name, body) in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_resource("page.css")}</style>
</head>
<body>
<header><p class="soft">quantkit comparison</p><h1>{escape(title)}</h1></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
<div class="numbers">{numbers}</div>
<p class="verdict">{escape(sentence(comparison))}</p>
<p class="soft">Measured on {escape(comparison.measured_on())}; {comparison.samples} samples.</p>
{body}
</main>
<footer><p class="soft">Made by quantkit {escape(comparison.machine["versions"]["quantkit"])}. This page is one file and
loads nothing.</p></footer>
<script>{_resource("page.js")}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return resources.files("quantkit.report").joinpath(name).read_text(encoding="utf-8")


def model_card(result: Any) -> str:
    """A `pipeline.ModelResult` in a notebook: kind, size, operators, what was decided and what was left alone."""
    from collections import Counter

    from quantkit.report.decisions import summarize

    operators = Counter(node.op_type for node in result.model.graph)
    shown = ", ".join(f"{count} {op}" for op, count in operators.most_common(8))
    size = text.size(result.proto.ByteSize())
    return (
        f"<p><b>{escape(result.kind)} model</b>, {size}, {sum(operators.values())} nodes: {escape(shown)}</p>"
        f"<details><summary>{len(result.decisions)} decisions</summary>"
        f"<pre>{escape(summarize(result.decisions))}</pre></details>"
    )


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of escaped text in a box that scrolls; `numeric` columns are right-aligned."""
    marks = [' class="n"' if i in numeric else "" for i in range(len(headers))]
    head = "".join(f'<th scope="col"{m}>{escape(cell)}</th>' for m, cell in zip(marks, headers, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{m}>{escape(cell)}</td>" for m, cell in zip(marks, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _accuracy(comparison: Comparison) -> str:
    parts = [
        html_table(["", "FP32", "INT8", "INT8 vs FP32"], comparison.summary_rows(), (1, 2, 3)),
        html_table(["", "value", ""], comparison.fact_rows(), (1,)),
    ]
    figures = []
    confidence = comparison.confidence or {}
    if "fp32_top1" in confidence:
        rows = [
            (name, 100 * value, *(100 * bound for bound in confidence[key]))
            for name, value, key in (
                ("FP32 top-1", comparison.fp32["top1"], "fp32_top1"),
                ("INT8 top-1", comparison.int8["top1"], "int8_top1"),
            )
        ]
        caption = (
            "Top-1 with 95 % Wilson intervals: each alone. The difference, on the same samples, is surer than both."
        )
        figures.append(_figure(charts.interval_chart(rows, "Top-1 accuracy of both models with intervals"), caption))
    points = _confidence_points(comparison)
    if points:
        chart = charts.scatter_chart(
            points, "FP32 confidence, %", "INT8 confidence, %", "Confidence of both models, one point a sample"
        )
        key = "".join(
            _key(color, KINDS[kind])
            for kind, color in (("same", "s0"), ("broken", "broken"), ("fixed", "fixed"), ("changed", "changed"))
        )
        figures.append(_figure(chart, "How sure each model is of its own answer, one point a sample.", key))
    return "".join(parts) + f'<div class="pair">{"".join(figures)}</div>'


def _confidence_points(comparison: Comparison) -> list[tuple[float, float, str, str]]:
    records = [c for c in comparison.changes.records if c.fp32_confidence is not None]
    records = sorted(records, key=lambda change: change.kind == "same")[:POINTS_SHOWN]
    return [(100 * (c.fp32_confidence or 0), 100 * (c.int8_confidence or 0), c.kind, c.name) for c in records]


def _figure(chart: str, caption: str, key: str = "") -> str:
    legend = f'<p class="soft key">{key}</p>' if key else ""
    return f'<figure><figcaption>{escape(caption)}</figcaption><div class="scroll">{chart}</div>{legend}</figure>'


def _key(color: str, name: str, hollow: bool = False) -> str:
    """One entry of a legend."""
    style = f"border:2px solid var(--{color})" if hollow else f"background:var(--{color})"
    return f'<span><i style="{style}"></i>{escape(name)}</span>'


def _samples(comparison: Comparison) -> str:
    most = comparison.changes.most_changed
    if not most:
        return ""
    flipped = sum(change.kind != "same" for change in comparison.changes.records)
    shown = f"{flipped} of {comparison.samples} samples got another answer" if most[0][0].fp32_class is not None else (
        "The samples whose outputs moved most")  # fmt: skip
    kinds = [kind for kind in KINDS if any(change.kind == kind for change, _ in most)]
    buttons = "".join(
        f'<button type="button" data-kind-filter="{kind}" aria-pressed="false">{KINDS[kind]}</button>' for kind in kinds
    )
    everything = '<button type="button" data-kind-filter="all" aria-pressed="true">all</button>'
    tools = f'<div class="tools" role="group" aria-label="Which samples">{everything}{buttons}</div>'
    cards = "".join(_card(change, picture, comparison.classes) for change, picture in most)
    note = f"<p>{escape(shown)}; the {len(most)} that changed most are below, as the models saw them.</p>"
    return f'{note}{tools if len(kinds) > 1 else ""}<ul class="cards">{cards}</ul>'


def _card(change: SampleChange, picture: str | None, classes: dict[int, str]) -> str:
    lines = [f'<span class="badge {change.kind}">{KINDS[change.kind]}</span>', f"<code>{escape(change.name)}</code>"]
    if change.label is not None:
        lines.append(f"truth: {_class(change.label, classes)}")
    for model, answer, confidence in (
        ("FP32", change.fp32_class, change.fp32_confidence),
        ("INT8", change.int8_class, change.int8_confidence),
    ):
        if answer is not None and confidence is not None:
            lines.append(f"{model}: {_class(answer, classes)}, {100 * confidence:.1f} %")
    if change.fp32_class is None:
        lines.append(f"noise {100 * change.distance:.2g} % of the signal")
    image = f'<img src="{picture}" alt="" loading="lazy">' if picture else ""
    return f'<li data-kind="{change.kind}">{image}<div>{"<br>".join(lines)}</div></li>'


def _class(index: int, classes: dict[int, str]) -> str:
    return escape(f"{classes[index]} ({index})" if index in classes else f"class {index}")


def _speed(comparison: Comparison) -> str:
    latency = comparison.latency
    if latency is None:
        return ""
    rows = [
        [run["name"], *(f"{run[key]:.2f}" for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms")),
         f"{run['samples_per_s']:.1f}", text.times(run["speedup"])]
        for run in latency["runs"]
    ]  # fmt: skip
    headers = ["", "median ms", "90 %", "95 %", "99 %", "mean", "least", "samples/s", "as fast as FP32"]
    series = [(run["name"], run["times_ms"]) for run in latency["runs"]]
    chart = charts.distribution_chart(series, "milliseconds a run (log)", "Distribution of latency")
    key = "".join(_key(f"s{i}", name) for i, (name, _) in enumerate(series))
    caption = (
        f"Share of runs that took at most so long; batch {latency['batch']}, {latency['rounds']} interleaved rounds."
    )
    note = "Rounds are interleaved: a busy machine meets all alike. Ratios are medians over rounds."
    where = f'<p class="note">{note} {escape(comparison.measured_on())}.</p>'
    return html_table(headers, rows, range(1, 9)) + _figure(chart, caption, key) + where


LAYER_COLUMNS = ("#", "layer", "op", "introduced dB", "accumulated dB", "range", "clipped", "us", "kernel", "ISA")


def _layers(comparison: Comparison) -> str:
    layers = comparison.layers
    if not layers:
        return ""
    points = [(layer.name, layer.sqnr_db, layer.introduced_db) for layer in layers]
    key = _key("s1", "accumulated: errors of all layers before it included") + _key(
        "s2", "introduced: its own, on exact inputs", hollow=True
    )
    chart = _figure(charts.layer_chart(points, "Signal to quantization noise of every layer"),
                    "Signal to quantization noise along the model; higher is better.", key)  # fmt: skip
    head = "".join(f'<th scope="col"{_mark(i)}>{name}</th>' for i, name in enumerate(LAYER_COLUMNS))
    rows = "".join(_layer_row(i, comparison.layer_entry(layer)) for i, layer in enumerate(layers))
    tools = (
        '<div class="tools"><label for="layer-filter">Filter</label><input id="layer-filter" type="search" '
        'placeholder="name, op, kernel"><span id="layer-count" class="soft" aria-live="polite"></span></div>'
    )
    table = (
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="Layers"><table id="layers" class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return chart + tools + table + _histograms(comparison)


def _mark(column: int) -> str:
    return "" if LAYER_COLUMNS[column] in ("layer", "op", "range", "kernel", "ISA") else ' class="n"'


def _layer_row(index: int, entry: dict[str, Any]) -> str:
    clipped = entry["clipped"]
    span = text.MISSING if entry["low"] is None else f"{entry['low']:.3g} to {entry['high']:.3g}"
    cells = [
        _number(index + 1, str(index + 1)),
        f'<td class="name">{escape(entry["name"])}</td>',
        f"<td>{escape(entry['op'])}</td>",
        _number(entry["introduced_db"], _fixed(entry["introduced_db"], 1)),
        _number(entry["sqnr_db"], _fixed(entry["sqnr_db"], 1)),
        f'<td data-v="{"" if entry["low"] is None else entry["high"] - entry["low"]}">{span}</td>',
        _number(clipped, text.MISSING if clipped is None else f"{100 * clipped:.3f} %",
                bad=(clipped or 0) > CLIPPED_MUCH),
        _number(entry["us"], _fixed(entry["us"], 1)),
        f"<td><code>{escape(entry['kernel'] or text.MISSING)}</code></td>",
        f"<td>{escape(entry['isa'])}</td>",
    ]  # fmt: skip
    return f'<tr data-layer="{index}">{"".join(cells)}</tr>'


def _number(value: float | None, shown: str, bad: bool = False) -> str:
    return f'<td class="n{" bad" if bad else ""}" data-v="{"" if value is None else value}">{shown}</td>'


def _fixed(value: float | None, digits: int) -> str:
    return text.MISSING if value is None else f"{value:.{digits}f}"


def _histograms(comparison: Comparison) -> str:
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
        figures.append(f'<div data-histogram="{i}">{_figure(chart, label)}</div>')
        chosen_mark = " selected" if i == worst else ""
        options.append(f'<option value="{i}"{chosen_mark}>{i + 1}. {escape(layer.name)}</option>')
    return (
        '<h3 id="distribution">Distribution and chosen range</h3><div class="tools"><label for="layer-select">Layer'
        f'</label><select id="layer-select">{"".join(options)}</select></div>{"".join(figures)}'
        '<p class="note">The band is the range that the 256 values cover; bars outside it are clipped to its ends.</p>'
    )


def _graph(comparison: Comparison) -> str:
    if not comparison.nodes:
        return ""
    native = sum(node["runs_on"] == "native" for node in comparison.nodes)
    note = f"{native} of {len(comparison.nodes)} nodes run in the engine"
    others = [node for node in comparison.nodes if node["runs_on"] != "native"]
    reasons = html_table(["in onnxruntime", "op", "why"], [[n["name"], n["op"], n["reason"]] for n in others[:50]])
    key = _key("s1", "engine") + _key("s2", "onnxruntime", hollow=True)
    graph = lane_graph(comparison.nodes, comparison.layer_times, f"The fused graph: {note}")
    return (
        f"<p>{note}, {text.percent(comparison.coverage['native_macs'])} of the multiply-accumulates.</p>"
        f'<p class="soft key">{key}</p><div class="scroll tall" tabindex="0" role="region" aria-label="Graph">{graph}'
        f"</div>{reasons if others else ''}"
    )


def _reproduce(comparison: Comparison, fp32: str, int8: str) -> str:
    machine = comparison.machine
    facts: list[tuple[str, str]] = [
        ("CPU", machine["cpu"]),
        ("instruction set", machine["isa"]),
        ("threads", f"{machine['threads']} of {machine['cores']} cores"),
        ("system", machine["system"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
    ]
    source = comparison.provenance
    if source:
        for name, model in source["models"].items():
            facts.append((f"{name.upper()} model", f"{model['file']}, sha256 {model['sha256']}"))
        for stage in ("calibration", "comparison"):
            for key, value in source[stage].items():
                if value is not None:
                    shown = value if isinstance(value, str) else json.dumps(value)
                    facts.append((f"{stage} {key.replace('_', ' ')}", shown))
    rows = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts)
    command = f"quantkit compare {fp32} {int8} --data DATA --isa {machine['isa']} --threads {machine['threads']}"
    return f"<pre><code>{escape(command)}</code></pre><dl>{rows}</dl>"
