"""Factors for each channel: BatchNormalization behind integer weights, activations quantized per channel."""

import numpy as np
import pytest
from onnx import TensorProto

from quantkit import Session
from tests.foreign.build import Builder, reals, weights
from tests.graphs import run_onnxruntime

X_SCALE, Y_SCALE = 0.0157, 0.05
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def batchnorm(b, x, gamma):
    constants = [gamma, reals(4, seed=2), reals(4, seed=3), reals(4, low=0.3, high=2.0, seed=4)]
    return b.node("BatchNormalization", [x, *(b.constant(c, np.float32) for c in constants)], epsilon=1e-3)


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_batchnorm_behind_integer_weights_is_folded_also_with_negative_gains(with_bias):
    b = Builder()
    inputs = [b.through("x", X_SCALE, 120), b.weight(weights(4, 4, 3, 3), np.linspace(0.002, 0.009, 4), axis=0)]
    inputs += [b.constant(reals(4))] if with_bias else []
    y = b.node("Relu", [batchnorm(b, b.node("Conv", inputs, **WINDOW), [0.9, -1.1, 0.0, 0.4])])
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 20): TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(2, 4, 8, 8)}
    assert [row.op for row in session.plan] == ["QuantizeLinear", "QConvRelu", "DequantizeLinear"]
    got, expected = session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0]
    assert np.abs(got - expected).max() <= 1.001 * Y_SCALE
    assert len(np.unique(got)) > 20


def test_a_weight_of_minus_128_under_a_negative_gain_keeps_the_batchnorm_in_float():
    b = Builder()
    q = weights(4, 4, 3, 3)
    q[1, 0, 0, 0] = -128
    conv = b.node("Conv", [b.through("x", X_SCALE, 120), b.weight(q, 0.004)], **WINDOW)
    out = b.through(batchnorm(b, conv, [0.9, -1.1, 0.5, 0.4]), Y_SCALE, 128)
    proto = b.model({"x": ["N", 4, 8, 8]}, {out: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(2, 4, 8, 8)}
    assert "QConvFloat" in [row.op for row in session.plan if row.runs_on == "native"]
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 1.001 * Y_SCALE


def channelwise(zero_points, scale, activation, dtype=np.int8, group=4):
    """conv -> activation -> quantized per channel -> depthwise conv, as NNCF writes it."""
    b = Builder()
    first = b.node("Conv", [b.through("x", X_SCALE, 120), b.weight(weights(4, 4, 3, 3), 0.004),
                            b.constant(reals(4))], **WINDOW)  # fmt: skip
    middle = activation(b, first)
    q = b.quantize(middle, scale, zero_points, dtype, axis=1)
    real = b.dequantize(q, scale, zero_points, dtype, axis=1)
    w = b.weight(weights(8, 4 // group, 3, 3, seed=5), np.linspace(0.003, 0.009, 8), axis=0)
    second = b.node("Conv", [real, w, b.constant(reals(8, seed=6))], **WINDOW, group=group)
    return b.model({"x": ["N", 4, 8, 8]}, {b.through(second, 0.02, 100): TensorProto.FLOAT})


def relu(b, x):
    return b.node("Relu", [x])


def clip(high):
    return lambda b, x: b.node("Clip", [x, b.constant(0.0, np.float32), b.constant(high, np.float32)])


CHANNELWISE = {
    "Relu, s8": ([-128] * 4, [0.008, 0.011, 0.004, 0.007], relu, np.int8),
    "Relu, u8": ([0] * 4, [0.008, 0.011, 0.004, 0.007], relu, np.uint8),
    "Clip": ([-128] * 4, [0.005, 0.004, 0.0039, 0.0045], clip(1.3), np.int8),
    "no activation": ([0] * 4, [0.012, 0.021, 0.014, 0.016], lambda b, x: x, np.int8),
    "a channel that is always 0": ([-128, 0, -128, -128], [0.008, 6e-6, 0.004, 0.007], relu, np.int8),
}


@pytest.mark.parametrize("case", CHANNELWISE)
def test_activations_quantized_per_channel_before_a_depthwise_convolution_run_natively(case):
    zero_points, scale, activation, dtype = CHANNELWISE[case]
    proto = channelwise(zero_points, scale, activation, dtype)
    session, feeds = Session(proto), {"x": reals(2, 4, 8, 8)}
    assert {row.name: row.reason for row in session.plan if row.runs_on != "native"} == {}
    got, expected = session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0]
    off = np.abs(got - expected) / 0.02
    assert (off > 1.001).mean() < 0.001  # a tie in the middle may fall the other way
    assert off.max() <= 2.001
    assert len(np.unique(got)) > 60


@pytest.mark.parametrize(
    ("zero_points", "activation", "group"),
    [([-128] * 4, clip(0.5), 4), ([-128, 0, -128, -128], lambda b, x: x, 4), ([-128] * 4, relu, 1)],
    ids=["a Clip that bites", "several zero points below 0", "not depthwise"],
)
def test_other_activations_quantized_per_channel_stay_in_onnxruntime(zero_points, activation, group):
    proto = channelwise(zero_points, [0.008, 0.011, 0.004, 0.007], activation, group=group)
    session, feeds = Session(proto), {"x": reals(2, 4, 8, 8)}
    reasons = [row.reason for row in session.plan if row.op == "Conv"]
    assert len(reasons) == 1
    assert "per channel" in reasons[0]
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 0.021
