"""Softmax against integer sums and float steps in numpy, bit for bit."""

from __future__ import annotations

import math

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


def test_the_softmax_kernels_are_dispatched() -> None:
    check_dispatch(lib.QK_SOFTMAX, ffi.new("qk_softmax_params *", {"rows": 1, "count": 64}))
