"""The forms in which PyTorch 2.13 writes quantized models, rebuilt node by node: native, exact, with nothing left over.

Eager mode (`torch.ao.quantization.convert`, TorchScript exporter) puts a Cast between every QuantizeLinear and
DequantizeLinear, makes the zero points of biases by ConstantOfShape and Cast, and repeats parameters for every reader.
`convert_pt2e` of torchao (dynamo exporter) has an axis on scalar scales, float biases, QuantizeLinear ->
DequantizeLinear twice in a row, and on both sides of ops that only move values.
"""

import numpy as np
import pytest
from onnx import TensorProto

from quantkit import Session
from quantkit.execute.oracle import run_oracle
from quantkit.foreign import to_static
from quantkit.load import load
from tests.foreign.build import Builder, reals, weights
from tests.graphs import run_onnxruntime

CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
X, Y, SUM, OUT = (0.0157, 117), (0.021, 0), (0.03, 0), (0.05, 128)


class Eager(Builder):
    """Constants are nodes in such files; initializers, which load makes of them, stand for them here."""

    def read(self, q, params):
        return self.dequantize(self.node("Cast", [q], to=TensorProto.UINT8), *params)

    def layer(self, op, q, x, shape, y, relu=False, **attributes):
        scale = np.linspace(0.002, 0.006, shape[0]).astype(np.float32)
        zeros = self.node("ConstantOfShape", [self.constant([shape[0]], np.int64)])
        zeros = self.node("Cast", [zeros], to=TensorProto.INT32)
        bias = [self.constant(weights(shape[0], limit=5000), np.int32), self.constant(np.float32(x[0]) * scale), zeros]
        inputs = [self.read(q, x), self.weight(weights(*shape), scale, axis=0)]
        made = self.node(op, [*inputs, self.node("DequantizeLinear", bias, axis=0)], **attributes)
        return self.quantize(self.node("Relu", [made]) if relu else made, *y)

    def unary(self, op, q, x, y, **attributes):
        return self.quantize(self.node(op, [self.read(q, x)], **attributes), *y)


def eager():
    b = Eager()
    first = b.layer("Conv", b.quantize("x", *X), X, (8, 3, 3, 3), Y, relu=True, strides=[2, 2], group=1, **CONV)
    depthwise = b.layer("Conv", first, Y, (8, 1, 3, 3), Y, relu=True, strides=[1, 1], group=8, **CONV)
    added = b.quantize(b.node("Add", [b.read(first, Y), b.read(depthwise, Y)]), *SUM)
    pooled = b.unary("MaxPool", b.unary("Relu", added, SUM, SUM), SUM, SUM, kernel_shape=[2, 2], strides=[2, 2])
    flat = b.unary("Flatten", b.unary("GlobalAveragePool", b.unary("HardSwish", pooled, SUM, SUM), SUM, SUM), SUM, SUM)
    y = b.layer("Gemm", flat, SUM, (10, 8), OUT, alpha=1.0, beta=1.0, transB=1)
    return b.model({"x": [2, 3, 16, 16]}, {b.read(y, OUT): TensorProto.FLOAT})


def pt2e():
    """Of the XNNPACK quantizer: symmetric weights, s8 activations."""
    b = Builder(opset=20)

    def through(x, params):
        scale, zero_point = params[0], params[1] - 128
        q = b.quantize(x, scale, zero_point, np.int8, axis=1)
        return b.dequantize(q, scale, zero_point, np.int8, axis=1)

    def layer(op, x, shape, y, **attributes):
        w = b.weight(weights(*shape), np.linspace(0.002, 0.006, shape[0]), axis=0)
        return through(b.node(op, [x, w, b.constant(reals(shape[0]) / 10)], **attributes), y)

    x = through("x", X)
    first = b.node("Conv", [x, b.weight(weights(8, 3, 3, 3), np.linspace(0.002, 0.006, 8), axis=0),
                            b.constant(reals(8))], strides=[2, 2], **CONV)  # fmt: skip
    first = through(b.node("Relu", [first]), Y)
    depthwise = layer("Conv", first, (8, 1, 3, 3), (0.04, 130), group=8, **CONV)
    low, high = (b.constant(v, np.float32) for v in (0.0, 6.0))
    clipped = through(b.node("Clip", [depthwise, low, high]), (0.0235, 0))
    second = layer("Conv", clipped, (8, 8, 1, 1), (0.04, 120))
    added = through(b.node("Relu", [b.node("Add", [first, second])]), SUM)
    pooled = through(b.node("MaxPool", [added], kernel_shape=[2, 2], strides=[2, 2]), SUM)
    mean = through(b.node("ReduceMean", [pooled, b.constant([-1, -2], np.int64)], keepdims=1), SUM)
    flat = through(b.node("Reshape", [mean, b.constant([2, 8], np.int64)], allowzero=1), SUM)
    y = layer("Gemm", flat, (10, 8), OUT, alpha=1.0, beta=1.0, transB=1)
    return b.model({"x": [2, 3, 16, 16]}, {y: TensorProto.FLOAT})


@pytest.mark.parametrize("write", [eager, pt2e])
def test_a_quantized_model_of_pytorch_runs_natively_and_exactly(write):
    proto = write()
    feeds = {"x": reals(2, 3, 16, 16)}
    session = Session(proto, threads=1)
    assert {row.op: row.reason for row in session.plan if row.runs_on != "native"} == {}
    got = session.run(None, feeds)[0]
    rewritten = load(proto)
    to_static(rewritten)
    np.testing.assert_array_equal(got, *run_oracle(rewritten, feeds).values())
    assert [node.op_type for node in rewritten.graph if node.domain == "" and "Linear" not in node.op_type] == []
    np.testing.assert_allclose(got, run_onnxruntime(proto, feeds)[0], atol=1.001 * OUT[0])
    assert len(np.unique(got)) > 5
