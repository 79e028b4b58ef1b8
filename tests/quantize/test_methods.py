"""The choice of a range method by tensor: measured error, nothing else, and never a worse model."""

import time

import numpy as np
import onnx_ir as ir
import pytest

from quantkit import pipeline
from quantkit.errors import UsageError
from quantkit.execute import Session
from quantkit.quantize.measure import Fidelity
from quantkit.quantize.methods import OneQuantized, by_tensor
from quantkit.quantize.qparams import params_from_range, quantize_array
from quantkit.types import METHODS, QuantConfig, Range
from tests.graphs import image, model, run_onnxruntime, sqnr_db
from tests.quantize.test_tune import network

SIMPLE = "a = Mul(x, two) r = Relu(a) y = Add(r, x)"


def simple():
    proto = model(SIMPLE, {"two": np.array(2.0, np.float32)}, inputs="float[N,4] x", outputs="float[N,4] y")
    return ir.serde.deserialize_model(proto)


def rows(seed=0, count=64):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def dequantized(x, params):
    return ((quantize_array(x, params).astype(np.int32) - params.zero_point) * np.float32(params.scale)).astype(
        np.float32
    )


@pytest.mark.parametrize("tensor", ["x", "r"])
def test_one_tensor_is_quantized_for_all_its_users_and_nothing_else_is(tensor):
    x, params = rows(), params_from_range(Range(-2.0, 3.0))
    got = OneQuantized(simple(), [tensor], ["y"], 1).with_params(params)({"x": x})["y"]
    seen = dequantized(x, params) if tensor == "x" else x
    inner = np.maximum(2 * seen, 0)
    np.testing.assert_array_equal(got, (inner if tensor == "x" else dequantized(inner, params)) + seen)


def test_weights_between_tensors_of_one_group_stay_as_they_are():
    """onnxruntime would make an integer convolution of it, its weights in s8 with one scale."""
    weights = np.random.default_rng(2).normal(size=(4, 4, 3, 3)).astype(np.float32) * 0.05
    weights[0] *= 20
    proto = model("c = Conv<kernel_shape=[3,3]>(x, w) y = Neg(c)", {"w": weights},
                  inputs="float[N,4,8,8] x")  # fmt: skip
    graph, x = ir.serde.deserialize_model(proto), image(2, 4, 8, 8)
    params = params_from_range(Range(-10.0, 10.0))
    got = OneQuantized(graph, ["x", "c"], ["y"], 1).with_params(params)({"x": x})["y"]
    exact = run_onnxruntime(proto, {"x": dequantized(x, params)})[0]
    np.testing.assert_allclose(got, -dequantized(-exact, params), atol=1e-6)


def spans(**of_r):
    """All methods give x [-4, 4] and r [0, 8], but those of `of_r`."""
    return {
        method: {"x": Range(-4.0, 4.0), "r": Range(0.0, of_r.get(method.replace("-", "_"), 8.0))} for method in METHODS
    }


def choices(given, base="minmax", deadline=float("inf")):
    graph = simple()
    fidelity = Fidelity(graph, [({"x": rows()}, 64)], 1)
    return by_tensor(graph, {"x": ["x"], "r": ["r"]}, given, base, fidelity, 1, deadline)


def test_the_method_with_the_least_error_is_chosen_where_methods_differ():
    wide, right, narrow = 100.0, 2 * float(rows().max()), 0.5
    found = choices(spans(minmax=wide, mse=right, entropy=narrow, percentile=wide, moving_average=wide))
    assert [(choice.group, choice.method) for choice in found] == [("r", "mse")]
    assert found[0].after > found[0].before + 10


def test_the_method_of_the_model_stays_where_nothing_is_gained():
    assert choices(spans(percentile=0.5, entropy=50.0)) == []
    assert choices(spans(mse=8.01)) == []


def test_after_the_deadline_no_tensor_is_looked_at():
    assert choices(spans(minmax=100.0, mse=8.0), deadline=time.monotonic() - 1) == []


def test_auto_gives_a_model_that_is_not_worse_on_samples_it_has_not_seen_and_says_what_it_chose():
    proto, data = network(), image(96, 3, 8, 8, seed=3)
    data[5] *= 6.0
    other = image(64, 3, 8, 8, seed=9)
    made = {
        method: pipeline.quantize(proto, data, batch_size=8, config=QuantConfig(effort="fast", method=method))
        for method in (None, "auto")
    }
    one, many = (
        sqnr_db(run_onnxruntime(proto, {"x": other})[0], Session(result.model).run(None, {"x": other})[0])
        for result in made.values()
    )
    chosen = [d for d in made["auto"].decisions if d.action == "chosen"]
    assert many > one - 0.3
    assert (made["auto"].model.metadata_props["quantkit.method"] == "auto") is bool(chosen)
    assert any("took no part in the choice" in d.detail for d in made["auto"].decisions)


def test_a_choice_that_measures_worse_as_a_whole_is_dropped(monkeypatch):
    from quantkit.quantize import calibration, initial
    from quantkit.quantize.methods import TensorChoice

    proto, data = network(), image(96, 3, 8, 8, seed=3)
    monkeypatch.setattr(initial, "range_for", _moving_average_is_hopeless(initial.range_for))
    monkeypatch.setattr(
        calibration, "by_tensor", lambda model, groups, *rest: [TensorChoice(g, "moving-average", 1, 2) for g in groups]
    )
    result = pipeline.quantize(proto, data, batch_size=8, config=QuantConfig(effort="fast", method="auto"))
    assert result.model.metadata_props["quantkit.method"] in METHODS
    assert not [d for d in result.decisions if d.action == "chosen"]


def _moving_average_is_hopeless(real):
    def range_for(statistics, method, config):
        span = real(statistics, method, config)
        return Range(span.low / 50, span.high / 50) if method == "moving-average" else span

    return range_for


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(UsageError, match="mse, auto"):
        QuantConfig(method="automatic")
