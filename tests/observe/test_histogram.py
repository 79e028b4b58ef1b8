"""Streaming statistics: exact extremes, counts that do not depend on order or splitting, bounded memory."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import CalibrationError
from quantkit.observe import NumpyBackend, TensorStatistics
from quantkit.observe.histogram import BINS, SMALLEST_EXPONENT

BACKEND = NumpyBackend()


def gather(*parts: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics()
    for part in parts:
        assert statistics.update(np.asarray(part, dtype=np.float32), BACKEND) == 0
    return statistics


def assert_same(a: TensorStatistics, b: TensorStatistics) -> None:
    assert (a.low, a.high, a.count, a.exponent, a.first) == (b.low, b.high, b.count, b.exponent, b.first)
    np.testing.assert_array_equal(a.counts, b.counts)


def values(seed: int, size: int = 5000) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=size) * 10.0 ** generator.uniform(-3, 3)).astype(np.float32)


def test_counts_are_those_of_an_exact_histogram_with_the_same_edges():
    x = values(1)
    statistics = gather(x)
    index = np.array([math.floor(float(v) / statistics.width) - statistics.first for v in x])
    np.testing.assert_array_equal(statistics.counts, np.bincount(index, minlength=BINS))
    assert (statistics.low, statistics.high, statistics.count) == (float(x.min()), float(x.max()), x.size)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_and_the_split_of_the_data_do_not_matter(seed):
    parts = [values(seed * 10 + place) for place in range(4)]
    whole = gather(np.concatenate(parts))
    assert_same(gather(*parts), whole)
    assert_same(gather(*parts[::-1]), whole)


@pytest.mark.parametrize("seed", range(10))
def test_merging_equals_seeing_all_the_data(seed):
    parts = [values(seed * 10 + place) for place in range(4)]
    left, right = gather(*parts[:2]), gather(*parts[2:])
    kept = right.counts.copy()
    left.merge(right)
    assert_same(left, gather(*parts))
    np.testing.assert_array_equal(right.counts, kept)


@pytest.mark.parametrize("seed", range(5))
def test_sums_of_extremes_are_exact_in_any_order_of_merges_and_through_json(seed):
    parts = [gather(values(seed * 10 + place) * np.float32(10.0 ** (9 * place - 18))) for place in range(5)]
    sums = set()
    for order in (parts, parts[::-1], [*parts[2:], *parts[:2]]):
        whole = TensorStatistics()
        for part in order:
            whole.merge(part)
        sums.add((whole.samples, whole.low_sum, whole.high_sum))
    again = TensorStatistics.from_json(json.loads(json.dumps(whole.to_json())))
    assert sums == {(5, sum(part.low_sum for part in parts), sum(part.high_sum for part in parts))}
    assert (again.mean_low, again.mean_high) == (whole.mean_low, whole.mean_high)
    assert whole.mean_low == math.fsum(part.low for part in parts) / 5


def test_the_parts_of_an_array_count_as_samples_of_their_own():
    statistics = TensorStatistics()
    x = np.array([[1, 2, 3], [-4, 0, 1], [0, 0, 1e-45]], np.float32)
    statistics.update(x, BACKEND, samples=3)
    smallest = 2.0**-149
    assert (statistics.samples, statistics.mean_low) == (3, -1.0)
    assert statistics.mean_high == (4 + smallest) / 3
    assert statistics.high_sum == 2**151 + 1


def test_merging_with_nothing_changes_nothing():
    statistics = gather(values(3))
    statistics.merge(TensorStatistics())
    assert_same(statistics, gather(values(3)))
    empty = TensorStatistics()
    empty.merge(gather(values(3)))
    assert_same(empty, statistics)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20), min_size=1)
)
def test_any_finite_float32_is_counted_once_and_zero_is_an_edge(parts):
    statistics = gather(*[np.array(part, dtype=np.float32) for part in parts])
    assert statistics.counted == statistics.count == sum(map(len, parts))
    assert statistics.first <= 0 < statistics.first + BINS
    flat = np.concatenate([np.array(part, dtype=np.float32) for part in parts])
    assert (statistics.low, statistics.high) == (float(flat.min()), float(flat.max()))
    assert np.isfinite(statistics.edges).all()


@pytest.mark.parametrize("spread", [(0, 1), (-1, 0), (-1, 1), (-0.001, 7), (0.5, 0.6), (0, 2.0**20), (0, 1e-30)])
def test_at_least_a_quarter_of_the_bins_is_spent_on_zero_and_the_data(spread):
    statistics = gather(np.linspace(*spread, 100, dtype=np.float32))
    span = max(spread[1], 0) - min(spread[0], 0)
    assert BINS / 4 <= span / statistics.width <= BINS


def test_zeros_and_denormals_are_counted_in_bins_of_normal_width():
    assert gather(np.zeros(10)).counts[0] == 10
    statistics = gather(np.array([1e-45, 1e-40, -1e-42, 0.0]))
    assert statistics.exponent == SMALLEST_EXPONENT
    assert statistics.counted == 4


def test_a_constant_tensor_fills_one_bin():
    statistics = gather(np.full(7, 3.5))
    assert np.count_nonzero(statistics.counts) == 1
    assert (statistics.low, statistics.high) == (3.5, 3.5)


def test_the_largest_floats_do_not_overflow():
    top = np.finfo(np.float32).max
    statistics = gather(np.array([-top, 0, top], dtype=np.float32))
    assert statistics.counted == 3
    assert (statistics.low, statistics.high) == (-float(top), float(top))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_reported_and_nothing_is_added(bad):
    statistics = gather(np.ones(3))
    assert statistics.update(np.array([bad, 5.0, bad], dtype=np.float32), BACKEND) == 2
    assert_same(statistics, gather(np.ones(3)))
    assert TensorStatistics().update(np.array([bad], dtype=np.float32), BACKEND) == 1


def test_an_empty_tensor_adds_nothing():
    assert_same(gather(np.zeros((0, 4))), TensorStatistics())


def test_memory_does_not_grow_with_the_data():
    statistics = gather(*[values(seed) for seed in range(20)])
    assert statistics.counts.nbytes == 8 * BINS


def test_json_reads_back_equal():
    statistics = gather(values(1), values(2))
    assert_same(TensorStatistics.from_json(json.loads(json.dumps(statistics.to_json()))), statistics)


@pytest.mark.parametrize("damage", [{"min": "x"}, {"histogram": {}}, {"histogram": None}])
def test_damaged_json_is_a_calibration_error(damage):
    with pytest.raises(CalibrationError, match="damaged"):
        TensorStatistics.from_json(gather(values(1)).to_json() | damage)


@pytest.mark.parametrize("seed", range(5))
def test_the_native_loops_give_the_same_statistics(seed):
    binding = pytest.importorskip("quantkit.execute.binding", reason="the engine is not built")
    x = np.concatenate([values(seed), np.zeros(100, np.float32), np.array([-0.0, 1e-42], np.float32)])
    native = TensorStatistics()
    assert native.update(x, binding.NativeStatistics()) == 0
    assert_same(native, gather(x))
    assert native.update(np.array([np.nan, 1, np.inf], np.float32), binding.NativeStatistics()) == 2
