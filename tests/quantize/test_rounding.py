"""Rounding with error feedback, on problems small enough to be searched completely."""

from itertools import product

import numpy as np
import pytest

from quantkit.quantize import rounding
from quantkit.quantize.rounding import BLOCK, covariance, damped, factor, feedback_round

rng = np.random.default_rng(7)


def correlated(groups, rows, columns, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(columns, columns)) + np.eye(columns)
    return (generator.normal(size=(groups, rows, columns)) @ mixing).astype(np.float32)


def cost(w, q, h, scale):
    rest = w - q * scale[..., None]
    return np.einsum("gck,gkl,gcl->gc", rest, h, rest)


def problem(groups=2, channels=3, columns=12, seed=0):
    h = damped(covariance(correlated(groups, 4 * columns, columns, seed)), 0.01)
    w = np.random.default_rng(seed + 1).normal(size=(groups, channels, columns))
    return w, h, np.abs(w).max(axis=2) / 7


def test_the_covariance_is_that_of_numpy():
    x = correlated(2, 50, 5)
    for group in range(2):
        assert np.allclose(covariance(x)[group], np.cov(x[group].T, bias=True), rtol=1e-4, atol=1e-5)


def test_a_column_without_data_has_a_price():
    x = np.zeros((1, 10, 3), np.float32)
    assert np.array_equal(damped(covariance(x), 0.01)[0], np.eye(3))


@pytest.mark.parametrize("columns", [1, 12, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_feedback_leaves_less_output_error_than_rounding_to_nearest(columns):
    w, h, scale = problem(columns=columns)
    nearest = np.clip(np.rint(w / scale[..., None]), -127, 127)
    q = feedback_round(w, h, scale)
    assert np.array_equal(q, np.rint(q))
    assert cost(w, q, h, scale).sum() <= cost(w, nearest, h, scale).sum() * (1.0 if columns == 1 else 0.8)


def test_without_correlation_feedback_is_rounding_to_nearest():
    w, _, scale = problem()
    h = np.tile(np.diag(rng.uniform(1, 2, 12)), (2, 1, 1))
    assert np.array_equal(feedback_round(w, h, scale), np.rint(w / scale[..., None]))


def test_feedback_comes_near_the_best_of_all_roundings():
    w, h, scale = problem(groups=1, channels=1, columns=6, seed=3)
    floor = np.floor(w / scale[..., None])
    best = min(cost(w, floor + np.array(up), h, scale).item() for up in product((-1, 0, 1, 2), repeat=6))
    nearest = cost(w, np.rint(w / scale[..., None]), h, scale).item()
    assert best <= cost(w, feedback_round(w, h, scale), h, scale).item() < 0.5 * (best + nearest)


def test_rounded_weights_stay_within_127():
    w, h, scale = problem()
    q = feedback_round(w, h, scale / 100)
    assert np.abs(q).max() == 127


def test_a_factor_serves_all_layers_with_these_moments():
    w, h, _ = problem(columns=40)
    made = factor(h)
    for weights in (w, w[:, :1] * 3.0):
        step = np.abs(weights).max(axis=2) / 7
        assert np.array_equal(feedback_round(weights, made, step), feedback_round(weights, h, step))


def test_rounding_is_that_of_gptq():
    """By its own formulas, the inverse of h and a loop over columns."""
    w, h, scale = problem(columns=50)
    for group in range(2):
        order = np.argsort(-np.diag(h[group]), kind="stable")
        upper = np.linalg.cholesky(np.linalg.inv(h[group][np.ix_(order, order)])).T
        v, q = w[group][:, order].copy(), np.zeros((3, 50))
        for k in range(50):
            q[:, k] = np.clip(np.rint(v[:, k] / scale[group]), -127, 127)
            v[:, k:] -= ((v[:, k] - q[:, k] * scale[group]) / upper[k, k])[:, None] * upper[k, k:]
        assert np.array_equal(feedback_round(w, h, scale)[group][:, order], q)


@pytest.mark.parametrize("groups", [1, 5])
def test_covariance_in_parts_is_that_of_all_rows(monkeypatch, groups):
    monkeypatch.setattr(rounding, "SMALL_PRODUCT", 12 * 13 * 100)
    x = np.random.default_rng(4).normal(1.0, 2.0, size=(groups, 1030, 12)).astype(np.float32)
    wanted = [np.cov(rows.T.astype(np.float64), bias=True) for rows in x]
    np.testing.assert_allclose(covariance(x), wanted, atol=1e-4)
