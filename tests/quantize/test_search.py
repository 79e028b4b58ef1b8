"""The search for an accuracy goal: what is tried, in which order, and what is kept."""

import json

import pytest

from quantkit import pipeline
from quantkit.errors import UsageError
from quantkit.quantize import search as search_module
from quantkit.quantize.search import nearness, search, sensitivity
from quantkit.types import EFFORTS, Goal, QuantConfig, Score
from tests.graphs import model
from tests.quantize.test_tune import DATA, NETWORK, WEIGHTS, fidelity

COST = {"a": 1.0, "b": 8.0, "c": 2.0, "d": 4.0}
GAIN = {"fast": 0.0, "balanced": 5.0, "best": 6.0}


class Made:
    def __init__(self, score):
        self.model, self.decisions = score, []


class Maker:
    """Layers with a fixed cost in dB each; a model is its own score."""

    def __init__(self, **config):
        self.config = QuantConfig(**config)
        self.method, self.layers, self.decisions, self.calls = "minmax", list(COST), [], []
        self.macs = dict.fromkeys(COST, 100)

    def plain(self, method, keep=()):
        return 40.0 - sum(cost for name, cost in COST.items() if name not in keep), [], {}

    def made(self, effort=None, keep=()):
        self.calls.append((effort, tuple(keep)))
        return Made(self.plain(self.method, keep)[0] + GAIN[effort])


def found(maker, db):
    return search(maker, Goal(min_sqnr=db), lambda value: Score(value)).made.model


def test_the_first_effort_that_reaches_the_goal_ends_the_search():
    maker = Maker(effort="fast")
    assert found(maker, 29.0) == 30.0
    assert maker.calls == [("fast", ()), ("balanced", ())]


def test_the_layer_that_costs_most_comes_first():
    ranking = sensitivity(Maker(), lambda value: Score(value))
    assert [entry.layer for entry in ranking] == ["b", "d", "c", "a"]
    assert (ranking[0].only_int8, ranking[0].only_fp32) == (32.0, 33.0)


@pytest.mark.parametrize(("db", "kept"), [(37.5, "b"), (42.0, "bd"), (43.5, "bdc")])
def test_as_few_layers_as_possible_stay_fp32(db, kept):
    maker = Maker()
    assert found(maker, db) >= db
    assert [d.node for d in maker.decisions if d.action == "kept"] == list(kept)


def test_cheap_layers_go_back_to_fp32_before_dear_ones_that_give_no_more():
    maker = Maker()
    maker.macs = {"a": 1, "b": 1000, "c": 1, "d": 1}
    assert [entry.layer for entry in sensitivity(maker, lambda value: Score(value))] == ["d", "c", "b", "a"]
    assert found(maker, 35.5) >= 35.5
    assert [d.node for d in maker.decisions if d.action == "kept"] == ["d", "c"]


def test_layers_after_the_time_budget_are_not_measured(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(search_module.time, "monotonic", lambda: float(next(ticks)))
    measured = sensitivity(Maker(), lambda value: Score(value), deadline=1.5)
    assert [entry.layer for entry in measured] == ["b", "a"]


def test_layers_are_measured_on_the_few_samples_and_attempts_on_all():
    maker, calls = Maker(), {"all": 0, "few": 0}

    def measure(kind):
        def score(value):
            calls[kind] += 1
            return Score(value)

        return score

    search(maker, Goal(min_sqnr=37.5), measure("all"), measure("few"))
    assert calls == {"all": len(maker.calls), "few": 8}


def test_the_record_tells_the_goal_every_attempt_the_layers_and_the_end():
    maker = Maker()
    record = search(maker, Goal(min_sqnr=37.5), lambda value: Score(value, 0.9, 1.0)).record
    assert (record["goal"], record["reached"], record["kept_fp32"]) == ({"min_sqnr": 37.5}, True, ["b"])
    assert [(a["effort"], a["fp32_layers"], a["reached"]) for a in record["tried"]] == [
        ("balanced", 0, False), ("best", 0, False), ("balanced", 1, True)]  # fmt: skip
    assert record["tried"][0] | {"sqnr_db": 30.0, "agreement": 0.9, "drop": 1.0} == record["tried"][0]
    assert record["sensitivity"][0] == {"layer": "b", "only_int8_db": 32.0, "only_fp32_db": 33.0, "macs": 100}
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize(
    ("goal", "nearer", "farther"),
    [
        (Goal(max_drop=0.3), Score(20.0, 0.9, 0.4), Score(25.0, 0.99, 0.6)),
        (Goal(max_drop=0.3), Score(20.0, 0.9, 0.1), Score(19.0, 0.99, 0.2)),
        (Goal(min_agreement=0.99), Score(20.0, 0.98), Score(25.0, 0.97)),
        (Goal(min_sqnr=30.0), Score(20.0, 0.8), Score(19.0, 0.9)),
    ],
)
def test_of_models_that_miss_the_goal_the_nearest_by_what_was_asked_for_counts(goal, nearer, farther):
    assert nearness(goal, nearer) > nearness(goal, farther)


def test_a_goal_of_top_1_without_labels_is_refused():
    proto = model(NETWORK, WEIGHTS, outputs="float[N,10] y")
    with pytest.raises(UsageError, match="max_drop needs labels"):
        pipeline.quantize(proto, DATA, config=QuantConfig(effort="fast", goal=Goal(max_drop=0.5)))


def test_a_goal_out_of_reach_gives_the_nearest_model_and_says_so():
    maker = Maker()
    assert found(maker, 99.0) == 44.0
    assert maker.decisions[-1].action == "missed"
    assert max(len(keep) for _, keep in maker.calls) == 3


def test_after_the_time_budget_nothing_new_is_started(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(search_module.time, "monotonic", lambda: float(next(ticks)))
    maker = Maker(effort="fast", time_budget=0.5)
    assert found(maker, 99.0) == 25.0
    assert len(maker.calls) == 1


def test_everything_tried_is_reported_with_its_score():
    maker = Maker(effort="balanced")
    found(maker, 37.0)
    tried = [d.detail for d in maker.decisions if d.action == "tried"]
    assert tried[:2] == ["effort balanced: 30.00 dB", "effort best: 31.00 dB"]
    assert len(tried) == len(maker.calls)


@pytest.mark.parametrize(
    ("goal", "score", "reached"),
    [
        (Goal(max_drop=0.5), Score(20.0, 0.99, 100 * (0.896 - 0.891)), True),
        (Goal(max_drop=0.5), Score(20.0, 0.99, 0.6), False),
        (Goal(max_drop=0.5), Score(20.0, 0.99), False),
        (Goal(min_agreement=0.99), Score(20.0, 0.99), True),
        (Goal(min_agreement=0.99), Score(20.0), False),
        (Goal(min_sqnr=20.0, min_agreement=1.0), Score(20.0, 0.99), False),
        (Goal(), Score(-5.0), True),
    ],
)
def test_goals_are_judged_by_what_was_measured(goal, score, reached):
    assert goal.reached(score) is reached


def test_layers_stay_fp32_on_a_real_network_until_the_goal_holds():
    proto = model(NETWORK, WEIGHTS, outputs="float[N,10] y")
    plain = fidelity(proto, pipeline.quantize(proto, DATA).model, DATA)
    result = pipeline.quantize(proto, DATA, config=QuantConfig(goal=Goal(min_sqnr=plain + 0.5)))
    kept = [d.node for d in result.decisions if d.detail.startswith("stays FP32: the accuracy goal")]
    assert 1 <= len(kept) <= len(EFFORTS)
    record = json.loads(result.model.metadata_props["quantkit.goal"])
    assert record["reached"]
    assert record["kept_fp32"] == kept
    macs = {entry["layer"]: entry["macs"] for entry in record["sensitivity"]}
    assert sorted(macs.values()) == [80, 8 * 8 * 8 * 8, 8 * 8 * 8 * 9, 8 * 8 * 8 * 27]
    assert fidelity(proto, result.model, DATA) >= plain + 0.5
    assert not {node.name for node in result.model.graph if node.domain == "quantkit"} & set(kept)
