"""What the rewrite into fused ops takes in, what it leaves alone, and that values stay the same."""

import numpy as np
import onnx_ir as ir
import pytest

from quantkit.errors import UsageError
from quantkit.fuse import fuse
from quantkit.fuse.expand import expand, pre_activation_name
from quantkit.load.constants import lift_constants
from quantkit.pipeline import fused_model
from tests.graphs import CONV, fused, image, model, op_types, run_onnxruntime

W = {"w": (3, 3, 3, 3), "b": (3,)}
TWO = {"w": (3, 3, 3, 3), "b": (3,), "v": (3, 3, 3, 3)}
FLOAT_TOLERANCE = 2e-6
"""The same float operations in another grouping: a few units in the last place of values near 1."""

CASES = {
    "conv and relu": (f"c = Conv<{CONV}>(x, w, b) y = Relu(c)", W, ["ConvRelu"]),
    "conv and clip": (f"c = Conv<{CONV}>(x, w, b) y = Clip(c, zero, six)", W, ["ConvClip"]),
    "conv without bias": (f"y = Conv<{CONV}>(x, w)", W, ["Conv"]),
    "residual and relu": (f"c = Conv<{CONV}>(x, w, b) a = Add(c, x) y = Relu(a)", W, ["ConvAddRelu"]),
    "residual on the left": (f"c = Conv<{CONV}>(x, w, b) y = Add(x, c)", W, ["ConvAdd"]),
    "two convolutions that meet": (
        f"c = Conv<{CONV}>(x, w, b) d = Conv<{CONV}>(x, v) y = Add(c, d)", TWO, ["Conv", "ConvAdd"]),
    "silu": (f"c = Conv<{CONV}>(x, w, b) s = Sigmoid(c) y = Mul(s, c)", W, ["ConvSiLU"]),
    "hard-swish in four nodes": (
        f"c = Conv<{CONV}>(x, w, b) p = Add(c, three) k = Clip(p, zero, six) m = Mul(c, k) y = Div(m, six)", W,
        ["ConvHardSwish"]),
    "gelu by erf": (
        f"c = Conv<{CONV}>(x, w, b) d = Div(c, root2) e = Erf(d) p = Add(e, one) m = Mul(c, p) y = Mul(m, half)", W,
        ["ConvGelu"]),
    "hard-swish with a scale and a shift": (
        f"c = Conv<{CONV}>(x, w, b) h = HardSwish(c) m = Mul(half, h) y = Add(m, three)", W, ["ConvHardSwishAffine"]),
    "a number minus a scaled tanh": (
        f"c = Conv<{CONV}>(x, w, b) t = Tanh(c) d = Div(t, root2) y = Sub(three, d)", W, ["ConvTanhAffine"]),
    "relu and a scale": (f"c = Conv<{CONV}>(x, w, b) r = Relu(c) y = Mul(r, half)", W, ["ConvRelu", "Mul"]),
    "relu with a scale and a shift": (
        f"c = Conv<{CONV}>(x, w, b) r = Relu(c) m = Mul(r, half) y = Add(m, three)", W, ["ConvReluAffine"]),
    "mish": (f"c = Conv<{CONV}>(x, w, b) s = Softplus(c) t = Tanh(s) y = Mul(c, t)", W, ["ConvMish"]),
    "add and relu of two inputs": ("p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) a = Add(p, x) y = Relu(a)", {},
                                   ["MaxPool", "AddRelu"]),
}  # fmt: skip
CONSTANTS = {
    key: np.array(v, np.float32)
    for key, v in {"zero": 0, "one": 1, "three": 3, "six": 6, "half": 0.5, "root2": np.sqrt(2)}.items()
}


def built(body, weights):
    used = {
        key: value
        for key, value in CONSTANTS.items()
        if key in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    return model(body, {**weights, **used})


@pytest.mark.parametrize("case", CASES)
def test_a_pattern_becomes_one_op_and_keeps_its_values(case):
    body, weights, expected = CASES[case]
    proto = built(body, weights)
    result = fused(proto)
    assert op_types(result) == expected
    x = image(2, 3, 8, 8)
    got = run_onnxruntime(ir.to_proto(expand(result)), {"x": x})[0]
    np.testing.assert_allclose(got, run_onnxruntime(proto, {"x": x})[0], rtol=0, atol=FLOAT_TOLERANCE * 10)


REFUSED = {
    "an activation behind a tensor that is also read elsewhere": (
        f"c = Conv<{CONV}>(x, w, b) r = Relu(c) y = Mul(r, c)", ["Conv", "Relu", "Mul"]),
    "a scale that enlarges the tensor": (
        f"c = Conv<{CONV}>(x, w, b) s = Sigmoid(c) y = Mul(s, wide)", ["ConvSigmoid", "Mul"]),
    "a scale behind a tensor that is also read elsewhere": (
        f"c = Conv<{CONV}>(x, w, b) s = Sigmoid(c) m = Mul(s, one) y = Add(m, s)", ["ConvSigmoid", "Mul", "Add"]),
    "a residual that is broadcast": (
        f"c = Conv<{CONV}>(x, w, b) g = GlobalAveragePool(x) y = Add(c, g)", ["Conv", "GlobalAveragePool", "Add"]),
    "a SiLU whose gate is also read elsewhere": (
        f"c = Conv<{CONV}>(x, w, b) s = Sigmoid(c) m = Mul(s, c) y = Sub(m, s)", ["Conv", "Sigmoid", "Mul", "Sub"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_left_alone(case):
    body, expected = REFUSED[case]
    weights = {**W, "wide": (1, 1, 1, 1, 1), "one": (1,)}
    used = {key: value for key, value in weights.items() if f"{key})" in body or f"{key}," in body}
    assert sorted(op_types(fused(model(body, used)))) == sorted(expected)


def test_an_activation_behind_a_graph_output_stays_outside():
    proto = model(f"c = Conv<{CONV}>(x, w, b) y = Relu(c)", W, outputs="float[N,3,8,8] y, float[N,3,8,8] c")
    assert op_types(fused(proto)) == ["Conv", "Relu"]


def test_a_computed_weight_is_refused_with_its_reason():
    proto = model(f"c = Conv<{CONV}>(x, k) y = Relu(c)", {}, inputs="float[N,3,8,8] x, float[3,3,3,3] k")
    result, decisions = fused_model(proto)
    assert op_types(result) == ["Conv", "Relu"]
    assert any(d.action == "refused" and "'k' is not constant" in d.detail for d in decisions)


def test_arithmetic_on_whole_numbers_is_not_fused_with_the_clip_behind_it():
    bounds = {"low": np.array(0, np.int64), "high": np.array(7, np.int64)}
    proto = model("s = Sub(x, k) y = Clip(s, low, high)", bounds, inputs="int64[N,4] x, int64[N,4] k",
                  outputs="int64[N,4] y")  # fmt: skip
    assert op_types(fused(proto)) == ["Sub", "Clip"]


def test_fusing_twice_changes_nothing():
    result = fused(built(*CASES["residual and relu"][:2]))
    before = op_types(result)
    fuse(result)
    assert op_types(result) == before


def test_node_names_survive():
    result = fused(model(f"[stem] c = Conv<{CONV}>(x, w, b) [act] y = Relu(c)", W))
    assert [node.name for node in result.graph] == ["stem"]


def test_a_kept_node_stays_what_it_was():
    proto = model(f"[stem] c = Conv<{CONV}>(x, w, b) y = Relu(c)", W)
    result, decisions = fused_model(proto, ["^stem$"])
    assert op_types(result) == ["Conv", "Relu"]
    assert any(d.action == "kept" and d.node == "stem" for d in decisions)


@pytest.mark.parametrize("pattern", ["nothing_like_this", "("])
def test_an_idle_or_broken_expression_is_a_usage_error(pattern):
    with pytest.raises(UsageError, match="keep-fp32"):
        fused_model(model(f"y = Conv<{CONV}>(x, w, b)", W), [pattern])


def test_expanding_shows_what_goes_into_an_activation():
    result = fused(built(*CASES["silu"][:2]))
    names = {out.name for node in expand(result).graph for out in node.outputs}
    assert pre_activation_name("y") in names


def test_a_shared_weight_is_used_by_both_convolutions():
    proto = model(f"c = Conv<{CONV}>(x, w, b) r = Relu(c) y = Conv<{CONV}>(r, w, b)", W)
    result = fused(proto)
    assert op_types(result) == ["ConvRelu", "Conv"]
    weights = {node.inputs[1].name for node in result.graph}
    assert weights == {"w"}


def test_an_expanded_mul_with_an_activation_made_of_muls_has_unique_node_names() -> None:
    proto = model("c = Conv <kernel_shape = [1, 1]> (x, w) m = Mul (c, c) y = HardSwish (m)", {"w": (4, 3, 1, 1)})
    for i, node in enumerate(proto.graph.node):
        node.name = f"node_{i}"
    names = [node.name for node in expand(fused(proto)).graph]
    assert len(set(names)) == len(names)
    assert "node_1" in names


def test_a_graph_is_expanded_again_after_the_constants_of_the_first_time_were_lifted():
    proto = model("zero = Constant<value_float=0.0>() six = Constant<value_float=6.0>() "
                  f"c = Conv<{CONV}>(x, w) d = Clip(c, zero, six) y = Neg(d)", {"w": (4, 3, 3, 3)})  # fmt: skip
    expanded = expand(fused(proto))
    lift_constants(expanded)
    fuse(expanded)
    again = expand(expanded)
    lift_constants(again)
    x = image(2, 3, 8, 8)
    np.testing.assert_array_equal(run_onnxruntime(ir.to_proto(again), {"x": x})[0], run_onnxruntime(proto, {"x": x})[0])
