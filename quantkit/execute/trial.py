"""A trial before the work: the selected nodes are quantized by the ranges of one sample and run.

What the engine or onnxruntime cannot run, or what ruins the outputs, is found by halving and stays in FP32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.budgets import RUNNABLE_SECONDS, SAMPLES_SECONDS, Deadline
from quantkit.execute.binding import NativeStatistics
from quantkit.execute.gain import Choice, fastest_part
from quantkit.execute.intermediate import with_outputs
from quantkit.execute.packing import keeping_packed
from quantkit.execute.repair import FINE, POOR, Judge, judge, repair
from quantkit.execute.session import Session
from quantkit.execute.verify import LEAST_SQNR_DB, distances, is_short, misfit, too_far
from quantkit.fuse.expand import expand
from quantkit.fuse.graph import constant
from quantkit.fuse.judged import Bounds, bounded_tensors, judged_tensors, thinned
from quantkit.load import input_specs
from quantkit.load.parts import copied
from quantkit.observe import Batch, FloatRunner, load_preprocess, observe, range_for
from quantkit.observe.calibrate import holds_nan
from quantkit.observe.channels import channel_sums
from quantkit.observe.histogram import TensorStatistics
from quantkit.observe.parted import exposing
from quantkit.observe.peek import peek
from quantkit.observe.streamed import free_models
from quantkit.quantize.apply import apply
from quantkit.quantize.calibration import all_weights, weighted_inputs
from quantkit.quantize.qparams import params_from_range
from quantkit.quantize.select import Selection, select
from quantkit.types import Decision, QuantConfig, Range

TRIALS_MOST = 48
"""Trials of one search; one bad node among 500 is found with about 20."""
SAMPLES_LEAST = 2
"""So many samples are looked at however long FP32 takes."""
DEAR_SECONDS = 0.5
"""CPU time of a trial from which on a search waits until it is known that INT8 is not slower anyway: a network of 1500
nodes was searched for 60 s to end in FP32."""
SURE_DB, SURE_SAMPLES = 6.0, 2
"""A trial fails where the first samples are so far below what is asked for: the others are not run."""
KEEP_VARIABLE = "QUANTKIT_KEEP_INT8"
"""Set and not 0, it does for every model what QuantConfig.keep_int8 does for one."""
CLIPPING = ("mse", "entropy")
"""Methods of ranges that leave out what is far and rare; tried where the extremes are poor."""
CLIPPED_DB = 16.0
"""What they must reach, as what comes of it is hardly better: a page layout with 10 dB by them, 7 by extremes, lost its
task in the end."""
SHAPES_MOST = 3
"""Input shapes among the samples that are timed."""
Feeds = Mapping[str, np.ndarray]
LARGEST_VALUE = 1e30
"""Masks are written as -inf or -3.4e38: no 8-bit scale holds such a value beside ordinary ones."""


@dataclass
class Trial:
    """keep: node name -> reason why it stays in FP32. reference: what FP32 makes of each of `samples`, by the names of
    quantkit.fuse.judged.judged_tensors. bounds: those of them that cannot leave -1..1.

    undone: step of the trial -> the exception that ended it. timing: what was measured, in words. unfolded: FP32 it is,
    and the folded graph is not clearly the faster one.
    """

    keep: dict[str, str]
    samples: Sequence[Feeds]
    reference: list[dict[str, np.ndarray]] = field(default_factory=list)
    bounds: Bounds = field(default_factory=dict)
    undone: dict[str, str] = field(default_factory=dict)
    timing: str = ""
    unfolded: bool = False

    @property
    def decisions(self) -> list[Decision]:
        kept = [Decision("quantize", "kept", name, f"stays FP32: {reason}") for name, reason in self.keep.items()]
        undone = [Decision("quantize", "undone", step, reason) for step, reason in self.undone.items()]
        return [*kept, *undone, *([Decision("quantize", "measured", "model", self.timing)] if self.timing else [])]

    @property
    def verdict(self) -> str:
        """Why nothing is quantized, in one line."""
        reasons = list(dict.fromkeys(self.keep.values()))
        return reasons[0] if len(reasons) == 1 else "every node that could be quantized had to be kept"


def run_trial(fused: ir.Model, selection: Selection, samples: Sequence[Feeds], config: QuantConfig,
              threads: int | None = None, original: Callable[[], ir.Model] | None = None) -> Trial:  # fmt: skip
    """Which of the selected nodes must stay in FP32 for the model to run, to stay near FP32 and to be faster.

    fused: the fused FP32 model; not changed. original: gives the same before folding, for its speed. samples: at least
    one; the result holds those that were looked at. Raises ModelError where onnxruntime cannot run even the FP32 model,
    DataError where it cannot run on these samples.
    """
    return _Search(fused, selection, samples, config, threads, original).run()


def db_by_extremes(fused: ir.Model, selection: Selection, samples: Sequence[Feeds], config: QuantConfig,
                   threads: int | None = None) -> float:  # fmt: skip
    """dB of the worst output with all of a selection quantized by the extremes of the samples, or by their means.

    Nodes whose tensors hold what no range covers are left out; NaN where an output of FP32 is NaN. Raises whatever the
    engine or onnxruntime raises.
    """
    search = _Search(fused, selection, samples, config, threads, None)
    return search.db_of_all()


def first_samples(fused: ir.Model, data: Any, options: Mapping[str, Any]
                  ) -> tuple[Any, list[dict[str, np.ndarray]]]:  # fmt: skip
    """(data to go on with, the feeds of its first samples); options: those of `quantkit.pipeline.quantize`."""
    recipe = options.get("preprocess")
    recipe = load_preprocess(recipe) if isinstance(recipe, str | Path) else recipe
    return peek(data, input_specs(fused), preprocess=recipe, labels=options.get("labels"),
                open_float=lambda: FloatRunner(expand(fused), options.get("threads"), spin=False))  # fmt: skip


def keeps_int8(config: QuantConfig) -> bool:
    """Whether INT8 is asked for also where it is not faster, or far from FP32: by the configuration, or by
    KEEP_VARIABLE."""
    return config.keep_int8 or os.environ.get(KEEP_VARIABLE, "0") != "0"


def wreck(model: ir.Model, trial: Trial, threads: int | None = None) -> str:
    """What is wrong with the calibrated `model` on the trial's samples; empty if it may be saved."""
    return _problem_of(lambda: model, trial, threads)


def _problem_of(made: Callable[[], ir.Model], trial: Trial, threads: int | None, early: int = 0) -> str:
    """What is wrong with a model that is made now and run on all samples of the trial; empty if nothing. early: samples
    after which one that is far off is given up."""
    try:
        session = Session(with_outputs(made(), list(trial.reference[0])), threads)
        far = []
        for feeds, wanted in zip(trial.samples, trial.reference, strict=True):
            found = dict(zip(wanted, map(thinned, session.run(list(wanted), feeds)), strict=True))
            problem = misfit(wanted, found)
            if problem:
                return problem
            far.append(distances(wanted, found, trial.bounds))
            if len(far) == early and too_far(far, LEAST_SQNR_DB - SURE_DB):
                break
    except Exception as error:  # whatever it is, what raises it must not be quantized, nor such a file be written
        return in_words(error)
    return too_far(far)


def in_words(error: Exception) -> str:
    """An exception as a decision names it: its type and its message, in one line of at most about 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Search:
    def __init__(self, fused: ir.Model, selection: Selection, samples: Sequence[Feeds], config: QuantConfig,
                 threads: int | None, original: Callable[[], ir.Model] | None) -> None:  # fmt: skip
        self.fused, self.selection, self.config, self.threads = fused, selection, config, threads
        self.original = original
        self.judged = judged_tensors(fused.graph)
        self.result = Trial({}, samples, bounds=bounded_tensors(fused.graph, self.judged))
        self.dear = self.timed = False
        self.trials, self.deadline = 0, Deadline(RUNNABLE_SECONDS)
        self.ranges: dict[str, Range] = {}
        self.extremes: dict[str, list[tuple[float, float]]] = {}
        self.statistics: dict[str, TensorStatistics] = {}
        self.not_finite: set[str] = set()
        self.with_values: set[str] = set()
        self.has_nan = False
        self.last: tuple[frozenset[str], ir.Model] | None = None

    def run(self) -> Trial:
        result = self.result
        self._observe()
        if self.has_nan:
            return result  # a model or sample that is broken in FP32: calibration names tensor and sample
        left = self._with_ranges()
        with keeping_packed():
            reason = self._problem(left)
            if reason:
                left = self._accept(left, [], reason) if self._may_pay(left) else []
            left = self._improved("search for what spoils outputs", self._repair, left)
        self._improved("timing", self._choose, left)  # weights packed anew: where they lie changes what is measured
        order = [node.name or "" for node in self.selection.forms]
        result.keep = {name: result.keep[name] for name in order if name in result.keep}  # as the graph has them
        return result

    def _improved(self, name: str, step: Callable[[list[str]], list[str]], left: list[str]) -> list[str]:
        """What is left after a step; all where it fails, as what runs is known by then."""
        try:
            return step(left) if left else left
        except Exception as error:  # only the improvement failed
            self.result.undone[name] = in_words(error)
            return left

    def db_of_all(self) -> float:
        self._observe()
        if self.has_nan:
            return float("nan")
        measure = judge(self.result.samples, self.result.reference, self.threads, self.result.bounds)
        with keeping_packed():
            return self._take_nearer_ranges(self._with_ranges(), measure)

    def _with_ranges(self) -> list[str]:
        """The selected nodes, without those, noted as kept, whose tensors have values that no range covers."""
        result, wild = self.result, self.not_finite
        for node, form in self.selection.forms.items():
            tensors = [v.name or "" for v in (*form.data, *node.outputs) if v.name in self.ranges or v.name in wild]
            problems = [f"{name!r} holds NaN or infinite values" for name in tensors if name in wild]
            problems += [f"{name!r} holds no values" for name in tensors if name not in self.with_values]
            if problems:
                result.keep[node.name or ""] = problems[0]
        return [name for node in self.selection.forms if (name := node.name or "") not in result.keep]

    def _repair(self, left: list[str]) -> list[str]:
        """Without what spoils the outputs."""
        measure = judge(self.result.samples, self.result.reference, self.threads, self.result.bounds)
        first = self.result.reference[0]
        bounded = all(name in self.result.bounds or is_short(first[name]) for name in self.judged)
        near = self._take_nearer_ranges(left, measure)
        if near < POOR.below and not self._may_pay(left):
            return []
        if near < (FINE if bounded else POOR).below:
            try:
                self._take_clipped_ranges(left, measure, FINE.below if bounded else CLIPPED_DB)
            except Exception as error:  # the ranges so far do
                self.result.undone["search for ranges that clip"] = in_words(error)
        repaired = repair(self.selection, self._quantized, left, measure, bounded)
        self.result.keep.update(repaired.reasons)
        return repaired.names

    def _take_nearer_ranges(self, left: list[str], measure: Judge) -> float:
        """The means of the samples' extremes, where outputs are nearer by them than by the extremes of all: few samples
        hold extremes that calibration clips (Lite0 has 13 and 22 dB), or need them (a small network 26 and 14). Returns
        the dB that are reached."""
        widest = self.ranges, measure(self._quantized(set(left))).db
        if len(self.result.samples) < 2:
            return widest[1]
        means = {name: Range(*np.mean(extremes, axis=0).tolist()) for name, extremes in self.extremes.items()}
        self.ranges, self.last = {**self.ranges, **means}, None
        db = measure(self._quantized(set(left))).db
        if db <= widest[1]:
            self.ranges, self.last = widest[0], None
        return max(db, widest[1])

    def _take_clipped_ranges(self, left: list[str], measure: Judge, enough: float) -> None:
        """The ranges by the first of CLIPPING that brings the outputs to `enough` dB: calibration will clip as well, so
        that what is poor by extremes alone need not be given up. Else the ranges stay as they are."""
        skipped = {*self.not_finite, *self.fused.graph.initializers}
        tensors = [name for name in self.extremes if name not in skipped]
        batches = [Batch(dict(feeds), None, ["row 0"], 1) for feeds in self.result.samples]
        statistics = observe(expand(self.fused), tensors, batches, backend=NativeStatistics(), threads=self.threads)
        first = self.ranges
        try:
            for method in CLIPPING:
                clipped = {name: range_for(seen, method) for name, seen in statistics.items()}
                self.ranges, self.last = {**first, **clipped}, None
                if measure(self._quantized(set(left))).db >= enough:
                    first = self.ranges
                    break
        finally:
            if self.ranges is not first:
                self.ranges, self.last = first, None

    def _may_pay(self, left: list[str]) -> bool:
        """Whether a search is worth it that takes long: not where INT8 is surely slower, which keeps all in FP32. What
        does not even run is searched."""
        if not self.dear or self.timed or keeps_int8(self.config):
            return True
        self.timed = True
        with suppress(Exception):
            choice = self._measured(left)
            if choice.loses:
                self._note_choice(choice)
                return False
        return True

    def _choose(self, left: list[str]) -> list[str]:
        """Without what does not pay."""
        if keeps_int8(self.config):
            return left
        choice = self._measured(left)
        self._note_choice(choice)
        return [name for name in left if name in choice.names]

    def _measured(self, left: list[str]) -> Choice:
        """The part of `left` that pays, on samples of different shapes."""
        by_shape = {tuple(array.shape for array in feeds.values()): feeds for feeds in reversed(self.result.samples)}
        shapes = list(reversed(by_shape.values()))[:SHAPES_MOST]
        return fastest_part(self.fused, self.original, self._quantized, left, shapes, self.threads)

    def _note_choice(self, choice: Choice) -> None:
        self.result.timing, self.result.unfolded = choice.detail, choice.unfolded
        self.result.keep.update(choice.reasons)

    def _observe(self) -> None:
        """Ranges of the selection's tensors over the samples, and what each of these is judged by."""
        inputs = {value.name for value in self.fused.graph.inputs}
        initializers = self.fused.graph.initializers
        constants = {name: constant(initializers[name]) for name in self.selection.tensors if name in initializers}
        computed = [n for n in self.selection.tensors if n not in inputs and n not in constants]
        names = list(dict.fromkeys([*self.judged, *computed]))
        means = weighted_inputs(self.selection)
        runner = exposing(expand(self.fused), names, self.result.samples[0], self.threads)
        deadline, looked = Deadline(SAMPLES_SECONDS), self.result.reference
        for feeds in self.result.samples:
            if len(looked) >= SAMPLES_LEAST and deadline.is_over:
                break
            wanted: dict[str, np.ndarray] = {}
            given: dict[str, Any] = {**constants, **feeds}
            for values in chain([given], runner.passes(feeds, names)):
                for name in self.selection.tensors:
                    if name in values:
                        self._note_range(name, values[name])
                for name in means.keys() & values.keys():
                    self._note_channels(name, means[name], values[name])
                wanted |= {name: thinned(values[name]) for name in self.judged if name in values}
            wanted = {name: wanted[name] for name in self.judged}  # in the order of the graph
            self.has_nan |= holds_nan(wanted.values())
            looked.append(wanted)
        self.result.samples = self.result.samples[: len(looked)]

    def _note_range(self, name: str, array: np.ndarray | None) -> None:
        if array is None or array.size == 0:
            self.ranges.setdefault(name, Range(0.0, 0.0))
            return
        self.with_values.add(name)
        if not np.abs(array).max() < LARGEST_VALUE:
            self.not_finite.add(name)
        else:
            extremes = self.extremes.setdefault(name, [])
            extremes.append((float(array.min()), float(array.max())))
            self.ranges[name] = Range(min(low for low, _ in extremes), max(high for _, high in extremes))

    def _note_channels(self, name: str, axis: int, array: np.ndarray | None) -> None:
        """For the correction of biases, without which a trial looks worse than what comes of it by up to 10 dB."""
        if array is None or array.size == 0 or array.ndim < 2 or not np.isfinite(array).all():
            return
        sums = channel_sums(np.ascontiguousarray(array, np.float32).reshape(1, -1), array.shape, axis, 1)
        known = self.statistics.setdefault(name, TensorStatistics())
        if known.channels is None:
            known.channels = sums
        elif known.channels.sums.shape == sums.sums.shape:
            known.channels.add(sums)

    def _problem(self, names: Sequence[str]) -> str:
        """What is wrong with the model in which the nodes `names` are quantized; empty if nothing."""
        self.trials += 1
        started = time.process_time()
        found = _problem_of(lambda: self._quantized(set(names)), self.result, self.threads, SURE_SAMPLES)
        self.dear |= time.process_time() - started > DEAR_SECONDS
        return found

    def _quantized(self, names: set[str]) -> ir.Model:
        """The model with the nodes `names` quantized; the last one made is kept, since one step often asks for what the
        step before ended with."""
        if self.last is None or self.last[0] != names:
            self.last = None  # first, so that there are never two
            free_models(self.fused)
            self.last = (frozenset(names), self._made(names))
        return self.last[1]

    def _made(self, names: set[str]) -> ir.Model:
        copy = copied(self.fused)
        selection = select(copy, lambda name: name not in names)
        known = {name: self.ranges.get(name, Range(0.0, 0.0)) for name in selection.tensors}
        params = {group: params_from_range(span) for group, span in selection.group_ranges(known).items()}
        apply(copy, selection, params, all_weights(selection, params, self.config, self.statistics))
        return copy

    def _accept(self, names: list[str], accepted: list[str], reason: str) -> list[str]:
        """`accepted` and those of `names` that can be quantized with them; the others are noted with their reason.

        reason: what is wrong if all of `names` are. Halving: the first half settles before the second is tried.
        """
        if len(names) == 1 or self.trials >= TRIALS_MOST or self.deadline.is_over:
            self.result.keep.update(dict.fromkeys(names, reason))
            return accepted
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            problem = self._problem([*accepted, *half])
            accepted = self._accept(half, accepted, problem) if problem else [*accepted, *half]
        return accepted
