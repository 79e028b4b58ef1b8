"""Rounding of weights that looks at the output: the error of each weight is made up by those not yet rounded.

All problems are batched over groups: x [G, R, K], moments [G, K, K], weights [G, C, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.types import WEIGHT_MAX

BLOCK = 16
"""Columns rounded one by one; larger parts are halved, and the errors of one half reach the other by one product."""


SMALL_PRODUCT = 1 << 18
"""Multiply-adds of a product of one group, at most, where there are many: BLAS shares larger ones among threads, which
for the 672 groups of a 5x5 depthwise layer took 0.9 to 4 s instead of 0.1 (two threads, a busy machine)."""


def covariance(x: np.ndarray) -> np.ndarray:
    """float32 rows [G, R, K] -> float64 [G, K, K]: E (x - E x)(x - E x)'. Means are the bias's business."""
    return moments(centred_rows(x))


def centred_rows(x: np.ndarray) -> np.ndarray:
    """float32 rows [G, R, K] less their mean."""
    return np.asarray(x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32))


def moments(x: np.ndarray) -> np.ndarray:
    """float32 rows [G, R, K] -> float64 [G, K, K]: E x x'."""
    groups, count, k = x.shape
    rows = count if groups == 1 else max(1, min(count, SMALL_PRODUCT // (k * k + k)))
    total = np.zeros((groups, k, k))
    for part in (x[:, start : start + rows] for start in range(0, count, rows)):
        total += np.matmul(part.transpose(0, 2, 1), part)
    return total / count


def damped(xx: np.ndarray, damping: float) -> np.ndarray:
    """xx + damping * mean(diag) * I, so that directions without data have a price too."""
    k = xx.shape[-1]
    level = damping * np.trace(xx, axis1=1, axis2=2) / k
    level = np.where(level > 0, level, 1.0)
    return xx + level[:, None, None] * np.eye(k)


@dataclass(frozen=True)
class Factor:
    """A moment matrix h [G, K, K], its columns in the order of rising diagonal: order [G, K]; lower: the Cholesky
    factor L of it, float64 [G, K, K]. Layers that read the same tensor share it."""

    order: np.ndarray
    lower: np.ndarray


def factor(h: np.ndarray) -> Factor:
    """h: float64 [G, K, K], positive definite. K^3 / 3 multiply-adds a group."""
    order = np.argsort(-np.diagonal(h, axis1=1, axis2=2), axis=1, kind="stable")[:, ::-1]
    sorted_h = np.stack([part[np.ix_(by, by)] for part, by in zip(h, order, strict=True)])
    return Factor(order, np.linalg.cholesky(sorted_h))


def feedback_round(v: np.ndarray, h: np.ndarray | Factor, scale: np.ndarray) -> np.ndarray:
    """Integers q with small (v - s q) h (v - s q)': the error of each rounding is made up by the columns still open.

    v: [G, C, K]; h: [G, K, K] positive definite, or its factor; scale: [G, C]. Returns int8-valued float64 [G, C, K].
    Columns go by falling diagonal, as in Frantar et al., "GPTQ" (ICLR 2023). With h = L L' and e = v - s q the price is
    |e L|^2, whose component k holds e_i for i >= k alone. So the last column is rounded first, and e_k aims at
    -sum_{i>k} e_i L_ik / L_kk, which makes component k zero: Babai, "On Lovasz' lattice reduction and the nearest
    lattice point problem" (1986). GPTQ does the same by the inverse of h, for eight times the work.
    """
    made = h if isinstance(h, Factor) else factor(h)
    back = np.argsort(made.order, axis=1)
    columns = np.ascontiguousarray(np.take_along_axis(v, made.order[:, None, :], 2).transpose(0, 2, 1))
    q = np.empty_like(columns)
    _round_part(_Open(columns, np.zeros_like(columns), q, made.lower, scale), 0, columns.shape[1])
    return np.ascontiguousarray(np.take_along_axis(q, back[:, :, None], 1).transpose(0, 2, 1))


@dataclass(frozen=True)
class _Open:
    """What is being rounded, columns first: v, q [G, K, C]. v becomes the error e where q is fixed; pull: the sum of
    e_i L_ik over the fixed i. lower [G, K, K], scale [G, C]."""

    v: np.ndarray
    pull: np.ndarray
    q: np.ndarray
    lower: np.ndarray
    scale: np.ndarray


def _round_part(state: _Open, start: int, stop: int) -> None:
    """Fixes columns start..stop, all behind them being fixed: the second half first."""
    v, pull, q, lower, scale = state.v, state.pull, state.q, state.lower, state.scale
    if stop - start > BLOCK:
        middle = (start + stop) // 2
        _round_part(state, middle, stop)
        pull[:, start:middle] += np.matmul(lower[:, middle:stop, start:middle].transpose(0, 2, 1), v[:, middle:stop])
        _round_part(state, start, middle)
        return
    for k in range(stop - 1, start - 1, -1):
        aim = v[:, k] + pull[:, k] / lower[:, k, k, None]
        q[:, k] = np.clip(np.rint(aim / scale), -WEIGHT_MAX, WEIGHT_MAX)
        v[:, k] -= q[:, k] * scale
        pull[:, start:k] += lower[:, k, start:k, None] * v[:, None, k]
