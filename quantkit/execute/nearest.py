"""The finished model is held against FP32 as its outputs are used; where it is poor, other ranges are tried.

Calibration chooses ranges by the noise at the logits, which is smooth. What is read from the outputs may say otherwise:
PP-OCRv4's recognizer on eight lines has 15.7 dB with the ranges that are best at its logits, and 21.7 with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import onnx_ir as ir

from quantkit.budgets import NEAREST_SECONDS, Deadline
from quantkit.execute.repair import judged_db, outputs_of
from quantkit.execute.trial import Trial, keeps_int8
from quantkit.execute.verify import is_short, mean_db
from quantkit.quantize.calibration import Calibrated, Observed
from quantkit.types import METHODS, Decision, QuantConfig

NEAR_DB = 20.0
"""Outputs nearer than this are taken as they are: the error is a tenth of the amplitude."""
WORTH_DB = 3.0
"""What other ranges must gain on the outputs of the trial's samples: half the noise. These are eight at most: by 2.5 dB
PP-OCRv4 would get ranges with which it reads three lines of 60 less."""
STEADY_DB, SAMPLES_LEAST = 1.0, 4
"""What is enough where every sample gains, and there are as many: the tuned weights of two transformers are 2 to 5 dB
farther than plain ones on each of eight samples, and on others."""
FEW_NEAR_DB = 40.0
"""The same where outputs are few numbers and more than `fast` was asked for: of 30 and more choices that eight of them
decide between, the best is one by chance, and a network that judges echoes had 24.5 dB on other samples by it, 36 by
`fast`. The error is a hundredth of what samples differ by."""
FEW_WORTH_DB = 6.0
"""What other ranges must gain there: a quarter of the noise. By 3 dB on 80 logits of eight pictures ResNet-44 lost its
tuned weights, which are nearer on 5000 others."""
FLOOR_DB = 8.0
"""A model whose outputs are farther from FP32 than this decides otherwise where FP32 is sure: it is not made."""

Calibrate = Callable[..., Calibrated]
"""calibrate(config, observed=...): the model by a configuration; observed: of one made before."""


@dataclass(frozen=True)
class Nearest:
    """done: the calibrated model that was chosen. problem: why it must not be used; empty if it may be."""

    done: Calibrated
    problem: str = ""


@dataclass(frozen=True)
class Distance:
    """dB of the worst output over all samples of a trial, as quantkit.execute.repair.judged_db, and over each."""

    db: float
    each: list[float]

    def is_nearer(self, other: Distance) -> bool:
        """By WORTH_DB over all samples, no half of them having lost below NEAR_DB: one alone may gain more. Or by
        STEADY_DB, each of SAMPLES_LEAST or more being nearer: that is no chance. By FEW_WORTH_DB from NEAR_DB on."""
        if other.db >= NEAR_DB:
            return self.db > other.db + FEW_WORTH_DB
        halves = [(mean_db(self.each[i::2]), mean_db(other.each[i::2])) for i in range(min(2, len(self.each)))]
        if self.db > other.db + WORTH_DB:
            return all(ours >= min(theirs, NEAR_DB) for ours, theirs in halves)
        steady = all(ours > theirs for ours, theirs in zip(self.each, other.each, strict=True))
        return self.db > other.db + STEADY_DB and len(self.each) >= SAMPLES_LEAST and steady


def distance(model: ir.Model, trial: Trial, threads: int | None = None) -> Distance:
    """How far an INT8 model is from FP32 on the samples of its trial."""
    got = outputs_of(model, trial.samples, list(trial.reference[0]), threads)
    each = [judged_db([a], [b], trial.bounds) for a, b in zip(trial.reference, got, strict=True)]
    return Distance(judged_db(trial.reference, got, trial.bounds), each)


def nearest(calibrate: Calibrate, config: QuantConfig, trial: Trial, threads: int | None = None, *,
            once: bool = False) -> Nearest:  # fmt: skip
    """The model by `config`; where it is below NEAR_DB or FEW_NEAR_DB, the nearest of those by each method of ranges
    that are nearer (Distance.is_nearer), if there are any. With a problem below FLOOR_DB, unless INT8 is asked for
    (keeps_int8).

    once: the data can be read a single time. A method or a goal that was asked for is kept.
    """
    done = calibrate(config)
    first = found = distance(done.model, trial, threads)
    if first.db < _near_db(trial, config) and not once and config.method is None and config.goal is None:
        by = ""
        for method, made in _by_methods(calibrate, replace(config, effort="fast"), done.observed):
            now = distance(made.model, trial, threads)
            if now.is_nearer(first) and now.db > found.db:
                done, found, by = made, now, method
        if by:
            text = f"ranges by {by}: the outputs are {found.db:.1f} dB from FP32, {first.db:.1f} by those chosen first"
            done = Calibrated(done.model, [*done.decisions, Decision("quantize", "measured", "model", text)])
    if found.db < FLOOR_DB and not keeps_int8(config):
        problem = (
            f"its outputs are {found.db:.1f} dB from FP32, less than {FLOOR_DB:g}; --keep-int8 makes it all the same"
        )
        return Nearest(done, problem)
    return Nearest(done)


def _near_db(trial: Trial, config: QuantConfig) -> float:
    """Outputs nearer than this are taken as they are."""
    few = bool(trial.reference) and all(map(is_short, trial.reference[0].values()))
    return FEW_NEAR_DB if few and config.effort != "fast" else NEAR_DB


def _by_methods(calibrate: Calibrate, config: QuantConfig, observed: Observed | None
                ) -> Iterator[tuple[str, Calibrated]]:  # fmt: skip
    """(method, the model by it), one after the other, so that memory holds few. A method that raises is left out: there
    is a model already."""
    deadline = Deadline(NEAREST_SECONDS)
    for method in METHODS:
        if deadline.is_over:
            return
        with suppress(Exception):
            yield method, calibrate(replace(config, method=method), observed=observed)


def retreat(config: QuantConfig, once: bool) -> list[QuantConfig]:
    """What to try, one after the other, if calibration breaks: as asked, without tuning, by plain extremes."""
    fast = replace(config, effort="fast", goal=None)
    steps = [config, fast, replace(fast, method="minmax")]
    return steps[:1] if once else list(dict.fromkeys(steps))
