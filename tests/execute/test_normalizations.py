"""Normalizations in models: native, exact, and as ONNX means them."""

import numpy as np
import pytest

from tests.graphs import CONV, image, model, quantized
from tests.native_model import check_native

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
X = image(3, 3, 8, 8) * 2
GAIN = np.random.default_rng(5).normal(1, 0.3, 8).astype(np.float32)


def between_convs(op, *, opset=17, **weights):
    """conv -> the op from c to n -> a 1x1 conv, 8 channels each."""
    body = f"c = Conv<{CONV}>(x, w) n = {op} y = Conv<{POINT}>(n, v)"
    return model(body, {"w": (8, 3, 3, 3), "v": (4, 8, 1, 1), **weights}, opset=opset)


@pytest.mark.parametrize("size", [1, 3, 5, 19])
def test_lrn_over_windows_of_channels(size):
    check_native(between_convs(f"LRN<size={size}, alpha=0.5, beta=0.75, bias=1.5>(c)"), ["QLRN"], X)


def test_lrn_of_alexnet():
    check_native(between_convs("LRN<size=5, alpha=0.0001, beta=0.75>(c)"), ["QLRN"], X * 20)


@pytest.mark.parametrize("attributes", ["size=301", "size=5, bias=0.0", "size=5, beta=9.0"])
def test_lrn_with_what_the_engine_lacks_stays_in_float(attributes):
    found = quantized(between_convs(f"LRN<{attributes}>(c)"))
    assert "LRN" in [n.op_type for n in found.graph]


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize(("axis", "dims"), [(-2, (8, 8)), (-3, (8, 8, 8)), (2, (8, 8)), (1, (8, 1, 1))])
def test_layer_normalization_over_several_axes(axis, dims, bias):
    gain = image(*dims)
    proto = between_convs(f"LayerNormalization<axis={axis}>(c, g{bias})", g=gain, b=gain[::-1] / 3)
    check_native(proto, ["QLayerNormalization"], X)


@pytest.mark.parametrize("axis", [-1, -3])
def test_rms_normalization(axis):
    proto = between_convs(f"RMSNormalization<axis={axis}>(c, g)", opset=23, g=GAIN if axis == -1 else image(8, 8, 8))
    check_native(proto, ["QRMSNormalization"], X)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_normalization(groups):
    op = f"GroupNormalization<num_groups={groups}, epsilon=0.001>(c, g, b)"
    check_native(between_convs(op, opset=21, g=GAIN, b=(8,)), ["QGroupNormalization"], X)


def test_instance_normalization():
    check_native(between_convs("InstanceNormalization(c, g, b)", g=GAIN, b=(8,)), ["QGroupNormalization"], X)


def test_instance_normalization_of_sequences():
    conv = "kernel_shape = [3], pads = [1, 1], strides = [1], dilations = [1], group = 1"
    body = f"c = Conv<{conv}>(x, w) n = InstanceNormalization(c, g, b) y = Conv<{conv}>(n, v)"
    weights = {"w": (8, 3, 3), "g": GAIN, "b": (8,), "v": (4, 8, 3)}
    proto = model(body, weights, inputs="float[N,3,L] x", outputs="float[N,M,L] y")
    check_native(proto, ["QGroupNormalization"], image(2, 3, 21))


def test_groups_of_an_unknown_size_stay_in_float():
    """They may hold more values than the engine can sum."""
    proto = between_convs("GroupNormalization<num_groups=2>(c, g, b)", opset=21, g=GAIN, b=(8,))
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"S{axis}"
    assert "GroupNormalization" in [n.op_type for n in quantized(proto).graph]


def test_gains_that_are_computed_stay_in_float():
    found = quantized(computed_gain())
    assert "InstanceNormalization" in [n.op_type for n in found.graph]


def computed_gain():
    body = (
        f"c = Conv<{CONV}>(x, w) p = ReduceMax<axes=[0,2,3], keepdims=0>(c) n = InstanceNormalization(c, p, b) "
        f"y = Conv<{POINT}>(n, v)"
    )
    return model(body, {"w": (8, 3, 3, 3), "v": (4, 8, 1, 1), "b": (8,)})
