"""Is the task still done? What a user would notice, from the outputs of both models on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

BEST = 20
"""Candidates of a detector that are compared: those that FP32 scores highest."""
OVERLAP = 0.5
SCORE = 0.4
"""Detections from here on count."""

Outputs = Sequence[np.ndarray]


def cosine(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
    """The least cosine between the outputs of a sample."""
    values = []
    for a, b in zip(fp32, int8, strict=True):
        x, y = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
        values.append(float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-30)))
    return min(values), f"cosine {min(values):.4f}"


def top(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
    """The share of rows whose largest value along the last axis is at the same place.

    Rows in which FP32 itself hesitates, its lead being less than half of the usual one, do not count for the verdict;
    the words give both shares.
    """
    rows = [np.reshape(y, (-1, y.shape[-1])) for y in fp32]
    ordered = [np.sort(y, axis=-1) for y in rows]
    lead = np.concatenate([y[:, -1] - y[:, -2] for y in ordered])
    same = np.concatenate([a.argmax(-1) == b.reshape(a.shape).argmax(-1) for a, b in zip(rows, int8, strict=True)])
    sure = same[lead >= 0.5 * np.median(lead)]
    return float(sure.mean()), f"same class {100 * same.mean():.4g} %, {100 * sure.mean():.4g} % where FP32 is sure"


def over(threshold: float) -> Callable[[Outputs, Outputs], tuple[float, str]]:
    """The share of equal decisions: value above the threshold or not; by intersection over union where any is."""

    def judge(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
        a = np.concatenate([np.ravel(y > threshold) for y in fp32])
        b = np.concatenate([np.ravel(y > threshold) for y in int8])
        if not a.any():
            return float((a == b).mean()), f"same decisions {100 * (a == b).mean():.4g} %"
        union = float((a & b).sum() / (a | b).sum())
        return union, f"decisions' IoU {union:.3f}"

    return judge


def ctc(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
    """The share of lines that read the same by greedy decoding; [batch, time, classes] or [time, batch, classes]."""
    same = [_line(a) == _line(b) for a, b in zip(fp32, int8, strict=True)]
    return float(np.mean(same)), f"same text {sum(same)} of {len(same)}"


def _line(scores: np.ndarray) -> list[int]:
    classes = scores.reshape(-1, scores.shape[-1]).argmax(-1)
    changed = np.concatenate([[True], classes[1:] != classes[:-1]])
    return [int(c) for c in classes[changed] if c != 0]


def boxes(classes: int | None = None) -> Callable[[Outputs, Outputs], tuple[float, str]]:
    """Of the candidates that FP32 scores highest, the share whose box overlaps by OVERLAP and whose class is the same.

    Outputs [1, 4 + classes + others, candidates], boxes as centre and size; None: no others.
    """
    scores = slice(4, None if classes is None else 4 + classes)

    def judge(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
        matched = []
        for a, b in zip(fp32, int8, strict=True):
            best = np.argsort(-a[0, scores].max(0).astype(np.float64))[:BEST]
            overlap = _overlap(_corners(a[0, :4, best].T), _corners(b[0, :4, best].T))
            same = a[0, scores, best].argmax(-1) == b[0, scores, best].argmax(-1)
            matched.append((overlap >= OVERLAP) & same)
        share = float(np.mean(matched))
        return share, f"boxes matched {100 * share:.4g} %"

    return judge


def found(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
    """Finished detections [1, candidates, 6]: corners, score, class. Of those that FP32 scores over SCORE, the share
    that INT8 has with the same class and half the score at least."""
    matched = []
    for a, b in zip(fp32, int8, strict=True):
        for box in a[0][a[0, :, 4] > SCORE]:
            rivals = b[0][(b[0, :, 5] == box[5]) & (b[0, :, 4] > SCORE / 2)]
            overlaps = _overlap(np.repeat(box[:4, None], len(rivals), axis=1), rivals[:, :4].T)
            matched.append(bool((overlaps >= OVERLAP).any()))
    share = float(np.mean(matched))
    return share, f"found {sum(matched)} of {len(matched)}"


def peaks(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
    """Of the local maxima over 0.3 in maps [1, H, W, 1] of which all else is 0, the share of either model that the
    other one has within a pixel."""
    common = total = 0
    for a, b in zip(fp32, int8, strict=True):
        for ours, theirs in ((a, b), (b, a)):
            rows, columns = np.nonzero(ours[0, :, :, 0] > 0.3)
            near = np.pad(theirs[0, :, :, 0] > 0.3, 1)
            common += sum(bool(near[y : y + 3, x : x + 3].any()) for y, x in zip(rows, columns, strict=True))
            total += len(rows)
    return common / max(total, 1), f"peaks in common {100 * common / max(total, 1):.4g} %"


def number(fp32: Outputs, int8: Outputs) -> tuple[float, str]:
    """One number a sample: the mean difference, relative to the mean size of FP32's."""
    size = float(np.mean([np.abs(a).mean() for a in fp32]))
    off = float(np.mean([np.abs(a - b).mean() for a, b in zip(fp32, int8, strict=True)])) / max(size, 1e-30)
    return 1 - off, f"off by {100 * off:.2g} % on average"


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:2] - boxes[2:] / 2, boxes[:2] + boxes[2:] / 2])


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of [4, n] corners."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    common = sides.prod(0)
    return common / np.maximum((a[2:] - a[:2]).prod(0) + (b[2:] - b[:2]).prod(0) - common, 1e-9)


JUDGES: dict[str, Callable[[Outputs, Outputs], tuple[float, str]]] = {
    "cosine": cosine, "top": top, "over 0.3": over(0.3), "over 0.5": over(0.5), "ctc": ctc, "boxes": boxes(),
    "boxes of 1 class": boxes(1), "number": number, "found": found, "peaks": peaks,
}  # fmt: skip
"""judge(outputs of FP32, of INT8, one a sample) -> (1 is the same, in words)."""
KEPT = {"cosine": 0.98, "top": 0.95, "over 0.3": 0.9, "over 0.5": 0.9, "ctc": 0.95, "boxes": 0.9,
        "boxes of 1 class": 0.9, "number": 0.9, "found": 0.9,
        "peaks": 0.9}  # fmt: skip
"""Below this the task counts as lost."""
