"""Is INT8 worth it? Measured, not guessed: quantized parts that cost more at their borders than they save go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.execute.session import Session
from quantkit.fuse.expand import expand
from quantkit.observe import FloatRunner

GAIN_LEAST = 0.97
"""INT8 must take at most this share of FP32's time: below 3 % nobody notices the gain, but the error stays."""
SECONDS_THAT_MATTER = 40e-6
"""Differences below this are the price of a call from Python, not of the model."""
BETTER_PART = 0.95
"""A part is preferred to the whole if it takes at most this share of its time."""
SHARES = (0.003, 0.03, 0.2)
"""Regions with less than this share of the multiply-adds are given up, all at a time."""
ROUNDS, SECONDS_A_ROUND = 25, 0.04
SECONDS_MOST = 1.5

Run = Callable[[], object]


@dataclass(frozen=True)
class Choice:
    """names: the nodes to quantize. reason: why the others are not. detail: the times, in words."""

    names: frozenset[str]
    reason: str
    detail: str


def interleaved(runs: Sequence[Run]) -> list[float]:
    """The shortest time of each in seconds, in turns, so that a busy moment of the machine hits all of them."""
    best = [float("inf")] * len(runs)
    repeats = []
    for run in runs:
        run()
        start = time.perf_counter()
        run()
        repeats.append(max(1, int(SECONDS_A_ROUND / ROUNDS / max(time.perf_counter() - start, 1e-7))))
    deadline = time.monotonic() + SECONDS_MOST
    for done in range(ROUNDS):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            for _ in range(min(repeats[i], 20)):
                run()
            best[i] = min(best[i], (time.perf_counter() - start) / min(repeats[i], 20))
        if done >= 2 and time.monotonic() > deadline:
            break
    return best


def fastest_part(fused: ir.Model, quantized: Callable[[set[str]], ir.Model], names: Sequence[str],
                 feeds: Mapping[str, np.ndarray]) -> Choice:  # fmt: skip
    """Which of the nodes `names` are worth quantizing: all, those of the larger native regions, or none.

    quantized(names) gives the INT8 model with these nodes quantized. Measured on one thread, which other work on the
    machine disturbs least.
    """
    whole = Session(quantized(set(names)), threads=1)
    fp32 = FloatRunner(expand(fused), threads=1)
    parts = [frozenset(names), *_larger_regions(whole, names)]
    sessions = [whole, *(Session(quantized(set(part)), threads=1) for part in parts[1:])]
    runs: list[Run] = [lambda s=s: s.run(None, feeds) for s in sessions]  # type: ignore[misc]
    reference, *times = interleaved([lambda: fp32.run(feeds), *runs])
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] > times[0] * BETTER_PART or times[0] - times[best] < SECONDS_THAT_MATTER:
        best = 0
    if times[best] > reference * GAIN_LEAST and times[best] - reference * GAIN_LEAST > SECONDS_THAT_MATTER:
        detail = f"FP32 takes {_ms(reference)}, INT8 {_ms(times[best])}: nothing to gain from INT8"
        return Choice(frozenset(), detail, detail)
    reason = f"quantizing it costs more at its borders than it saves ({_ms(times[best])} without, {_ms(times[0])} with)"
    return Choice(parts[best], reason, f"FP32 takes {_ms(reference)} a sample, INT8 {_ms(times[best])}")


def _larger_regions(session: Session, names: Sequence[str]) -> list[frozenset[str]]:
    """The nodes of the regions with at least each of SHARES of the MACs, where that leaves out some but not all."""
    macs = {plan.name: plan.macs for plan in session.plan}
    known = set(names)
    regions = [[n.name or "" for n in step.nodes if n.name in known] for step in session.steps if step.native]
    sizes = [sum(macs.get(name, 0) for name in region) for region in regions]
    found: list[frozenset[str]] = []
    for share in SHARES:
        kept = [region for region, size in zip(regions, sizes, strict=True) if size >= share * sum(sizes)]
        part = frozenset(name for region in kept for name in region)
        if 0 < len(kept) < len(regions) and part not in found:
            found.append(part)
    return found


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
