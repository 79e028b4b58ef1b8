"""Spelled-out LayerNorm, Sum and Max(x, a x) get their names."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

import quantkit.fold
from quantkit.fold.norms import _may_be_raised
from quantkit.load import load

HEAD = '<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 5, 16] x) => (float[2, 5, 16] y) '
SPELLED = """{{ m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) {square} v = ReduceMean<axes=[2]>(q)
 e = Constant<value_float=0.001>() s = Add(v, e) r = Sqrt(s) n = Div(d, r) g = Mul(gamma, n) y = Add(g, beta) }}"""
SQUARES = {"Pow": "two = Constant<value_float=2.0>() q = Pow(d, two)", "Mul": "q = Mul(d, d)"}


def spelled(square: str, opset: int = 17) -> onnx.ModelProto:
    model = parser.parse_model(HEAD.format(opset=opset) + SPELLED.format(square=SQUARES[square]))
    rng = np.random.default_rng(3)
    for name in ("gamma", "beta"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=16).astype(np.float32), name))
    return model


def folded(model: onnx.ModelProto):
    loaded = load(model)
    quantkit.fold.fold(loaded)
    return loaded


def ops(model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model, x: np.ndarray) -> np.ndarray:
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("opset", [13, 15, 17])
def test_a_spelled_out_layer_norm_becomes_one_op_of_the_same_value(square, opset):
    model = spelled(square, opset)
    result = folded(model)
    assert ops(result) == ["LayerNormalization"]
    assert result.opset_imports[""] == 17
    x = np.random.default_rng(4).normal(size=(2, 5, 16)).astype(np.float32)
    np.testing.assert_allclose(run(result, x), run(model, x), rtol=1e-4, atol=1e-5)


def test_a_mean_over_another_axis_is_no_layer_norm():
    model = spelled("Mul")
    model.graph.node[0].attribute[0].ints[0] = 1
    assert "LayerNormalization" not in ops(folded(model))


def test_a_deviation_of_another_tensor_is_no_layer_norm():
    text = SPELLED.format(square="o = Exp(x) k = ReduceMean<axes=[-1]>(o) z = Sub(o, k) q = Mul(z, z)")
    model = parser.parse_model(HEAD.format(opset=17) + text)
    for name in ("gamma", "beta"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(16, np.float32), name))
    assert "LayerNormalization" not in ops(folded(model))


def test_a_model_of_opset_13_with_roi_align_keeps_its_opset():
    model = spelled("Mul", 13)
    assert _may_be_raised(ir.from_proto(model))
    model.graph.node.append(onnx.helper.make_node("RoiAlign", ["x", "x", "x"], ["rois"]))
    assert not _may_be_raised(ir.from_proto(model))


def test_a_sum_of_three_becomes_two_adds_of_the_same_value():
    model = parser.parse_model(HEAD.format(opset=17) + "{ a = Exp(x) b = Neg(x) y = Sum(x, a, b) }")
    result = folded(model)
    assert sorted(ops(result)) == ["Add", "Add", "Exp", "Neg"]
    x = np.random.default_rng(4).normal(size=(2, 5, 16)).astype(np.float32)
    assert np.array_equal(run(result, x), run(model, x))


@pytest.mark.parametrize("order", ["x, a", "a, x"])
def test_max_of_x_and_a_part_of_x_is_leaky_relu(order):
    body = f"{{ k = Constant<value_float=0.2>() a = Mul(x, k) y = Max({order}) }}"
    result = folded(parser.parse_model(HEAD.format(opset=17) + body))
    assert ops(result) == ["LeakyRelu"]
    assert result.graph[0].attributes["alpha"].as_float() == pytest.approx(0.2)


def test_max_of_x_and_twice_x_stays():
    body = "{ k = Constant<value_float=2.0>() a = Mul(x, k) y = Max(x, a) }"
    assert ops(folded(parser.parse_model(HEAD.format(opset=17) + body))) == ["Mul", "Max"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Max(x, zero)", ["Relu"]),
        ("y = Max(low, x)", ["Clip"]),
        ("y = Min(x, high)", ["Clip"]),
        ("a = Max(x, low) y = Min(high, a)", ["Clip", "Clip"]),
        ("y = Max(x, row)", ["Max"]),  # a number for each column
        ("y = Max(x, deep)", ["Max"]),  # gives the output another rank
        ("y = Min(x, none)", ["Min"]),
        ("a = Max(x, tiny) y = Log(a)", ["Max", "Log"]),  # 0 in u8
        ("a = Neg(x) y = Max(x, a)", ["Neg", "Max"]),
    ],
)
def test_max_and_min_with_a_number_are_bounds(body, expected):
    numbers = {"zero": [0.0], "low": [[-0.4]], "high": 0.7, "row": np.ones(16), "deep": [[[[0.3]]]], "none": np.nan,
               "tiny": 1e-6}  # fmt: skip
    model = parser.parse_model(HEAD.format(opset=17) + "{" + body + "}")
    for name, value in numbers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    result = folded(model)
    assert ops(result) == expected
    x = np.random.default_rng(4).normal(size=(2, 5, 16)).astype(np.float32)
    if "none" not in body:
        assert np.array_equal(run(result, x), run(model, x))


def test_a_large_constant_that_is_a_weight_is_folded_and_another_is_not():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 2100] x, float[2100, 2100] z)
     => (float[1, 2100] y, float[2100, 2100] w)
     { s = Constant<value_ints=[2100, 2100]>() weight = ConstantOfShape(s) y = MatMul(x, weight)
       other = ConstantOfShape(s) w = Add(z, other) }"""
    assert sorted(ops(folded(parser.parse_model(text)))) == ["Add", "ConstantOfShape", "MatMul"]


ANY_AXES = """<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 6, 4, 5] x) => (float[2, 6, 4, 5] y) {{
 m = ReduceMean<axes={axes}>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes={axes}>(q)
 e = Constant<value_float=0.001>() s = Add(v, e) r = Sqrt(s) n = Div(d, r) g = Mul(n, gamma) y = Add(g, beta) }}"""
BY_AXES = {
    "the spatial axes, scaled by channel": ("[2, 3]", (6, 1, 1), ["InstanceNormalization"]),
    "the spatial axes from the end": ("[-1, -2]", (1, 6, 1, 1), ["InstanceNormalization"]),
    "the last axes, scaled by position": ("[2, 3]", (4, 5), ["LayerNormalization"]),
    "the last three axes": ("[1, 2, 3]", (6, 4, 5), ["LayerNormalization"]),
    "the last axis": ("[3]", (5,), ["LayerNormalization"]),
    "the last axis, scaled by channel": ("[3]", (6, 1, 1), ["LayerNormalization", "Mul", "Add"]),
    "the channels of an image": ("[1]", (6, 1, 1), None),
}


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("case", BY_AXES)
def test_a_spelled_out_norm_over_other_axes_is_named_by_its_axes_and_scales(case, opset):
    axes, shape, wanted = BY_AXES[case]
    proto = parser.parse_model(ANY_AXES.format(opset=opset, axes=axes))
    rng = np.random.default_rng(3)
    for name in ("gamma", "beta"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    model = folded(proto)
    assert ops(model) == wanted if wanted else "ReduceMean" in ops(model)
    x = (rng.normal(size=(2, 6, 4, 5)) * 3 + 1).astype(np.float32)
    np.testing.assert_allclose(run(model, x), run(proto, x), atol=2e-5)
