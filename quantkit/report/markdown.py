"""The comparison as Markdown, to be pasted into a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantkit.report import goal, text
from quantkit.report.explain import LAYER_COLUMNS
from quantkit.report.provenance import recipe_facts
from quantkit.report.verdict import headline, sentence

if TYPE_CHECKING:
    from quantkit.report.compare import Comparison

CHANGED_SHOWN = 20


def comparison_markdown(comparison: Comparison, fp32: str, int8: str) -> str:
    """Verdict, accuracy with intervals, speed, the worst layers, changed answers, hashes and versions."""
    confidence = comparison.confidence or {}
    parts = [
        f"# {int8} against {fp32}",
        " · ".join(f"**{number.value}** {number.name}" for number in headline(comparison)),
        sentence(comparison),
        table(["", "FP32", "INT8", "INT8 vs FP32"], comparison.summary_rows()),
        table(["", "value", ""], comparison.fact_rows()),
    ]
    if "difference" in confidence:
        rows = [[name, *(_percent(bound) for bound in confidence[key])] for name, key in INTERVALS]
        parts.append(table(["95 % interval", "from", "to"], rows))
    if comparison.latency:
        rows = [
            [run["name"], *(f"{run[key]:.2f}" for key in LATENCY), text.times(run["speedup"])]
            for run in comparison.latency["runs"]
        ]
        headers = ["latency", "median ms", "95 %", "99 %", "as fast as FP32"]
        parts += [f"## Latency, batch {comparison.latency['batch']}", table(headers, rows)]
    parts += _goal(comparison) + _layers(comparison) + _changed(comparison) + _provenance(comparison)
    return "\n\n".join(parts) + "\n"


INTERVALS = (
    ("FP32 top-1", "fp32_top1"),
    ("INT8 top-1", "int8_top1"),
    ("difference", "difference"),
    ("same class as FP32", "agreement"),
)
LATENCY = ("p50_ms", "p95_ms", "p99_ms")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; bars in cells are escaped."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _layers(comparison: Comparison) -> list[str]:
    rows = comparison.layer_rows(every_layer=False)
    if not rows:
        return []
    title = f"## The {len(rows)} of {len(comparison.layers)} layers that introduce most noise"
    sentences = "\n".join(f"- {entry.sentence}" for entry in comparison.advice)
    return [title, table(["layer", *LAYER_COLUMNS], rows), sentences]


def _goal(comparison: Comparison) -> list[str]:
    record = comparison.goal
    if not record:
        return []
    parts = ["## Accuracy goal", goal.goal_sentence(record), table(goal.ATTEMPT_COLUMNS, goal.attempt_rows(record))]
    layers = goal.sensitivity_rows(record)
    return [*parts, table(goal.SENSITIVITY_COLUMNS, layers)] if layers else parts


def _changed(comparison: Comparison) -> list[str]:
    changed = [change for change in comparison.changes.records if change.kind != "same"]
    if not changed:
        return []
    rows = [
        [
            change.name,
            change.kind,
            *(_class(comparison, c) for c in (change.label, change.fp32_class, change.int8_class)),
        ]
        for change in changed[:CHANGED_SHOWN]
    ]
    title = f"## Changed answers: {len(changed)} of {comparison.samples}"
    return [title, table(["sample", "", "truth", "FP32", "INT8"], rows)]


def _class(comparison: Comparison, index: int | None) -> str:
    return text.MISSING if index is None else comparison.classes.get(index, str(index))


def _provenance(comparison: Comparison) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in comparison.machine["versions"].items())
    lines = [f"Measured on {comparison.measured_on()}; {versions}."]
    if comparison.provenance:
        lines += [
            f"- {name}: `{model['file']}`, SHA-256 `{model['sha256']}`"
            for name, model in comparison.provenance["models"].items()
        ]
        lines.append(f"- compared on samples of SHA-256 `{comparison.provenance['comparison']['data_sha256']}`")
        lines += [f"- {what}: {value}" for what, value in recipe_facts(comparison.provenance["calibration"]).items()]
    return ["## Made from", "\n".join([lines[0], "", *lines[1:]]).strip()]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
