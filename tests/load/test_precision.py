"""Half-precision, bfloat16 and double models: computed in float32, inputs and outputs as they were."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit import Session, pipeline
from quantkit.load import load, to_proto
from quantkit.load.precision import to_single
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model, run_onnxruntime, sqnr_db

FAST = QuantConfig(method="minmax", effort="fast", keep_int8=True)
BODY = f"""c = Conv<{CONV}>(x, w, b) n = Mul(c, k) r = Relu(n) s = Shape(r) z = ConstantOfShape(s) a = Add(r, z)
g = GlobalAveragePool(a) f = Flatten(g) y = Gemm<transB = 1>(f, h)"""
WEIGHTS = {"w": (16, 3, 3, 3), "b": (16,), "h": (10, 16), "k": np.array(1.5, np.float32)}
KINDS = {"float16": TensorProto.FLOAT16, "double": TensorProto.DOUBLE, "bfloat16": TensorProto.BFLOAT16}


def in_type(name, keep_inputs=False):
    """The network with weights, inputs and outputs of a type; keep_inputs: float32 outside, Casts at the border."""
    proto, kind = model(BODY, WEIGHTS, inputs="float[N,3,8,8] x", outputs="float[N,10] y"), KINDS[name]
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, array.shape, array.reshape(-1)))
    fill = next(node for node in proto.graph.node if node.op_type == "ConstantOfShape")
    fill.attribute.append(helper.make_attribute("value", helper.make_tensor("", kind, [1], [0.25])))
    if keep_inputs:
        proto.graph.node[0].input[0], proto.graph.node[-1].output[0] = "x_in", "y_in"
        proto.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_in"], to=kind))
        proto.graph.node.append(helper.make_node("Cast", ["y_in"], ["y"], to=TensorProto.FLOAT))
    else:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.elem_type = kind
    return proto


def by_float32(feeds):
    """What the network in float32 gives; onnxruntime has no Conv in double and in bfloat16."""
    filled = BODY.replace("ConstantOfShape(s)", "ConstantOfShape<value = float[1] {0.25}>(s)")
    proto = model(filled, WEIGHTS, inputs="float[N,3,8,8] x", outputs="float[N,10] y")
    return run_onnxruntime(proto, {"x": feeds["x"].astype(np.float32)})[0]


def single(proto):
    return to_single(load(proto))


@pytest.mark.parametrize("name", ["float16", "double"])
def test_a_model_of_another_float_type_gives_the_same_values_in_float32(name):
    proto = in_type(name)
    converted, decisions = single(proto)
    assert [d.action for d in decisions] == ["converted"]
    plain = to_proto(converted)
    onnx.checker.check_model(plain, full_check=True)
    assert [i.SerializeToString() for i in plain.graph.input] == [i.SerializeToString() for i in proto.graph.input]
    assert {t.data_type for t in plain.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    feeds = {"x": image(2, 3, 8, 8).astype(np.float16 if name == "float16" else np.float64)}
    got = run_onnxruntime(plain, feeds)[0]
    assert got.dtype == feeds["x"].dtype
    np.testing.assert_allclose(got, by_float32(feeds), atol=5e-3 if name == "float16" else 1e-6)
    if name == "float16":
        np.testing.assert_allclose(got, run_onnxruntime(proto, feeds)[0], atol=5e-3)


@pytest.mark.parametrize("name", ["float16", "double"])
def test_a_model_of_another_float_type_is_quantized_and_keeps_its_inputs_and_outputs(name):
    proto = in_type(name)
    feeds = {"x": image(2, 3, 8, 8).astype(np.float16 if name == "float16" else np.float64)}
    result = pipeline.quantize(proto, [feeds], config=FAST)
    assert {"QConvRelu", "QGemmFloat"} <= {node.op_type for node in result.model.graph}
    wanted = by_float32(feeds)
    for got in (Session(result.model, threads=1).run(None, feeds)[0], run_onnxruntime(result.proto, feeds)[0]):
        assert got.dtype == feeds["x"].dtype
        assert sqnr_db(wanted, got.astype(np.float32)) > 25
    np.testing.assert_allclose(Session(pipeline.convert(proto).model).run(None, feeds)[0], wanted, atol=0.2)


def test_samples_in_float32_are_taken_for_a_half_precision_model():
    result = pipeline.quantize(in_type("float16"), [{"x": image(2, 3, 8, 8)}], config=FAST)
    assert result.kind == "calibrated"


def test_a_bfloat16_model_which_onnxruntime_cannot_run_itself_is_quantized():
    proto = in_type("bfloat16", keep_inputs=True)
    feeds = {"x": image(2, 3, 8, 8)}
    result = pipeline.quantize(proto, [feeds], config=FAST)
    assert sqnr_db(by_float32(feeds), Session(result.model, threads=1).run(None, feeds)[0]) > 25


def test_a_float32_model_with_positions_in_double_is_left_alone():
    body = f"c = Conv<{CONV}>(x, w) d = Cast<to = 11>(c) e = Mul(d, k) y = Cast<to = 1>(e)"
    proto = model(body, {"w": (8, 3, 3, 3), "k": np.array(2.0)}, outputs="float[N,8,8,8] y")
    converted, decisions = single(proto)
    assert decisions == []
    assert converted.graph.initializers["k"].dtype.name == "DOUBLE"


def test_doubles_beyond_float32_become_its_largest_value_and_infinities_stay():
    body = "m = MatMul(x, w) y = Add(m, k)"
    mask = np.array([0.0, -1e300, -np.inf])
    proto = model(body, {"w": np.eye(3), "k": mask}, inputs="double[2,3] x", outputs="double[2,3] y")
    converted, _ = single(proto)
    values = converted.graph.initializers["k"].const_value.numpy()
    assert list(values) == [0.0, -np.finfo(np.float32).max, -np.inf]


def test_what_has_no_float32_form_stays_with_the_reason():
    proto = model("m = MatMul(x, w) y = SequenceConstruct(m)", {"w": np.eye(3)}, inputs="double[2,3] x",
                  outputs="double[2,3] y")  # fmt: skip
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.DOUBLE, None))
    _, decisions = single(proto)
    assert "output 'y' is a sequence" in decisions[0].detail
    feeds = {"x": np.ones((2, 3))}
    assert np.array_equal(
        Session(pipeline.quantize(proto, [feeds], config=FAST).model).run(None, feeds)[0][0], feeds["x"]
    )
