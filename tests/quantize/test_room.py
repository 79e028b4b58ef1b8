"""Room for the extremes of samples not seen: how much, what bounds it, and that it holds on other samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.observe import NumpyBackend, TensorStatistics
from quantkit.quantize import choose
from quantkit.quantize.room import TIMES, activation_bounds, tensor_bounds, with_room
from quantkit.quantize.select import select
from quantkit.types import QuantConfig, Range
from tests.graphs import CONV, fused, model, run_onnxruntime, sqnr_db

POINT = "kernel_shape=[1,1]"


def seen(*rows):
    """Statistics of samples with these values."""
    found = TensorStatistics()
    for row in rows:
        found.update(np.array(row, np.float32), NumpyBackend())
    return found


def selection(body, weights):
    return select(fused(model(body, weights)))


PLAIN = selection(f"c = Conv<{CONV}>(x,w) y = Conv<{CONV}>(c,v)", {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3)})


def test_room_is_the_gumbel_scale_times_the_logarithm_of_times():
    statistics = seen([-1.0, 2.0], [-3.0, 4.0], [-2.0, 9.0], [-2.0, 5.0])  # means of the ends -2 and 5
    span = with_room(PLAIN, {"c": Range(-3.0, 9.0)}, {"c": statistics})["c"]
    beta = np.array([-3.0 + 2.0, 9.0 - 5.0]) / math.log(4)
    np.testing.assert_allclose([span.low, span.high], np.array([-3.0, 9.0]) + beta * math.log(TIMES), rtol=1e-12)


def test_a_clipped_range_is_longer_by_the_same_share():
    statistics = seen([0.0, 4.0], [0.0, 8.0])
    whole, half = (
        with_room(PLAIN, {"c": Range(0.0, high)}, {"c": statistics})["c"].high for high in (8.0, 4.0)
    )  # fmt: skip
    assert whole > 8.0
    assert half == pytest.approx(whole / 2)


def test_the_largest_of_four_times_as_many_exponential_values_is_where_it_is_expected():
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(300):
        values = rng.exponential(size=(128, 50))
        few = seen(*values[:32])
        span = with_room(PLAIN, {"c": Range(0.0, few.high)}, {"c": few})["c"]
        errors.append([span.high - values.max(), few.high - values.max()])
    with_it, without = np.mean(errors, axis=0)
    assert abs(with_it) < 0.25
    assert without < -1.0


@pytest.mark.parametrize("rows", [[[-1.0, 2.0]] * 8, [[-1.0, 2.0]]], ids=["alike", "one"])
def test_samples_that_reach_alike_and_a_single_one_give_no_room(rows):
    span = Range(-1.0, 2.0)
    assert with_room(PLAIN, {"c": span}, {"c": seen(*rows)})["c"] == span


def test_what_activations_bound_and_graph_inputs_stay_within():
    weights = {"w": (4, 3, 3, 3), "v": (4, 4, 1, 1), "u": (4, 8, 1, 1), "six": np.array(6, np.float32),
               "zero": np.array(0, np.float32)}  # fmt: skip
    body = (f"c = Conv<{CONV}>(x,w) r = Clip(c,zero,six) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r) "
            f"d = Conv<{POINT}>(p,v) k = Concat<axis=1>(p,d) e = Conv<{POINT}>(k,u) s = Sigmoid(e) "
            f"y = Conv<{POINT}>(s,v)")  # fmt: skip
    found = selection(body, weights)
    bounds = tensor_bounds(found)
    assert "x" not in bounds
    assert bounds["r"] == bounds["p"] == (0.0, 6.0)
    assert bounds["d"] == bounds["k"] == (-math.inf, math.inf)
    assert bounds["s"] == pytest.approx((0.0, 1.0), abs=1e-5)
    spans = dict.fromkeys(("x", "r", "d"), Range(-2.0, 6.0))
    roomy = with_room(found, spans, dict.fromkeys(spans, seen([-1.0, 3.0], [-2.0, 6.0])))
    assert roomy["x"] == spans["x"]
    assert (roomy["r"].low, roomy["r"].high) == (-2.0, 6.0)
    assert roomy["d"].high > 6.0


def test_bounds_of_activations_are_their_least_and_largest_values():
    for name in ("HardSwish", "WideHardSwish"):
        low, high = activation_bounds(name)
        assert low == pytest.approx(-0.375, abs=1e-4)
        assert high == math.inf
    assert activation_bounds("Clip", (("max", 2.5), ("min", -1.0))) == (-1.0, 2.5)
    assert activation_bounds("Relu") == (0.0, math.inf)
    assert activation_bounds("HardSwishScaled") == (-math.inf, math.inf)  # a factor for each channel


NETWORK = (f"c = Conv<{CONV}>(x,w) r = Relu(c) d = Conv<{CONV}>(r,v) e = Relu(d) g = GlobalAveragePool(e) "
           "h = Flatten(g) y = Gemm<transB=1>(h,f,k)")  # fmt: skip
SHAPES = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "f": (10, 8), "k": (10,)}


def bursts(count, seed):
    """float32 [count, 1, 3, 8, 8] within [-1, 1], of levels with an exponential tail."""
    rng = np.random.default_rng(seed)
    size = np.minimum(0.1 * np.exp(rng.exponential(0.5, size=(count, 1, 1, 1, 1))), 1.0)
    return (size * rng.uniform(-1.0, 1.0, size=(count, 1, 3, 8, 8))).astype(np.float32)


def test_room_is_taken_where_it_measures_better_and_holds_on_other_samples(monkeypatch):
    proto = model(NETWORK, SHAPES, outputs="float[N,10] y")
    others = bursts(256, seed=8)
    wanted = np.concatenate([run_onnxruntime(proto, {"x": x})[0] for x in others])
    decibels, taken = [], []
    for kinds in (("",), ("", choose.ROOM)):
        monkeypatch.setattr(choose, "KINDS", kinds)
        result = pipeline.quantize(proto, list(bursts(32, seed=7)), config=QuantConfig(method="minmax", keep_int8=True))
        session = Session(result.model)
        decibels.append(sqnr_db(wanted, np.concatenate([session.run(None, {"x": x})[0] for x in others])))
        taken += [d.detail for d in result.decisions if "ranges by" in d.detail]
    assert any("by minmax with room" in text for text in taken)
    assert decibels[1] > decibels[0] + 1.0
