"""The oracle of float32 sums and of what normalizes them: a defined order of operations, so that bits are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Attributes = Mapping[str, Any]
Inputs = Sequence[np.ndarray]
PARTIAL_SUMS = 8


def _sum(rows: np.ndarray) -> np.ndarray:
    """float64 [R, n] -> [R]: value i goes to partial sum i % 8 in rising order; then 0 + 4, 1 + 5..., and so on."""
    parts = np.zeros((len(rows), PARTIAL_SUMS))
    for start in range(0, rows.shape[1], PARTIAL_SUMS):
        block = rows[:, start : start + PARTIAL_SUMS]
        parts[:, : block.shape[1]] += block
    while parts.shape[1] > 1:
        half = parts.shape[1] // 2
        parts = parts[:, :half] + parts[:, half:]
    return parts[:, 0]


def _add(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QAddFloat: float32 a + b."""
    with np.errstate(all="ignore"):
        return [inputs[0] + inputs[1]]


def _normalize(centred: bool, attributes: Attributes, inputs: Inputs) -> np.ndarray:
    """Means in float64, then float32 step by step: ((x - mean) * factor) * gain + shift; over the axes from `axis`."""
    x = inputs[0]
    rows = x.reshape(int(np.prod(x.shape[: int(attributes.get("axis", -1)) % x.ndim])), -1)
    wide, count = rows.astype(np.float64), float(rows.shape[1])
    with np.errstate(all="ignore"):
        mean = _sum(wide) / count if centred else np.zeros(len(rows))
        spread = _sum(wide * wide) / count - mean * mean
        spread = np.where(spread > 0, spread, 0.0)
        factor = (1.0 / np.sqrt(spread + float(attributes.get("epsilon", 1e-5)))).astype(np.float32)
        normal = (rows - mean.astype(np.float32)[:, None]) * factor[:, None]
        shift = inputs[2].reshape(-1) if centred else np.float32(0)
        return (normal * inputs[1].reshape(-1) + shift).reshape(x.shape)


STREAM = {
    "QAddFloat": _add,
    "QLayerNormalizationFloat": lambda attributes, inputs: [_normalize(True, attributes, inputs)],
    "QRMSNormalizationFloat": lambda attributes, inputs: [_normalize(False, attributes, inputs)],
}
"""Op type -> its arithmetic."""
