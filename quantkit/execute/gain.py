"""Is INT8 worth it? Measured, not guessed: native regions that cost more at their borders than they save go back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.execute.borders import RegionCost, region_costs
from quantkit.execute.session import Session, default_threads
from quantkit.execute.timing import interleave, ratio_interval
from quantkit.fuse.expand import expand
from quantkit.observe import FloatRunner

GAIN_LEAST = 1.05
"""INT8 must be this many times as fast as FP32: below 5 % nobody notices the gain, but the error stays, and another day
it may be a loss."""
SECONDS_THAT_MATTER = 3e-6
"""Differences below this are the price of a call from Python, not of the model."""
CLEAR_GAIN = 1.5
"""INT8 that is this many times as fast as the folded FP32 graph is not held against the unfolded one as well."""
BETTER_PART = 1.02
"""A part is preferred to the whole if it is this many times as fast."""
SHARES = (0.003, 0.03, 0.2)
"""Regions with less than this share of the multiply-adds are given up, all at a time."""
SECONDS, SHORTEST = 0.08, 0.001
EXTENSIONS = 8
"""A ratio that is not clear yet is measured again, at most so often."""
LARGE_WEIGHTS = 1 << 29
"""Bytes of weights above which the original graph is not held in memory a second time to be timed."""

Feeds = Mapping[str, np.ndarray]
Original = Callable[[], ir.Model]
Quantized = Callable[[set[str]], ir.Model]


@dataclass(frozen=True)
class Choice:
    """names: the nodes to quantize. reasons: node -> why another one is not. detail: what was measured, in words.

    unfolded: FP32 it is, and the folded graph is not clearly faster than the user's own.
    """

    names: frozenset[str]
    reasons: Mapping[str, str]
    detail: str
    unfolded: bool = False


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second of a pair is: 95 % interval of the median over pairs, and the first's time."""

    low: float
    median: float
    high: float
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.median:.2f} times ({self.low:.2f} to {self.high:.2f})"

    @property
    def pays(self) -> bool:
        """Is the second clearly not the slower one and faster by enough, or so short that only calls differ?"""
        lost = self.seconds / self.low - self.seconds / GAIN_LEAST
        return (self.median >= GAIN_LEAST and self.low >= 1.0) or lost < SECONDS_THAT_MATTER


def speed_ratio(first: Callable[[], object], second: Callable[[], object], threshold: float) -> Ratio:
    """How many times faster `second` is than `first`, in interleaved pairs until it is clear on which side of
    `threshold` it lies, or EXTENSIONS is used up."""
    times = interleave([first, second], seconds=SECONDS, shortest=SHORTEST)
    for _ in range(EXTENSIONS):
        low, _, high = ratio_interval(times[:, 0] / times[:, 1])
        if not low < threshold < high:
            break
        times = np.vstack([times, interleave([first, second], seconds=SECONDS, shortest=SHORTEST)])
    return Ratio(*ratio_interval(times[:, 0] / times[:, 1]), seconds=float(np.median(times[:, 0])))


def fastest_part(fused: ir.Model, original: Original | None, quantized: Quantized, names: Sequence[str],
                 samples: Sequence[Feeds], threads: int | None = None) -> Choice:  # fmt: skip
    """Which of the nodes `names` are worth quantizing: all, those of the regions that pay, or none.

    original: gives the model before folding, in onnxruntime the other FP32 to beat. quantized(names) gives the INT8
    model with these nodes quantized. samples: feeds of different shapes. Decided on one thread, which other work on the
    machine disturbs least; where nothing else runs, `threads` may veto.
    """
    part, reasons = _best_part(fused, quantized, names, samples[0])
    model, reference, unfolded = quantized(set(part)), expand(fused), False
    ratio = _against(reference, model, samples[0], 1)
    if ratio.low < CLEAR_GAIN and original is not None and _weight_bytes(fused) < LARGE_WEIGHTS:
        plain = original()
        folding = _against_float(plain, reference, samples[0])
        unfolded = folding.low <= 1.0
        if folding.high < 1.0:
            reference = plain
            ratio = _against(reference, model, samples[0], 1)
    detail = f"INT8 runs {ratio.text} as fast as FP32's {_ms(ratio.seconds)} on one thread"
    worst = ratio
    for feeds in samples[1:]:
        other = _against(reference, model, feeds, 1)
        detail += f", {other.text} on another shape"
        worst = min(worst, other, key=lambda r: r.median)
    many = threads or default_threads()
    if worst.pays and many > 1 and not _busy(many):
        other = _against(reference, model, samples[0], many)
        detail += f", {other.text} on {many}"
        worst = min(worst, other, key=lambda r: r.median) if other.high < 1.0 else worst
    if worst.pays:
        return Choice(part, reasons, detail)
    return Choice(frozenset(), dict.fromkeys(names, f"nothing to gain from INT8: {detail}"), detail, unfolded)


def _busy(threads: int) -> bool:
    """Do others want the cores, so that a measurement on several threads says nothing?"""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.75 * threads


def _weight_bytes(model: ir.Model) -> int:
    weights = (value.const_value for value in model.graph.initializers.values())
    return sum(weight.nbytes for weight in weights if weight is not None)


def _against(reference: ir.Model, model: ir.Model, feeds: Feeds, threads: int) -> Ratio:
    fp32, int8 = FloatRunner(reference, threads, spin=False), Session(model, threads)
    return speed_ratio(lambda: fp32.run(feeds), lambda: int8.run(None, feeds), GAIN_LEAST)


def _against_float(plain: ir.Model, folded: ir.Model, feeds: Feeds) -> Ratio:
    first, second = FloatRunner(plain, 1), FloatRunner(folded, 1)
    return speed_ratio(lambda: first.run(feeds), lambda: second.run(feeds), 1.0)


def _best_part(fused: ir.Model, quantized: Quantized, names: Sequence[str], feeds: Feeds
               ) -> tuple[frozenset[str], dict[str, str]]:  # fmt: skip
    """(the fastest of several choices of regions, why the nodes outside it stay in FP32)."""
    whole = frozenset(names)
    first = Session(quantized(set(whole)), threads=1)
    costs = region_costs(first, fused, whole, feeds)
    candidates = [whole, *(part for part in _parts(whole, costs) if part)]
    sessions = [first, *(Session(quantized(set(part)), threads=1) for part in candidates[1:])]
    if len(sessions) == 1:
        return whole, {}
    runs = [lambda s=session: s.run(None, feeds) for session in sessions]  # type: ignore[misc]
    times = interleave(runs, seconds=2 * SECONDS * len(runs), min_rounds=9, shortest=SHORTEST)
    gains = [ratio_interval(times[:, 0] / times[:, i]) for i in range(len(runs))]
    best = max(range(len(runs)), key=lambda i: gains[i][1])
    if gains[best][1] < BETTER_PART or gains[best][0] < 1.0:
        return whole, {}
    return candidates[best], _why_left_out(costs, candidates[best], gains[best][1])


def _parts(whole: frozenset[str], costs: Sequence[RegionCost]) -> list[frozenset[str]]:
    """Without the regions that lose by their own times; without those that lose or gain little; by shares of MACs."""
    total = sum(cost.macs for cost in costs)
    rules: list[Callable[[RegionCost], bool]] = [
        lambda cost: cost.saved > 0.0,
        lambda cost: cost.saved > 0.1 * cost.fp32,
        *(lambda cost, share=share: cost.macs >= share * total for share in SHARES),  # type: ignore[misc]
    ]
    found: list[frozenset[str]] = []
    for keep in rules:
        part = whole - {name for cost in costs if not keep(cost) for name in cost.names}
        if part != whole and part not in found:
            found.append(part)
    return found


def _why_left_out(costs: Sequence[RegionCost], part: frozenset[str], gain: float) -> dict[str, str]:
    reasons = {}
    for cost in costs:
        text = (
            f"its region takes {_ms(cost.int8)} in INT8, borders included, and {_ms(cost.fp32)} in FP32; "
            f"without such regions the model is {gain:.2f} times as fast"
        )
        reasons.update({name: text for name in cost.names if name not in part})
    return reasons


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
