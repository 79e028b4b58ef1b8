"""Outputs that cannot leave -1..1: small errors in silence are none, lost and false peaks are, doubt is no class."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import quantkit
from quantkit import pipeline
from quantkit.execute.repair import POOR_BOUNDED
from quantkit.execute.verify import LEAST_SQNR_DB, complaint, distances, mean_db, too_far, worst_db
from quantkit.fuse.judged import PROBABILITIES, VALUES, bounded_tensors
from tests.execute.test_trial import FAST
from tests.graphs import CONV, fused, model

MASK = {"y": VALUES}
CLASSES = {"y": PROBABILITIES}


def judged(wanted: np.ndarray, got: np.ndarray, bounds: dict[str, str], by_slice: bool = False) -> float:
    return worst_db({"y": wanted}, {"y": got}, bounds=bounds, by_slice=by_slice)


def silent(seed: int = 0) -> np.ndarray:
    """A mask [1, 1, 64, 64] in which nothing is found: 1e-5 and less."""
    return (10.0 ** np.random.default_rng(seed).uniform(-7, -5, (1, 1, 64, 64))).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("by_slice", [False, True])
def test_a_mask_without_anything_in_it_may_be_silent_in_another_way(by_slice):
    assert judged(silent(), 40 * silent(1), MASK, by_slice) > POOR_BOUNDED.below
    assert judged(silent(), 40 * silent(1), {}, by_slice) < 0
    assert complaint({"y": silent()}, {"y": 40 * silent(1)}, MASK) == ""


@pytest.mark.parametrize("by_slice", [False, True])
def test_peaks_that_are_lost_or_false_are_errors(by_slice):
    peaks = silent()
    peaks[0, 0, 30:33, 20:24] = 0.9
    for wanted, got in ((peaks, silent()), (silent(), peaks)):
        assert judged(wanted, got, MASK, by_slice) < LEAST_SQNR_DB
        assert "dB from FP32" in complaint({"y": wanted}, {"y": got}, MASK)


def test_peaks_that_are_found_again_are_near():
    peaks, others = silent(), 40 * silent(1)
    peaks[0, 0, 30:33, 20:24], others[0, 0, 30:33, 20:24] = 0.9, 0.85
    assert judged(peaks, others, MASK) > 20


def test_faint_scores_are_held_to_their_own_size():
    scores = (0.1 * np.random.default_rng(2).random((1, 1, 64, 64)) ** 4).astype(np.float32)
    got = scores + 0.009 * np.where(np.random.default_rng(3).random(scores.shape) < 0.5, -1, 1).astype(np.float32)
    assert judged(scores, got, MASK) < 15
    assert judged(10 * scores, 10 * scores + (got - scores), MASK) == float("inf")


def test_a_wrong_class_counts_where_fp32_is_sure_and_less_where_it_hesitates():
    logits = np.zeros((1, 20, 32), np.float32)
    logits[0, np.arange(20), np.arange(20)] = 8.0
    sure, doubtful = logits.copy(), logits.copy()
    doubtful[0, 3, 17] = 7.9  # FP32 itself can hardly tell 3 from 17
    wrong = logits.copy()
    wrong[0, 3, [3, 17]] = 0.0, 8.0
    lost = judged(softmax(sure), softmax(wrong), CLASSES)
    assert lost < 13.1  # 2 of 40 squares
    assert judged(softmax(doubtful), softmax(wrong), CLASSES) > lost + 10


def test_a_two_class_answer_near_a_half_may_move_by_a_few_percent():
    wanted, got = (np.array([[p, 1 - p]], np.float32) for p in (0.53, 0.566))
    assert judged(wanted, got, CLASSES) > POOR_BOUNDED.below
    assert judged(wanted, got, {}) < 0
    turned = np.array([[0.1, 0.9]], np.float32)
    assert judged(turned[:, ::-1], turned, CLASSES) < 0


def test_classes_of_a_network_that_gives_every_input_another_one_are_broken():
    rng = np.random.default_rng(3)
    wanted, got = (softmax(4 * rng.normal(size=(1, 40, 100))) for _ in range(2))
    assert judged(wanted, got, CLASSES) < POOR_BOUNDED.below


def test_samples_are_taken_together_and_one_without_any_signal_is_too_much_for_the_search():
    assert mean_db([20.0, 20.0]) == pytest.approx(20.0)
    assert mean_db([float("inf")] * 8) == float("inf")
    assert mean_db([*[30.0] * 7, 0.0]) < POOR_BOUNDED.below
    assert mean_db([*[20.0] * 7, 8.0]) > 14
    near, far = {"y": 30.0}, {"y": 5.0}
    assert too_far([near, far]) == ""
    assert "5.0 dB" in too_far([far, far])


def test_outputs_without_a_float_have_no_distance():
    assert distances({"n": np.arange(3)}, {"n": np.arange(3)}) == {}
    assert too_far([{}, {}]) == ""


BOUNDS = {
    "a sigmoid": ("y = Sigmoid(c)", VALUES),
    "a sigmoid behind a reshape": ("s = Sigmoid(c) y = Flatten(s)", VALUES),
    "a softmax turned around": ("s = Softmax<axis=1>(c) y = Transpose<perm=[0,2,3,1]>(s)", PROBABILITIES),
    "scores times scores": ("s = Sigmoid(c) t = Softmax<axis=1>(c) y = Mul(s, t)", VALUES),
    "a clip to 1": ("y = Clip(c, zero, one)", VALUES),
    "a clip to 6": ("y = Clip(c, zero, six)", None),
    "scores beside boxes": ("s = Sigmoid(c) y = Concat<axis=1>(s, c)", None),
    "scores times anything": ("s = Sigmoid(c) y = Mul(s, c)", None),
    "a convolution": ("y = Identity(c)", None),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_what_is_bounded_is_seen_from_the_graph(case):
    tail, kind = BOUNDS[case]
    numbers = {"zero": np.float32(0), "one": np.float32(1), "six": np.float32(6)}
    used = {key: np.array(value) for key, value in numbers.items() if f"{key})" in tail or f"{key}," in tail}
    proto = model(f"c = Conv<{CONV}>(x, w) {tail}", {"w": (3, 3, 3, 3), **used})
    graph = fused(proto).graph
    name = graph.outputs[0].name
    assert bounded_tensors(graph, [name]) == ({} if kind is None else {name: kind})


def test_a_detector_calibrated_on_noise_that_it_finds_nothing_in_is_quantized():
    rng = np.random.default_rng(2)
    weights = {f"w{i}": (rng.normal(size=s) * 0.2).astype(np.float32)
               for i, s in enumerate([(16, 3, 3, 3), (16, 16, 3, 3), (1, 16, 1, 1)])}  # fmt: skip
    weights["b2"] = np.array([-14.0], np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2"),
        helper.make_node("Sigmoid", ["c2"], ["y"]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net", [tensor("x", onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [tensor("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = [{"x": rng.uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
    assert quantkit.Session(proto).run(None, data[0])[0].max() < 0.01
    result = pipeline.quantize(proto, data, config=FAST)
    assert {node.name for node in result.model.graph if node.domain == "quantkit"} == {"conv0", "conv1", "conv2"}


def test_a_clip_whose_bounds_are_computed_says_nothing_of_its_output():
    proto = model("low = ReduceMin<keepdims=0>(x) y = Clip(x, low)", {}, outputs="float[N,3,8,8] y")
    assert bounded_tensors(fused(proto).graph, ["y"]) == {}
