"""Factors and shifts by channel between quantized tensors run as integer depthwise convolutions."""

import numpy as np
import pytest
from onnx import TensorProto

from quantkit import Session
from tests.foreign.build import Builder, check_native, reals
from tests.graphs import run_onnxruntime

X_SCALE, Y_SCALE = 0.0157, 0.05
GAINS, SHIFTS = np.array([0.9, -1.3, 0.0, 2.5]), np.array([0.3, -0.2, 1.0, 0.0])


def batchnorm(b, x, quantized=False):
    def one(array):
        if not quantized:
            return b.constant(array, np.float32)
        scale = float(np.abs(array).max()) / 127
        return b.weight(np.rint(np.asarray(array) / scale).astype(np.int8), scale, np.int8(0))

    mean, variance = reals(4, seed=3), reals(4, low=0.3, high=2.0, seed=4)
    parameters = [*(one(a) for a in (GAINS, SHIFTS)), *(b.constant(a, np.float32) for a in (mean, variance))]
    return b.node("BatchNormalization", [x, *parameters], epsilon=1e-3)


def vector(b, values, shape=(1, 4, 1, 1)):
    return b.constant(np.reshape(values, shape), np.float32)


CASES = {
    "BatchNormalization": batchnorm,
    "BatchNormalization with parameters of 8 bits": lambda b, x: batchnorm(b, x, quantized=True),
    "BatchNormalization and Relu": lambda b, x: b.node("Relu", [batchnorm(b, x)]),
    "Mul": lambda b, x: b.node("Mul", [x, vector(b, GAINS)]),
    "Add of a constant on the left": lambda b, x: b.node("Add", [vector(b, SHIFTS, (4, 1, 1)), x]),
    "Sub from a constant": lambda b, x: b.node("Sub", [vector(b, SHIFTS), x]),
    "Div": lambda b, x: b.node("Div", [x, vector(b, [0.5, -2.0, 1.0, 3.0])]),
    "Mul, Sub and Relu": lambda b, x: b.node(
        "Relu", [b.node("Sub", [b.node("Mul", [x, vector(b, GAINS)]), vector(b, SHIFTS)])]
    ),
    "a depthwise convolution with float weights": lambda b, x: b.node(
        "Conv", [x, vector(b, GAINS, (4, 1, 1, 1)), b.constant(SHIFTS, np.float32)], group=4
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_affine_map_by_channel_runs_natively_within_a_step_of_onnxruntime(case):
    b = Builder()
    y = CASES[case](b, b.through("x", X_SCALE, 120))
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 100): TensorProto.FLOAT})
    check_native(proto, Y_SCALE)


def test_its_results_are_those_of_exact_arithmetic_for_every_byte():
    b = Builder()
    y = b.node("Add", [b.node("Mul", [b.through("x", X_SCALE, 120), vector(b, GAINS)]), vector(b, SHIFTS)])
    proto = b.model({"x": ["N", 4, 16, 16]}, {b.through(y, Y_SCALE, 100): TensorProto.FLOAT})
    q = np.tile(np.arange(256).reshape(1, 1, 16, 16), (1, 4, 1, 1))
    got = Session(proto, threads=1).run(None, {"x": ((q - 120) * X_SCALE).astype(np.float32)})[0]
    x, zero_point = (q - 120) * np.float64(np.float32(X_SCALE)), 100
    exact = (GAINS.reshape(1, 4, 1, 1) * x + SHIFTS.reshape(1, 4, 1, 1)) / np.float64(np.float32(Y_SCALE))
    nearest = np.clip(np.rint(exact) + zero_point, 0, 255)
    found = np.rint(got / np.float32(Y_SCALE)) + zero_point
    tie = 0.5 * X_SCALE * np.abs(GAINS).max() / 127 / Y_SCALE  # half a step of the integer bias
    near_a_tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) <= tie + 1e-4
    np.testing.assert_array_equal(found[~near_a_tie], nearest[~near_a_tie])
    assert near_a_tie.mean() < 0.03


def test_a_huge_shift_over_a_tiny_gain_fits_the_accumulator():
    b = Builder()
    tiny = b.node("Mul", [b.through("x", X_SCALE, 120), vector(b, [1e-9, 1.0, 1e-9, 1.0])])
    y = b.node("Add", [tiny, vector(b, [3.0, 0.0, -2.0, 1.0])])
    check_native(b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 100): TensorProto.FLOAT}), Y_SCALE)


def test_a_signal_of_one_dimension_has_channels_too():
    b = Builder()
    y = b.node("Relu", [batchnorm(b, b.through("x", X_SCALE, 120))])
    proto = b.model({"x": ["N", 4, 30]}, {b.through(y, Y_SCALE, 10): TensorProto.FLOAT})
    session, feeds = Session(proto, threads=1), {"x": reals(2, 4, 30)}
    assert {row.runs_on for row in session.plan} == {"native"}
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 1.001 * Y_SCALE


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (1, 4, 8, 8)])
def test_a_constant_that_is_not_one_number_a_channel_is_left_alone(shape):
    b = Builder()
    y = b.node("Mul", [b.through("x", X_SCALE, 120), b.constant(reals(*shape))])
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 100): TensorProto.FLOAT})
    session, feeds = Session(proto, threads=1), {"x": reals(2, 4, 8, 8)}
    assert "Mul" in [row.op for row in session.plan if row.runs_on == "onnxruntime"]
    np.testing.assert_array_equal(session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0])


def test_a_float_result_that_is_asked_for_stays_exact():
    b = Builder()
    y = b.node("Mul", [b.through("x", X_SCALE, 120), vector(b, GAINS)])
    proto = b.model({"x": ["N", 4, 8, 8]}, {y: TensorProto.FLOAT})
    feeds = {"x": reals(2, 4, 8, 8)}
    np.testing.assert_array_equal(Session(proto, threads=1).run(None, feeds)[0], run_onnxruntime(proto, feeds)[0])


def test_a_dequantizelinear_beside_nothing_native_is_no_region_of_its_own():
    b = Builder()
    table = b.constant(np.random.default_rng(0).integers(0, 256, (20, 4)), np.uint8)
    rows = b.dequantize(b.node("Gather", [table, "x"]), 0.02, 128)
    product = b.node("MatMul", [b.node("Softmax", [rows]), b.constant(reals(4, 4))])
    proto = b.model({"x": ["N"]}, {product: TensorProto.FLOAT}, TensorProto.INT64)
    session, feeds = Session(proto, threads=1), {"x": np.array([3, 0, 19])}
    assert len(session.steps) == 1
    reason = next(row.reason for row in session.plan if row.op == "DequantizeLinear")
    assert "no quantized op that the engine runs is beside it" in reason
    np.testing.assert_allclose(session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0], rtol=1e-6)
