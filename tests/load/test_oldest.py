"""Lowering opset and IR version: as far as every node means the same, and no further."""

import numpy as np
import pytest
from onnx import checker, helper

from quantkit.load import load, to_proto
from quantkit.load.oldest import lower_versions
from tests.graphs import CONV, model, run_onnxruntime

X = np.random.default_rng(4).normal(size=(1, 4, 8, 8)).astype(np.float32)
CASES = {
    "ops whose newer versions have more types": ("t = Relu(x) y = Add(t, x)", 20, 10),
    "an axis from the end": ("y = Concat<axis = -1>(x, x)", 17, 11),
    "an axis from the start": ("y = Concat<axis = 1>(x, x)", 17, 10),
    "Softmax, which took several axes before": ("y = Softmax<axis = 1>(x)", 17, 13),
    "an axes input": ("y = ReduceMean(x, k)", 18, 18),
    "an attribute at its new default": ("s = Shape(x) y = Reshape<allowzero = 0>(x, s)", 17, 10),
    "an attribute beyond its new default": ("s = Shape(x) y = Reshape<allowzero = 1>(x, s)", 17, 14),
    "bounds as inputs": ("lo = Constant<value_float = 0.5>() y = Clip(x, lo)", 17, 11),
    "a pool rounded up": ("y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)", 22, 22),
    "a pool rounded down": ("y = AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(x)", 22, 10),
    "LayerNormalization": ("y = LayerNormalization(x, g)", 17, 17),
    "Gelu": ("y = Gelu(x)", 20, 20),
}


@pytest.mark.parametrize("case", CASES)
def test_the_lowest_opset_holds_the_ops_and_gives_the_same_values(case):
    body, opset, lowest = CASES[case]
    weights = {"k": np.array([2], np.int64), "g": np.ones(8, np.float32)}
    weights = {name: array for name, array in weights.items() if f" {name})" in body}
    proto = model(body, weights, inputs="float[1,4,8,8] x", outputs="float y", opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    loaded = load(proto)
    lower_versions(loaded)
    assert loaded.opset_imports[""] == lowest
    assert loaded.ir_version == max(4, helper.find_min_ir_version_for([helper.make_opsetid("", lowest)]))
    checker.check_model(to_proto(loaded), full_check=True)
    got, wanted = (run_onnxruntime(p, {"x": X})[0] for p in (to_proto(loaded), proto))
    np.testing.assert_allclose(got, wanted, atol=1e-6)  # a kernel of its own for each version


def test_scales_one_a_channel_need_opset_13_and_one_scale_does_not():
    body = f"q = DequantizeLinear<axis = 0>(w, s, z) y = Conv<{CONV}>(x, q)"
    weights = {"w": np.ones((8, 4, 3, 3), np.int8), "s": np.full(8, 0.1, np.float32), "z": np.zeros(8, np.int8)}
    for body_, scale, zero, lowest in (
        (body, weights["s"], weights["z"], 13),
        (body.replace("<axis = 0>", ""), np.array(0.1, np.float32), np.array(0, np.int8), 10),
    ):
        given = {"w": weights["w"], "s": scale, "z": zero}
        proto = model(body_, given, inputs="float[1,4,8,8] x", outputs="float[1,8,8,8] y")
        loaded = load(proto)
        lower_versions(loaded)
        assert loaded.opset_imports[""] == lowest


def test_an_opset_that_onnx_does_not_know_stays():
    proto = model("y = Relu(x)", {}, inputs="float[1,4,8,8] x", outputs="float[1,4,8,8] y")
    loaded = load(proto)
    loaded.opset_imports[""] = 999
    lower_versions(loaded)
    assert loaded.opset_imports[""] == 999
