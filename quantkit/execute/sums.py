"""Residual sums in float32 where 8 bits for them cost the outputs much: measured, on the samples of the trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.execute.trial import Trial, db_by_extremes, in_words, run_trial
from quantkit.fuse.stream import sums_in_float
from quantkit.load.parts import copied
from quantkit.observe.streamed import free_models
from quantkit.quantize.select import Selection, select
from quantkit.types import Decision, QuantConfig

ENOUGH_DB = 40.0
"""Outputs nearer than this gain nothing by it that anybody would see: the error is 1 % of the amplitude."""
GAIN_DB = 1.0
"""What it must bring on the outputs: it costs 4 bytes a value where 8 bits take one, but no time that was measured. A
ViT-S with a decoder gains 1.3 dB by extremes, and 3 on other samples once it is calibrated."""
HIDDEN_DB = 10.0
"""Below this, with either kind of sum, something else spoils the outputs, which the trial finds better with sums in
float32: they are taken there unless they lose GAIN_DB. An XCiT of random weights has 3.9 and 3.6 dB by its extremes,
and 10 or 21 dB in the end."""
SAMPLES_MOST = 4
"""Samples that it is measured on: the difference is a matter of the network more than of the input."""


@dataclass(frozen=True)
class FloatSums:
    """The fused model with its residual sums in float32, what is quantized of it, and what was measured."""

    model: ir.Model
    selection: Selection
    decision: Decision


def with_float_sums(fused: ir.Model, selection: Selection, keep: Callable[[str], bool],
                    samples: Sequence[Mapping[str, np.ndarray]], config: QuantConfig,
                    threads: int | None = None, told: list[Decision] | None = None) -> FloatSums | None:  # fmt: skip
    """`fused` with its residual sums in float32, if it has any, all in u8 are below ENOUGH_DB and these GAIN_DB nearer,
    or both below HIDDEN_DB.

    fused: a fused FP32 model; not changed. None also where the model cannot be run in INT8 as it is: the trial finds
    out what must stay in FP32. told: gets what failed with these sums alone.
    """
    made = copied(fused)
    count = sums_in_float(made)
    if not count:
        return None
    samples = samples[:SAMPLES_MOST]
    try:
        plain = db_by_extremes(fused, selection, samples, config, threads)
    except Exception:  # of the engine, of onnxruntime or of a malformed node: the trial names it
        return None
    if not plain < ENOUGH_DB:
        return None
    try:
        chosen = select(made, keep)
        db = db_by_extremes(made, chosen, samples, config, threads)
    except Exception as error:  # the sums stay in u8, with which the model runs
        if told is not None:
            told.append(Decision("quantize", "undone", "residual sums in float32", in_words(error)))
        return None
    gain = -GAIN_DB if max(plain, db) < HIDDEN_DB else GAIN_DB
    if not db >= plain + gain:
        return None
    text = f"{count} residual sums are float32: the outputs are {db:.1f} dB from FP32 by extremes, {plain:.1f} in u8"
    return FloatSums(made, chosen, Decision("quantize", "measured", "model", text))


Tried = tuple[ir.Model, Selection, Trial, list[Decision]]


def tried_with_sums(fused: ir.Model, selection: Selection, keep: Callable[[str], bool],
                    head: Sequence[Mapping[str, np.ndarray]], config: QuantConfig, threads: int | None,
                    original: Callable[[], ir.Model] | None) -> Tried:  # fmt: skip
    """(the fused model to calibrate, what the trial leaves of its selection, the trial, what was decided before it):
    with residual sums in float32 where that is measured to pay, and as it was where nothing is left of that."""

    def tried(model: ir.Model, chosen: Selection, told: list[Decision]) -> Tried:
        trial = run_trial(model, chosen, head, config, threads, original)
        free_models(model)
        left = select(model, lambda name: keep(name) or name in trial.keep) if trial.keep else chosen
        return model, left, trial, told

    told: list[Decision] = []
    sums = with_float_sums(fused, selection, keep, head, config, threads, told)
    if sums is not None:
        found = tried(sums.model, sums.selection, [sums.decision])
        if found[1].forms:
            return found
    return tried(fused, selection, told)
