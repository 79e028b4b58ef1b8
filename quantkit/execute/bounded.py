"""Outputs that cannot leave -1..1 (probabilities, masks): there an error has a size of its own, not only a ratio.

A detector that sees nothing gives 1e-5 everywhere; an INT8 model that gives 3e-5 is 3 dB from it and has lost nothing.
A lost peak, or one that FP32 does not have, is an error of nearly 1 and counts in full.
"""

from __future__ import annotations

import numpy as np

from quantkit.fuse.judged import PROBABILITIES

TOLERATED = 0.01
"""An error that no task notices: one percent of the largest value of a sample, or of LEAST_AMPLITUDE."""
LEAST_AMPLITUDE = 0.1
"""What the signal counts as where it is smaller: of a whole output, or of each row of probabilities."""
SURE = 0.5
"""A row of probabilities counts in full where FP32's first class leads the second by this, below it by its lead: on a
row in which FP32 itself hesitates, another first class is no loss."""
SUM_SLACK = 0.02
"""Rows along an axis are probabilities if they sum to 1 within this."""


def comparable(kind: str, y: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FP32's values and those of an INT8 model, so that what remains of their difference is an error that matters.

    kind: of quantkit.fuse.judged.bounded_tensors. y, found: float32 of one shape. Returns the same shape.
    """
    axis = _class_axis(y) if kind == PROBABILITIES else None
    weight = 1.0 if axis is None else np.minimum(1.0, _leads(y, axis) / SURE)
    peaks = np.maximum(np.abs(y).max(), LEAST_AMPLITUDE) if axis is None else y.max(axis, keepdims=True)
    tolerated = TOLERATED * peaks
    error = found - y
    error = np.sign(error) * np.maximum(np.abs(error) - tolerated, 0.0)
    return y * weight, (y + error) * weight


def least_signal(kind: str, y: np.ndarray) -> float:
    """The sum of squares that a signal of this output counts as at least."""
    axis = _class_axis(y) if kind == PROBABILITIES else None
    rows = 1 if axis is None else y.size // y.shape[axis]
    return LEAST_AMPLITUDE**2 * rows


def _class_axis(y: np.ndarray) -> int | None:
    """The axis along which the values sum to 1: the last one or that of channels; None if there is none."""
    for axis in (-1, 1):
        if -y.ndim <= axis < y.ndim and y.shape[axis] > 1 and np.abs(y.sum(axis) - 1.0).max() < SUM_SLACK:
            return axis
    return None


def _leads(y: np.ndarray, axis: int) -> np.ndarray:
    """The largest value along an axis minus the second; shape 1 on that axis."""
    two = np.partition(y, -2, axis=axis).take([-2, -1], axis=axis)
    return np.diff(two, axis=axis)
