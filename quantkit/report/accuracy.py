"""Accuracy and fidelity of INT8 outputs against FP32 outputs, summed batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from quantkit.report.statistics import mcnemar_p, paired_difference, wilson_interval

SQNR_CAP_DB = 200.0
"""What equal outputs score; float32 itself ends near 150 dB."""


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(sum(reference^2) / sum((reference - x)^2)), kept within +-SQNR_CAP_DB."""
    if noise <= 0:
        return SQNR_CAP_DB
    if signal <= 0:
        return -SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10 * math.log10(signal / noise)))


class PowerRatio:
    """Sums of signal and noise power in float64."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def add(self, reference: np.ndarray, value: np.ndarray) -> None:
        """Add two arrays of any numeric type. A value that is not finite is infinite noise; an array of another shape
        (a detector that finds more) has nothing in common: noise as large as the signal."""
        if reference.shape != value.shape:
            value = np.zeros(reference.shape)
        finite = np.isfinite(reference)
        expected = np.asarray(reference, np.float64)[finite]
        squares = np.square(expected - np.asarray(value, np.float64)[finite])
        self.signal += float(np.sum(np.square(expected)))
        self.noise += float(np.sum(squares)) if np.isfinite(squares).all() else math.inf

    @property
    def db(self) -> float:
        """The ratio so far, in dB."""
        return -SQNR_CAP_DB if math.isinf(self.noise) else sqnr_db(self.signal, self.noise)


class Tally:
    """Counts over all batches: right answers of both models, agreement of their classes, output noise."""

    def __init__(self) -> None:
        self.samples = 0
        self.labelled = 0
        self.strange_labels = 0
        self.classes = 0
        self.correct: dict[str, list[int]] = {"fp32": [0, 0], "int8": [0, 0]}  # top-1, top-5
        self.fixed = 0
        self.broken = 0
        self.decisions = 0
        self.agreements = 0
        self.power = PowerRatio()

    def add(
        self,
        reference: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        labels: np.ndarray | None,
        valid: int,
    ) -> None:
        """Add one batch: outputs by name, in the model's order, the first `valid` samples of which count.

        labels: int [valid] class indices or None. They are compared with the first output, if that is [N, classes].
        """
        self.samples += valid
        for name in reference:
            for expected, found in _numbers(reference[name], outputs[name], valid):
                self.power.add(expected, found)
        first = next(iter(reference))
        if isinstance(reference[first], list):  # a sequence
            return
        fp32, int8 = _samples(reference[first], valid), _samples(outputs[first], valid)
        axis = class_axis(fp32)
        if axis is None or fp32.shape != int8.shape:
            return
        fp32_class, int8_class = fp32.argmax(axis), int8.argmax(axis)
        self.decisions += fp32_class.size
        self.agreements += int(np.count_nonzero(fp32_class == int8_class))
        if labels is not None and fp32.ndim == 2:
            self._add_labels(fp32, int8, np.asarray(labels)[:valid])

    def _add_labels(self, fp32: np.ndarray, int8: np.ndarray, labels: np.ndarray) -> None:
        self.labelled += len(labels)
        self.classes = fp32.shape[1]
        self.strange_labels += int(np.count_nonzero((labels < 0) | (labels >= self.classes)))
        right = {}
        for model, logits in (("fp32", fp32), ("int8", int8)):
            right[model] = logits.argmax(1) == labels
            self.correct[model][0] += int(np.count_nonzero(right[model]))
            self.correct[model][1] += int(np.count_nonzero(in_top(logits, labels, 5)))
        self.fixed += int(np.count_nonzero(right["int8"] & ~right["fp32"]))
        self.broken += int(np.count_nonzero(right["fp32"] & ~right["int8"]))

    def doubt(self) -> str | None:
        """A sentence on labels that are no class of the model, which always count as wrong; None if there are none."""
        if not self.strange_labels:
            return None
        return (
            f"{self.strange_labels} of {self.labelled} labels are not among the model's classes 0 to "
            f"{self.classes - 1}, and count as wrong; check that they are indices of the first output, from 0 on"
        )

    @property
    def agreement(self) -> float | None:
        """Fraction of decisions on which both models name the same class; None for outputs without classes."""
        return self.agreements / self.decisions if self.decisions else None

    def top(self, model: str) -> dict[str, float | None]:
        """{"top1", "top5"} of "fp32" or "int8", as fractions; None without labels."""
        if not self.labelled:
            return {"top1": None, "top5": None}
        top1, top5 = self.correct[model]
        return {"top1": top1 / self.labelled, "top5": top5 / self.labelled}

    def flips(self) -> dict[str, int] | None:
        """Samples that only INT8 gets right (fixed) and that only FP32 gets right (broken); None without labels."""
        return {"fixed": self.fixed, "broken": self.broken} if self.labelled else None

    def confidence(self) -> dict[str, Any] | None:
        """95 % intervals: {"fp32_top1", "int8_top1", "agreement", "difference"} as [low, high], and "mcnemar_p".

        None for outputs without classes; without labels only "agreement".
        """
        if not self.decisions:
            return None
        values: dict[str, Any] = {"agreement": wilson_interval(self.agreements, self.decisions)}
        if self.labelled:
            for model in ("fp32", "int8"):
                values[f"{model}_top1"] = wilson_interval(self.correct[model][0], self.labelled)
            values["difference"] = paired_difference(self.fixed, self.broken, self.labelled)
            values["mcnemar_p"] = mcnemar_p(self.fixed, self.broken)
        return values


def class_axis(output: np.ndarray) -> int | None:
    """The axis that holds classes: 1 for [N, C] and for maps [N, C, H, W...], the last for sequences [N, T, C].

    None if there is no choice to make there: not float, no such axis, or one entry only.
    """
    if output.dtype.kind != "f" or output.ndim < 2:
        return None
    axis = 2 if output.ndim == 3 else 1
    return axis if output.shape[axis] > 1 else None


def in_top(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """bool [N]: fewer than `count` classes score higher than the label, equal ones of lower index included."""
    valid = (labels >= 0) & (labels < logits.shape[1])
    clipped = np.where(valid, labels, 0)
    own = np.take_along_axis(logits, clipped[:, None], 1)
    ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < clipped[:, None]))
    return valid & (np.count_nonzero(ahead, axis=1) < count)


def _numbers(reference: Any, value: Any, valid: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of numeric arrays in two outputs of one kind: of the tensors of a sequence, the values of a map; texts
    count 1 each, and 1 or 0 where the other has the same or another one."""
    if isinstance(reference, Mapping):
        for key, expected in reference.items():
            yield from _numbers(expected, value.get(key, np.nan), valid)
    elif isinstance(reference, list):
        by_sample = bool(reference) and isinstance(reference[0], Mapping)
        for expected, found in zip(reference[: valid if by_sample else None], value, strict=False):
            yield from _numbers(expected, found, valid)
    else:
        expected, found = _samples(reference, valid), _samples(value, valid)
        texts = expected.dtype.kind in "OSU"
        yield (np.ones(expected.shape), (expected == found).astype(np.float64)) if texts else (expected, found)


def _samples(array: Any, valid: int) -> np.ndarray:
    """The first `valid` entries of an array with a batch axis; a scalar as it is."""
    array = np.asarray(array)
    return array[:valid] if array.ndim else array
