"""Is INT8 worth it? Measured, not guessed: native regions that cost more at their borders than they save go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.budgets import PARTS_SECONDS, RATIO_SECONDS, ROUNDS_SECONDS, SHAPES_SECONDS, Clock, Deadline
from quantkit.execute.borders import RegionCost, region_costs
from quantkit.execute.placement import native_share
from quantkit.execute.session import Session, default_threads
from quantkit.execute.timing import cpu_clock, interleave, preemptions, ratio_interval
from quantkit.fuse.expand import expand
from quantkit.observe import FloatRunner

GAIN_LEAST = 1.05
"""INT8 must be this many times as fast as FP32: below 5 % nobody notices the gain, but the error stays, and another day
it may be a loss."""
SECONDS_THAT_MATTER = 0.5e-6
"""Differences below this are the price of a call from Python, not of the model."""
SMALL_SHARE = 0.1
"""INT8 in less than this share of the multiply-adds makes a model 1.11 times as fast at most, where time goes by them:
a higher ratio is more likely chance than real, so the whole interval must be a gain."""
CLEAR_GAIN = 1.5
"""INT8 that is this many times as fast as the folded FP32 graph is not held against the unfolded one as well."""
BETTER_PART = 1.02
"""A part is preferred to the whole if it is this many times as fast."""
SHARES = (0.003, 0.03, 0.2)
"""Regions with less than this share of the multiply-adds are given up, all at a time."""
SECONDS, SHORTEST, PARTS = 0.08, 0.001, 9
"""CPU time of a measurement and of its shortest turn, the median of whose parts counts: on a busy machine others take
the caches in the middle of a turn. A ratio that is 1.05 to 1.11 undisturbed is so at load 18 on two cores as well,
where means of turns whose length a cold run had set made 0.4 to 1.3 of it (silero_vad_16k, 70 us)."""
EXTENSIONS = 2
"""A ratio that is not clear yet is measured again, at most so often with the same sessions..."""
OPENINGS = 3
"""... and with so many: where weights and buffers come to lie changes the speed of a small model by up to 4 %."""
REST_SECONDS = 0.03
"""Threads of onnxruntime that wait busily for the next run have gone to sleep by then."""
SECONDS_UNDISTURBED = 0.02
"""Several threads are measured undisturbed if others take a CPU from them no more often than once in this time."""
LARGE_WEIGHTS = 1 << 29
"""Bytes of weights above which the original graph is not held in memory a second time to be timed."""

Feeds = Mapping[str, np.ndarray]
Original = Callable[[], ir.Model]
Quantized = Callable[[set[str]], ir.Model]


@dataclass(frozen=True)
class Choice:
    """names: the nodes to quantize. reasons: node -> why another one is not. detail: what was measured, in words.

    unfolded: FP32 it is, and the folded graph is not clearly faster than the user's own. loses: INT8 is surely slower.
    """

    names: frozenset[str]
    reasons: Mapping[str, str]
    detail: str
    unfolded: bool = False
    loses: bool = False


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

    def pays(self, share: float = 1.0) -> bool:
        """Is the second clearly not the slower one and faster by enough, or so short that only calls differ? share: of
        the multiply-adds that the second has in INT8."""
        lost = self.seconds / self.low - self.seconds / GAIN_LEAST
        surely = GAIN_LEAST if share < SMALL_SHARE else 1.0
        return (self.median >= GAIN_LEAST and self.low >= surely) or (
            share >= SMALL_SHARE and lost < SECONDS_THAT_MATTER
        )


Runs = tuple[Callable[[], object], Callable[[], object]]


def speed_ratio(first: Callable[[], object], second: Callable[[], object], threshold: float) -> Ratio:
    """How many times faster `second` is than `first`, both on the calling thread, by its CPU time: in interleaved pairs
    until it is clear on which side of `threshold` it lies, or EXTENSIONS is used up."""
    return _ratio(_pairs((first, second), threshold, cpu_clock(), Deadline(RATIO_SECONDS)))


def reopened_ratio(opened: Callable[[], Runs], threshold: float) -> Ratio:
    """`speed_ratio` of the pair that `opened` gives, which is opened anew while it is not clear."""
    deadline = Deadline(RATIO_SECONDS)
    times = _pairs(opened(), threshold, cpu_clock(), deadline)
    for _ in range(OPENINGS - 1):
        if _is_clear(times, threshold) or deadline.is_over:
            break
        times = np.vstack([times, _pairs(opened(), threshold, cpu_clock(), deadline)])
    return _ratio(times)


def _pairs(runs: Runs, threshold: float, clock: Clock, deadline: Deadline, rest: float = 0.0) -> np.ndarray:
    """Seconds [rounds, 2] of interleaved runs."""

    def measured() -> np.ndarray:
        shortest = max(SHORTEST, rest / 3)
        return interleave(runs, seconds=SECONDS, shortest=shortest, clock=clock, rest=rest, most=ROUNDS_SECONDS,
                          parts=PARTS)  # fmt: skip

    times = measured()
    for _ in range(EXTENSIONS):
        if _is_clear(times, threshold) or deadline.is_over:
            break
        times = np.vstack([times, measured()])
    return times


def _is_clear(times: np.ndarray, threshold: float) -> bool:
    low, _, high = ratio_interval(times[:, 0] / times[:, 1])
    return not low < threshold < high


def _ratio(times: np.ndarray) -> Ratio:
    return Ratio(*ratio_interval(times[:, 0] / times[:, 1]), seconds=float(np.median(times[:, 0])))


def fastest_part(fused: ir.Model, original: Original | None, quantized: Quantized, names: Sequence[str],
                 samples: Sequence[Feeds], threads: int | None = None) -> Choice:  # fmt: skip
    """Which of the nodes `names` are worth quantizing: all, those of the regions that pay, or none.

    original: gives the model before folding, in onnxruntime the other FP32 to beat. quantized(names) gives the INT8
    model with these nodes quantized. samples: feeds of different shapes. Decided on one thread, by CPU time, which
    other work on the machine hardly changes; where nothing else runs, `threads` may veto.
    """
    deadline = Deadline(SHAPES_SECONDS)
    part, reasons = _best_part(fused, quantized, names, samples[0])
    model, reference, unfolded = quantized(set(part)), expand(fused), False
    share = native_share(model.graph)
    ratio = _against(reference, model, samples[0])
    if ratio.low < CLEAR_GAIN and original is not None and _weight_bytes(fused) < LARGE_WEIGHTS:
        plain = original()
        folding = _against_float(plain, reference, samples[0])
        unfolded = folding.low <= 1.0
        if folding.high < 1.0:
            reference = plain
            ratio = _against(reference, model, samples[0])
    detail = f"INT8 runs {ratio.text} as fast as FP32's {_ms(ratio.seconds)} on one thread"
    worst = ratio
    for feeds in samples[1:]:
        if deadline.is_over:
            break
        other = _against(reference, model, feeds)
        detail += f", {other.text} on another shape"
        worst = min(worst, other, key=lambda r: r.median)
    many = threads or default_threads()
    if worst.pays(share) and many > 1:
        on_all = _on_threads(reference, model, samples[0], many)
        if on_all is not None:
            detail += f", {on_all.text} on {many}"
            worst = min(worst, on_all, key=lambda r: r.median) if on_all.high < 1.0 else worst
    if worst.pays(share):
        return Choice(part, reasons, detail)
    why = dict.fromkeys(names, f"nothing to gain from INT8: {detail}")
    return Choice(frozenset(), why, detail, unfolded, worst.high < 1.0)


def _weight_bytes(model: ir.Model) -> int:
    weights = (value.const_value for value in model.graph.initializers.values())
    return sum(weight.nbytes for weight in weights if weight is not None)


def _against(reference: ir.Model, model: ir.Model, feeds: Feeds) -> Ratio:
    def opened() -> Runs:
        fp32, int8 = FloatRunner(reference, 1), Session(model, 1)
        return lambda: fp32.run(feeds), lambda: int8.run(None, feeds)

    return reopened_ratio(opened, GAIN_LEAST)


def _on_threads(reference: ir.Model, model: ir.Model, feeds: Feeds, threads: int) -> Ratio | None:
    """By wall time, each with the threads that its user has; None: others wanted the CPUs too, so it says nothing."""
    fp32, int8 = FloatRunner(reference, threads, spin=None), Session(model, threads)
    started, before = time.perf_counter(), preemptions()
    runs = lambda: fp32.run(feeds), lambda: int8.run(None, feeds)
    times = _pairs(runs, 1.0, time.perf_counter, Deadline(RATIO_SECONDS), REST_SECONDS)
    disturbed = preemptions() - before > (time.perf_counter() - started) / SECONDS_UNDISTURBED
    return None if disturbed else _ratio(times)


def _against_float(plain: ir.Model, folded: ir.Model, feeds: Feeds) -> Ratio:
    def opened() -> Runs:
        first, second = FloatRunner(plain, 1), FloatRunner(folded, 1)
        return lambda: first.run(feeds), lambda: second.run(feeds)

    return reopened_ratio(opened, 1.0)


def _best_part(fused: ir.Model, quantized: Quantized, names: Sequence[str], feeds: Feeds
               ) -> tuple[frozenset[str], dict[str, str]]:  # fmt: skip
    """(the fastest of several choices of regions, why the nodes outside it stay in FP32)."""
    whole = frozenset(names)
    first = Session(quantized(set(whole)), threads=1)
    costs = region_costs(first, fused, whole, feeds)
    candidates = [whole, *[part for part in _parts(whole, costs) if part][: _parts_most(first, feeds)]]
    sessions = [first, *(Session(quantized(set(part)), threads=1) for part in candidates[1:])]
    if len(sessions) == 1:
        return whole, {}
    runs = [lambda s=session: s.run(None, feeds) for session in sessions]  # type: ignore[misc]
    times = interleave(runs, seconds=2 * SECONDS * len(runs), min_rounds=9, shortest=SHORTEST, clock=cpu_clock(),
                       most=PARTS_SECONDS, parts=PARTS)  # fmt: skip
    gains = [ratio_interval(times[:, 0] / times[:, i]) for i in range(len(runs))]
    best = max(range(len(runs)), key=lambda i: gains[i][1])
    if gains[best][1] < BETTER_PART or gains[best][0] < 1.0:
        return whole, {}
    return candidates[best], _why_left_out(costs, candidates[best], gains[best][1])


def _parts_most(session: Session, feeds: Feeds) -> int:
    """How many parts are tried: where a run takes seconds, what few of them can be run in."""
    clock = cpu_clock()
    start = clock()
    session.run(None, feeds)
    return max(1, int(PARTS_SECONDS / (4 * max(clock() - start, SHORTEST))) - 1)


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
