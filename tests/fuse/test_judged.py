"""Where errors are measured: the scores that a Softmax reads are found behind whatever moves its probabilities."""

from __future__ import annotations

import numpy as np
import pytest

import quantkit
from quantkit import pipeline
from quantkit.execute.intermediate import expose
from quantkit.fuse.judged import Logits, centred, judged_tensors, logits_of, thinned
from tests.execute.test_trial import FAST
from tests.graphs import fused, image, model

IMAGE = {"inputs": "float[1,3,8,8] x", "outputs": "float[N,M] y"}
MAP = {"inputs": "float[1,3,8,8] x", "outputs": "float[N,M,K] y"}
CONV = {"w": (4, 3, 3, 3)}


def scored(body: str, **io: str) -> dict[str, Logits]:
    return logits_of(fused(model(body, CONV, **io)).graph, ["y", "absent"])


def test_logits_of_a_classifier_are_what_its_softmax_reads():
    proto = model("c = Conv(x, w) g = GlobalAveragePool(c) f = Flatten(g) y = Softmax(f)", CONV, **IMAGE)
    assert logits_of(fused(proto).graph, ["y"]) == {"y": Logits("f", 1)}


@pytest.mark.parametrize(("axis", "found"), [(1, 1), (-1, 3), (-3, 1)])
def test_the_axis_of_logits_is_that_of_the_softmax_counted_from_the_front(axis, found):
    moved = "t = Transpose<perm = [0, 2, 3, 1]>(s) y = Flatten<axis = 3>(t)"
    assert scored(f"c = Conv(x, w) s = Softmax<axis = {axis}>(c) {moved}", **IMAGE) == {"y": Logits("c", found)}


def test_logits_before_a_softmax_of_opset_11_are_found_after_its_conversion():
    proto = model("c = Conv(x, w) s = Softmax<axis = 1>(c) y = Squeeze<axes = [0]>(s)", CONV, **MAP, opset=11)
    graph = fused(proto).graph
    found = logits_of(graph, ["y"])["y"]
    assert found.axis == 1
    assert next(node.op_type for node in graph if node.outputs[0].name == found.name) == "Flatten"


@pytest.mark.parametrize("last", ["y = Sigmoid(c)", "s = Softmax(c) y = Add(s, c)", "y = Relu(c)"])
def test_outputs_that_no_softmax_makes_have_no_logits(last):
    assert scored(f"c = Conv(x, w) {last}", **{**IMAGE, "outputs": "float[N,M,H,W] y"}) == {}


def test_a_constant_added_to_all_logits_of_a_row_is_no_error():
    scores = image(2, 5, 7)
    assert np.abs(centred(scores + image(2, 1, 7, seed=2), 1) - centred(scores, 1)).max() < 1e-5
    assert np.abs(centred(scores, 1).mean(axis=1)).max() < 1e-6


def test_masked_classes_do_not_spoil_the_mean_of_the_others():
    scores = image(2, 5, 7)
    scores[:, 2] = -np.inf
    found = centred(scores, 1)
    assert np.isneginf(found[:, 2]).all()
    assert np.abs(np.delete(found, 2, 1).mean(axis=1)).max() < 1e-6


def test_logits_that_only_u8_stands_for_are_exposed_by_the_name_they_have_in_fp32():
    body = "c = Conv(x, w) s = Softmax<axis = 1>(c) d = Conv(s, v) y = Relu(d)"
    proto = model(body, {**CONV, "v": (4, 4, 1, 1)}, inputs="float[1,3,8,8] x")
    x = {"x": image(1, 3, 8, 8)}
    int8 = pipeline.quantize(proto, [x], config=FAST).model
    names = {value.name for node in int8.graph for value in node.outputs}
    assert "c_quantized" in names
    assert "c" not in names
    (found,) = quantkit.Session(expose(int8, ["c"])).run(["c"], x)
    wanted = quantkit.Session(proto).run_intermediate(["c"], x)["c"]
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("peaks", "found"),
    [
        ("m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(s) r = Reshape(m, d) q = Reshape(s, d)", ["s", "m"]),
        ("m = Sigmoid(s) r = Reshape(m, d) q = Reshape(s, d)", ["y"]),
        ("m = ReduceMax(s) r = Reshape(m, d) q = Constant<value = float {0}>()", ["y"]),
    ],
)
def test_a_map_of_which_only_the_peaks_are_kept_is_judged_before_they_are_chosen(peaks, found):
    body = f"c = Conv(x, w) s = Sigmoid(c) {peaks} e = Equal(q, r) k = Cast<to = 1>(e) y = Mul(q, k)"
    proto = model(body, {**CONV, "d": np.array([1, -1])}, **{**IMAGE, "outputs": "float[N,M] y"})
    tensors = judged_tensors(fused(proto).graph)
    assert ("y" in tensors) == (found == ["y"])
    assert len(tensors) == len(found)


def test_large_maps_are_judged_by_every_third_position_and_small_tensors_whole():
    maps = np.arange(2 * 5 * 90 * 300, dtype=np.float32).reshape(2, 5, 90, 300)
    found = thinned(maps, most=2 * 5 * 90 * 34)
    assert found.shape == (2, 5, 90, 34)
    np.testing.assert_array_equal(found, maps[..., ::9])
    assert thinned(maps, most=maps.size) is maps
    assert thinned(maps, most=1).shape == (2, 5, 30, 12)  # axes of 32 and fewer stay
    assert thinned(maps[0, 0], most=1).shape == (90, 12)  # the batch stays whole
    assert thinned(maps.astype(np.int64), most=1).shape == maps.shape
    assert thinned(["a sequence"], most=0) == ["a sequence"]
