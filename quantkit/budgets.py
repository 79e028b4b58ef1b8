"""How long the searches of `quantize` may take: all limits in one table, and the clock that they end by.

A search that ends early goes on with the best that it has found, and a decision says so. Seconds are CPU time of the
process, all threads, so that what is found does not depend on what else the machine does; networks of ordinary size
need a fraction of them, and come out the same on every machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

WALL_FACTOR = 4.0
"""Wall time that a search may take, in units of its CPU time: where others hold the CPUs it ends all the same."""

SAMPLES_SECONDS = 12.0
"""FP32 on the samples of the trial, after which the others are not looked at: a run of seconds is made about ten times
on each of them. Two are looked at in any case."""
RUNNABLE_SECONDS = 60.0
"""The search for what cannot run, or ruins the outputs; what was not tried by then stays in FP32."""
REPAIR_SECONDS = 30.0
"""The search for what makes outputs poor; what was not found by then stays quantized."""

ROUNDS_SECONDS = 5.0
"""The rounds of one measurement of time, after which three are enough: a model may take seconds a run."""
RATIO_SECONDS = 15.0
"""The measurements of one ratio of times, after which no other one is made for it."""
PARTS_SECONDS = 15.0
"""The choice among parts: so many are tried as can be run four times each in it, one at least."""
SHAPES_SECONDS = 60.0
"""All ratios of a model, after which no other input shape is timed."""

BODY_SECONDS = 20.0
"""The rounds of a Loop or Scan on the samples that its body is calibrated on; beyond it the body stays in FP32."""

CHOOSE_SECONDS = 90.0
"""The choice of ranges and of equalization by `balanced` and `best`, after which no other candidate is measured."""
TUNE_SECONDS = 300.0
"""Tuning by `balanced`, after which the layers that are left keep their weights rounded to nearest."""
NEAREST_SECONDS = 60.0
"""The methods of ranges that a finished model is held against where it is poor; after it no other one is begun."""


class Deadline:
    """The end of a search of `seconds` by a clock (CPU time of the process, all threads), or of WALL_FACTOR times as
    much wall time."""

    def __init__(self, seconds: float, clock: Clock = time.process_time) -> None:
        self._clock, self._end, self._wall_end = clock, clock() + seconds, time.perf_counter() + WALL_FACTOR * seconds

    @property
    def is_over(self) -> bool:
        return self._clock() > self._end or time.perf_counter() > self._wall_end
