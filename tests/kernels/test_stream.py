"""Sums and normalizations of float32 against numpy in the documented order of operations, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch
from tests.kernels.engine import guarded

COUNTS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 384, 1027]


def values(rows: int, count: int, seed: int) -> Array:
    """Rows with a few channels 50 times as large as the others, as residual sums of transformers have them."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, count)) * np.where(rng.random(count) < 0.05, 50.0, 1.0) + 0.3).astype(np.float32)


# ---- add ----


def check_add(repeats: int, period: int, seed: int = 1) -> None:
    a, b = values(repeats, period, seed), values(1, period, seed + 1)
    params = ffi.new("qk_add_float_params *", {"repeats": repeats, "period": period})
    check(lib.QK_ADD_FLOAT, params, [a, b], a + b)


@pytest.mark.parametrize("count", [*COUNTS, 4095, 4096, 4097, 8192, 13000])
def test_sums_of_every_length(count: int) -> None:
    check_add(1, count)


@pytest.mark.parametrize(("repeats", "period"), [(2, 1), (3, 7), (5, 384), (2, 5000)])
def test_a_second_operand_repeats(repeats: int, period: int) -> None:
    check_add(repeats, period)


def test_a_sum_may_overflow_to_infinity() -> None:
    a = np.full((1, 9), 3e38, np.float32)
    params = ffi.new("qk_add_float_params *", {"repeats": 1, "period": 9})
    check(lib.QK_ADD_FLOAT, params, [a, a], np.full((1, 9), np.inf, np.float32))


# ---- normalization ----


def tree(parts: Array) -> Array:
    """Eight partial sums a row, [rows, 8], to one."""
    halves = parts[:, :4] + parts[:, 4:]
    quarters = halves[:, :2] + halves[:, 2:]
    return quarters[:, 0] + quarters[:, 1]


def partial_sums(x: Array) -> Array:
    """[rows, n] -> [rows]: value i goes to sum i % 8, in rising order."""
    padded = np.zeros((len(x), -(-x.shape[1] // 8) * 8))
    padded[:, : x.shape[1]] = x
    parts = np.zeros((len(x), 8))
    for eight in padded.reshape(len(x), -1, 8).transpose(1, 0, 2):
        parts = parts + eight
    return tree(parts)


def normalized(x: Array, centred: bool, epsilon: float, gain: Array, shift: Array) -> Array:
    wide, count = x.astype(np.float64), float(x.shape[1])
    mean = partial_sums(wide) / count if centred else np.zeros(len(x))
    variance = np.maximum(partial_sums(wide * wide) / count - mean * mean, 0.0)
    with np.errstate(all="ignore"):
        factor = (1.0 / np.sqrt(variance + epsilon)).astype(np.float32)
        return (x - mean.astype(np.float32)[:, None]) * factor[:, None] * gain + shift


def check_normalize(x: Array, centred: bool, epsilon: float = 1e-6) -> None:
    count = x.shape[1]
    gain, shift = (guarded(v) for v in values(2, count, 7))
    pointers = {"gain": ffi.cast("float *", gain.ctypes.data), "shift": ffi.cast("float *", shift.ctypes.data)}
    sizes = {"rows": len(x), "count": count, "centred": int(centred), "epsilon": epsilon}
    params = ffi.new("qk_normalize_float_params *", {**sizes, **pointers})
    check(lib.QK_NORMALIZE_FLOAT, params, [x], normalized(x, centred, epsilon, gain, shift))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_normalization_of_rows_of_every_length(count: int, centred: bool) -> None:
    check_normalize(values(5, count, count), centred)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_normalization_of_tiny_and_huge_values(scale: float, centred: bool) -> None:
    check_normalize((values(3, 77, 5) * np.float32(scale)).astype(np.float32), centred)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e5])
def test_rows_of_one_value_give_the_shift_and_no_noise(value: float) -> None:
    check_normalize(np.full((2, 48), value, np.float32), True)


def test_rows_far_from_zero_keep_their_digits() -> None:
    x = (values(3, 256, 4) + 3000).astype(np.float32)
    plain = (x.astype(np.float64) - x.mean(1, dtype=np.float64, keepdims=True)) / x.std(
        1, dtype=np.float64, keepdims=True
    )
    ours = normalized(x, True, 0.0, np.ones(256, np.float32), np.zeros(256, np.float32))
    assert np.abs(ours - plain).max() < 1e-4
    check_normalize(x, True)


def test_kernels_run_where_they_exist() -> None:
    params = ffi.new("qk_add_float_params *", {"repeats": 1, "period": 8})
    check_dispatch(lib.QK_ADD_FLOAT, params)
    gain = np.ones(8, np.float32)
    pointer = ffi.cast("float *", gain.ctypes.data)
    fields = {"rows": 1, "count": 8, "centred": 1, "epsilon": 1e-5, "gain": pointer, "shift": pointer}
    check_dispatch(lib.QK_NORMALIZE_FLOAT, ffi.new("qk_normalize_float_params *", fields))
