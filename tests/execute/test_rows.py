"""Softmax and layer normalization in models: native, exact, and as ONNX means them."""

import numpy as np
import pytest

from tests.graphs import CONV, image, model, quantized
from tests.native_model import check_native

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
X = image(3, 3, 8, 8) * 2
GAIN = np.random.default_rng(5).normal(1, 0.3, 8).astype(np.float32)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_softmax_along_any_axis(axis):
    body = f"c = Conv<{CONV}>(x, w) s = Softmax<axis={axis}>(c) y = Conv<{POINT}>(s, v)"
    check_native(model(body, {"w": (8, 3, 3, 3), "v": (4, 8, 1, 1)}), ["QSoftmax"], X)


def test_layer_normalization_channels_last_and_back():
    body = (
        f"c = Conv<{CONV}>(x, w) t = Transpose<perm=[0,2,3,1]>(c) "
        f"n = LayerNormalization<axis=-1, epsilon=1e-6>(t, g, b) "
        f"m = MatMul(n, f) r = Transpose<perm=[0,3,1,2]>(m) y = Conv<{POINT}>(r, v)"
    )
    weights = {"w": (8, 3, 3, 3), "g": GAIN, "b": (8,), "f": (8, 8), "v": (4, 8, 1, 1)}
    found = check_native(model(body, weights), ["QLayerNormalization", "QMatMul"], X)
    assert [n.op_type for n in found.graph].count("QuantizeLinear") == 1


def test_layer_normalization_over_the_width_without_bias():
    body = f"c = Conv<{CONV}>(x, w) n = LayerNormalization<axis=-1>(c, g) y = Conv<{POINT}>(n, v)"
    check_native(model(body, {"w": (8, 3, 3, 3), "g": GAIN, "v": (4, 8, 1, 1)}), ["QLayerNormalization"], X)


@pytest.mark.parametrize("op", ["Softmax<axis=1>(c)", "LayerNormalization<axis=-1>(c, g)"])
def test_at_the_end_of_a_model_they_stay_in_float(op):
    weights = {"w": (8, 3, 3, 3)} | ({"g": GAIN} if "Layer" in op else {})
    found = quantized(model(f"c = Conv<{CONV}>(x, w) y = {op}", weights))
    assert [n.op_type for n in found.graph] == ["QuantizeLinear", "QConvFloat", op.split("<")[0]]


@pytest.mark.parametrize("slopes", [GAIN, np.repeat(GAIN[:2], 4), -GAIN])
def test_prelu_with_a_slope_a_channel(slopes):
    body = f"c = Conv<{CONV}>(x, w) p = PRelu(c, s) y = Conv<{POINT}>(p, v)"
    proto = model(body, {"w": (8, 3, 3, 3), "s": slopes.reshape(8, 1, 1), "v": (4, 8, 1, 1)})
    check_native(proto, ["QPRelu"], X)


def test_prelu_with_a_slope_a_pixel_stays_in_float():
    body = f"c = Conv<{CONV}>(x, w) p = PRelu(c, s) y = Conv<{POINT}>(p, v)"
    found = quantized(model(body, {"w": (8, 3, 3, 3), "s": (8, 8, 8), "v": (4, 8, 1, 1)}))
    assert "PRelu" in [n.op_type for n in found.graph]


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", ["1", "3", "2,3", "1,2", "0", "1,2,3"])
def test_the_mean_over_neighbouring_axes(axes, keep):
    body = (
        f"c = Conv<{CONV}>(x, w) r = Relu(c) m = ReduceMean<axes=[{axes}], keepdims={keep}>(r) "
        "f = Reshape(m, s) y = Gemm<transB=1>(f, g)"
    )
    size = {"1": 64, "3": 64, "2,3": 8, "1,2": 8, "0": 512, "1,2,3": 1}[axes]
    rows = np.array([1 if axes == "0" else -1, size], np.int64)
    proto = model(body, {"w": (8, 3, 3, 3), "s": rows, "g": (5, size)}, outputs="float[M,5] y")
    check_native(proto, ["QReduceMean"], X)
