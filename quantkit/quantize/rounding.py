"""Rounding of weights that looks at the output: the error of each weight is made up by those not yet rounded.

All problems are batched over groups: x [G, R, K], moments [G, K, K], weights [G, C, K].
"""

from __future__ import annotations

import numpy as np

from quantkit.types import WEIGHT_MAX

BLOCK = 128
"""Columns rounded before their errors reach the columns beyond by one matrix product."""


def covariance(x: np.ndarray) -> np.ndarray:
    """float32 rows [G, R, K] -> float64 [G, K, K]: E (x - E x)(x - E x)'. Means are the bias's business."""
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return np.matmul(centred.transpose(0, 2, 1), centred).astype(np.float64) / x.shape[1]


def damped(xx: np.ndarray, damping: float) -> np.ndarray:
    """xx + damping * mean(diag) * I, so that directions without data have a price too."""
    k = xx.shape[-1]
    level = damping * np.trace(xx, axis1=1, axis2=2) / k
    level = np.where(level > 0, level, 1.0)
    return xx + level[:, None, None] * np.eye(k)


def feedback_round(v: np.ndarray, h: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Integers q with small (v - s q) h (v - s q)': the error of each rounding is made up by the columns still open.

    v: [G, C, K]; h: [G, K, K] positive definite; scale: [G, C]. Returns int8-valued float64 [G, C, K].
    Columns go by falling diagonal. Frantar et al., "GPTQ" (ICLR 2023): with U the upper Cholesky factor of h^-1,
    e_k = (v_k - s q_k) / U_kk and v_j -= e_k U_kj for j > k.
    """
    order = np.argsort(-np.diagonal(h, axis1=1, axis2=2), axis=1, kind="stable")
    h = np.take_along_axis(np.take_along_axis(h, order[:, :, None], 1), order[:, None, :], 2)
    v = np.take_along_axis(v, order[:, None, :], 2).copy()
    inverse = np.linalg.inv(h)
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    q = np.empty_like(v)
    k = v.shape[-1]
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        errors = np.empty((*v.shape[:2], stop - start))
        for j in range(start, stop):
            q[:, :, j] = np.clip(np.rint(v[:, :, j] / scale), -WEIGHT_MAX, WEIGHT_MAX)
            e = (v[:, :, j] - q[:, :, j] * scale) / upper[:, j, j, None]
            errors[:, :, j - start] = e
            v[:, :, j + 1 : stop] -= e[:, :, None] * upper[:, j, None, j + 1 : stop]
        v[:, :, stop:] -= np.matmul(errors, upper[:, start:stop, stop:])
    back = np.argsort(order, axis=1)
    return np.take_along_axis(q, back[:, None, :], 2)
