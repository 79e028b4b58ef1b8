"""What a few samples show by chance is told from what holds: for covariances and for mean errors."""

import numpy as np
import pytest

from quantkit.quantize.chance import PARTS_MOST, chance_shift, parts_of, sure_covariance
from quantkit.quantize.rounding import covariance, damped, feedback_round


def rows(count: int, columns: int, seed: int, groups: int = 1) -> np.ndarray:
    """float32 [groups, count, columns], independent normal numbers."""
    return np.random.default_rng(seed).normal(size=(groups, count, columns)).astype(np.float32)


def off_diagonal(h: np.ndarray) -> np.ndarray:
    return h - np.einsum("gii,ij->gij", h, np.eye(h.shape[1]))


@pytest.mark.parametrize(("count", "samples", "parts"), [(100, 7, 7), (1000, 100, PARTS_MOST), (3, 9, 3), (5, 1, 1)])
def test_parts_hold_each_row_once_and_are_no_more_than_samples(count, samples, parts):
    found = parts_of(count, samples)
    assert len(found) == parts
    assert np.concatenate([np.arange(count)[part] for part in found]).tolist() == list(range(count))


def test_correlations_of_a_few_samples_without_any_nearly_vanish_and_the_diagonal_stays():
    x = rows(16, 200, seed=1)
    plain, sure = covariance(x), sure_covariance(x, 16)
    np.testing.assert_allclose(np.diagonal(sure[0]), np.diagonal(plain[0]), rtol=1e-5)
    assert np.square(off_diagonal(sure)).sum() < 0.05 * np.square(off_diagonal(plain)).sum()


def test_correlations_that_every_sample_shows_stay():
    common = rows(2048, 4, seed=2) @ rows(4, 64, seed=3)[0]
    np.testing.assert_allclose(sure_covariance(common, 64), covariance(common), rtol=0.02, atol=0.05)


def test_many_rows_of_few_samples_are_no_more_than_these_samples():
    """64 equal rows a sample: the estimate of chance must be that of 8 rows."""
    few = rows(8, 50, seed=4)
    np.testing.assert_allclose(sure_covariance(np.repeat(few, 64, axis=1), 8), sure_covariance(few, 8), rtol=1e-3,
                               atol=1e-5)  # fmt: skip


def test_groups_are_shrunk_each_for_itself():
    x = np.concatenate([rows(12, 30, seed=5), rows(12, 3, seed=6) @ rows(3, 30, seed=7)[0]])
    both = sure_covariance(x, 12)
    np.testing.assert_allclose(both, np.concatenate([sure_covariance(x[g : g + 1], 12) for g in (0, 1)]), rtol=1e-6,
                               atol=1e-6)  # fmt: skip


def test_a_single_sample_gives_the_covariance_and_the_whole_mean_error():
    x, t = rows(64, 6, seed=8), rows(64, 3, seed=9)
    np.testing.assert_array_equal(sure_covariance(x, 1), covariance(x))
    assert not chance_shift(x, t, np.ones((1, 3, 6)), np.zeros((1, 3)), 1).any()


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_mean_error_is_chance_where_samples_do_not_agree_on_it(shift):
    x, w, bias = rows(16, 6, seed=10), np.zeros((1, 40, 6)), np.zeros((1, 40))
    t = rows(16, 40, seed=11) + np.float32(shift)
    mean, chance = t.mean(axis=1), chance_shift(x, t, w, bias, 16)
    left = np.square(mean - chance).sum() / np.square(mean).sum()
    assert left < 0.1 if shift == 0.0 else left > 0.98


def test_a_layer_without_error_has_no_chance():
    x, w, bias = rows(32, 6, seed=12), rows(3, 6, seed=13).astype(np.float64), np.ones((1, 3))
    t = np.zeros((1, 32, 3), np.float32)
    assert not chance_shift(np.zeros_like(x), t, w, np.zeros((1, 3)), 8).any()
    exact = (x.astype(np.float64) @ w[0].T + bias[:, None]).astype(np.float32)
    assert np.abs(chance_shift(x, exact, w, bias, 8)).max() < 1e-6


def test_feedback_from_a_few_rows_costs_others_less_than_when_it_believes_them():
    """12 rows of 96 independent columns: their correlations are all chance, and nearest is best."""
    rng = np.random.default_rng(14)
    w, step = rng.normal(size=(1, 24, 96)), np.full((1, 24), 0.2)
    few, others = rows(12, 96, seed=15), rows(4096, 96, seed=16)
    believed, sure = (
        np.square((feedback_round(w, damped(h, 0.01), step) * step[..., None] - w) @ others[0].T).mean()
        for h in (covariance(few), sure_covariance(few, 12))
    )
    assert sure < 0.7 * believed
