"""Interleaved timing: every round runs every candidate once, so that a change of clock or load meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from quantkit.budgets import Clock, Deadline

LONG_SECONDS, ROUNDS_LEAST = 0.5, 3
"""A candidate that runs so long needs no second run to be warm. So many rounds are measured however long they take:
what disturbs a run of a second is a small part of it."""
WARM_RUNS = 10
"""Unmeasured runs of a candidate that is to be repeated."""
SHORTEST_SECONDS = 0.005
"""A measurement shorter than this repeats its candidate: the clock and the caches of the others would show."""
TICK_MOST = 1e-6
"""A clock of CPU time that ticks coarser than this (15.6 ms on Windows) is not used."""
Z95 = 1.96
"""The normal quantile of a two-sided 95 % interval."""


def cpu_clock() -> Clock:
    """The CPU time of the calling thread: what a run on one thread costs, whatever others take meanwhile; wall time
    where the system counts it too coarsely. At load 8 on two cores the 95 % interval of a ratio is 0.05 wide by it and
    0.15 to 3.8 by wall time."""
    return time.thread_time if time.get_clock_info("thread_time").resolution <= TICK_MOST else time.perf_counter


def preemptions() -> int:
    """How often others have taken a CPU from this process so far; 0 where the system does not say."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return 0
    return getrusage(RUSAGE_SELF).ru_nivcsw


def interleave(
    candidates: Sequence[Callable[[], object]],
    *,
    seconds: float,
    min_rounds: int = 7,
    max_rounds: int = 1000,
    shortest: float = SHORTEST_SECONDS,
    clock: Clock = time.perf_counter,
    rest: float = 0.0,
    tick: Callable[[float], None] | None = None,
    most: float = float("inf"),
    parts: int = 1,
) -> np.ndarray:
    """Time `candidates` for about `seconds` in all, and at least `min_rounds` rounds.

    Returns float64 [rounds, candidates], seconds a run. Each round starts with another candidate, so none always
    runs after the same one. At least two unmeasured runs of each come first, one where it takes LONG_SECONDS.
    shortest: a candidate that takes less time is repeated inside a measurement until it does; 0: never, so that every
    single run shows (latency).
    rest: seconds of sleep before each measurement, and an unmeasured run after it: threads that wait busily for the
    next run of one candidate must not hold the cores of the other.
    tick: called between rounds with the seconds spent.
    most: seconds after which ROUNDS_LEAST rounds are enough, as a Deadline counts them.
    parts: where a measurement repeats its candidate, it is the median of so many parts: the caches that a preemption
    leaves cold show in one of them, not in the mean.
    """
    repeats = [_repeats(candidate, clock, shortest) for candidate in candidates]
    started, deadline = clock(), Deadline(most, clock)
    rounds: list[list[float]] = []
    while len(rounds) < min_rounds or (clock() - started < seconds and len(rounds) < max_rounds):
        if len(rounds) >= ROUNDS_LEAST and deadline.is_over:
            break
        times = [0.0] * len(candidates)
        for step in range(len(candidates)):
            i = (step + len(rounds)) % len(candidates)
            if rest:
                time.sleep(rest)
                candidates[i]()
            times[i] = _middle(candidates[i], repeats[i], clock, parts)
        rounds.append(times)
        if tick is not None:
            tick(clock() - started)
    return np.array(rounds, np.float64)


def median_ratio(slower: np.ndarray, faster: np.ndarray) -> float:
    """Median over rounds of slower / faster, paired by round: how many times faster `faster` is."""
    return float(np.median(slower / faster))


def ratio_interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """(low, median, high): the median of at least one ratio and its 95 % interval, by order statistics.

    The number of values below the true median is binomial (n, 1/2); the interval leaves out 2.5 % on each side,
    whatever the distribution: a busy machine's outliers move it little. Source: Conover, Practical Nonparametric
    Statistics, section 3.2.
    """
    ordered = np.sort(ratios)
    n = len(ordered)
    outside = max(0, int(np.floor(n / 2 - Z95 * np.sqrt(n) / 2)))
    return float(ordered[outside]), float(np.median(ordered)), float(ordered[n - 1 - outside])


def _repeats(candidate: Callable[[], object], clock: Clock, shortest: float) -> int:
    """How often a measurement of `shortest` seconds runs the candidate: by the shortest of the runs that make it warm.
    One that is cold, or cut in two by others, would give a short model one run where the other has ten, and every turn
    of it would start with cold caches."""
    once = _timed(candidate, 1, clock)
    if once >= max(LONG_SECONDS, shortest):
        return 1
    for _ in range(WARM_RUNS):
        taken = _timed(candidate, 1, clock)
        once = min(once, taken)
        if taken >= 2 * shortest:
            break
    return max(1, min(1000, round(shortest / max(once, 1e-7))))


def _middle(candidate: Callable[[], object], repeats: int, clock: Clock, parts: int) -> float:
    """Seconds a run: the median of at most `parts` parts of the `repeats`."""
    parts = min(parts, repeats)
    return float(np.median([_timed(candidate, repeats // parts, clock) for _ in range(parts)]))


def _timed(candidate: Callable[[], object], repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        candidate()
    return (clock() - start) / repeats
