"""Whether INT8 pays: measured ratios decide, region by region; the tests give the times, so no clock is asked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantkit
from quantkit import pipeline
from quantkit.execute import borders, gain
from quantkit.execute.borders import RegionCost, region_costs
from quantkit.execute.placement import native_share
from quantkit.execute.timing import ratio_interval
from quantkit.types import QuantConfig
from tests.execute.test_trial import FAST, sample, small_net
from tests.graphs import image
from tests.graphs import model as build


@pytest.fixture
def timed(monkeypatch):
    """timed(ratio): from now on INT8 is `ratio` times as fast as FP32's 10 ms, without noise."""
    monkeypatch.delenv("QUANTKIT_KEEP_INT8", raising=False)
    monkeypatch.setattr(gain, "_on_threads", lambda *_: None)

    def fix(low: float, median: float | None = None, high: float | None = None, seconds: float = 0.01) -> None:
        found = gain.Ratio(low, median or low, high or median or low, seconds)
        monkeypatch.setattr(gain, "_against", lambda *_: found)

    return fix


def two_regions() -> onnx.ModelProto:
    """Four convolutions with a float-only op between the second and the third."""
    model = small_net(4)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    between = helper.make_node("Mod", ["r1", "mod"], ["between"], name="mod", fmod=1)
    nodes[4].input[0] = "between"
    model.graph.node.extend([*nodes[:4], between, *nodes[4:]])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(100.0), "mod"))
    return model


def test_a_model_that_is_slower_in_int8_comes_out_in_fp32_and_says_by_how_much(timed):
    timed(0.8, 0.9, 0.95)
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    assert result.kind == "fp32"
    assert "nothing to gain from INT8: INT8 runs 0.90 times (0.80 to 0.95) as fast" in result.decisions[-1].detail
    assert not any(node.domain == "quantkit" for node in result.model.graph)


def test_a_model_that_gains_is_quantized_and_the_gain_is_recorded(timed):
    timed(1.9, 2.0, 2.1)
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    assert result.kind == "calibrated"
    measured = [d.detail for d in result.decisions if d.action == "measured"]
    assert "2.00 times (1.90 to 2.10) as fast as FP32's 10 ms on one thread" in measured[0]


@pytest.mark.parametrize(
    ("ratio", "pays"),
    [
        (gain.Ratio(1.05, 1.10, 1.15, 0.01), True),
        (gain.Ratio(0.95, 1.10, 1.25, 0.01), False),  # may as well be slower
        (gain.Ratio(1.01, 1.04, 1.06, 0.01), False),  # too little
        (gain.Ratio(0.99, 1.00, 1.01, 5e-6), True),  # 0.3 us: the price of a call
        (gain.Ratio(0.92, 0.94, 0.96, 20e-6), False),  # 2 us of 20
        (gain.Ratio(0.70, 0.75, 0.80, 60e-6), False),  # 20 us of 60
    ],
)
def test_int8_pays_where_it_is_clearly_not_slower_and_gains_enough(ratio, pays):
    assert ratio.pays() is pays


@pytest.mark.parametrize(
    ("ratio", "pays"),
    [
        (gain.Ratio(1.06, 1.10, 1.15, 0.01), True),
        (gain.Ratio(1.03, 1.10, 1.15, 0.01), False),  # by chance, more likely than not
        (gain.Ratio(0.99, 1.00, 1.01, 5e-6), False),
    ],
)
def test_a_small_share_of_the_multiply_adds_must_gain_beyond_doubt(ratio, pays):
    assert ratio.pays(share=0.03) is pays
    assert gain.Ratio(1.03, 1.10, 1.15, 0.01).pays(share=0.3)


def test_keep_int8_asks_no_clock(timed, monkeypatch):
    timed(0.5)
    assert pipeline.quantize(small_net(), [sample()], config=FAST).kind == "fp32"
    keeping = QuantConfig(method="minmax", effort="fast", keep_int8=True)
    assert pipeline.quantize(small_net(), [sample()], config=keeping).kind == "calibrated"
    monkeypatch.setenv("QUANTKIT_KEEP_INT8", "1")
    assert pipeline.quantize(small_net(), [sample()], config=FAST).kind == "calibrated"


def test_the_slowest_of_the_input_shapes_decides(monkeypatch):
    monkeypatch.delenv("QUANTKIT_KEEP_INT8", raising=False)
    monkeypatch.setattr(gain, "_on_threads", lambda *_: None)
    by_side = {8: gain.Ratio(2.0, 2.0, 2.0, 0.01), 16: gain.Ratio(0.8, 0.8, 0.8, 0.01)}
    monkeypatch.setattr(gain, "_against", lambda reference, model, feeds: by_side[feeds["x"].shape[2]])
    model = small_net(2)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, "h", "w"]))
    data = [{"x": np.ones((1, 8, side, side), np.float32)} for side in (8, 16)]
    result = pipeline.quantize(model, data, config=FAST)
    assert result.kind == "fp32"
    assert "on another shape" in result.decisions[-1].detail
    assert pipeline.quantize(model, data[:1], config=FAST).kind == "calibrated"


def test_the_graph_before_folding_comes_out_where_folding_gained_nothing(timed, monkeypatch):
    timed(0.9)
    monkeypatch.setattr(gain, "_against_float", lambda *_: gain.Ratio(0.9, 1.0, 1.1, 0.01))
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    assert result.kind == "fp32"
    assert [node.name for node in result.model.graph] == [node.name for node in small_net().graph.node]


def test_regions_that_lose_are_given_up_and_the_others_stay(timed, monkeypatch):
    timed(2.0)
    real = gain.region_costs

    def first_loses(*args):
        first, second = real(*args)
        lost, won = RegionCost(first.names, 2e-3, 1e-3, 10), RegionCost(second.names, 1e-3, 3e-3, 10)
        return [lost, won]

    monkeypatch.setattr(gain, "region_costs", first_loses)
    monkeypatch.setattr(gain, "interleave", lambda runs, **_: np.tile([[2.0, *[1.0] * (len(runs) - 1)]], (9, 1)))
    result = pipeline.quantize(two_regions(), [sample()], config=FAST)
    quantized = {node.name for node in result.model.graph if node.domain == "quantkit"}
    assert quantized == {"conv2", "conv3"}
    kept = {d.node: d.detail for d in result.decisions if d.node in ("conv0", "conv1")}
    assert "takes 2 ms in INT8, borders included, and 1 ms in FP32" in kept["conv0"]


def test_the_cost_of_each_region_is_measured_beside_the_same_nodes_in_fp32():
    fused, _ = pipeline.fused_model(two_regions())
    session = quantkit.Session(pipeline.quantize(two_regions(), [sample()], config=FAST).model, threads=1)
    costs = region_costs(session, fused, {"conv0", "conv1", "conv2", "conv3"}, sample())
    assert [cost.names for cost in costs] == [{"conv0", "conv1"}, {"conv2", "conv3"}]
    assert all(cost.int8 > 0 and cost.macs == 2 * 8 * 8 * 9 * 24 * 24 for cost in costs)


def test_regions_of_large_inputs_are_open_one_after_the_other(monkeypatch):
    fused, _ = pipeline.fused_model(two_regions())
    session = quantkit.Session(pipeline.quantize(two_regions(), [sample()], config=FAST).model, threads=1)
    together, shortest = [], borders._shortest
    monkeypatch.setattr(borders, "_shortest", lambda runs: together.append(len(runs)) or shortest(runs))
    names = {"conv0", "conv1", "conv2", "conv3"}
    for limit, expected in ((1 << 28, [1, 2]), (1, [1, 1, 1])):  # the first is that of a call
        together.clear()
        monkeypatch.setattr(borders, "LARGE_INPUTS", limit)
        assert [cost.names for cost in region_costs(session, fused, names, sample())] == [
            {"conv0", "conv1"},
            {"conv2", "conv3"},
        ]
        assert together == expected


def test_the_interval_of_a_median_holds_its_share_and_ignores_outliers():
    rng = np.random.default_rng(0)
    draws = np.exp(rng.standard_cauchy(size=(2000, 41)).clip(-9, 9))
    inside = [low <= 1.0 <= high for low, _, high in map(ratio_interval, draws)]
    assert 0.93 < np.mean(inside) <= 0.99
    assert ratio_interval(np.array([1.2])) == (1.2, 1.2, 1.2)


UNCLEAR, TWICE = np.column_stack([np.tile([0.5, 2.0], 4), np.ones(8)]), np.tile([[2.0, 1.0]], (8, 1))


def test_a_ratio_that_is_not_clear_is_measured_again_but_not_for_ever(monkeypatch):
    given, opened = [], []
    monkeypatch.setattr(gain, "interleave", lambda *_, **__: given.pop(0))

    def pair():
        opened.append(1)
        return lambda: None, lambda: None

    def measured(ratio, *times):
        given[:], opened[:] = times, []
        return ratio(), len(times) - len(given), len(opened)

    rounds = (1 + gain.EXTENSIONS) * [UNCLEAR]
    assert measured(lambda: gain.speed_ratio(*pair(), 1.0), *rounds, TWICE)[1] == len(rounds)
    found, used, sessions = measured(lambda: gain.reopened_ratio(pair, 1.0), *gain.OPENINGS * rounds, TWICE)
    assert (used, sessions) == (gain.OPENINGS * len(rounds), gain.OPENINGS)
    assert found.low < 1.0 < found.high
    found, used, sessions = measured(lambda: gain.reopened_ratio(pair, 1.0), TWICE, UNCLEAR)
    assert (found.median, used, sessions) == (2.0, 1, 1)
    found, used, sessions = measured(lambda: gain.reopened_ratio(pair, 1.0), *rounds, *8 * [TWICE])
    assert (used, sessions) == (len(rounds) + 2, 3)  # what was unclear counts on


@pytest.mark.parametrize(("switches", "counts"), [(0, True), (10_000, False)])
def test_threads_are_heard_only_where_nobody_took_their_cpus(switches, counts, monkeypatch):
    counter = iter([0, switches])
    monkeypatch.setattr(gain, "preemptions", lambda: next(counter))
    monkeypatch.setattr(gain, "interleave", lambda *_, **__: TWICE)
    fused, _ = pipeline.fused_model(small_net())
    quantized = pipeline.quantize(small_net(), [sample()], config=FAST).model
    found = gain._on_threads(gain.expand(fused), quantized, sample(), 2)
    assert (found is not None) is counts
    assert not counts or found.median == 2.0


def test_int8_that_is_slower_on_all_threads_stays_fp32_and_one_that_nobody_can_tell_does_not(timed, monkeypatch):
    timed(2.0)
    assert pipeline.quantize(small_net(), [sample()], config=FAST, threads=2).kind == "calibrated"
    monkeypatch.setattr(gain, "_on_threads", lambda *_: gain.Ratio(0.7, 0.8, 0.9, 0.01))
    result = pipeline.quantize(small_net(), [sample()], config=FAST, threads=2)
    assert result.kind == "fp32"
    assert "0.80 times (0.70 to 0.90) on 2" in result.decisions[-1].detail
    monkeypatch.setattr(gain, "_on_threads", lambda *_: gain.Ratio(0.7, 0.9, 1.1, 0.01))
    assert pipeline.quantize(small_net(), [sample()], config=FAST, threads=2).kind == "calibrated"


def test_one_small_region_of_a_recurrent_network_has_a_small_share_of_the_multiply_adds():
    body = "c = Conv<kernel_shape=[1]>(x, w) t = Transpose<perm=[2, 0, 1]>(c) y, h = GRU<hidden_size=32>(t, v, r)"
    weights = {"w": (8, 4, 1), "v": (1, 96, 8), "r": (1, 96, 32)}
    proto = build(body, weights, inputs="float[1,4,10] x", outputs="float[10,1,1,32] y, float[1,1,32] h")
    result = pipeline.quantize(proto, [{"x": image(1, 4, 10)}], config=FAST)
    assert result.kind == "calibrated"
    convolution, recurrent = 8 * 4 * 10, 10 * 96 * (8 + 32)
    assert native_share(result.model.graph) == pytest.approx(convolution / (convolution + recurrent))


def test_a_model_of_one_onnxruntime_step_refuses_wrong_feeds_as_clearly_as_any():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Mod", ["x", "x"], ["y"], fmod=1)], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        ), opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    session = quantkit.Session(model)
    assert session.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [0.0, 0.0]
    for feeds, words in (({"x": np.ones(3, np.float32)}, "shape"), ({"x": np.ones(2)}, "float64"), ({}, "missing")):
        with pytest.raises(quantkit.QuantkitError, match=words):
            session.run(None, feeds)


OVER = SimpleNamespace(is_over=True)


def test_a_ratio_that_takes_seconds_is_not_measured_again_however_unclear_it_is(monkeypatch):
    given, opened = [UNCLEAR, TWICE], []
    monkeypatch.setattr(gain, "interleave", lambda *_, **__: given.pop(0))
    monkeypatch.setattr(gain, "Deadline", lambda *_: OVER)
    found = gain.reopened_ratio(lambda: opened.append(1) or (lambda: None, lambda: None), 1.0)
    assert found.low < 1.0 < found.high
    assert (len(given), len(opened)) == (1, 1)


def test_other_shapes_are_not_timed_where_the_first_took_all_the_time(timed, monkeypatch):
    timed(2.0)
    monkeypatch.setattr(gain, "_best_part", lambda fused, quantized, names, feeds: (frozenset(names), {}))
    fused, _ = pipeline.fused_model(small_net())
    int8 = pipeline.quantize(small_net(), [sample()], config=FAST).model

    def shapes_timed() -> int:
        return gain.fastest_part(fused, None, lambda names: int8, ["conv0"], [sample()] * 3, 1).detail.count("times")

    assert shapes_timed() == 3
    monkeypatch.setattr(gain, "Deadline", lambda *_: OVER)
    assert shapes_timed() == 1


@pytest.mark.parametrize(("seconds", "parts"), [(0.001, 3749), (0.5, 6), (3.0, 1), (60.0, 1)])
def test_of_a_model_that_runs_for_seconds_few_parts_are_tried(seconds, parts, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gain, "cpu_clock", lambda: lambda: now[0])
    session = SimpleNamespace(run=lambda *_: now.__setitem__(0, now[0] + seconds))
    assert gain._parts_most(session, {}) == parts


def test_the_regions_of_a_model_that_runs_for_seconds_get_few_rounds(monkeypatch):
    ran = []
    runner = SimpleNamespace(run=lambda feeds: ran.append(1))
    borders._shortest([(runner, {})])
    assert len(ran) == borders.ROUNDS
    ran.clear()
    monkeypatch.setattr(borders, "Deadline", lambda *_: OVER)
    borders._shortest([(runner, {})])
    assert len(ran) == borders.ROUNDS_LEAST
