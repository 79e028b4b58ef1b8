"""QOperator models: every op natively, equal to the oracle, at most a step from onnxruntime's own kernels."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from quantkit import Session
from tests.foreign.build import MICROSOFT, Builder, check_native, reals, weights
from tests.graphs import run_onnxruntime

X_SCALE, Y_SCALE = 0.0157, 0.0213
KINDS = {"u8": (np.uint8, 117, 131), "s8": (np.int8, -9, 4)}


def pool_attributes():
    return {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}


def conv(b, x, y, *, per_channel=True, with_bias=True):
    scale = np.linspace(0.002, 0.009, 4) if per_channel else 0.004
    w = [b.constant(weights(4, 4, 3, 3)), *b.pair(scale, np.zeros(np.shape(scale)), np.int8)]
    bias = [b.constant(weights(4, limit=9000, dtype=np.int32))] if with_bias else []
    return b.node("QLinearConv", [*x, *w, *y, *bias], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def matmul(b, x, y):
    w = [b.constant(weights(8, 6)), *b.pair(np.linspace(0.002, 0.006, 6), [0] * 6, np.int8)]
    return b.node("QLinearMatMul", [*x, *w, *y])


def flat(b, x):
    return [b.node("Flatten", x[:1]), *x[1:]]


def gemm(b, x, y, *, transposed=1, per_channel=True):
    scale = np.linspace(0.001, 0.003, 10) if per_channel else 0.002
    q = weights(10, 256) if transposed else weights(256, 10)
    w = [b.constant(q), *b.pair(scale, np.zeros(np.shape(scale)), np.int8)]
    bias = b.constant(weights(10, limit=9000, dtype=np.int32))
    return b.node("QGemm", [*flat(b, x), *w, bias, *y], MICROSOFT, transB=transposed)


def second(b):
    return b.activation("z", 0.011)


def microsoft(op_type, **attributes):
    return lambda b, x, y: b.node(op_type, [*x, *y], MICROSOFT, **attributes)


CASES = {
    "QLinearConv": conv,
    "QLinearConv per tensor": lambda b, x, y: conv(b, x, y, per_channel=False),
    "QLinearConv without bias": lambda b, x, y: conv(b, x, y, with_bias=False),
    "QLinearMatMul": matmul,
    "QGemm": gemm,
    "QGemm not transposed": lambda b, x, y: gemm(b, x, y, transposed=0),
    "QGemm per tensor": lambda b, x, y: gemm(b, x, y, per_channel=False),
    "QLinearAdd": lambda b, x, y: b.node("QLinearAdd", [*x, *second(b), *y], MICROSOFT),
    "QLinearMul": lambda b, x, y: b.node("QLinearMul", [*x, *second(b), *y], MICROSOFT),
    "QLinearConcat": lambda b, x, y: b.node("QLinearConcat", [*y, *x, *second(b)], MICROSOFT, axis=1),
    "QLinearSigmoid": microsoft("QLinearSigmoid"),
    "QLinearLeakyRelu": microsoft("QLinearLeakyRelu", alpha=0.1),
    "QLinearGlobalAveragePool": microsoft("QLinearGlobalAveragePool"),
    "QLinearAveragePool": microsoft("QLinearAveragePool", **pool_attributes()),
}  # fmt: skip
MOVES = {
    "MaxPool": lambda b, q: b.node("MaxPool", [q], **pool_attributes()),
    "Reshape": lambda b, q: b.node("Reshape", [q, b.constant([0, 2, -1], np.int64)]),
    "Transpose": lambda b, q: b.node("Transpose", [q], perm=[0, 2, 3, 1]),
    "Slice": lambda b, q: b.node("Slice", [q, *(b.constant([v], np.int64) for v in (1, 7, 3, 2))]),
    "Squeeze after Unsqueeze": lambda b, q: b.node(
        "Squeeze", [b.node("Unsqueeze", [q, b.constant([1], np.int64)]), b.constant([1], np.int64)]
    ),
    "Concat": lambda b, q: b.node("Concat", [q, q], axis=2),
}


class QOperators(Builder):
    """A builder with quantized activations of one kind."""

    def __init__(self, kind):
        super().__init__()
        self.dtype, self.x_zero_point, self.y_zero_point = KINDS[kind]

    def activation(self, name, scale):
        """The triple of a graph input that is quantized here."""
        pair = self.pair(scale, self.x_zero_point, self.dtype)
        return [self.node("QuantizeLinear", [name, *pair]), *pair]

    def finished(self, q, pair):
        y = self.node("DequantizeLinear", [q, *pair])
        used = {name for node in self.nodes for name in node.input}
        return self.model({n: ["N", 4, 8, 8] for n in ("x", "z") if n in used}, {y: TensorProto.FLOAT})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_quantized_operator_runs_natively(case, kind):
    b = QOperators(kind)
    y = b.pair(Y_SCALE, b.y_zero_point, b.dtype)
    check_native(b.finished(CASES[case](b, b.activation("x", X_SCALE), y), y), Y_SCALE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", MOVES)
def test_a_standard_op_on_an_8_bit_tensor_runs_natively(case, kind):
    b = QOperators(kind)
    q, *pair = b.activation("x", X_SCALE)
    check_native(b.finished(MOVES[case](b, q), pair), X_SCALE)


def test_a_gemm_without_output_parameters_ends_in_float():
    b = QOperators("u8")
    y = gemm(b, b.activation("x", X_SCALE), [])
    proto = b.model({"x": ["N", 4, 8, 8]}, {y: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(3, 4, 8, 8)}
    assert {row.runs_on for row in session.plan} == {"native"}
    np.testing.assert_allclose(session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0], rtol=1e-5, atol=1e-5)


def test_an_operator_that_cannot_be_written_out_stays_whole_and_says_why():
    b = QOperators("u8")
    x, y = b.activation("x", X_SCALE), b.pair(Y_SCALE, 131)
    q = b.node("QLinearGlobalAveragePool", [*x, *y], MICROSOFT, channels_last=1)
    proto = b.finished(conv(b, [b.node("Transpose", [q], perm=[0, 3, 1, 2]), *y], y), y)
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 4)}
    rows = {row.op: row for row in session.plan}
    assert "channels_last" in rows["QLinearGlobalAveragePool"].reason
    assert rows["QConv"].runs_on == "native"
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 1.001 * Y_SCALE


def test_dynamic_quantization_stays_in_onnxruntime():
    b = Builder()
    b.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dynamic"))
    y = b.node("ConvInteger", ["q", b.constant(weights(4, 4, 3, 3)), "z"])
    proto = b.model({"x": ["N", 4, 8, 8]}, {y: TensorProto.INT32})
    feeds = {"x": reals(1, 4, 8, 8)}
    np.testing.assert_array_equal(Session(proto).run(None, feeds)[0], run_onnxruntime(proto, feeds)[0])
