"""Ranges around activations by table: what saturates is left out, and the two steps suit each other."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.fuse.activations import ACTIVATIONS
from quantkit.observe import NumpyBackend, TensorStatistics
from quantkit.quantize.activated import around_activations, matched, needed_range
from quantkit.quantize.select import select
from quantkit.types import QuantConfig, Range
from tests.graphs import CONV, fused, image, model, run_onnxruntime, sqnr_db

WIDE = Range(-40.0, 60.0)
SIGMOID_LIKE = {"alpha": 1.0 / 6.0, "beta": 0.5}


def seen(values: np.ndarray) -> TensorStatistics:
    found = TensorStatistics()
    found.update(np.ascontiguousarray(values, np.float32), NumpyBackend())
    return found


@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if row.lookup])
def test_nothing_that_is_cut_off_comes_out_differently(name):
    attributes = ACTIVATIONS[name].attributes
    span = needed_range(name, attributes, WIDE, 0.05)
    assert WIDE.low <= span.low <= 0.0 <= span.high <= WIDE.high
    evaluate = ACTIVATIONS[name].evaluate
    for x in np.linspace(WIDE.low, WIDE.high, 501):
        inside = min(max(x, span.low), span.high)
        # 0.1 is the spacing of the points at which activations are evaluated, all of slope <= 1.2 where they are flat
        assert abs(evaluate(x, attributes) - evaluate(inside, attributes)) <= 0.05 + 1e-9


@pytest.mark.parametrize(("name", "attributes", "low", "high"), [
    ("HardSigmoid", SIGMOID_LIKE, -3, 3), ("HardSwish", {}, -3, 60), ("Tanh", {}, -1.8, 1.8), ("Relu", {}, 0, 60),
    ("Neg", {}, -40, 60),
])  # fmt: skip
def test_the_range_ends_where_the_activation_is_flat(name, attributes, low, high):
    span = needed_range(name, attributes, WIDE, 0.05)
    assert span.low == pytest.approx(low, abs=0.5)
    assert span.high == pytest.approx(high, abs=0.5)


def test_a_constant_activation_needs_no_range():
    assert needed_range("Relu", {}, Range(-5.0, 0.0), 0.1) == Range(0.0, 0.0)


def test_small_values_of_hard_swish_keep_their_mean():
    """With equal steps 1 and -1 become 1 and 0."""
    values = np.random.default_rng(0).normal(size=20000) * 0.5
    values[:2] = -30.0, 30.0
    equal = (Range(-3.0, 30.0), Range(-0.375, 32.6))
    spans = matched("HardSwish", {}, seen(values), equal)
    evaluate = ACTIVATIONS["HardSwish"].evaluate
    wanted = np.array([evaluate(v, {}) for v in values])

    def mean_error(pair):
        x, y = ((span.high - span.low) / 255 for span in pair)
        inner = np.rint(values / x) * x
        outer = np.rint(np.array([evaluate(v, {}) for v in inner]) / y) * y
        return abs(np.mean(outer - wanted))

    assert mean_error(spans) < 0.6 * mean_error(equal)


def test_a_range_that_must_stay_does():
    values = np.random.default_rng(0).normal(size=5000)
    pair = (Range(-3.0, 4.0), Range(-0.375, 4.0))
    assert matched("HardSwish", {}, seen(values), pair, (True, True)) == pair
    assert matched("HardSwish", {}, seen(values), pair, (True, False))[0] == pair[0]
    assert matched("HardSwish", {}, seen(values), pair, (False, True))[1] == pair[1]
    empty = (Range(0.0, 0.0), Range(0.0, 0.0))
    assert matched("HardSwish", {}, seen(values), empty) == empty


def test_a_tensor_that_others_read_keeps_its_range():
    """t is read by the activation alone, c by an Add as well."""
    body = (f"c = Conv<{CONV}>(x,w) a = Add(c,c) t = Conv<{CONV}>(a,v) h = HardSigmoid<alpha=0.1666,beta=0.5>(c) "
            f"g = HardSigmoid<alpha=0.1666,beta=0.5>(t) m = Mul(h,g) y = Conv<{CONV}>(m,v)")  # fmt: skip
    made = fused(model(body, {"w": (3, 3, 3, 3), "v": (3, 3, 3, 3)}))
    chosen = select(made)
    spans = around_activations(chosen, dict.fromkeys(set(chosen.group_of.values()), WIDE), {})
    assert spans[chosen.group_of["c"]] == WIDE
    cut = [tensor for tensor, group in chosen.group_of.items() if spans[group] != WIDE]
    assert cut == ["g/pre_activation"]


@pytest.mark.parametrize("activation", ["HardSigmoid<alpha=0.1666667,beta=0.5>(c)", "Sigmoid(c)"])
def test_balanced_is_nearer_where_activations_saturate(activation):
    body = f"c = Conv<{CONV}>(x,w,b) h = {activation} y = Conv<{CONV}>(h,v)"
    bias = np.float32([-40.0, 0.0, 3.0, -60.0])
    proto = model(body, {"w": (4, 3, 3, 3), "b": bias, "v": (5, 4, 3, 3)})
    data, other = image(64, 3, 8, 8, seed=3) * 3, image(32, 3, 8, 8, seed=4) * 3
    wanted, found = run_onnxruntime(proto, {"x": other})[0], {}
    for effort in ("fast", "balanced"):
        config = QuantConfig(method="minmax", effort=effort, keep_int8=True)
        made = pipeline.quantize(proto, data, config=config).model
        found[effort] = sqnr_db(wanted, Session(made).run(None, {"x": other})[0])
    assert found["balanced"] > found["fast"] + 2.0
