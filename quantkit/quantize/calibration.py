"""From statistics to a calibrated model: ranges by a method, parameters, weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.budgets import TUNE_SECONDS
from quantkit.errors import CalibrationError, UsageError
from quantkit.fuse.expand import expand
from quantkit.load.parts import copied
from quantkit.observe import (
    CalibrationTable,
    Dataset,
    Preprocess,
    TensorStatistics,
    load_preprocess,
    observe,
    open_data,
    preprocess_digest,
)
from quantkit.quantize.activated import around_activations
from quantkit.quantize.apply import apply
from quantkit.quantize.choose import CLOSE_DB, chosen_maker
from quantkit.quantize.initial import (
    all_weights,
    macs_of,
    observed_tensors,
    table_ranges,
    tunable_layers,
    weighted_inputs,
)
from quantkit.quantize.layers import Layer
from quantkit.quantize.measure import Fidelity
from quantkit.quantize.methods import Choices, by_tensor
from quantkit.quantize.qparams import params_from_range
from quantkit.quantize.replay import Replay
from quantkit.quantize.room import with_room
from quantkit.quantize.runners import OpenInt8
from quantkit.quantize.search import search
from quantkit.quantize.select import Selection, select
from quantkit.quantize.tune import tune_layers
from quantkit.types import AUTO, METHODS, Decision, Goal, QuantConfig, Range

GOAL_KEY = "quantkit.goal"
"""Metadata: what was tried for an accuracy goal, as JSON; see quantkit.quantize.search.Found."""
PREPROCESS_KEY, METHOD_KEY = "quantkit.preprocess", "quantkit.method"
DATA_KEY, SAMPLES_KEY = "quantkit.calibration.sha256", "quantkit.calibration.samples"
CONFIG_KEY = "quantkit.config"
"""Metadata: the QuantConfig that was asked for, as JSON."""
DEFAULT_METHOD = "mse"
DRAWS = 2
"""Draws of sampled positions that `best` tunes with, for each method."""
MEASURED_SAMPLES = 32
"""Samples on which methods are compared: seconds of work, and the order of the methods shows."""

JUDGED_MACS, JUDGED_LEAST = 100_000_000_000, 4
"""Multiply-adds of all samples that models are compared on, and how many samples are in any case: 64 of a network of
1.5 GMACs, 25 of one of 4, 4 from 25 GMACs on. Not seconds, so that it is the same on every machine."""

CHOOSING_SAMPLES, JUDGING_SAMPLES = 16, 128
"""Samples on which the method of each tensor is chosen, and others on which the whole choice is judged."""


@dataclass(frozen=True)
class Observed:
    """The statistics that a model was made from, the nodes that they are of, and why others of these were left out."""

    table: CalibrationTable
    selection: Selection
    notes: Sequence[Decision] = ()


@dataclass(frozen=True)
class Calibrated:
    """The calibrated model, what was decided on the way to it, and what it was made from."""

    model: ir.Model
    decisions: list[Decision]
    observed: Observed | None = None


def calibrate_fused(model: ir.Model, selection: Selection, data: Any, config: QuantConfig, *, preprocess: Any = None,
                    labels: Any = None, samples: int | None = None, batch_size: int | None = None, strict: bool = False,
                    threads: int | None = None, table_in: Any = None, table_out: Any = None, progress: Any = None,
                    warn: Callable[[str], None] | None = None, backend: Any = None,
                    open_int8: OpenInt8 | None = None) -> Calibrated:  # fmt: skip
    """Observes a fused FP32 model on `data` and makes the calibrated form of it. `model` is not changed.

    table_in, table_out: paths of tables; table_in also a CalibrationTable of the same model and data.
    open_int8 runs INT8 models; without it nothing is measured: ranges by DEFAULT_METHOD, weights rounded to nearest.
    """
    from quantkit.load import input_specs

    recipe = load_preprocess(preprocess) if isinstance(preprocess, str | Path) else preprocess
    dataset = open_data(data, input_specs(model), preprocess=recipe, labels=labels, samples=samples,
                        batch_size=batch_size, seed=config.seed, strict=strict, warn=warn)  # fmt: skip
    with Replay(dataset) as replay:
        table = _table(model, selection, dataset, replay, recipe, table_in, threads, progress, backend)
        for name in (value.name for value in model.graph.inputs):
            seen = table.statistics.get(name or "")
            if warn is not None and seen is not None and seen.low == seen.high:
                warn(f"every value of input {name!r} is {seen.low:g} in every sample; check the data and --preprocess")
        if table_out is not None:
            table.fill(config)
            table.save(table_out)
        maker = Maker(model, selection, table.statistics, config, replay, threads, progress, open_int8)
        if config.effort != "fast" and open_int8 is not None:
            maker = chosen_maker(maker, backend)
        elif config.method not in METHODS and open_int8 is not None:
            maker.settle(*maker.measured_methods(open_int8))
        made = maker.reach(config.goal) if config.goal is not None and open_int8 is not None else maker.made()
    note = Decision("quantize", "calibrated", "model", f"{table.samples} samples, ranges by {maker.method}")
    made.model.metadata_props.update({
        METHOD_KEY: maker.method, DATA_KEY: table.data_sha256, SAMPLES_KEY: str(table.samples),
        CONFIG_KEY: json.dumps(asdict(config), sort_keys=True),
    })  # fmt: skip
    if dataset.preprocess is not None:
        made.model.metadata_props[PREPROCESS_KEY] = dataset.preprocess.to_json()
    return Calibrated(made.model, [*maker.decisions, note, *made.decisions], Observed(table, selection))


class Maker:
    """Makes calibrated models of one fused FP32 model from one set of statistics: by method, effort, layers in FP32."""

    def __init__(self, model: ir.Model, selection: Selection, statistics: Mapping[str, TensorStatistics],
                 config: QuantConfig, replay: Replay, threads: int | None, progress: Any,
                 open_int8: OpenInt8 | None) -> None:  # fmt: skip
        self.model, self.statistics, self.config = model, statistics, config
        self.replay, self.threads, self.progress, self.open_int8 = replay, threads, progress, open_int8
        self.expanded = expand(model)
        self.chosen = {node.name or "" for node in selection.forms}
        self.layers = [layer.name for layer in tunable_layers(selection)]
        self.macs = {layer.name: macs_of(layer, statistics) for layer in tunable_layers(selection)}
        self.decisions: list[Decision] = []
        self.selection, self.choices = selection, Choices()
        self.method = config.method if config.method in METHODS else DEFAULT_METHOD
        self.base = self.method
        self.close_methods = [self.method]
        self.mixture: Mapping[str, TensorStatistics] | None = None
        self.has_room = False

    def plain(self, method: str, keep: Collection[str] = (), *, effort: str | None = None
              ) -> tuple[ir.Model, list[Layer], dict[str, float]]:  # fmt: skip
        """(model with weights rounded to nearest, its layers, the scales of their inputs), `keep` staying in FP32.

        effort: that of the configuration unless given; from `balanced` on, ranges leave out what activations saturate.
        """
        copy = copied(self.model)
        selection = select(copy, lambda name: name not in self.chosen or name in keep)
        method_of = {tensor: self.choices.get(group, self.base) for tensor, group in self.selection.group_of.items()}
        is_fast = (effort or self.config.effort) == "fast"
        by = method_of if method == AUTO else method
        if is_fast:
            spans = selection.group_ranges(table_ranges(copy, selection, self.statistics, by, self.config))
        else:
            spans = around_activations(selection, self._spans(copy, selection, by), self.mixture or self.statistics)
        params = {group: params_from_range(span) for group, span in spans.items()}
        layers = tunable_layers(selection)
        scales = {layer.name: params[selection.group_of[layer.source]].scale for layer in layers}
        apply(copy, selection, params, all_weights(selection, params, self.config, self.statistics))
        return copy, layers, scales

    def _spans(self, model: ir.Model, selection: Selection, method: str | Mapping[str, str]) -> dict[str, Range]:
        """The range of each group as `balanced` takes it: by the mixture, or with room, where these were chosen."""
        seen = self.mixture or self.statistics
        ranges = table_ranges(model, selection, seen, method, self.config)
        return selection.group_ranges(with_room(selection, ranges, seen) if self.has_room else ranges)

    def made(self, effort: str | None = None, keep: Collection[str] = ()) -> Calibrated:
        """The model by an effort (that of the configuration unless given)."""
        effort = effort or self.config.effort
        if effort == "fast" or self.open_int8 is None:
            return Calibrated(self.plain(self.method, keep, effort="fast")[0], [])
        if effort == "balanced":
            return self.tuned(self.method, self.config.seed, keep, seconds=TUNE_SECONDS)
        return self._nearest(keep)

    def tuned(self, method: str, seed: int, keep: Collection[str] = (), *, learn: bool = False,
              seconds: float = float("inf")) -> Calibrated:  # fmt: skip
        """The model by a method, tuned for at most `seconds` on positions drawn by `seed`; learn: rounding by descent
        as well."""
        assert self.open_int8 is not None
        model, layers, scales = self.plain(method, keep, effort="balanced")
        decisions = tune_layers(
            model, self.expanded, layers, scales, self.replay, self.open_int8, per_channel=self.config.per_channel,
            seed=seed, learn=learn, threads=self.threads, progress=self.progress, seconds=seconds)  # fmt: skip
        return Calibrated(model, decisions)

    def _nearest(self, keep: Collection[str]) -> Calibrated:
        """Of several tuned models, by each of the close methods and from DRAWS draws, the nearest to FP32.

        The first of them is that of balanced, the last one learns the rounding of the nearest so far; after
        config.time_budget seconds no other is begun. A method for each tensor is among them where it measures better
        on samples that took no part in its choice.
        """
        assert self.open_int8 is not None
        deadline = time.monotonic() + self.config.time_budget
        if self.config.method is None and not self.choices:
            self._choose_by_tensor(self.open_int8)
        methods = list(dict.fromkeys([self.base, *self.close_methods]))
        fidelity = Fidelity(self.expanded, self.replay, self.threads)
        plans = [(method, draw, False) for draw, method in product(range(DRAWS), methods)]
        scores: list[tuple[float, str]] = []
        best: tuple[tuple[str, int, bool], Calibrated] | None = None
        while plans and (best is None or time.monotonic() < deadline):
            method, draw, learn = plan = plans.pop(0)
            made = self.tuned(method, self.config.seed + draw, keep, learn=learn)
            db = fidelity.sqnr(made.model, self.open_int8)
            if best is None or db > max(score for score, _ in scores):
                best = (plan, made)
            scores.append((db, f"{method} {db:.2f} dB{', rounding learnt' if learn else ''}"))
            if not plans and not learn:
                plans.append((*best[0][:2], True))
        assert best is not None
        self.method = best[0][0]
        listed = ", ".join(text for _, text in scores)
        note = Decision("quantize", "measured", "model", f"nearest of the tuned models: {listed}")
        return Calibrated(best[1].model, [note, *best[1].decisions])

    def reach(self, goal: Goal) -> Calibrated:
        """The first model that reaches the goal, as quantkit.quantize.search looks for it; else the best one found."""
        open_int8 = self.open_int8
        assert open_int8 is not None
        if goal.max_drop is not None and self.replay.labels is None:
            raise UsageError("max_drop needs labels for all samples; give them, or use min_agreement or min_sqnr")
        fidelity = Fidelity(self.expanded, self.replay, self.threads, self.replay.labels)
        few = Fidelity(self.expanded, self.replay.first(MEASURED_SAMPLES), self.threads)
        found = search(self, goal, *(lambda model, by=by: by.score(model, open_int8) for by in (fidelity, few)))
        made: Calibrated = found.made
        made.model.metadata_props[GOAL_KEY] = json.dumps(found.record)
        return made

    def settle(self, method: str, close: Sequence[str] = ()) -> None:
        """Takes a method for the one of the model; `close`: those that `best` tunes as well. With AUTO asked for, each
        tensor may get another."""
        self.method = self.base = method
        self.close_methods = [method, *(other for other in close if other != method)]
        if self.config.method == AUTO and self.open_int8 is not None:
            self._choose_by_tensor(self.open_int8)

    def like(self, model: ir.Model, selection: Selection, statistics: Mapping[str, TensorStatistics]) -> Maker:
        """A maker of another model from the same samples."""
        given = (self.config, self.replay, self.threads, self.progress, self.open_int8)
        return Maker(model, selection, statistics, *given)

    def tell(self, phase: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(phase, done, total)

    def judged(self, samples: int) -> list[tuple[dict[str, np.ndarray], int]]:
        """The first `samples` samples to compare models on: fewer, JUDGED_LEAST at least, where they would take more
        than JUDGED_MACS multiply-adds."""
        affordable = JUDGED_MACS // max(1, sum(self.macs.values()))
        return self.replay.first(min(samples, max(JUDGED_LEAST, affordable)))

    def measured_methods(self, open_int8: OpenInt8) -> tuple[str, list[str]]:
        """(the method whose INT8 model is nearest to FP32 on some calibration samples, those within CLOSE_DB of it)."""
        fidelity = Fidelity(self.expanded, self.judged(MEASURED_SAMPLES), self.threads)
        scores: dict[str, float] = {}
        for method in METHODS:
            self.tell("methods", len(scores), len(METHODS))
            scores[method] = fidelity.sqnr(self.plain(method)[0], open_int8)
        self.tell("methods", len(scores), len(METHODS))
        best = max(METHODS, key=lambda method: scores[method])
        listed = ", ".join(f"{name} {db:.2f} dB" for name, db in scores.items())
        self.decisions.append(Decision("quantize", "measured", "model", f"ranges by {best}: {listed}"))
        return best, [method for method in METHODS if scores[method] > scores[best] - CLOSE_DB]

    def _choose_by_tensor(self, open_int8: OpenInt8) -> None:
        """Sets choices, and method to AUTO, unless that measures worse on samples that took no part in the choice."""
        chosen_on = self.replay.first(CHOOSING_SAMPLES)
        judged_on = self.replay.first(CHOOSING_SAMPLES + JUDGING_SAMPLES)[len(chosen_on) :] or chosen_on
        chooser, judge = (Fidelity(self.expanded, part, self.threads) for part in (chosen_on, judged_on))
        groups: dict[str, list[str]] = {}
        for tensor, group in self.selection.group_of.items():
            groups.setdefault(group, []).append(tensor)
        spans = {method: self._spans(self.model, self.selection, method) for method in METHODS}
        deadline = time.monotonic() + self.config.time_budget / 4
        found = by_tensor(self.expanded, groups, spans, self.base, chooser, self.threads, deadline)
        self.choices = {choice.group: choice.method for choice in found}
        before, after = (judge.sqnr(self.plain(method)[0], open_int8) for method in (self.base, AUTO))
        judged = f"a method for each tensor: {before:.2f} -> {after:.2f} dB on samples that took no part in the choice"
        self.decisions.append(Decision("quantize", "measured", "model", judged))
        if not found or after < before:
            self.choices = {}
            return
        self.decisions += [
            Decision("quantize", "chosen", choice.group, f"ranges by {choice.method} instead of {self.base}: "
                     f"{choice.before:.1f} -> {choice.after:.1f} dB with it alone in INT8")
            for choice in found
        ]  # fmt: skip
        self.method, self.close_methods = AUTO, [AUTO, *self.close_methods]


def _table(model: ir.Model, selection: Selection, dataset: Dataset, replay: Replay, recipe: Preprocess | None,
           table_in: Any, threads: int | None, progress: Any, backend: Any) -> CalibrationTable:  # fmt: skip
    """Statistics from an earlier table, if it belongs to this model and data, or from the data."""
    from quantkit.load import SHA256_KEY

    digest = model.metadata_props.get(SHA256_KEY, "")
    tensors = observed_tensors(model, selection)
    if table_in is not None:
        table = table_in if isinstance(table_in, CalibrationTable) else CalibrationTable.load(table_in)
        table.require(model=digest, data=dataset.digest, preprocess=preprocess_digest(dataset.preprocess))
        missing = [name for name in tensors if name not in table.statistics]
        if missing:
            raise CalibrationError(f"{table_in} has no statistics of {missing[0]!r}; calibrate again without the table")
        replay.fill()
        return table
    if backend is None:
        from quantkit.observe import NumpyBackend

        backend = NumpyBackend()
    statistics = observe(expand(model), tensors, replay.recorded(), channels=weighted_inputs(selection),
                         backend=backend, threads=threads, progress=progress)  # fmt: skip
    count = dataset.count or replay.samples
    return CalibrationTable(digest, dataset.digest, preprocess_digest(dataset.preprocess), count, statistics)
