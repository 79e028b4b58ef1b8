"""Is a produced model right at all? It is run on one sample and held against the FP32 outputs before it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

LEAST_SQNR_DB = 6.0
"""An output nearer to FP32 than this is no wreck: below, the error is half of the signal's amplitude."""
FAINT = 1e-12
"""Mean square below which an output is silent and has no SQNR."""
SLICES_MOST, SLICE_LEAST = 512, 32
"""An axis of at most so many slices of at least so many values holds different quantities side by side."""
ROW_LEAST = 16
"""A last axis of at least so many values is a row whose largest value means something."""
STEP = 8.0
"""Slices whose largest values differ by more than this factor are of different groups: 3 of 8 bits are lost."""


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """10 log10(sum y^2 / sum (y - got)^2) over the values that are finite in FP32; inf where both are equal."""
    usable = np.isfinite(wanted)
    y, error = wanted[usable].astype(np.float64), got[usable].astype(np.float64) - wanted[usable]
    noise = float(np.square(error).sum())
    return float("inf") if noise == 0.0 else 10.0 * float(np.log10(max(float(np.square(y).sum()), 1e-300) / noise))


def complaint(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    """What is wrong with the outputs `got` of an INT8 model, FP32's being `wanted`; empty if nothing.

    Only float32 outputs have a distance; of the others the shape is compared where it is fixed by the inputs.
    """
    for name, y in wanted.items():
        if not isinstance(y, np.ndarray) or y.dtype.kind != "f":
            continue
        found = got[name]
        if found.shape != y.shape:
            if _data_dependent(wanted):
                continue
            return f"output {name!r} has shape {list(found.shape)}, FP32's is {list(y.shape)}"
        lost = int(np.count_nonzero(np.isfinite(y) & ~np.isfinite(found)))
        if lost:
            return f"output {name!r} has {lost} NaN or infinite values that are finite in FP32"
        finite = y[np.isfinite(y)]
        if finite.size and float(np.mean(np.square(finite, dtype=np.float64))) > FAINT:
            db = sqnr_db(y, found)
            if db < LEAST_SQNR_DB:
                return f"output {name!r} is {db:.1f} dB from FP32; at least {LEAST_SQNR_DB:g} are asked for"
    return ""


def _data_dependent(wanted: Mapping[str, Any]) -> bool:
    """Detections after NMS: how many there are depends on the values, and integers (indices) come with them."""
    return any(isinstance(y, np.ndarray) and y.dtype.kind in "iu" for y in wanted.values())


def worst_db(wanted: Mapping[str, Any], got: Mapping[str, Any], *, by_slice: bool = False) -> float:
    """The SQNR of the worst float output; by_slice: of the worst group of slices in any of them.

    One array may hold quantities of different size, boxes in pixels beside scores up to 1: the SQNR of the whole array
    says nothing about the small ones. So the slices along each axis are grouped by their largest value, and each group
    counts for itself. The signal is what differs from the mean: a network that gives -8 for every class but one says
    nothing by the -8. The largest value of each row, which decides most tasks, counts for itself too. inf if no float
    output is comparable.
    """
    worst = float("inf")
    for name, y in wanted.items():
        found = got[name]
        if not isinstance(y, np.ndarray) or y.dtype.kind != "f" or found.shape != y.shape or not y.size:
            continue
        for ours, theirs in _groups(y, found) if by_slice else [(y, found)]:
            finite = ours[np.isfinite(ours)]
            mean = finite.mean(dtype=np.float64) if finite.size else 0.0
            if finite.size and float(np.var(finite, dtype=np.float64)) > FAINT:
                worst = min(worst, sqnr_db(ours - mean, theirs - mean))
        worst = min(worst, _peaks_db(y, found))
    return worst


def _peaks_db(y: np.ndarray, found: np.ndarray) -> float:
    """The SQNR of the largest value of each row of the last axis, as its height above the row's mean."""
    if y.ndim < 2 or y.shape[-1] < ROW_LEAST or not np.isfinite(y).all():
        return float("inf")
    where, mean = y.argmax(-1)[..., None], y.mean(-1, dtype=np.float64)[..., None]
    heights, others = (np.take_along_axis(a, where, -1) - mean for a in (y, found))
    return sqnr_db(heights, others) if float(np.mean(np.square(heights))) > FAINT else float("inf")


def _groups(y: np.ndarray, found: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of both arrays whose values are of one order of magnitude, along each axis that has few, long slices."""
    yield y, found
    for axis in range(1, y.ndim):
        count = y.shape[axis]
        if not 2 <= count <= SLICES_MOST or y.size // count < SLICE_LEAST:
            continue
        ours, theirs = (np.moveaxis(a, axis, 0).reshape(count, -1) for a in (y, found))
        peaks = np.abs(np.where(np.isfinite(ours), ours, 0.0)).max(axis=1)
        order = np.argsort(-peaks)
        edges = np.flatnonzero(peaks[order][:-1] > STEP * peaks[order][1:]) + 1
        for part in np.split(order, edges):
            yield ours[part], theirs[part]
