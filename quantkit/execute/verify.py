"""Is a produced model right at all? It is run on samples and held against the FP32 outputs before it is saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from quantkit.execute.bounded import comparable, least_signal
from quantkit.fuse.judged import Bounds

LEAST_SQNR_DB = 6.0
"""An output nearer to FP32 than this is no wreck: below, the error is half of the signal's amplitude."""
FAINT = 1e-12
"""Mean square below which an output is silent and has no SQNR."""
SLICES_MOST, SLICE_LEAST = 512, 32
"""An axis of at most so many slices of at least so many values holds different quantities side by side."""
ROW_LEAST = 16
"""A last axis of at least so many values is a row whose largest value means something."""
FEW = 16
"""An output of fewer values says nothing by itself: they are held against those of other samples."""
LEAST_SHARE = 0.01
"""What samples differ by in such an output counts as this share of its mean square at least: a tenth of its size."""
STEP = 8.0
"""Slices whose largest values differ by more than this factor are of different groups: 3 of 8 bits are lost."""


def sqnr_db(wanted: np.ndarray, got: np.ndarray, least: float = 0.0) -> float:
    """10 log10(sum y^2 / sum (y - got)^2) over the values that are finite in FP32; inf where both are equal.

    least: what the sum of y^2 counts as where it is smaller.
    """
    usable = np.isfinite(wanted)
    y, error = wanted[usable].astype(np.float64), got[usable].astype(np.float64) - wanted[usable]
    signal, noise = max(float(np.square(y).sum()), least, 1e-300), float(np.square(error).sum())
    return float("inf") if noise == 0.0 else 10.0 * float(np.log10(signal / noise))


def mean_db(found: Iterable[float]) -> float:
    """Several SQNR values in dB as one: that of the mean noise, each signal counting the same.

    Below the mean of the dB, above their least: of eight samples one without any signal gives at most 9 dB.
    """
    ratios = [10.0 ** (-db / 10.0) for db in found]
    mean = sum(ratios) / len(ratios) if ratios else 0.0
    return float("inf") if mean == 0.0 else -10.0 * float(np.log10(mean))


def complaint(wanted: Mapping[str, Any], got: Mapping[str, Any], bounds: Bounds | None = None) -> str:
    """What is wrong with the outputs `got` of an INT8 model on one sample, FP32's being `wanted`; empty if nothing.

    Only float32 outputs have a distance; of the others the shape is compared where it is fixed by the inputs.
    bounds: see quantkit.execute.bounded.
    """
    return misfit(wanted, got) or too_far([distances(wanted, got, bounds)])


def misfit(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    """What is wrong with shapes, and with values that are not finite; empty if nothing."""
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
    return ""


def distances(wanted: Mapping[str, Any], got: Mapping[str, Any], bounds: Bounds | None = None) -> dict[str, float]:
    """The SQNR in dB of every float output that is not silent and has FP32's shape."""
    found = {}
    for name, y, theirs, least in _float_pairs(wanted, got, bounds):
        finite = y[np.isfinite(y)]
        if finite.size and (least or float(np.mean(np.square(finite, dtype=np.float64))) > FAINT):
            found[name] = sqnr_db(y, theirs, least)
    return found


def too_far(samples: Sequence[Mapping[str, float]], least: float = LEAST_SQNR_DB) -> str:
    """What is wrong with `distances` of some samples taken together; empty if all outputs reach `least` dB."""
    for name in dict.fromkeys(name for sample in samples for name in sample):
        db = mean_db(sample[name] for sample in samples if name in sample)
        if db < least:
            return f"output {name!r} is {db:.1f} dB from FP32; at least {LEAST_SQNR_DB:g} are asked for"
    return ""


def _data_dependent(wanted: Mapping[str, Any]) -> bool:
    """Detections after NMS: how many there are depends on the values, and integers (indices) come with them."""
    return any(isinstance(y, np.ndarray) and y.dtype.kind in "iu" for y in wanted.values())


def _float_pairs(wanted: Mapping[str, Any], got: Mapping[str, Any], bounds: Bounds | None
                 ) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:  # fmt: skip
    """(name, FP32's values, the others, least sum of squares of a signal) of the float outputs of equal shapes."""
    for name, y in wanted.items():
        found = got[name]
        if not isinstance(y, np.ndarray) or y.dtype.kind != "f" or found.shape != y.shape or not y.size:
            continue
        kind = (bounds or {}).get(name)
        yield (name, y, found, 0.0) if kind is None else (name, *comparable(kind, y, found), least_signal(kind, y))


def pooled_db(wanted: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]],
              bounds: Bounds | None = None) -> float:  # fmt: skip
    """The SQNR of the worst of the float outputs of less than FEW values, over several samples; inf if there is none.

    A score from 1 to 5, or two classes: the signal is what differs from one sample to the others or inside a sample,
    whichever is more, and LEAST_SHARE of the whole at least. wanted, got: FP32's outputs and the others', by sample.
    Outputs of `bounds` have errors of a size of their own and are left out.
    """
    worst = float("inf")
    for name, first in wanted[0].items():
        if name in (bounds or {}) or not is_short(first) or any(y[name].shape != first.shape for y in (*wanted, *got)):
            continue
        y, found = (np.stack([np.ravel(sample[name]) for sample in samples]).astype(np.float64)
                    for samples in (wanted, got))  # fmt: skip
        whole = float(np.square(y).sum())
        if np.isfinite(y).all() and whole > FAINT * y.size:
            signals = [float(np.square(y - y.mean(axis, keepdims=True)).sum()) for axis in (0, 1)]
            signal, noise = max(*signals, LEAST_SHARE * whole), float(np.square(found - y).sum())
            worst = min(worst, 10.0 * float(np.log10(signal / noise)) if noise else float("inf"))
    return worst


def is_short(output: Any) -> bool:
    """Whether an output is one of `pooled_db`."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f" and 0 < output.size < FEW


def worst_db(wanted: Mapping[str, Any], got: Mapping[str, Any], *, by_slice: bool = False,
             bounds: Bounds | None = None) -> float:  # fmt: skip
    """The SQNR of the worst float output; by_slice: of the worst group of slices in any of them.

    One array may hold quantities of different size, boxes in pixels beside scores up to 1: the SQNR of the whole array
    says nothing about the small ones. So the slices along each axis are grouped by their largest value, and each group
    counts for itself. The signal is what differs from the mean: a network that gives -8 for every class but one says
    nothing by the -8. The largest value of each row, which decides most tasks, counts for itself too. inf if no float
    output is comparable. bounds: see quantkit.execute.bounded.
    """
    worst = float("inf")
    for _, y, found, least in _float_pairs(wanted, got, bounds):
        for ours, theirs in _groups(y, found) if by_slice else [(y, found)]:
            finite = ours[np.isfinite(ours)]
            mean = finite.mean(dtype=np.float64) if finite.size else 0.0
            if finite.size and (least or float(np.var(finite, dtype=np.float64)) > FAINT):
                worst = min(worst, sqnr_db(ours - mean, theirs - mean, least))
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
