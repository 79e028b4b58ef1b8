"""Spatial means as convolutions: the same function, a scale for each channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.fuse.expand import expand
from quantkit.quantize.channel_values import ChannelObserver
from quantkit.quantize.equalize import equalize
from quantkit.quantize.initial import tunable_layers
from quantkit.quantize.means import TAPS_MOST, is_mean, means_as_convolutions
from quantkit.quantize.select import select
from quantkit.types import QuantConfig
from tests.graphs import CONV, fused, image, model, run_onnxruntime, sqnr_db

HEAD = f"c = Conv<{CONV}>(x,w,b) r = HardSwish(c) "
MEANS = {
    "GlobalAveragePool": "p = GlobalAveragePool(r) y = Conv<kernel_shape=[1,1]>(p,u)",
    "ReduceMean": "p = ReduceMean<axes=[2,3],keepdims=1>(r) y = Conv<kernel_shape=[1,1]>(p,u)",
    "ReduceMean without its axes": "p = ReduceMean<axes=[2,3],keepdims=0>(r) y = MatMul(p,m)",
    "flattened": "p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f,m)",
}
WEIGHTS = {"w": (8, 3, 3, 3), "b": (8,), "u": (6, 8, 1, 1), "m": (8, 6)}


def network(body: str, weights=WEIGHTS, **kwargs):
    used = {name: value for name, value in weights.items() if f",{name})" in body or f",{name}," in body}
    output = "float[N,6] y" if "MatMul" in body else "float[N,6,1,1] y"
    return model(body, used, outputs=output, **kwargs)


@pytest.mark.parametrize("body", MEANS.values(), ids=MEANS.keys())
def test_a_mean_becomes_a_convolution_of_the_same_value_and_its_channels_are_shifted(body):
    proto = network(HEAD + body)
    made, x = fused(proto), image(4, 3, 8, 8, seed=3)
    means_as_convolutions(made, lambda name: True)
    assert not {"GlobalAveragePool", "ReduceMean"} & {node.op_type for node in made.graph}
    wanted = run_onnxruntime(proto, {"x": x})[0]
    np.testing.assert_allclose(run_onnxruntime(ir.to_proto(expand(made)), {"x": x})[0], wanted, atol=1e-5)
    done = equalize(made, ChannelObserver([({"x": x}, 4)], 1), "deviations")
    assert any(entry.shift.any() and np.ptp(entry.scale) > 0.01 for entry in done.values())
    np.testing.assert_allclose(run_onnxruntime(ir.to_proto(expand(made)), {"x": x})[0], wanted, atol=1e-5)


KEPT = {
    "of an unknown size": (MEANS["GlobalAveragePool"], "float[N,3,H,W] x"),
    "of more positions than the limit": (MEANS["GlobalAveragePool"], "float[N,3,15,15] x"),
    "of one position": (MEANS["GlobalAveragePool"], "float[N,3,1,1] x"),
    "over channels": ("q = ReduceMean<axes=[1,2,3],keepdims=1>(r) p = Mul(r,q) g = GlobalMaxPool(p) "
                      "y = Conv<kernel_shape=[1,1]>(g,u)", "float[N,3,8,8] x"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "inputs"), KEPT.values(), ids=KEPT.keys())
def test_another_mean_stays(body, inputs):
    assert TAPS_MOST < 15 * 15
    made = fused(network(HEAD + body, inputs=inputs))
    before = [node.op_type for node in made.graph]
    assert means_as_convolutions(made, lambda name: True) == []
    assert [node.op_type for node in made.graph] == before


def test_a_node_that_is_not_chosen_stays():
    made = fused(network(HEAD + MEANS["GlobalAveragePool"]))
    means_as_convolutions(made, lambda name: False)
    assert "GlobalAveragePool" in [node.op_type for node in made.graph]


def test_only_the_mean_is_taken_for_one():
    depthwise = "kernel_shape=[3,3],pads=[1,1,1,1],group=8"
    body = f"{HEAD} d = Conv<{depthwise}>(r,v) {MEANS['GlobalAveragePool'].replace('(r)', '(d)')}"
    made = fused(network(body, {**WEIGHTS, "v": (8, 1, 3, 3)}))
    means_as_convolutions(made, lambda name: True)
    assert [is_mean(layer) for layer in tunable_layers(select(made))] == [False, False, True, False]


def test_pooled_channels_of_different_size_cost_balanced_less():
    """Pooled channels of 0.14 to 7 times the size, behind an activation that cannot be scaled."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(-2, 2, size=8)).astype(np.float32)
    w = rng.normal(size=(8, 3, 3, 3)).astype(np.float32) * size.reshape(-1, 1, 1, 1)
    m = rng.normal(size=(8, 6)).astype(np.float32) / size.reshape(-1, 1)
    proto = network(HEAD + MEANS["flattened"], {"w": w, "b": 3 * size, "m": m})
    data, other = image(128, 3, 8, 8, seed=3), image(64, 3, 8, 8, seed=4)
    wanted, found = run_onnxruntime(proto, {"x": other})[0], {}
    for effort in ("fast", "balanced"):
        result = pipeline.quantize(proto, data, config=QuantConfig(method="minmax", effort=effort, keep_int8=True))
        found[effort] = sqnr_db(wanted, Session(result.model).run(None, {"x": other})[0])
    assert found["balanced"] > found["fast"] + 3.0
