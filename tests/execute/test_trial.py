"""The trial on one sample: what cannot run, ruins the outputs or does not pay stays in FP32, and is named."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import quantkit
from quantkit import pipeline
from quantkit.execute import trial
from quantkit.execute.gain import Choice
from quantkit.execute.verify import complaint, sqnr_db
from quantkit.quantize.select import select
from quantkit.types import QuantConfig

FAST = QuantConfig(method="minmax", effort="fast")


def small_net(convs: int = 6) -> onnx.ModelProto:
    """Conv + Relu chains with seeded weights: input x [1, 8, 24, 24]."""
    rng = np.random.default_rng(5)
    nodes, weights, last = [], [], "x"
    for i in range(convs):
        w = (rng.normal(size=(8, 8, 3, 3)) * 0.15).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        last = f"r{i}"
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 24, 24])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def judged(db: float) -> SimpleNamespace:
    """What a judge says of a model whose worst output is at `db`."""
    return SimpleNamespace(db=db)


def sample(seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(1, 8, 24, 24)).astype(np.float32)}


def test_a_node_whose_lowering_raises_is_found_and_kept_while_the_others_are_quantized(monkeypatch):
    from quantkit.lower import weighted
    from quantkit.lower.regions import LOWERINGS

    def broken(context, node, name):
        if node.name == "conv3":
            raise AssertionError("no such tile")
        weighted.lower_weighted(context, node, name)

    monkeypatch.setitem(LOWERINGS, "Conv", broken)
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    assert result.kind == "calibrated"
    kept = [d for d in result.decisions if d.action == "kept" and d.node == "conv3"]
    assert "no such tile" in kept[0].detail
    quantized = {node.name for node in result.model.graph if node.domain == "quantkit"}
    assert quantized == {"conv0", "conv1", "conv2", "conv4", "conv5"}


def test_a_node_that_ruins_the_output_is_found_by_its_error(monkeypatch):
    spoil = trial.all_weights

    def spoiled(*args):
        found = spoil(*args)
        zeros = {n: replace(w, values=np.zeros_like(w.values)) for n, w in found.items() if n.name == "conv1"}
        return {**found, **zeros}

    monkeypatch.setattr(trial, "all_weights", spoiled)
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    kept = [d for d in result.decisions if d.node == "conv1" and "dB from FP32" in d.detail]
    assert kept
    assert len([node for node in result.model.graph if node.domain == "quantkit"]) == 5


@pytest.fixture
def ruined(monkeypatch):
    """All weights of trials are 127, so that every one is far from FP32."""
    rounded = trial.all_weights

    def largest(*args):
        return {node: replace(made, values=np.full_like(made.values, 127)) for node, made in rounded(*args).items()}

    monkeypatch.setattr(trial, "all_weights", largest)


def test_a_trial_that_is_far_off_on_two_samples_is_not_run_on_the_others(ruined, monkeypatch):
    looked, misfit = [], trial.misfit
    monkeypatch.setattr(trial, "misfit", lambda *args: looked.append(1) or misfit(*args))
    fused = pipeline.fused_model(small_net(2))[0]
    found = trial.run_trial(fused, select(fused), [sample(seed) for seed in range(6)], FAST)
    assert set(found.keep) == {"conv0", "conv1"}
    assert len(looked) == 3 * trial.SURE_SAMPLES  # both, then each alone


@pytest.mark.parametrize("loses", [True, False])
def test_what_makes_a_dear_model_poor_is_searched_unless_int8_is_surely_slower(ruined, monkeypatch, loses):
    def measured(fused, original, quantized, names, samples, threads):
        return Choice(frozenset(), dict.fromkeys(names, "slower"), "0.5 times", loses=loses)

    monkeypatch.setenv(trial.KEEP_VARIABLE, "0")
    monkeypatch.setattr(trial, "DEAR_SECONDS", 0.0)
    monkeypatch.setattr(trial, "fastest_part", measured)
    fused = pipeline.fused_model(small_net(4))[0]
    found = trial.run_trial(fused, select(fused), [sample()], FAST)
    assert set(found.keep) == {f"conv{i}" for i in range(4)}
    assert (set(found.keep.values()) == {"slower"}) == loses
    assert found.timing == ("0.5 times" if loses else "")
    kept = trial.run_trial(fused, select(fused), [sample()], replace(FAST, keep_int8=True))
    assert "slower" not in kept.keep.values()


def test_a_model_that_calibration_breaks_comes_out_in_fp32_with_the_reason(monkeypatch):
    from quantkit.quantize import calibration

    good = calibration.all_weights
    inside_trial = trial.all_weights
    assert inside_trial is good

    def zeros(*args):
        return {node: replace(made, values=np.zeros_like(made.values)) for node, made in good(*args).items()}

    monkeypatch.setattr(calibration, "all_weights", zeros)
    result = pipeline.quantize(small_net(), [sample()], config=FAST)
    assert result.kind == "fp32"
    assert "not usable" in result.decisions[-1].detail
    wanted = quantkit.Session(small_net()).run(None, sample())[0]
    assert np.array_equal(quantkit.Session(result.model).run(None, sample())[0], wanted)


def test_infinite_masks_do_not_stop_the_rest():
    model = small_net(2)
    mask = np.where(np.eye(24) > 0, 0.0, -np.inf).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    model.graph.node.append(helper.make_node("Add", ["r1", "mask"], ["masked"], name="mask_scores"))
    model.graph.node.append(helper.make_node("Softmax", ["masked"], ["y"], axis=-1, name="soft"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    result = pipeline.quantize(model, [sample()], config=FAST)
    assert result.kind == "calibrated"
    assert np.isfinite(quantkit.Session(result.model).run(None, sample())[0]).all()


def test_a_one_shot_generator_still_gives_all_its_samples():
    result = pipeline.quantize(small_net(2), (sample() for _ in range(5)), config=FAST)
    assert result.model.metadata_props["quantkit.calibration.samples"] == "5"


def test_samples_of_other_shapes_are_tried_too():
    model = small_net(2)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, "h", "w"]))
    rng = np.random.default_rng(2)
    data = [{"x": rng.normal(size=(1, 8, side, side)).astype(np.float32)} for side in (8, 8, 12, 16, 20)]
    stream, samples = trial.first_samples(pipeline.fused_model(model)[0], iter(data), {})
    assert [feeds["x"].shape[2] for feeds in samples] == [8, 8, 12, 16, 20]
    assert len(list(stream)) == 5
    assert pipeline.quantize(model, data, config=FAST).kind == "calibrated"


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (np.full(4, np.nan, np.float32), "NaN"),
        (np.zeros(4, np.float32), "dB from FP32"),
        (np.zeros(3, np.float32), "shape"),
        (np.ones(4, np.float32), ""),
    ],
)
def test_complaints_say_what_is_wrong_with_an_output(got, words):
    found = complaint({"y": np.ones(4, np.float32)}, {"y": got})
    assert words in found
    assert bool(found) == bool(words)


def test_sqnr_of_a_tenth_of_noise_is_twenty_decibels():
    y = np.ones(100, np.float32)
    assert sqnr_db(y, y + np.float32(0.1)) == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize("nearer", ["extremes", "means"])
def test_the_trial_quantizes_by_all_extremes_or_by_their_means_whichever_is_nearer(nearer):
    fused, _ = pipeline.fused_model(small_net(2))
    x = sample()["x"]
    search = trial._Search(fused, select(fused), [{"x": x}, {"x": 3 * x}], FAST, 1, None)
    search._observe()
    assert search.ranges["x"].high == pytest.approx(3 * float(x.max()))
    distances = iter([judged(20.0), judged(15.0 if nearer == "extremes" else 22.0)])
    search._take_nearer_ranges([node.name or "" for node in search.selection.forms], lambda model: next(distances))
    times = 3 if nearer == "extremes" else 2
    assert search.ranges["x"].high == pytest.approx(times * float(x.max()))
    assert search.ranges["x"].low == pytest.approx(times * float(x.min()))


@pytest.mark.parametrize("reached", [True, False])
def test_ranges_that_clip_what_is_rare_are_taken_where_nothing_need_be_given_up_with_them(reached):
    fused, _ = pipeline.fused_model(small_net(2))
    x = sample()["x"]
    x[0, 0, 0, 0] = 400.0
    search = trial._Search(fused, select(fused), [{"x": x}], FAST, 1, None)
    search._observe()
    distances = iter([judged(9.0), judged(17.0 if reached else 15.0)])
    search._take_clipped_ranges([n.name or "" for n in search.selection.forms], lambda model: next(distances), 16.0)
    assert (search.ranges["x"].high < 399.0) == reached


def test_the_search_for_ranges_that_clip_leaves_constants_as_they_are():
    net = small_net(2)
    net.graph.node.append(helper.make_node("Concat", ["token", net.graph.output[0].name], ["joined"], axis=1))
    net.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 24, 24), 2.0, np.float32), "token"))
    net.graph.output[0].CopyFrom(helper.make_tensor_value_info("joined", TensorProto.FLOAT, None))
    fused, _ = pipeline.fused_model(net)
    search = trial._Search(fused, select(fused), [sample()], FAST, 1, None)
    search._observe()
    before = search.ranges["token"]
    search._take_clipped_ranges([n.name or "" for n in search.selection.forms], lambda model: judged(99.0), 16.0)
    assert search.ranges["token"] == before


def test_the_ranges_stay_where_clipped_ones_cannot_be_tried():
    fused, _ = pipeline.fused_model(small_net(2))
    search = trial._Search(fused, select(fused), [sample()], FAST, 1, None)
    search._observe()
    before = search.ranges
    with pytest.raises(StopIteration):
        search._take_clipped_ranges(["conv0"], lambda m: next(iter(())), 16.0)
    assert search.ranges is before


def test_a_search_for_clipping_ranges_that_fails_is_noted_and_ends_nothing(monkeypatch):
    def fail(*args, **options):
        raise ValueError("no statistics")

    monkeypatch.setattr(trial, "observe", fail)
    monkeypatch.setattr(trial, "POOR", replace(trial.POOR, below=1e9))
    fused, _ = pipeline.fused_model(small_net(2))
    found = trial.run_trial(fused, select(fused), [sample()], FAST, 1)
    assert found.undone == {"search for ranges that clip": "ValueError: no statistics"}


def test_where_fp32_takes_seconds_a_sample_few_of_them_are_looked_at(monkeypatch):
    fused, _ = pipeline.fused_model(small_net(2))
    samples = [sample(seed) for seed in range(5)]
    assert len(trial.run_trial(fused, select(fused), samples, FAST, 1).samples) == 5
    monkeypatch.setattr(trial, "SAMPLES_SECONDS", -1.0)
    found = trial.run_trial(fused, select(fused), samples, FAST, 1)
    assert len(found.samples) == len(found.reference) == trial.SAMPLES_LEAST
    assert not found.undone


def test_nodes_that_stay_in_fp32_are_named_in_the_order_of_the_graph(monkeypatch):
    def chosen(fused, original, quantized, names, samples, threads):
        return Choice(frozenset(), dict.fromkeys(reversed(names), "slower"), "0.5 times")

    monkeypatch.setenv(trial.KEEP_VARIABLE, "0")
    monkeypatch.setattr(trial, "fastest_part", chosen)
    fused, _ = pipeline.fused_model(small_net(4))
    found = trial.run_trial(fused, select(fused), [sample()], FAST, 1)
    assert list(found.keep) == [f"conv{i}" for i in range(4)]
