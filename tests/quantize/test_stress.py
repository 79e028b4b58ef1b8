"""Changed samples: what each family does, what stays, and that ranges and equalization hold on odd samples."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.fuse.expand import expand
from quantkit.observe import Batch, observe
from quantkit.quantize import choose
from quantkit.quantize.measure import Fidelity
from quantkit.quantize.stress import CONTRAST_POWER, FAMILIES, FLAT_LEAST, LEVEL_TIMES, mixed, stressed
from quantkit.types import QuantConfig
from tests.graphs import CONV, fused, model, run_onnxruntime, sqnr_db

POINT = "kernel_shape=[1,1]"


def fed(x, name="x"):
    return [({name: x[i : i + 1]}, 1) for i in range(len(x))]


def changed(x, family):
    return np.concatenate([feeds["x"] for feeds, _ in stressed(fed(x), family)])


def photos(count, seed):
    """float32 [count, 3, 8, 8] as photographs are: smooth, with levels and contrasts of their own, within [-2, 2]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3, 8, 8)).cumsum(axis=2).cumsum(axis=3)
    x = (x - x.mean(axis=(1, 2, 3), keepdims=True)) / x.std(axis=(1, 2, 3), keepdims=True)
    level, contrast = rng.normal(0.0, 0.5, size=(count, 1, 1, 1)), rng.uniform(0.5, 1.0, size=(count, 1, 1, 1))
    return np.clip(level + contrast * x, -2.0, 2.0).astype(np.float32)


def alike(count, seed):
    """float32 [count, 3, 8, 8], every sample of mean 0 and variance 1."""
    x = np.random.default_rng(seed).normal(size=(count, 3, 8, 8))
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    return (x / x.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_changed_samples_keep_shape_type_and_the_bounds_of_all_values(family):
    x = photos(12, seed=1)
    found = changed(x, family)
    assert (found.shape, found.dtype) == (x.shape, np.float32)
    assert found.min() >= x.min()
    assert found.max() <= x.max()
    assert np.abs(found - x).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_that_do_not_differ_in_level_and_contrast_stay_as_they_are(family):
    x = alike(6, seed=2)
    np.testing.assert_allclose(changed(x, family), x, atol=1e-4)


def test_means_move_away_from_the_mean_of_all_and_contrasts_from_the_typical_one():
    x = np.float32(0.01) * alike(2, seed=3)
    x[0] += 0.1
    x[1] *= 4.0
    x = np.concatenate([x, np.full((1, 3, 8, 8), 9.0, np.float32), np.full((1, 3, 8, 8), -9.0, np.float32)])
    own, mean = x.mean(axis=(1, 2, 3)), x.mean()
    moved = changed(x, "level")[:2].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(moved, mean + LEVEL_TIMES * (own - mean)[:2], atol=1e-5)
    contrast = changed(x, "contrast")[:2].std(axis=(1, 2, 3))
    assert contrast[1] / contrast[0] == pytest.approx(4.0 ** (1 + CONTRAST_POWER), rel=1e-3)
    flat = changed(x, "flat")[:2].std(axis=(1, 2, 3))
    np.testing.assert_allclose(flat, FLAT_LEAST * x[:2].std(axis=(1, 2, 3)), rtol=1e-3)


def test_tokens_features_and_masks_are_not_changed():
    rng = np.random.default_rng(4)
    tokens = rng.integers(0, 9, size=(4, 3, 8))
    features = rng.normal(size=(4, 8)).astype(np.float32)
    masks = (rng.normal(size=(4, 3, 8)) > 0).astype(np.float32)
    for x in (tokens, features, masks):
        assert stressed(fed(x), "flat") == []
    both = [({"x": photos(1, seed=5), "mask": masks[:1]}, 1)]
    feeds, _ = stressed(both, "flat")[0]
    assert feeds["mask"] is both[0][0]["mask"]
    assert not np.array_equal(feeds["x"], both[0][0]["x"])


def test_mixed_statistics_hold_all_values_and_the_channel_means_of_the_data():
    graph = expand(fused(model(f"y = Conv<{CONV}>(x,w,b)", {"w": (8, 3, 3, 3), "b": (8,)})))
    x, wider = photos(4, seed=6), 3.0 * photos(4, seed=7)
    data, other = (observe(graph, ["x"], [Batch({"x": a}, None, ["a"] * 4, 4)], channels={"x": 1}) for a in (x, wider))
    found = mixed(data, other)["x"]
    assert (found.low, found.high, found.count) == (wider.min(), wider.max(), x.size + wider.size)
    np.testing.assert_array_equal(found.channels.means, data["x"].channels.means)
    assert data["x"].count == x.size


def test_a_model_that_breaks_on_flat_samples_is_calibrated_without_them():
    """The square root of what is left of the contrast: NaN for samples flatter than those given."""
    body = (
        f"m = ReduceMean<keepdims=1>(x,axes) d = Sub(x,m) q = Mul(d,d) v = ReduceMean<keepdims=1>(q,axes) "
        f"k = Sub(v,most) s = Sqrt(k) n = Div(d,s) c = Conv<{CONV}>(n,w,b) r = Relu(c) y = Conv<{POINT}>(r,u)"
    )
    extra = {"axes": np.array([1, 2, 3]), "most": np.array(0.5, np.float32)}
    proto = model(body, {"w": (8, 3, 3, 3), "b": (8,), "u": (8, 8, 1, 1), **extra}, opset=18)
    x = alike(32, seed=8) * np.linspace(1.0, 2.5, 32, dtype=np.float32).reshape(-1, 1, 1, 1)
    result = pipeline.quantize(proto, x, config=QuantConfig(keep_int8=True))
    tried = [d.detail for d in result.decisions if d.detail.startswith("ranges by")]
    assert tried
    assert not any("with stress" in text for text in tried)
    assert sqnr_db(run_onnxruntime(proto, {"x": x})[0], Session(result.model).run(None, {"x": x})[0]) > 25.0


def test_probabilities_are_compared_by_what_their_softmax_reads():
    graph = expand(fused(model("l = Gemm<transB=1>(x,w,b) y = Softmax(l)", {"w": (5, 6), "b": (5,)},
                               inputs="float[N,6] x", outputs="float[N,5] y")))  # fmt: skip
    rng = np.random.default_rng(9)
    x, noise = rng.normal(size=(7, 6)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    judge = Fidelity(graph, [({"x": x}, 7)], 1)
    assert judge.names == ["y", "l"]
    logits = x @ graph.graph.initializers["w"].const_value.numpy().T + graph.graph.initializers["b"].const_value.numpy()
    wanted = 10 * np.log10(np.square(logits - logits.mean(1, keepdims=True)).sum()
                           / np.square(noise - noise.mean(1, keepdims=True)).sum())  # fmt: skip
    found = judge.sqnr_of(lambda feeds: {"y": np.ones((7, 5), np.float32), "l": logits + noise + 100.0})
    assert found == pytest.approx(wanted, abs=1e-3)


def test_one_number_without_axes_is_compared_as_it_is():
    """What a Squeeze of all axes leaves of a batch of one."""
    proto = model("g = Gemm<transB=1>(x,w) y = Squeeze(g)", {"w": (1, 6)}, inputs="float[N,6] x", outputs="float y")
    x = np.ones((1, 6), np.float32)
    judge = Fidelity(expand(fused(proto)), [({"x": x}, 1)], 1)
    y = run_onnxruntime(proto, {"x": x})[0]
    assert y.shape == ()
    assert judge.sqnr_of(lambda feeds: {"y": np.float32(1.1) * y}) == pytest.approx(20.0, abs=1e-3)


def test_classes_that_are_masked_have_no_error():
    proto = model("g = Gemm<transB=1>(x,w) l = Add(g,mask) y = Softmax(l)",
                  {"w": (3, 6), "mask": np.array([0, -np.inf, 0], np.float32)}, inputs="float[N,6] x",
                  outputs="float[N,3] y")  # fmt: skip
    graph = expand(fused(proto))
    x = np.random.default_rng(12).normal(size=(7, 6)).astype(np.float32)
    judge = Fidelity(graph, [({"x": x}, 7)], 1)
    logits = x @ graph.graph.initializers["w"].const_value.numpy().T + np.array([0, -np.inf, 0], np.float32)
    names = dict.fromkeys(judge.names, logits)
    noisy = {name: value + np.array([0.1, 0.0, -0.1], np.float32) for name, value in names.items()}
    assert judge.names[0] == "y"
    assert 0.0 < judge.sqnr_of(lambda feeds: noisy) < 60.0
    assert judge.sqnr_of(lambda feeds: names) > judge.sqnr_of(lambda feeds: noisy) + 20.0


def test_weights_say_what_a_batch_counts_for_and_broken_ones_count_nothing():
    graph = expand(fused(model("y = Gemm<transB=1>(x,w)", {"w": (5, 6)}, inputs="float[N,6] x",
                               outputs="float[N,5] y")))  # fmt: skip
    good, bad = np.ones((1, 6), np.float32), np.full((1, 6), np.nan, np.float32)
    batches = [({"x": good}, 1), ({"x": 2 * good}, 1), ({"x": bad}, 1)]
    judge = Fidelity(graph, batches, 1, weights=[1.0, 0.5, 9.0])
    y = good @ graph.graph.initializers["w"].const_value.numpy().T
    power, errors = float(np.square(y).sum()), iter([0.0, 1.0, 1.0])
    found = judge.sqnr_of(lambda feeds: {"y": feeds["x"] @ graph.graph.initializers["w"].const_value.numpy().T
                                         + np.float32(next(errors))})  # fmt: skip
    assert found == pytest.approx(10 * np.log10((power + 0.5 * 4 * power) / (0.5 * 5)), abs=1e-3)


NETWORK = (
    f"c = Conv<{CONV}>(x,w,b) r = Relu(c) d = Conv<kernel_shape=[3,3],pads=[1,1,1,1],group=8>(r,v,b) e = Relu(d) "
    f"p = Conv<{POINT}>(e,u) a = Add(p,r) s = Relu(a) g = GlobalAveragePool(s) h = Flatten(g) y = Gemm<transB=1>(h,f,k)"
)
SHAPES = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 1, 3, 3), "u": (8, 8, 1, 1), "f": (10, 8), "k": (10,)}


def test_a_white_page_and_a_black_one_among_photographs_are_not_lost(monkeypatch):
    proto = model(NETWORK, SHAPES, outputs="float[N,10] y")
    usual = photos(32, seed=10)
    odd = [np.full((1, 3, 8, 8), value, np.float32) for value in (usual.min(), usual.max())]
    worst = []
    for families in (FAMILIES, {}):
        monkeypatch.setattr(choose, "FAMILIES", families)
        result = pipeline.quantize(proto, usual, config=QuantConfig(method="minmax", keep_int8=True))
        session = Session(result.model)
        worst.append(min(sqnr_db(run_onnxruntime(proto, {"x": x})[0], session.run(None, {"x": x})[0]) for x in odd))
    assert worst[0] > 40.0
    assert worst[0] > worst[1] + 15.0
