"""Layers as regressions: rows times weights are the outputs of the op itself, at the positions drawn."""

import numpy as np
import pytest

from quantkit.quantize.layers import input_rows, layer_of, output_rows, positions_of
from quantkit.quantize.select import select
from tests.graphs import fused, image, model, run_onnxruntime

CONVS = {
    "plain": ("kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1], dilations=[1,1], group=1", (4, 6, 3, 3)),
    "strided, padded on one side": ("kernel_shape=[3,3], pads=[0,0,1,1], strides=[2,2], group=1", (4, 6, 3, 3)),
    "dilated": ("kernel_shape=[3,3], pads=[2,1,0,3], dilations=[2,1], group=1", (4, 6, 3, 3)),
    "grouped": ("kernel_shape=[3,3], pads=[1,1,1,1], group=3", (9, 2, 3, 3)),
    "depthwise, oblong": ("kernel_shape=[5,1], pads=[2,0,2,0], group=6", (6, 1, 5, 1)),
    "pointwise": ("kernel_shape=[1,1]", (8, 6, 1, 1)),
}


def layer_and_output(body, weights, x, **kwargs):
    proto = model(body, weights, **kwargs)
    ((node, form),) = select(fused(proto)).forms.items()
    return layer_of(node, form), run_onnxruntime(proto, {"x": x})[0]


def products(layer, x, positions):
    rows = input_rows(layer, x, positions)
    weights = layer.weights.reshape(layer.groups, -1, layer.weights.shape[1])
    product = np.matmul(rows, weights.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(rows.shape[1], -1)
    return product + layer.bias


@pytest.mark.parametrize(("attributes", "shape"), CONVS.values(), ids=CONVS.keys())
def test_convolution_rows_times_weights_are_its_output(attributes, shape):
    x = image(2, 6, 9, 8)
    body = f"y = Conv<{attributes}>(x, w, b)"
    layer, output = layer_and_output(body, {"w": shape, "b": shape[:1]}, x, inputs="float[N,6,9,8] x")
    count = positions_of(layer, output)
    for positions in (np.arange(count), np.array([0, 3, count - 1])):
        expected = output_rows(layer, output, positions)
        assert np.allclose(products(layer, x, positions), expected, atol=1e-4)


TRANSPOSED = {
    "doubling": ("kernel_shape=[2,2], strides=[2,2]", (6, 4, 2, 2)),
    "uneven pads and output padding": (
        "kernel_shape=[3,3], strides=[2,3], pads=[1,0,0,1], output_padding=[1,0]",
        (6, 4, 3, 3),
    ),
    "grouped, dilated": ("kernel_shape=[3,2], dilations=[2,1], strides=[1,2], group=2", (6, 4, 3, 2)),
}


@pytest.mark.parametrize(("attributes", "shape"), TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_transposed_convolution_rows_times_weights_are_its_output(attributes, shape):
    x, channels = image(2, 6, 5, 4), shape[1] * (2 if "group" in attributes else 1)
    body = f"y = ConvTranspose<{attributes}>(x, w, b)"
    layer, output = layer_and_output(body, {"w": shape, "b": (channels,)}, x, inputs="float[N,6,5,4] x")
    positions = np.arange(positions_of(layer, output))
    assert np.allclose(products(layer, x, positions), output_rows(layer, output, positions), atol=1e-4)


@pytest.mark.parametrize(
    ("body", "weights", "x", "inputs"),
    [
        ("y = Gemm<transB=1>(x, w, b)", {"w": (7, 5), "b": (7,)}, image(3, 5), "float[N,5] x"),
        ("m = MatMul(x, w) y = Add(m, b)", {"w": (5, 7), "b": (7,)}, image(2, 4, 5), "float[N,4,5] x"),
    ],
)
def test_matrix_rows_times_weights_are_the_output(body, weights, x, inputs):
    layer, output = layer_and_output(body, weights, x, inputs=inputs, outputs=f"float[{'N,' * (x.ndim - 1)}7] y")
    positions = np.arange(positions_of(layer, output))
    assert len(positions) == (1 if x.ndim == 2 else 4)
    assert np.allclose(products(layer, x, positions), output_rows(layer, output, positions), atol=1e-4)


def test_the_target_of_a_residual_layer_includes_what_is_added_and_ends_before_the_activation():
    attributes = "kernel_shape=[1,1], pads=[0,0,0,0], strides=[1,1], dilations=[1,1], group=1"
    body = f"c = Conv<{attributes}>(x, w) d = Conv<{attributes}>(c, v) a = Add(d, c) y = Relu(a)"
    forms = select(fused(model(body, {"w": (3, 3, 1, 1), "v": (3, 3, 1, 1)}))).forms
    first, second = (layer_of(node, form) for node, form in forms.items())
    assert (first.residual, first.target) == (None, "c")
    assert (second.source, second.residual, second.target) == ("c", "c", "y/pre_activation")
