"""Calibration statistics against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array
from tests.kernels.engine import guarded

SIZES = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 100, 1000, 20_001]


def min_max(x: Array) -> tuple[float, float, int]:
    low, high, not_finite = ffi.new("float *"), ffi.new("float *"), ffi.new("int64_t *")
    x = guarded(x)
    lib.qk_min_max(ffi.cast("float *", x.ctypes.data), x.size, low, high, not_finite)
    return low[0], high[0], not_finite[0]


def histogram(x: Array, low: float, width: float, counts: Array) -> None:
    x = guarded(x)
    pointer = ffi.cast("int64_t *", counts.ctypes.data)
    lib.qk_histogram(ffi.cast("float *", x.ctypes.data), x.size, low, width, counts.size, pointer)


def expected_counts(x: Array, low: float, width: float, bins: int) -> Array:
    finite = x[np.isfinite(x)].astype(np.float64)
    index = np.clip(np.floor((finite - np.float32(low)) / np.float32(width)), 0, bins - 1)
    return np.bincount(index.astype(np.int64), minlength=bins)


@pytest.mark.parametrize("size", SIZES)
def test_min_and_max_are_over_the_finite_values(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.normal(0, 5, size).astype(np.float32)
    x[rng.random(size) < 0.2] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
    finite = x[np.isfinite(x)]
    low, high, not_finite = min_max(x)
    assert not_finite == size - finite.size
    assert (low, high) == ((finite.min(), finite.max()) if finite.size else (np.inf, -np.inf))


@pytest.mark.parametrize("position", range(37))
def test_min_and_max_find_the_extreme_at_every_position(position: int) -> None:
    x = np.zeros(37, np.float32)
    x[position] = np.finfo(np.float32).max
    assert min_max(x) == (0, x[position], 0)
    assert min_max(-x) == (-x[position], 0, 0)


def test_no_finite_value_leaves_the_infinities() -> None:
    x = np.full(35, np.nan, np.float32)
    x[::2] = -np.inf
    assert min_max(x) == (np.inf, -np.inf, 35)


def test_zero_has_no_sign_in_the_result() -> None:
    low, high, _ = min_max(np.full(20, -0.0, np.float32))
    assert not np.signbit(low)
    assert not np.signbit(high)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bins", [1, 2, 128, 2048, 5000])
def test_histogram_counts_every_finite_value_once(size: int, bins: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.normal(0, 3, size).astype(np.float32)
    x[rng.random(size) < 0.1] = np.nan
    x[rng.random(size) < 0.1] = np.inf
    x[rng.random(size) < 0.3] = 0
    counts = np.arange(bins, dtype=np.int64)
    histogram(x, -4.0, 8.0 / bins, counts)
    np.testing.assert_array_equal(counts - np.arange(bins), expected_counts(x, -4.0, 8.0 / bins, bins))


@pytest.mark.parametrize("width", [0.1, 0.25, 1 / 3, 7e-5])
def test_a_value_on_an_edge_belongs_to_the_bin_above(width: float) -> None:
    width = float(np.float32(width))
    edges = (np.arange(64) * np.float64(width)).astype(np.float32)
    x = np.concatenate([edges, np.nextafter(edges, np.float32(-np.inf)), np.nextafter(edges, np.float32(np.inf))])
    x = np.tile(x, 8)
    counts = np.zeros(64, np.int64)
    histogram(x, 0.0, width, counts)
    np.testing.assert_array_equal(counts, expected_counts(x, 0.0, width, 64))


def test_values_outside_go_to_the_first_and_last_bin() -> None:
    x = np.array([-1e30, -5, 100, 3e38, 2.5] * 100, np.float32)
    counts = np.zeros(4, np.int64)
    histogram(x, 0.0, 1.0, counts)
    assert counts.tolist() == [200, 0, 100, 200]
