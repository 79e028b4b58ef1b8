"""The oracle against values that follow from the numerics contract alone: ties, roundings, extremes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto, parser

from quantkit.errors import RangeError
from quantkit.execute import oracle_ops
from quantkit.execute.oracle import run_oracle
from quantkit.types import QuantParams
from tests.execute.one_op import OneOp, pair, random_u8, scale, triple, zero


def conv_in_plain_integers(x: np.ndarray, w: np.ndarray, zero_point: int) -> np.ndarray:
    """sum (x - zp) * w of a 3x3 convolution with pads 1, in Python loops."""
    n, c, height, width = x.shape
    y = np.zeros((n, w.shape[0], height, width), np.int64)
    for b, m, i, j in np.ndindex(y.shape):
        for k, u, v in itertools.product(range(c), range(3), range(3)):
            row, column = i + u - 1, j + v - 1
            if 0 <= row < height and 0 <= column < width:
                y[b, m, i, j] += (int(x[b, k, row, column]) - zero_point) * int(w[m, k, u, v])
    return y


def exact_conv(x: np.ndarray, w: np.ndarray, bias: np.ndarray, s: float, name: str = "QConvFloat") -> OneOp:
    """A convolution with pads 1, unit weight scales and zero point 121."""
    ones = np.ones(len(w), np.float32)
    inputs = triple("x", x, s, 121) | {"w": w, "ws": ones, "wz": ones.astype(np.int8) * 0, "b": bias, "bs": ones}
    return OneOp(
        name,
        "y = Identity(x)",
        inputs,
        {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 1},
        output_type=TensorProto.FLOAT,
    )


def test_accumulators_are_exact_at_the_extremes() -> None:
    rng = np.random.default_rng(15)
    x = rng.choice(np.array([0, 255], np.uint8), (1, 40, 5, 4))
    w = rng.choice(np.array([-127, 127], np.int8), (3, 40, 3, 3))
    bias = np.array([(1 << 30) - 1, -(1 << 30) + 1, 7], np.int32)
    case = exact_conv(x, w, bias, 1.0)
    expected = conv_in_plain_integers(x, w, 121) + bias.astype(np.int64)[:, None, None]
    np.testing.assert_array_equal(run_oracle(case.model, case.feeds)["y"], expected.astype(np.float32))


def test_blocks_of_columns_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(16)
    case = exact_conv(
        random_u8(rng, 2, 4, 9, 7), rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8), np.zeros(6, np.int32), 1.0
    )
    whole = run_oracle(case.model, case.feeds)["y"]
    monkeypatch.setattr(oracle_ops, "COLUMN_ELEMENTS", 1)
    np.testing.assert_array_equal(run_oracle(case.model, case.feeds)["y"], whole)


def test_an_accumulator_beyond_int32_is_an_error() -> None:
    x = np.full((1, 20000, 3, 3), 255, np.uint8)
    case = exact_conv(x, np.full((1, 20000, 3, 3), 127, np.int8), np.zeros(1, np.int32), 1.0)
    with pytest.raises(RangeError, match=r"op .*int32"):
        run_oracle(case.model, case.feeds)


def test_requantize_rounds_ties_to_even_and_clamps() -> None:
    p = QuantParams(1.0, 10)
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(oracle_ops.requantize(values, p), [10, 12, 12, 10, 8, 255, 0, 255, 0])
    np.testing.assert_array_equal(oracle_ops.requantize(values, p, 10, 11), [10, 11, 11, 10, 10, 11, 10, 11, 10])


def add_in_one_gemm(acc: int, m: float, r: int, r_scale: float) -> int:
    """QGemmAdd of one element with y scale 1: acc * m + (r - 128) * r_scale."""
    one = np.ones(1, np.float32)
    w = {
        "w": np.zeros((1, 1), np.int8),
        "ws": one,
        "wz": np.zeros(1, np.int8),
        "b": np.array([acc], np.int32),
        "bs": one,
    }
    x, residual = np.zeros((1, 1), np.uint8), np.array([[r]], np.uint8)
    inputs = triple("x", x, m, 0) | w | triple("r", residual, r_scale, 128) | pair("y", 1.0, 0)
    case = OneOp("QGemmAdd", "y = Identity(x)", inputs, fed=("x", "r"))
    return int(run_oracle(case.model, case.feeds)["y"].item())


def test_the_accumulator_is_rounded_to_float32_first() -> None:
    acc = 257 * 2**16 + 1  # 128.5 + 2^-17 in exact arithmetic; float32 has 24 bits, so 128.5, a tie
    assert add_in_one_gemm(acc, 2.0**-17, 128, 1.0) == 128


def test_the_product_is_rounded_before_the_residual_is_added() -> None:
    m = 11709099 * 2.0**-20  # 9 * m = 100.5 + 3 * 2^-20, in float32 100.5; less 100 a tie, with an FMA above it
    assert float(np.float32(m)) == m
    assert add_in_one_gemm(9, m, 28, 1.0) == 0


def test_the_sum_with_the_residual_is_rounded_to_float32() -> None:
    assert add_in_one_gemm(201, 0.5, 129, 2.0**-20) == 100  # 100.5 + 2^-20 is 100.5 in float32, a tie


def every_pair_of_bytes(op: str, a_scale: float, b_scale: float) -> np.ndarray:
    """[256, 256] of op(a, b) with zero points 3, 5 and 100 and y scale 1."""
    a, b = np.arange(256, dtype=np.uint8).reshape(256, 1), np.arange(256, dtype=np.uint8)
    inputs = triple("left", a, a_scale, 3) | triple("right", b, b_scale, 5) | pair("y", 1.0, 100)
    case = OneOp(op, "y = Identity(left)", inputs, fed=("left", "right"))
    return run_oracle(case.model, case.feeds)["y"]


def test_add_and_mul_are_exact_for_every_pair_of_bytes() -> None:
    a, b = (np.arange(256) - 3).reshape(256, 1), np.arange(256) - 5
    quarters, products = 2 * a + b, a * b

    def halves_to_even(numerator: np.ndarray, denominator: int) -> np.ndarray:
        whole, rest = np.divmod(numerator, denominator)
        up = (2 * rest > denominator) | ((2 * rest == denominator) & (whole % 2 == 1))
        return np.clip(whole + up + 100, 0, 255)

    np.testing.assert_array_equal(every_pair_of_bytes("QAdd", 0.5, 0.25), halves_to_even(quarters, 4))
    np.testing.assert_array_equal(every_pair_of_bytes("QMul", 1 / 16, 1 / 8), halves_to_even(products, 128))


def test_quantize_linear_is_a_true_division() -> None:
    p = QuantParams(float(np.float32(0.1)), 0)
    x = ((np.arange(255) + 0.5) * 0.1).astype(np.float32)
    quotient = (x.astype(np.float64) / p.scale).astype(np.float32)
    by_reciprocal = x * np.float32(1 / p.scale)
    assert (np.rint(quotient) != np.rint(by_reciprocal)).any()
    np.testing.assert_array_equal(oracle_ops.quantize_linear(x, p), np.rint(quotient))


def test_quantize_linear_divides_and_sends_nan_to_255() -> None:
    graph = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n] x, float s, uint8 z) => (uint8[n] q, float[n] y)'
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    x = np.array([np.nan, 0.3, -0.3, 0.15, 1e30, -1e30], np.float32)
    result = run_oracle(graph, {"x": x, "s": scale(0.1), "z": zero(7)})
    expected = [255, *(min(max(round(float(v / np.float32(0.1))) + 7, 0), 255) for v in x[1:])]
    np.testing.assert_array_equal(result["q"], expected)
    np.testing.assert_array_equal(result["y"], (np.array(expected, np.float32) - 7) * np.float32(0.1))


def test_average_counts_only_taps_inside_the_input() -> None:
    x = np.array([[[[10, 20, 31]]]], np.uint8)
    attributes = {"kernel_shape": [1, 2], "strides": [1, 1], "pads": [0, 1, 0, 1]}
    case = OneOp("QAveragePool", "y = Identity(x)", triple("x", x, 1.0, 4) | pair("y", 1.0, 4), attributes)
    np.testing.assert_array_equal(run_oracle(case.model, case.feeds)["y"].ravel(), [10, 15, 26, 31])
    case.attributes["count_include_pad"] = 1
    np.testing.assert_array_equal(run_oracle(case.model, case.feeds)["y"].ravel(), [7, 15, 26, 18])


def test_gemm_products_never_leave_the_exact_range_of_float64() -> None:
    largest = 255 * 127 * 65793
    assert largest < 2**31 < 2**53
    x = np.full((1, 65793), 255, np.uint8)
    w = np.full((1, 65793), 127, np.int8)
    one = np.ones(1, np.float32)
    inputs = triple("x", x, 1.0, 0) | {
        "w": w,
        "ws": one,
        "wz": np.zeros(1, np.int8),
        "b": np.array([1], np.int32),
        "bs": one,
    }
    case = OneOp("QGemmFloat", "y = Identity(x)", inputs, output_type=TensorProto.FLOAT)
    assert run_oracle(case.model, case.feeds)["y"].item() == np.float32(largest + 1)
