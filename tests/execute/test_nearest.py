"""The finished model is judged by its outputs: other ranges where they are nearer, FP32 where nothing is near."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.execute import nearest as nearest_module
from quantkit.execute import trial as trial_module
from quantkit.execute.gain import Choice
from quantkit.execute.nearest import FEW_WORTH_DB, FLOOR_DB, NEAR_DB, STEADY_DB, WORTH_DB, Distance, nearest, retreat
from quantkit.execute.trial import Trial
from quantkit.execute.verify import mean_db
from quantkit.quantize.calibration import Calibrated
from quantkit.types import METHODS, Goal, QuantConfig
from tests.execute.test_trial import sample, small_net

FAST = QuantConfig(effort="fast")
NO_TRIAL = Trial({}, [])
OBSERVED = object()


def away(db, samples=2):
    """A distance: of every sample the same, or by sample."""
    each = list(db) if isinstance(db, tuple) else [db] * samples
    return Distance(mean_db(each), each)


def chosen(monkeypatch, db_of, config=FAST, once=False, trial=NO_TRIAL):
    """(what `nearest` gives, the configurations that were asked for) where a model is its method and db_of its dB."""
    asked = []

    def calibrate(by, **given):
        asked.append((by, given))
        return Calibrated(SimpleNamespace(method=by.method), [], OBSERVED)

    monkeypatch.setattr(nearest_module, "distance", lambda model, trial, threads=None: away(db_of[model.method]))
    return nearest(calibrate, config, trial, once=once), asked


def test_a_model_that_is_near_is_taken_as_it_is(monkeypatch):
    found, asked = chosen(monkeypatch, {None: NEAR_DB})
    assert found.problem == ""
    assert asked == [(FAST, {})]


def test_ranges_that_bring_the_outputs_nearer_are_taken_and_the_data_observed_once_for_all(monkeypatch):
    scores = {None: 12.0, **dict.fromkeys(METHODS, 13.0), "entropy": 17.0}
    found, asked = chosen(monkeypatch, scores, QuantConfig(effort="balanced"))
    assert found.done.model.method == "entropy"
    assert "17.0 dB from FP32, 12.0 by those chosen first" in found.done.decisions[-1].detail
    assert [by.method for by, _ in asked] == [None, *METHODS]
    assert {by.effort for by, _ in asked[1:]} == {"fast"}
    assert [given for _, given in asked] == [{}, *[{"observed": OBSERVED}] * len(METHODS)]


@pytest.mark.parametrize(
    ("effort", "values", "gain", "method"),
    [("balanced", 2, FEW_WORTH_DB, "mse"), ("balanced", 2, WORTH_DB, None), ("fast", 2, FEW_WORTH_DB, None),
     ("balanced", 64, FEW_WORTH_DB, None)],
)  # fmt: skip
def test_what_few_numbers_chose_is_held_against_each_method_however_near_it_looks(monkeypatch, effort, values, gain,
                                                                                 method):  # fmt: skip
    trial = Trial({}, [], [{"scores": np.zeros((1, values), np.float32)}])
    scores = {None: 25.0, **dict.fromkeys(METHODS, 26.0), "mse": 25.5 + gain}
    assert chosen(monkeypatch, scores, QuantConfig(effort=effort), trial=trial)[0].done.model.method == method


def test_ranges_that_gain_next_to_nothing_are_not_taken(monkeypatch):
    scores = {None: 15.0, **dict.fromkeys(METHODS, 15.0 + 0.9 * WORTH_DB)}
    assert chosen(monkeypatch, scores)[0].done.model.method is None


def test_ranges_that_lose_on_one_half_of_the_samples_are_not_taken_whatever_they_gain_on_the_other(monkeypatch):
    scores = {None: (16.0, 10.0), **dict.fromkeys(METHODS, 10.0), "mse": (15.5, 19.0)}
    assert chosen(monkeypatch, scores)[0].done.model.method is None
    scores["mse"] = (16.5, 19.0)
    assert chosen(monkeypatch, scores)[0].done.model.method == "mse"


@pytest.mark.parametrize(
    ("last", "nearer"), [(12.0 + 1.1 * STEADY_DB, True), (11.9, False)], ids=["all gain", "one loses"]
)
def test_a_small_gain_on_every_sample_is_no_chance(last, nearer):
    gained = away((*[12.0 + 1.1 * STEADY_DB] * 7, last))
    assert gained.is_nearer(away(12.0, 8)) == nearer
    assert not away(12.0 + 0.9 * STEADY_DB, 8).is_nearer(away(12.0, 8))
    assert not away(12.0 + 1.1 * STEADY_DB, 3).is_nearer(away(12.0, 3))


def test_methods_that_raise_leave_the_model_that_there_is(monkeypatch):
    def calibrate(by, **given):
        if by.method is not None:
            raise ValueError("no such range")
        return Calibrated(SimpleNamespace(method=None), [])

    monkeypatch.setattr(nearest_module, "distance", lambda model, trial, threads=None: away(12.0))
    found = nearest(calibrate, FAST, NO_TRIAL)
    assert found.problem == ""
    assert found.done.model.method is None


@pytest.mark.parametrize(
    ("config", "once"),
    [(QuantConfig(method="mse"), False), (QuantConfig(goal=Goal(min_sqnr=20.0)), False), (QuantConfig(), True)],
)
def test_what_was_asked_for_is_kept_and_data_that_can_be_read_once_are(monkeypatch, config, once):
    found, asked = chosen(monkeypatch, {config.method: 12.0, "minmax": 30.0}, config, once)
    assert len(asked) == 1
    assert found.done.model.method == config.method


@pytest.mark.parametrize(("keep_int8", "refused"), [(False, True), (True, False)])
def test_a_model_that_stays_far_is_not_made_unless_int8_is_asked_for(monkeypatch, keep_int8, refused):
    monkeypatch.delenv(trial_module.KEEP_VARIABLE, raising=False)
    scores = {None: FLOOR_DB - 4.0, **dict.fromkeys(METHODS, FLOOR_DB - 0.5)}
    found, _ = chosen(monkeypatch, scores, QuantConfig(keep_int8=keep_int8))
    assert (f"{FLOOR_DB - 0.5:.1f} dB from FP32" in found.problem) == refused


def test_a_model_that_would_lose_its_task_comes_out_as_the_users_own_fp32(monkeypatch):
    monkeypatch.delenv(trial_module.KEEP_VARIABLE, raising=False)
    everything = lambda fused, original, quantized, names, *rest: Choice(frozenset(names), {}, "")  # noqa: E731
    monkeypatch.setattr(trial_module, "fastest_part", everything)
    monkeypatch.setattr(nearest_module, "distance", lambda model, trial, threads=None: away(1.0))
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    assert result.kind == "fp32"
    assert "its outputs are 1.0 dB from FP32" in result.decisions[-1].detail
    assert [node.name for node in result.model.graph] == [node.name for node in small_net().graph.node]


def test_calibration_that_breaks_is_tried_without_tuning_and_then_by_plain_extremes():
    steps = retreat(QuantConfig(effort="best", goal=Goal(min_sqnr=30.0)), once=False)
    assert [(step.effort, step.method) for step in steps] == [("best", None), ("fast", None), ("fast", "minmax")]
    assert len(retreat(QuantConfig(), once=True)) == 1


def test_no_method_is_begun_after_the_time_for_them(monkeypatch):
    monkeypatch.setattr(nearest_module, "Deadline", lambda seconds: SimpleNamespace(is_over=True))
    found, asked = chosen(monkeypatch, {None: 12.0, **dict.fromkeys(METHODS, 19.0)})
    assert found.done.model.method is None
    assert len(asked) == 1
