"""ReduceMax becomes a pooling of the same value where a product reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from quantkit import pipeline
from quantkit.fold.extremes import pool_maxima
from quantkit.types import QuantConfig
from tests.fold.fold_cases import build, folded, normal

SIZES = [{"N": 2, "L": 4, "H": 3, "W": 5}]


def maximum(dims: str, attributes: str, out: str, then: str = "Reshape(m, flat)\n y = MatMul(p, w)") -> onnx.ModelProto:
    body = f"r = Relu(x)\n m = ReduceMax<{attributes}>(r)\n p = {then}"
    weights = {"flat": np.array([-1, 1]), "w": normal(1, 3)} if "flat" in then else {}
    return build(f"(float[{dims}] x) => (float[{out}] y)", body, **weights)


def kinds(proto: onnx.ModelProto) -> list[str]:
    model, _ = folded(proto, pool_maxima, symbols=SIZES)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("dims", "axes", "expected"),
    [
        ("N,6,L", [2], ["GlobalMaxPool", "Squeeze"]),
        ("N,L,6", [1], ["Transpose", "GlobalMaxPool", "Squeeze"]),
        ("N,6,H,W", [2, 3], ["GlobalMaxPool", "Squeeze"]),
        ("N,H,W,6", [-2, 1], ["Transpose", "GlobalMaxPool", "Squeeze"]),
        ("N,6,H,5", [3], ["MaxPool", "Squeeze"]),
        ("N,6,5,W", [-2], ["Transpose", "MaxPool", "Squeeze"]),
    ],
)
def test_a_maximum_over_axes_is_a_pooling(dims, axes, expected):
    proto = maximum(dims, f"axes={axes}, keepdims=0", "K,3")
    assert kinds(proto) == ["Relu", *expected, "Reshape", "MatMul"]


@pytest.mark.parametrize(
    ("dims", "attributes"),
    [
        ("N,6,H,W", "axes=[3], keepdims=0"),  # a window of unknown size
        ("N,6,H,W", "axes=[2, 3]"),
        ("N,6", "axes=[1], keepdims=0"),
        ("N,6,L", "keepdims=0"),
        ("N,6,L", "axes=[1, 2], keepdims=0"),
    ],
)
def test_other_maxima_stay(dims, attributes):
    assert kinds(maximum(dims, attributes, "K,3"))[:2] == ["Relu", "ReduceMax"]


def test_a_maximum_that_no_product_reads_stays():
    proto = maximum("N,6,L", "axes=[2], keepdims=0", "N,6", "Neg(m)\n y = Abs(p)")
    assert kinds(proto) == ["Relu", "ReduceMax", "Neg", "Abs"]


def test_axes_that_are_an_input_are_read():
    body = "r = Neg(x)\n m = ReduceMax<keepdims=0>(r, axes)\n y = MatMul(m, w)"
    proto = build("(float[N,6,L] x) => (float[N,3] y)", body, opset=18, axes=np.array([2], np.int64), w=normal(6, 3))
    assert kinds(proto) == ["Neg", "GlobalMaxPool", "Squeeze", "MatMul"]


def test_a_network_with_a_maximum_over_time_runs_natively_as_a_whole():
    body = "c = Conv<kernel_shape=[3]>(x, w)\n r = Relu(c)\n m = ReduceMax<axes=[2], keepdims=0>(r)\n y = MatMul(m, v)"
    proto = build("(float[N,4,L] x) => (float[N,3] y)", body, w=normal(8, 4, 3), v=normal(8, 3))
    samples = [{"x": normal(2, 4, 16, seed=seed)} for seed in range(4)]
    result = pipeline.quantize(proto, samples, config=QuantConfig(method="minmax", effort="fast"))
    assert [d.node for d in result.decisions if d.action == "kept"] == []
    assert "QGlobalMaxPool" in {node.op_type for node in result.model.graph}
