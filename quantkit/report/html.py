"""The comparison as one HTML page that needs no other file, no network and no script to be read."""

from __future__ import annotations

import json
import shlex
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from quantkit.report import charts, goal, text
from quantkit.report.elements import breakable, figure, html_table, legend_entry
from quantkit.report.html_layers import graph_section, layers_section
from quantkit.report.provenance import recipe, recipe_command, recipe_facts
from quantkit.report.verdict import busy_note, headline, sentence

if TYPE_CHECKING:
    from quantkit.report.changes import SampleChange
    from quantkit.report.compare import Comparison

KINDS = {
    "broken": "broken by INT8",
    "fixed": "fixed by INT8",
    "changed": "another answer",
    "same": "same answer",
}
COLORS = {"same": "s0", "broken": "broken", "fixed": "fixed", "changed": "changed"}
OPERATORS_SHOWN = 8
"""Kinds of operators that a model's card names."""
POINTS_SHOWN = 2000
"""Samples in the confidence chart: about 60 bytes each; all that changed, then the others in order."""


def comparison_page(comparison: Comparison, fp32: str, int8: str) -> str:
    """A complete page: verdict, accuracy, changed samples, speed, layers, graph, how to reproduce it.

    fp32, int8: file names to show.
    """
    title = f"{int8} against {fp32}"
    sections = {
        "accuracy": ("Accuracy", _accuracy(comparison)),
        "samples": ("Samples", _samples(comparison)),
        "speed": ("Speed", _speed(comparison)),
        "layers-part": ("Layers", layers_section(comparison)),
        "goal": ("Accuracy goal", _goal(comparison)),
        "graph": ("Graph", graph_section(comparison)),
        "reproduce": ("Reproduce", _reproduce(comparison, fp32, int8)),
    }
    sections = {key: (name, body) for key, (name, body) in sections.items() if body}
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in sections.items())
    numbers = "".join(
        f'<div class="number"><b>{_minus(n.value)}</b><span class="what">{escape(n.name)}</span>'
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
<p class="soft">Measured on {escape(comparison.measured_on())}; {comparison.samples} samples.
{escape(busy_note(comparison))}</p>
{body}
</main>
<footer><p class="soft">Made by quantkit {escape(comparison.machine["versions"]["quantkit"])}. This page is one file and
loads nothing.</p></footer>
<script>{_resource("page.js")}</script>
</body>
</html>
"""


def _minus(value: str) -> str:
    """A number in large type: with a minus sign, not with the hyphen that a terminal shows."""
    return escape(f"\N{MINUS SIGN}{value[1:]}" if value.startswith("-") else value)


def _resource(name: str) -> str:
    return resources.files("quantkit.report").joinpath(name).read_text(encoding="utf-8")


def model_card(result: Any) -> str:
    """A `pipeline.ModelResult` in a notebook: kind, size, operators, what was decided and what was left alone."""
    from collections import Counter

    from quantkit.report.decisions import summarize

    operators = Counter(node.op_type for node in result.model.graph)
    kinds = operators.most_common(OPERATORS_SHOWN)
    rest = len(operators) - len(kinds)
    shown = ", ".join(f"{count} {op}" for op, count in kinds) + (f" and {rest} other kinds" if rest else "")
    size = text.size(result.proto.ByteSize())
    facts = recipe_facts(recipe(result.model.metadata_props))
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    return (
        f"<p><b>{escape(result.kind)} model</b>, {size}, {sum(operators.values())} nodes: {escape(shown)}</p>"
        f"<details><summary>how it was made</summary><table>{rows}</table></details>"
        f"<details><summary>{len(result.decisions)} decisions</summary>"
        f"<pre>{escape(summarize(result.decisions))}</pre></details>"
    )


def _accuracy(comparison: Comparison) -> str:
    tables = html_table(["", "FP32", "INT8", "INT8 vs FP32"], comparison.summary_rows(), "Both models", (1, 2, 3))
    tables += html_table(["", "value", ""], comparison.fact_rows(), "INT8 against FP32", (1,))
    figures = _intervals(comparison)
    points = _confidence_points(comparison)
    if points:
        chart = charts.scatter_chart(
            points, "FP32 confidence, %", "INT8 confidence, %", "Confidence of both models, one point a sample"
        )
        kinds = {kind for _, _, kind, _ in points}
        key = "".join(legend_entry(color, KINDS[kind]) for kind, color in COLORS.items() if kind in kinds)
        figures += figure(chart, "How sure each model is of its own answer, one point a sample.", key)
    return f'<div class="pair">{tables}</div><div class="pair">{figures}</div>'


def _intervals(comparison: Comparison) -> str:
    """Top-1 of both models and their paired difference, with intervals; empty without labels."""
    confidence = comparison.confidence or {}
    if "fp32_top1" not in confidence:
        return ""
    accuracy = {"fp32_top1": comparison.fp32["top1"], "int8_top1": comparison.int8["top1"]}
    names = {"fp32_top1": "FP32 top-1", "int8_top1": "INT8 top-1"}
    rows = [(names[key], 100 * value, *(100 * b for b in confidence[key])) for key, value in accuracy.items()]
    difference = 100 * (accuracy["int8_top1"] - accuracy["fp32_top1"])
    low, high = (100 * bound for bound in confidence["difference"])
    caption = "Top-1 with 95 % intervals. Both saw the same samples, so their difference is surer than each alone."
    each = charts.interval_chart(rows, "%", "Top-1 accuracy of both models with 95 % intervals")
    label = f"INT8 minus FP32: {difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    paired = charts.interval_chart([("INT8 - FP32", difference, low, high)], "points", label, zero=True)
    return figure(each + paired, caption)


def _confidence_points(comparison: Comparison) -> list[tuple[float, float, str, str]]:
    records = [c for c in comparison.changes.records if c.fp32_confidence is not None]
    records = sorted(records, key=lambda change: change.kind == "same")[:POINTS_SHOWN]
    return [(100 * (c.fp32_confidence or 0), 100 * (c.int8_confidence or 0), c.kind, c.name) for c in records]


def _samples(comparison: Comparison) -> str:
    most = comparison.changes.most_changed
    if not most:
        return ""
    if most[0][0].fp32_class is None:
        note = f"The {len(most)} samples whose outputs moved most, as the models saw them."
    else:
        flipped = sum(change.kind != "same" for change in comparison.changes.records)
        note = (
            f"{flipped} of {comparison.samples} samples got another answer. Below are the {len(most)} whose "
            "probabilities moved most, flips first, as the models saw them."
        )
    kinds = [kind for kind in KINDS if any(change.kind == kind for change, _ in most)]
    buttons = "".join(
        f'<button type="button" data-kind-filter="{kind}" aria-pressed="false">{KINDS[kind]}</button>' for kind in kinds
    )
    everything = '<button type="button" data-kind-filter="all" aria-pressed="true">all</button>'
    tools = f'<div class="tools" role="group" aria-label="Which samples">{everything}{buttons}</div>'
    cards = "".join(_card(change, picture, comparison.classes) for change, picture in most)
    return f'<p>{escape(note)}</p>{tools if len(kinds) > 1 else ""}<ul class="cards">{cards}</ul>'


def _card(change: SampleChange, picture: str | None, classes: dict[int, str]) -> str:
    answers = [] if change.label is None else [("truth", _class(change.label, classes), "")]
    for model, answer, confidence in (
        ("FP32", change.fp32_class, change.fp32_confidence),
        ("INT8", change.int8_class, change.int8_confidence),
    ):
        if answer is not None and confidence is not None:
            answers.append((model, _class(answer, classes), f"{100 * confidence:.1f}&nbsp;%"))
    if change.fp32_class is None:
        answers.append(("noise", f"{100 * change.distance:.2g}&nbsp;% of the signal", ""))
    rows = "".join(f"<dt>{who}</dt><dd>{answer}</dd><dd>{sure}</dd>" for who, answer, sure in answers)
    image = f'<img src="{picture}" alt="">' if picture else ""
    return (
        f'<li data-kind="{change.kind}">{image}<div><span class="badge {change.kind}">{KINDS[change.kind]}</span>'
        f"<code>{breakable(change.name)}</code><dl>{rows}</dl></div></li>"
    )


def _class(index: int, classes: dict[int, str]) -> str:
    return f'<span title="class {index}">{escape(classes[index])}</span>' if index in classes else f"class {index}"


def _speed(comparison: Comparison) -> str:
    latency = comparison.latency
    if latency is None:
        return ""
    runs = latency["runs"]
    rows = [
        [run["name"], *(f"{run[key]:.2f}" for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms")),
         f"{run['samples_per_s']:.1f}", text.times(run["speedup"])]
        for run in runs
    ]  # fmt: skip
    headers = ["", "median ms", "90 %", "95 %", "99 %", "mean", "least", "samples/s", "as fast as FP32"]
    table = html_table(headers, rows, "Latency and throughput by runtime", range(1, 9))
    bars = charts.bar_chart(
        [(run["name"], run["p50_ms"], run["p95_ms"]) for run in runs], "milliseconds a run", "Median latency"
    )
    series = [(run["name"], run["times_ms"]) for run in runs]
    lines = charts.distribution_chart(series, "milliseconds a run (log)", "Distribution of latency")
    key = "".join(legend_entry(f"s{i}", name) for i, (name, _) in enumerate(series))
    shares = f"Share of runs that took at most so long, in {latency['rounds']} rounds."
    median = "Median latency; the line reaches to the time that 95 % of the runs keep within."
    note = (
        f"Batch {latency['batch']}; {comparison.machine['cpu']}, {comparison.machine['isa']}, "
        f"{text.threads(comparison.machine['threads'])}. All take turns in every round, so a busy machine meets all "
        "alike; ratios are medians over rounds, and need not be the ratio of the medians."
    )
    figures = figure(bars, median) + figure(lines, shares, key)
    return f'{table}<div class="pair">{figures}</div><p class="note">{escape(note)}</p>'


def _goal(comparison: Comparison) -> str:
    """What was tried for an accuracy goal, and the sensitivity of the layers; empty if there was none."""
    record = comparison.goal
    if not record:
        return ""
    tried = html_table(
        goal.ATTEMPT_COLUMNS, goal.attempt_rows(record), "Every attempt and what it reached", range(1, 5)
    )
    rows = goal.sensitivity_rows(record)
    layers = html_table(
        goal.SENSITIVITY_COLUMNS, rows, "Output SQNR by layer, alone in INT8 and alone in FP32", range(1, 4)
    )
    return f"<p>{escape(goal.goal_sentence(record))}</p>{tried}{layers if rows else ''}"


def _reproduce(comparison: Comparison, fp32: str, int8: str) -> str:
    machine = comparison.machine
    groups: dict[str, dict[str, Any]] = {
        "Machine": {
            "CPU": machine["cpu"],
            "instruction set": machine["isa"],
            "threads": f"{machine['threads']} of {machine['cores']} cores",
            "system": machine["system"],
            "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        }
    }
    source = comparison.provenance
    if source:
        groups["Models"] = {
            f"{name.upper()} model": f"{model['file']}, SHA-256 {model['sha256']}"
            for name, model in source["models"].items()
        }
        groups["How the INT8 model was made"] = recipe_facts(source["calibration"])
        alike = source["comparison"]["preprocess"] == source["calibration"]["preprocess"]
        groups["Comparison"] = {
            key.replace("_", " ").replace("sha256", "SHA-256"): value
            for key, value in source["comparison"].items()
            if key != "preprocess" or not alike
        }
    body = "".join(f"<h3>{name}</h3>{_facts(values)}" for name, values in groups.items())
    lines = (line.split(" ") for line in reproducing_commands(comparison, fp32, int8))
    commands = "\n".join(" ".join(f"<span>{escape(word)}</span>" for word in line) for line in lines)
    return f"<pre><code>{commands}</code></pre>{body}"


def reproducing_commands(comparison: Comparison, fp32: str, int8: str) -> list[str]:
    """What makes the INT8 model again, if its metadata say how, and then this report; DATA stands for the samples."""
    machine, source = comparison.machine, comparison.provenance
    words = ["quantkit", "compare", fp32, int8, "--data", "DATA", "--isa", machine["isa"]]
    made = recipe_command(source["calibration"]) if source else None
    return [*filter(None, [made]), shlex.join([*words, "--threads", str(machine["threads"])])]


def _facts(values: dict[str, Any]) -> str:
    shown = {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items() if v is not None}
    rows = "".join(f"<dt>{escape(key)}</dt><dd><code>{escape(value)}</code></dd>" for key, value in shown.items())
    return f'<dl class="facts">{rows}</dl>'
