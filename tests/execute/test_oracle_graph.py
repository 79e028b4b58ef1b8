"""The oracle on graphs: nodes that are not quantkit's, subgraphs, functions, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from quantkit.errors import DataError, ModelError
from quantkit.execute.oracle import run_oracle
from tests.execute.one_op import OneOp, pair, random_u8, triple


def float_graph(text: str, functions: str = "") -> onnx.ModelProto:
    opsets = '<ir_version: 10, opset_import: ["" : 20, "quantkit" : 1, "other" : 1]>'
    return parser.parse_model(f"{opsets} {text} {functions}")


def test_nodes_that_are_not_quantkits_run_in_onnxruntime() -> None:
    model = float_graph("g (float[2,3] x) => (float[2,3] y) { s = Softmax <axis = -1> (x) y = Neg(s) }")
    x = np.random.default_rng(17).normal(size=(2, 3)).astype(np.float32)
    result = run_oracle(model, {"x": x}, keep=["s"])
    np.testing.assert_allclose(result["s"].sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(result["y"], -result["s"])
    assert list(run_oracle(model, {"x": x})) == ["y"]


def test_subgraphs_see_the_tensors_around_them() -> None:
    body = (
        "then_branch = t () => (float[2] a) { a = Add(doubled, x) },"
        " else_branch = e () => (float[2] b) { b = Neg(doubled) }"
    )
    text = f"g (float[2] x, bool c) => (float[2] y) {{ doubled = Add(x, x) y = If <{body}> (c) }}"
    x = np.array([1.0, -2.0], np.float32)
    for condition, expected in [(True, 3 * x), (False, -2 * x)]:
        result = run_oracle(float_graph(text), {"x": x, "c": np.array(condition)})
        np.testing.assert_array_equal(result["y"], expected)


def test_dynamic_ops_and_foreign_functions_run_their_own_body() -> None:
    functions = (
        '<domain: "quantkit", opset_import: ["" : 20]> DynQTwice (x) => (y) { y = Add(x, x) }'
        '<domain: "other", opset_import: ["" : 20]> Square (x) => (y) { y = Mul(x, x) }'
    )
    model = float_graph("g (float[2] x) => (float[2] y) { d = quantkit.DynQTwice(x) y = other.Square(d) }", functions)
    result = run_oracle(model, {"x": np.array([1.0, -3.0], np.float32)})
    np.testing.assert_array_equal(result["y"], [4.0, 36.0])


def test_a_quantize_linear_per_axis_or_of_int8_runs_in_onnxruntime() -> None:
    text = (
        "g (float[2,3] x) => (int8[2,3] q) <float[3] s = {1.0, 0.5, 0.25}, int8[3] z = {0, 1, -2}>"
        " { q = QuantizeLinear <axis = 1> (x, s, z) }"
    )
    result = run_oracle(float_graph(text), {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(result["q"], [[1, 3, 2]] * 2)


def test_a_path_and_an_ir_model_give_the_same_as_the_proto(tmp_path) -> None:
    import onnx_ir as ir

    x = random_u8(np.random.default_rng(18), 3, 8)
    case = OneOp("QTanh", "y = Identity(x)", triple("x", x, 0.02, 99) | pair("y", 0.01, 128))
    expected = run_oracle(case.model, case.feeds)["y"]
    onnx.save(case.model, tmp_path / "m.onnx")
    np.testing.assert_array_equal(run_oracle(tmp_path / "m.onnx", case.feeds)["y"], expected)
    np.testing.assert_array_equal(run_oracle(ir.from_proto(case.model), case.feeds)["y"], expected)


def test_defaults_of_function_attributes_are_used() -> None:
    x = np.arange(256, dtype=np.uint8)
    case = OneOp("QLeakyRelu", "y = Identity(x)", triple("x", x, 0.5, 128) | pair("y", 0.5, 128))
    model = case.model
    model.functions[0].attribute_proto.append(helper.make_attribute("alpha", 0.5))
    expected = np.where(x < 128, np.rint((x.astype(float) - 128) / 2) + 128, x)
    np.testing.assert_array_equal(run_oracle(model, case.feeds)["y"], expected)


def test_an_unknown_quantkit_op_is_an_error_and_not_run_as_float() -> None:
    case = OneOp("QMystery", "y = Identity(x)", triple("x", np.zeros(3, np.uint8), 1.0, 0) | pair("y", 1.0, 0))
    with pytest.raises(ModelError, match="QMystery"):
        run_oracle(case.model, case.feeds)


@pytest.mark.parametrize("op", ["QConcat3", "QSplit2"])
def test_a_count_in_the_name_that_is_not_the_count_is_an_error(op: str) -> None:
    case = OneOp(op, "y = Identity(x)", triple("x", np.zeros(3, np.uint8), 1.0, 0) | pair("y", 1.0, 0), {"axis": 0})
    with pytest.raises(ModelError, match=op):
        run_oracle(case.model, case.feeds)


def test_movement_between_different_parameters_is_an_error() -> None:
    x = triple("x", np.zeros((1, 2), np.uint8), 1.0, 0)
    case = OneOp("QFlatten", "y = Identity(x)", x | pair("y", 0.5, 0), {"axis": 1})
    with pytest.raises(ModelError, match="same parameters"):
        run_oracle(case.model, case.feeds)


def test_a_missing_input_and_an_unknown_tensor_are_named() -> None:
    model = float_graph("g (float[2] x, float[2] z) => (float[2] y) { y = Add(x, z) }")
    x = np.ones(2, np.float32)
    with pytest.raises(DataError, match="z"):
        run_oracle(model, {"x": x})
    with pytest.raises(ModelError, match="nowhere"):
        run_oracle(model, {"x": x, "z": x}, keep=["nowhere"])
