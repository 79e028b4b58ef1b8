"""Softmax and layer normalization against integer sums and float steps in numpy, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, requantize, with_gaps

COUNTS = [*range(1, 20), 31, 32, 33, 47, 64, 65, 100, 197, 255, 256, 1000, 6625]
ONE = 1 << 24


def bytes_of(rows: int, count: int, seed: int) -> Array:
    """Random rows; the first constant, the second all 0 and 255."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (rows, count), dtype=np.uint8)
    x[0] = 77
    x[1 % rows] = rng.integers(0, 2, count) * 255
    return x


# ---- softmax ----


def exponentials(scale: float) -> Array:
    table = [round(ONE * math.exp((i - 255) * scale)) for i in range(256)] + [0] * 255
    return np.array(table, np.int32)


def softmax(x: Array, scale: float, out_scale: float, zero_point: int) -> Array:
    y = np.empty_like(x)
    for row, out in zip(x, y, strict=True):
        entries = [round(ONE * math.exp((int(v) - int(row.max())) * scale)) for v in row]
        factor = np.float32(1.0 / (float(sum(entries)) * float(np.float32(out_scale))))
        out[:] = requantize(np.array(entries).astype(np.float32) * factor, zero_point, 0, 255)
    return y


def check_softmax(x: Array, pitches: tuple[int, int], scale: float, out_scale: float, zero_point: int) -> None:
    table = exponentials(scale)
    rows, count = x.shape
    params = ffi.new("qk_softmax_params *", {
        "rows": rows, "count": count, "in_pitch": pitches[0], "out_pitch": pitches[1],
        "exponentials": ffi.cast("int32_t *", table.ctypes.data), "out_scale": out_scale, "zero_point": zero_point,
    })  # fmt: skip
    expected = with_gaps(softmax(x, scale, out_scale, zero_point), pitches[1])
    check(lib.QK_SOFTMAX, params, [with_gaps(x, pitches[0])], expected)


@pytest.mark.parametrize("count", COUNTS)
def test_softmax_of_runs_of_every_length(count: int) -> None:
    check_softmax(bytes_of(5, count, count), (count, count), 0.06, 1 / 255, 0)


@pytest.mark.parametrize("count", [1, 10, 40, 197])
def test_softmax_at_the_extremes_of_scales_and_zero_points(count: int) -> None:
    x = bytes_of(6, count, 1)
    for scale, out_scale, zero_point in ((1e-6, 1e-4, 0), (3.0, 1 / 255, 255), (90.0, 1e-30, 3), (0.02, 1e30, 128)):
        check_softmax(x, (count, count), scale, out_scale, zero_point)


def test_softmax_leaves_gaps_between_runs_alone() -> None:
    for count in (7, 33, 197):
        check_softmax(bytes_of(4, count, 2), (count + 5, count + 11), 0.1, 1 / 255, 0)


# ---- layer normalization ----


def normalized(x: Array, k: dict[str, Any], gain: Array, shift: Array) -> Array:
    wide = x.astype(np.int64)
    count = x.shape[1]
    total = wide.sum(1, keepdims=True)
    spread = count * (wide * wide).sum(1, keepdims=True) - total * total
    variance = spread.astype(np.float64) / (float(count) * float(count)) * (k["in_scale"] * k["in_scale"])
    with np.errstate(all="ignore"):
        factor = (k["in_scale"] / np.sqrt(variance + k["epsilon"]) / float(count)).astype(np.float32)
        v = (count * wide - total).astype(np.float32) * factor * gain + shift
    return requantize(v, k["zero_point"], 0, 255)


def check_normalize(x: Array, pitches: tuple[int, int], seed: int = 3, gain_size: float = 30.0, **given: Any) -> None:
    k = {"in_scale": float(np.float32(0.037)), "epsilon": 1e-6, "zero_point": 121, **given}
    rng = np.random.default_rng(seed)
    rows, count = x.shape
    gain, shift = (rng.normal(size=(2, count)) * [[gain_size], [9.0]]).astype(np.float32)
    pointers = {"gain": ffi.cast("float *", gain.ctypes.data), "shift": ffi.cast("float *", shift.ctypes.data)}
    sizes = {"rows": rows, "count": count, "in_pitch": pitches[0], "out_pitch": pitches[1]}
    params = ffi.new("qk_normalize_params *", {**sizes, **k, **pointers})
    expected = with_gaps(normalized(x, k, gain, shift), pitches[1])
    check(lib.QK_NORMALIZE, params, [with_gaps(x, pitches[0])], expected)


@pytest.mark.parametrize("count", COUNTS)
def test_normalization_of_runs_of_every_length(count: int) -> None:
    check_normalize(bytes_of(5, count, count), (count, count))


@pytest.mark.parametrize("count", [1, 9, 96, 768])
def test_normalization_at_the_extremes(count: int) -> None:
    x = bytes_of(6, count, 4)
    check_normalize(x, (count, count), zero_point=0, in_scale=1e-20)
    check_normalize(x, (count, count), zero_point=255, in_scale=1e20, gain_size=1e30)
    check_normalize(x, (count, count), epsilon=0.0)  # a constant run is 0 times infinity
    check_normalize(np.full_like(x, 255), (count, count))


@pytest.mark.parametrize("count", [65793, 65794, 70001])
def test_runs_so_long_that_float32_sums_would_be_inexact(count: int) -> None:
    check_normalize(bytes_of(3, count, 5), (count, count))
    check_normalize(np.full((1, count), 255, np.uint8), (count, count))


def test_normalization_leaves_gaps_between_runs_alone() -> None:
    for count in (7, 33, 96):
        check_normalize(bytes_of(4, count, 6), (count + 5, count + 11))


def test_every_kernel_on_rows_is_dispatched() -> None:
    check_dispatch(lib.QK_SOFTMAX, ffi.new("qk_softmax_params *", {"rows": 1, "count": 64}))
    check_dispatch(lib.QK_NORMALIZE, ffi.new("qk_normalize_params *", {"rows": 1, "count": 64}))
