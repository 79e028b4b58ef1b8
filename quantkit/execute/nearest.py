"""The finished model is held against FP32 as its outputs are used; where it is poor, other ranges are tried.

Calibration chooses ranges by the noise at the logits, which is smooth. What is read from the outputs may say otherwise:
PP-OCRv4's recognizer on eight lines has 15.7 dB with the ranges that are best at its logits, and 21.7 with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from quantkit.execute.repair import judge
from quantkit.execute.trial import Trial, keeps_int8
from quantkit.execute.verify import mean_db
from quantkit.quantize.calibration import Calibrated
from quantkit.types import METHODS, Decision, QuantConfig

NEAR_DB = 20.0
"""Outputs nearer than this are taken as they are: the error is a tenth of the amplitude."""
WORTH_DB = 3.0
"""What other ranges must gain on the outputs of the trial's samples: half the noise. These are eight at most: by 2.5 dB
PP-OCRv4 would get ranges with which it reads three lines of 60 less."""
FLOOR_DB = 8.0
"""A model whose outputs are farther from FP32 than this decides otherwise where FP32 is sure: it is not made."""

Calibrate = Callable[..., Calibrated]
"""calibrate(config, **tables): the model by a configuration; tables: table_in or table_out of calibrate_fused."""


@dataclass(frozen=True)
class Nearest:
    """done: the calibrated model that was chosen. problem: why it must not be used; empty if it may be."""

    done: Calibrated
    problem: str = ""


def distances(model: ir.Model, trial: Trial, threads: int | None = None) -> list[float]:
    """dB of the worst output over every second one of the trial's samples, and over the others, as
    quantkit.execute.repair.judge."""
    parts = [part for part in (slice(0, None, 2), slice(1, None, 2)) if trial.samples[part]]
    return [judge(trial.samples[part], trial.reference[part], threads, trial.bounds)(model)[0] for part in parts]


def nearest(calibrate: Calibrate, config: QuantConfig, trial: Trial, threads: int | None = None, *,
            once: bool = False) -> Nearest:  # fmt: skip
    """The model by `config`; where it is below NEAR_DB, the nearest of it and those by each method of ranges, if that
    gains WORTH_DB and neither half of the samples loses below NEAR_DB: one alone may gain more. With a problem below
    FLOOR_DB, unless INT8 is asked for (keeps_int8).

    once: the data can be read a single time. A method or a goal that was asked for is kept.
    """
    done = calibrate(config)
    before = distances(done.model, trial, threads)
    first = db = mean_db(before)
    if db < NEAR_DB and not once and config.method is None and config.goal is None:
        best, by = db + WORTH_DB, ""
        for method, made in _by_methods(calibrate, replace(config, effort="fast")):
            halves = distances(made.model, trial, threads)
            now = mean_db(halves)
            if now > best and all(half >= min(known, NEAR_DB) for half, known in zip(halves, before, strict=True)):
                done, db, best, by = made, now, now, method
        if by:
            text = f"ranges by {by}: the outputs are {db:.1f} dB from FP32, {first:.1f} by those chosen first"
            done = Calibrated(done.model, [*done.decisions, Decision("quantize", "measured", "model", text)])
    if db < FLOOR_DB and not keeps_int8(config):
        problem = f"its outputs are {db:.1f} dB from FP32, less than {FLOOR_DB:g}; --keep-int8 makes it all the same"
        return Nearest(done, problem)
    return Nearest(done)


def _by_methods(calibrate: Calibrate, config: QuantConfig) -> Iterator[tuple[str, Calibrated]]:
    """(method, the model by it), one after the other, so that memory holds few; the data are observed once for all. A
    method that raises is left out: there is a model already."""
    with TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        for method in METHODS:
            tables = {"table_in" if table.exists() else "table_out": table}
            with suppress(Exception):
                yield method, calibrate(replace(config, method=method), **tables)


def retreat(config: QuantConfig, once: bool) -> list[QuantConfig]:
    """What to try, one after the other, if calibration breaks: as asked, without tuning, by plain extremes."""
    fast = replace(config, effort="fast", goal=None)
    steps = [config, fast, replace(fast, method="minmax")]
    return steps[:1] if once else list(dict.fromkeys(steps))
