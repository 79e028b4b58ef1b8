"""What a few samples show by chance, and how much of it to believe.

A mean over n samples is wrong by the deviation between samples over sqrt(n), however many rows a sample has. What
differs from sample to sample as much as it is large is shrunk towards what holds without it: means of errors towards
zero, correlations of columns towards none.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from quantkit.quantize.rounding import centred_rows, moments

PARTS_MOST = 16
"""Parts whose differences tell chance: the sums over channels and columns need no more, and each costs K^2."""


def parts_of(rows: int, samples: int) -> list[slice]:
    """Rows in the order of their samples, as parts of whole samples as nearly as they divide; one part is no part."""
    edges = np.linspace(0, rows, max(1, min(PARTS_MOST, samples, rows)) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def sure_covariance(x: np.ndarray, samples: int) -> np.ndarray:
    """float32 rows [G, R, K] of so many samples -> float64 [G, K, K]: (1 - r) S + r diag(S), S the covariance.

    r = sum Var(S_ij) / sum S_ij^2 over i != j, at most 1: Schaefer and Strimmer, "A shrinkage approach to large-scale
    covariance matrix estimation" (2005), Var from the covariances of parts of the samples. As r nears 1, rounding with
    feedback becomes rounding to nearest. A single sample: S.
    """
    rows = centred_rows(x)
    parts = parts_of(x.shape[1], samples)
    if len(parts) < 2:
        return moments(rows)
    total, squares = np.zeros(()), np.zeros(len(x))
    for part in parts:
        each = moments(rows[:, part])
        squares += _off_diagonal_power(each)
        total = total + each
    mean: np.ndarray = total / len(parts)
    power = _off_diagonal_power(mean)
    chance = (squares / len(parts) - power) / (len(parts) - 1)
    share = np.clip(chance / np.maximum(power, np.finfo(np.float64).tiny), 0.0, 1.0)
    diagonal = np.einsum("gkk->gk", mean).copy()
    mean *= (1.0 - share)[:, None, None]
    np.einsum("gkk->gk", mean)[...] = diagonal
    return mean


def _off_diagonal_power(h: np.ndarray) -> np.ndarray:
    """[G, K, K] -> [G]: the sum of the squares beside the diagonal."""
    diagonal = np.einsum("gkk->gk", h)
    return np.asarray(np.einsum("gij,gij->g", h, h) - np.einsum("gk,gk->g", diagonal, diagonal))


def chance_shift(x: np.ndarray, t: np.ndarray, w: np.ndarray, bias: np.ndarray, samples: int) -> np.ndarray:
    """float64 [G, C]: what of d = E (t - w x - b), the mean error of the layer's input in each channel, is chance.

    x: float32 [G, R, K], t: float32 [G, R, C], w: float64 [G, C, K], bias: float64 [G, C]. With v the variance of d by
    the differences of parts, it is d min(1, sum v / sum d^2), sums over all channels: James and Stein, "Estimation with
    quadratic loss" (1961). A single sample: zero.
    """
    parts = parts_of(x.shape[1], samples)
    if len(parts) < 2:
        return np.zeros_like(bias)
    means = [[rows[:, part].mean(axis=1, dtype=np.float64) for rows in (x, t)] for part in parts]
    errors = np.stack([mean_t - np.matmul(w, mean_x[..., None])[..., 0] - bias for mean_x, mean_t in means])
    mean = errors.mean(axis=0)
    variance = float(errors.var(axis=0, ddof=1).sum()) / len(parts)
    power = float(np.square(mean).sum())
    return mean * min(1.0, variance / power) if power > 0 else mean
