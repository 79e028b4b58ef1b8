"""Old opsets: what is raised computes the same; what would not stays as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.fold import fold
from quantkit.load import load, load_decisions

SAME_OPS = {"rtol": 1e-4, "atol": 1e-5}  # float32 in another order, BatchNorm folded
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def scales(height, width):
    return {"s": np.array([1, 1, height, width], np.float32)}


def node(op, inputs="x", outputs="y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


CASES = {
    "upsample, nearest": (9, [node("Upsample", "x s", mode="nearest")], scales(2.4, 1.6)),
    "upsample, linear": (9, [node("Upsample", "x s", mode="linear")], scales(2, 3)),
    "upsample with attribute": (7, [node("Upsample", mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])], {}),
    "resize, nearest": (10, [node("Resize", "x s", mode="nearest")], scales(1.6, 3)),
    "resize, linear": (10, [node("Resize", "x s", mode="linear")], scales(2, 2)),
    "resize, shrinking": (10, [node("Resize", "x s", mode="nearest")], scales(0.6, 0.8)),
    "batch normalization": (
        8,
        [node("Conv", "x w", "c"), node("BatchNormalization", "c a b m v")],
        {"w": normal(3, 3, 1, 1), "a": normal(3), "b": normal(3), "m": normal(3), "v": normal(3) ** 2 + 1},
    ),
    "dropout": (10, [node("Dropout", "x", "d", ratio=0.5), node("Relu", "d")], {}),
    "pad": (10, [node("Pad", "x", "p", pads=[0, 0, 1, 0, 0, 0, 0, 2]), node("Conv", "p w")], {"w": normal(4, 3, 3, 3)}),
    "clip": (7, [node("Clip", min=-0.5, max=0.5)], {}),
    "clip without maximum": (10, [node("Clip", min=0.1)], {}),
    "slice": (9, [node("Slice", starts=[0, 1], ends=[2, 9], axes=[1, 2])], {}),
    "softmax over the rest": (7, [node("Softmax", axis=1)], {}),
    "reduce and squeeze": (11, [node("ReduceSum", "x", "r", axes=[2, 3]), node("Squeeze", "r", axes=[2, 3])], {}),
    "split": (11, [node("Split", "x", "p q", axis=1, split=[1, 2]), node("Concat", "q p", axis=1)], {}),
    "gemm": (
        7,
        [node("Flatten", "x", "f"), node("Gemm", "f w b", transB=1, alpha=0.5)],
        {"w": normal(5, 75), "b": normal(5)},
    ),
    "shape arithmetic": (
        9,
        [
            node("Shape", "x", "s"),
            node("Gather", "s i", "g"),
            node("Unsqueeze", "g", "u", axes=[0]),
            node("Concat", "u m", "t", axis=0),
            node("Reshape", "x t"),
        ],
        {"i": np.array(0), "m": np.array([-1])},
    ),
}


def build(name, ir_version):
    opset, nodes, weights = CASES[name]
    info = helper.make_tensor_value_info
    inputs = [info("x", TensorProto.FLOAT, ["N", 3, 5, 5])]
    if ir_version < 4:
        inputs += [info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in weights.items()]
    initializers = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", TensorProto.FLOAT, None)], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("ir_version", [3, 7])
@pytest.mark.parametrize("name", CASES)
def test_an_old_opset_is_raised_and_computes_the_same(name, ir_version):
    proto = build(name, ir_version)
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 5)).astype(np.float32)
    expected = run(proto, x)
    model = load(proto)
    assert model.graph.opset_imports[""] == 17
    np.testing.assert_allclose(run(ir.to_proto(model), x), expected, **SAME_OPS)
    fold(model)
    np.testing.assert_allclose(run(ir.to_proto(model), x), expected, **SAME_OPS)


def test_an_op_whose_meaning_would_change_keeps_the_old_opset():
    graph = helper.make_graph(
        [node("Hardmax", axis=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 5, 5])],
    )
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))
    assert model.graph.opset_imports[""] == 11
    assert "Hardmax" in load_decisions(model)[0].detail
