"""Intervals and tests against published or independent values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantkit.report.statistics import latency_percentiles, mcnemar_p, paired_difference, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (448, 500), (500, 500)])
def test_the_wilson_interval_is_that_of_scipy(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_trial_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert paired_difference(0, 0, 0) == (-1.0, 1.0)
    assert mcnemar_p(0, 0) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_mid_p_is_the_exact_p_less_the_probability_of_what_was_seen(fixed, broken):
    n, least = fixed + broken, min(fixed, broken)
    exact = min(1.0, 2 * stats.binom.cdf(least, n, 0.5))
    expected = exact - stats.binom.pmf(least, n, 0.5) if fixed != broken else 1.0
    assert mcnemar_p(fixed, broken) == pytest.approx(expected, abs=1e-9)


def test_mcnemar_of_many_flips_does_not_overflow():
    assert mcnemar_p(10_000, 10_000) == pytest.approx(1.0)
    assert mcnemar_p(4_000, 6_000) < 1e-80


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for fixed, broken, _ in generator.multinomial(500, [0.01, 0.02, 0.97], size=2000):
        low, high = paired_difference(int(fixed), int(broken), 500)
        hits += low <= -0.01 <= high
    assert 0.93 <= hits / 2000 <= 0.98


def test_percentiles_are_in_milliseconds():
    values = latency_percentiles(np.arange(1, 101) / 1000)
    assert values["p50_ms"] == pytest.approx(50.5)
    assert values["p99_ms"] == pytest.approx(99.01)
    assert (values["min_ms"], values["max_ms"]) == (1.0, 100.0)
