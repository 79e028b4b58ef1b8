"""Transposed convolutions in models: native, exact, and as ONNX means them."""

import itertools

import pytest

from quantkit import pipeline
from quantkit.lower.conv_transpose import axis_phases
from tests.graphs import CONV, image, model, op_types, quantized, run_onnxruntime, sqnr_db
from tests.native_model import check_native

X = image(2, 3, 8, 8) * 2
POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"


def network(attributes, weights, tail="y = Relu(t)", **more):
    body = f"c = Conv<{CONV}>(x, w) t = ConvTranspose<{attributes}>(c, d, b) {tail}"
    group = int(attributes.split("group=")[1].split(",")[0].split(">")[0]) if "group=" in attributes else 1
    return model(body, {"w": (8, 3, 3, 3), "d": weights, "b": (weights[1] * group,), **more})


CASES = {
    "kernel 2, stride 2": ("strides=[2,2]", (8, 5, 2, 2)),
    "kernel 3, stride 2, as decoders have it": ("strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]", (8, 6, 3, 3)),
    "kernel 4, stride 2": ("strides=[2,2], pads=[1,1,1,1]", (8, 6, 4, 4)),
    "stride 1": ("pads=[1,0,1,2]", (8, 4, 3, 3)),
    "strides above the kernel: some outputs are the bias alone": ("strides=[3,4]", (8, 4, 2, 1)),
    "pads that cut whole taps": ("strides=[2,2], pads=[1,1,0,1]", (8, 4, 2, 2)),
    "dilation that meets the stride": ("strides=[2,3], dilations=[2,2], pads=[2,1,1,0]", (8, 4, 3, 3)),
    "groups": ("strides=[2,2], group=4, pads=[1,1,1,1]", (8, 3, 4, 4)),
    "depthwise": ("strides=[2,2], group=8, pads=[1,1,1,1]", (8, 1, 4, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_transposed_convolution_is_native(case):
    proto = network(*CASES[case])
    check_native(proto, ["QConvTransposeRelu"], X)
    check_native(network(*CASES[case], tail="y = Identity(t)"), ["QConvTransposeFloat"], X)


@pytest.mark.parametrize(("activation", "op_type"), [("Tanh", "QConvTransposeTanh"),
                                                     ("HardSwish", "QConvTransposeWideHardSwish")])  # fmt: skip
def test_an_activation_behind_it_and_a_convolution_after_it(activation, op_type):
    tail = f"s = {activation}(t) y = Conv<{POINT}>(s, v)"
    proto = network("strides=[2,2]", (8, 5, 2, 2), tail, v=(4, 5, 1, 1))
    check_native(proto, [op_type, "QConvFloat"], X)


def test_one_spatial_dimension():
    body = "c = Conv<pads=[1,1]>(x, w) t = ConvTranspose<strides=[2], pads=[1,0]>(c, d, b) y = Relu(t)"
    weights = {"w": (8, 3, 3), "d": (8, 4, 3), "b": (4,)}
    proto = model(body, weights, inputs="float[N,3,8] x", outputs="float[N,4,L] y")
    check_native(proto, ["QConvTransposeRelu"], image(2, 3, 8))


def test_an_output_inside_a_concat_keeps_its_place():
    tail = (
        "e = Relu(t) u = ConvTranspose<strides=[2,2]>(c, d) f = Relu(u) k = Concat<axis=1>(e, f) "
        f"y = Conv<{POINT}>(k, v)"
    )
    check_native(network("strides=[2,2]", (8, 5, 2, 2), tail, v=(4, 10, 1, 1)), ["QConvTransposeRelu"], X)


@pytest.mark.parametrize("attributes", ['auto_pad="SAME_UPPER", strides=[2,2]', "output_shape=[16,16], strides=[2,2]"])
def test_sizes_that_depend_on_the_input_stay_in_float(attributes):
    assert "ConvTranspose" in op_types(quantized(network(attributes, (8, 5, 2, 2))))


def test_the_converted_model_runs_in_onnxruntime():
    proto = network("strides=[2,2], group=2, pads=[1,1,1,1]", (8, 3, 4, 4))
    converted = pipeline.convert(proto).proto
    assert "DynQConvTransposeRelu" in op_types(converted)
    assert sqnr_db(run_onnxruntime(proto, {"x": X})[0], run_onnxruntime(converted, {"x": X})[0]) > 25


def test_phases_give_every_output_the_taps_that_reach_it():
    for kernel, stride, dilation, pad, out in itertools.product(
        (1, 2, 3, 5), (1, 2, 3), (1, 2, 3), (0, 1, 4), (1, 2, 7)
    ):
        seen = {}
        for phase in axis_phases(kernel, stride, dilation, pad, out):
            assert phase.pad >= 0
            for n in range(phase.count):
                places = [n - phase.pad + i * phase.dilation for i in range(len(phase.taps))]
                reached = {(i, k) for i, k in zip(places, phase.taps, strict=True) if k >= 0}
                seen[phase.first + n * stride] = reached
        expected = {
            o: {
                ((o + pad - k * dilation) // stride, k) for k in range(kernel) if (o + pad - k * dilation) % stride == 0
            }
            for o in range(out)
        }
        assert seen == expected
