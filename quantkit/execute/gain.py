"""Is INT8 worth it? Measured, not guessed: native regions that cost more at their borders than they save go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.execute.borders import RegionCost, region_costs
from quantkit.execute.session import Session, default_threads
from quantkit.execute.timing import interleave, ratio_interval
from quantkit.fuse.expand import expand
from quantkit.observe import FloatRunner

GAIN_LEAST = 1.03
"""INT8 must be this many times as fast as FP32: below 3 % nobody notices the gain, but the error stays."""
BETTER_PART = 1.02
"""A part is preferred to the whole if it is this many times as fast."""
SHARES = (0.003, 0.03, 0.2)
"""Regions with less than this share of the multiply-adds are given up, all at a time."""
BUSY = 1.25
"""If several threads make FP32 this many times slower than one does, others want the cores: then one thread counts."""
SECONDS, SHORTEST = 0.4, 0.001
EXTENSIONS = 4
"""A ratio that is not clear yet is measured again, at most so often."""

Feeds = Mapping[str, np.ndarray]
Quantized = Callable[[set[str]], ir.Model]


@dataclass(frozen=True)
class Choice:
    """names: the nodes to quantize. reasons: node -> why another one is not. detail: what was measured, in words.

    unfolded: FP32 it is, and the graph as the user made it is clearly faster than the folded one.
    """

    names: frozenset[str]
    reasons: Mapping[str, str]
    detail: str
    unfolded: bool = False


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second of a pair is: 95 % interval of the median over pairs, and FP32's time."""

    low: float
    median: float
    high: float
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.median:.2f} times ({self.low:.2f} to {self.high:.2f})"


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


def fastest_part(fused: ir.Model, original: ir.Model | None, quantized: Quantized, names: Sequence[str],
                 samples: Sequence[Feeds], threads: int | None = None) -> Choice:  # fmt: skip
    """Which of the nodes `names` are worth quantizing: all, those of the regions that pay, or none.

    original: the model before folding, in onnxruntime the other FP32 to beat. quantized(names) gives the INT8 model with
    these nodes quantized. samples: feeds of different shapes. Decided on one thread, which other work on the machine
    disturbs least; `threads` may veto, unless the machine is too busy for them to show anything.
    """
    feeds = samples[0]
    part, reasons = _best_part(fused, quantized, names, feeds)
    reference, unfolded = _faster_float(fused, original, feeds)
    model = quantized(set(part))
    ratios = [_against(reference, model, each, 1) for each in samples]
    slowest = min(ratios, key=lambda ratio: ratio.median)
    detail = f"INT8 runs {ratios[0].text} as fast as FP32's {_ms(ratios[0].seconds)}"
    if slowest is not ratios[0]:
        detail += f", {slowest.text} on another input shape"
    typical = float(np.exp(np.mean([np.log(ratio.median) for ratio in ratios])))
    if typical < GAIN_LEAST or slowest.low < 1.0:
        return _nothing(names, f"nothing to gain: {detail} on one thread", unfolded)
    many = threads or default_threads()
    if many > 1:
        side_by_side, busy = _on_threads(reference, model, feeds, many)
        detail += f" on one thread, {side_by_side.text} on {many}{' (busy machine)' if busy else ''}"
        if side_by_side.high < 1.0 and not busy:
            return _nothing(names, f"nothing to gain: {detail}", unfolded)
    return Choice(part, reasons, detail)


def _nothing(names: Sequence[str], reason: str, unfolded: bool) -> Choice:
    return Choice(frozenset(), dict.fromkeys(names, reason), reason, unfolded)


def _against(reference: ir.Model, model: ir.Model, feeds: Feeds, threads: int) -> Ratio:
    fp32, int8 = FloatRunner(reference, threads), Session(model, threads)
    return speed_ratio(lambda: fp32.run(feeds), lambda: int8.run(None, feeds), GAIN_LEAST)


def _on_threads(reference: ir.Model, model: ir.Model, feeds: Feeds, threads: int) -> tuple[Ratio, bool]:
    """(the ratio on several threads, is the machine too busy for it to say anything?)"""
    one, many, int8 = FloatRunner(reference, 1), FloatRunner(reference, threads, spin=False), Session(model, threads)
    runs = [lambda: one.run(feeds), lambda: many.run(feeds), lambda: int8.run(None, feeds)]
    times = interleave(runs, seconds=2 * SECONDS, shortest=SHORTEST)
    busy = float(np.median(times[:, 1] / times[:, 0])) > BUSY
    return Ratio(*ratio_interval(times[:, 1] / times[:, 2]), seconds=float(np.median(times[:, 1]))), busy


def _faster_float(fused: ir.Model, original: ir.Model | None, feeds: Feeds) -> tuple[ir.Model, bool]:
    """(the FP32 graph to beat, is it the original one?): the folded graph unless that is clearly the slower one."""
    folded = expand(fused)
    if original is None:
        return folded, False
    plain, other = FloatRunner(original, 1), FloatRunner(folded, 1)
    unfolded = speed_ratio(lambda: plain.run(feeds), lambda: other.run(feeds), 1.0).high < 1.0
    return (original, True) if unfolded else (folded, False)


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
    times = interleave(runs, seconds=SECONDS * len(runs), shortest=SHORTEST)
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


