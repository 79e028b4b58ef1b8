"""The result in three numbers and one sentence, for every form of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit.report import text
from quantkit.report.speed import FP32, INT8

if TYPE_CHECKING:
    from quantkit.report.compare import Comparison

CHANCE = 0.05
"""A difference with a larger p-value is one that chance explains."""
BUSY = 2.0
"""Latencies of which a tenth is so many times the least were disturbed by other programs."""


@dataclass(frozen=True)
class Number:
    """One of the numbers at the top: what it is, its value, what it stands on."""

    name: str
    value: str
    detail: str


def headline(comparison: Comparison) -> list[Number]:
    """Size, speed (if it was measured) and accuracy, or fidelity without labels."""
    fp32, int8 = comparison.fp32, comparison.int8
    smaller = text.times(fp32["bytes"] / int8["bytes"])
    numbers = [Number("smaller", smaller, f"{text.size(fp32['bytes'])} to {text.size(int8['bytes'])}")]
    if comparison.throughput:
        rates = (f"{comparison.throughput[key]:.0f}" for key in ("fp32_onnxruntime", "int8_quantkit"))
        detail = f"{' to '.join(rates)} samples/s, against FP32 in onnxruntime"
        numbers.append(Number("as fast", text.times(comparison.throughput["speedup"]), detail))
    return [*numbers, _accuracy(comparison)]


def _accuracy(comparison: Comparison) -> Number:
    if comparison.fp32["top1"] is not None:
        interval = comparison.confidence["difference"] if comparison.confidence else (0.0, 0.0)
        points = 100 * (comparison.int8["top1"] - comparison.fp32["top1"])
        low, high = (f"{100 * bound:+.2f}" for bound in interval)
        return Number("points top-1", f"{points:+.2f}", f"95 % interval {low} to {high}")
    if comparison.agreement is not None:
        return Number("same answer", text.percent(comparison.agreement), f"on {comparison.samples} samples")
    return Number("output SQNR", text.decibel(comparison.sqnr_db), f"over {comparison.samples} samples")


def sentence(comparison: Comparison) -> str:
    """What to think of it, with the evidence."""
    parts = [f"The INT8 model is {text.times(comparison.fp32['bytes'] / comparison.int8['bytes'])} smaller"]
    if comparison.throughput:
        speedup = comparison.throughput["speedup"]
        parts.append(f"runs {text.times(speedup)} as fast as FP32 in onnxruntime on this machine")
    return " and ".join(parts) + "; " + _accuracy_clause(comparison)


def busy_note(comparison: Comparison) -> str:
    """A sentence where the measured times vary too much to be trusted; else empty."""
    runs = (comparison.latency or {"runs": []})["runs"]
    worst = max((run["p90_ms"] / run["min_ms"] for run in runs if run["name"] in (FP32, INT8)), default=1.0)
    if worst <= BUSY:
        return ""
    return (
        f"The machine was busy: a tenth of the runs took {worst:.1f} times the least or more. "
        "Measure the speed again when nothing else runs."
    )


def _accuracy_clause(comparison: Comparison) -> str:
    flips, confidence = comparison.flips, comparison.confidence
    if flips is None or confidence is None:
        if comparison.agreement is None:
            return f"its outputs keep {text.decibel(comparison.sqnr_db)} of signal over quantization noise."
        return f"it gives the same answer on {text.percent(comparison.agreement)} of {comparison.samples} samples."
    fp32, int8 = comparison.fp32["top1"], comparison.int8["top1"]
    shown = f"top-1 is {text.percent(int8)} (FP32: {text.percent(fp32)})"
    if not flips["fixed"] + flips["broken"]:
        return f"{shown}: not one of {comparison.samples} answers turned right or wrong."
    changed = f"of {comparison.samples} answers, {flips['broken']} turned wrong and {flips['fixed']} right"
    p = confidence["mcnemar_p"]
    if p > CHANCE:
        return f"{shown}: {changed}, which chance explains (McNemar p = {p:.2f})."
    direction = "gain" if int8 > fp32 else "loss"
    return f"{shown}: {changed}, a measurable {direction} (McNemar p = {p:.2g})."
