"""Samples as calibration data hold few: brighter and darker, flatter and bolder than those given.

A few dozen samples show where most values lie, but not how far the next thousand go: one white page or a grey wall
among photographs is enough to leave every range. What varies most from sample to sample is a sample's level and its
contrast; both are carried on in the direction in which the samples differ, so data that do not differ stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from quantkit.observe import TensorStatistics

Fed = tuple[dict[str, np.ndarray], int]
"""(feeds, valid rows) of a batch."""

LEVEL_TIMES = 3.0
"""How far a sample's mean is moved from that of all samples, in its own distance."""
CONTRAST_POWER = 0.5
"""By which power of its own ratio the contrast of a sample is moved further from the typical one."""
FLAT_LEAST, FLAT_DEVIATIONS = 0.25, 7.0
"""What is left of the differences from its own mean in a flat sample: so many standard deviations of the logarithm of
the samples' contrasts less, 0.2 in photographs and next to nothing in noise, and this at least. One sample: this."""
STRESSED_SAMPLES = 64
"""Samples that are changed, at most."""
RANK_LEAST = 3
"""Inputs of fewer axes are features or tokens, which have no level and no contrast."""


@dataclass(frozen=True)
class _Sample:
    """x: float32 [N, ...]; own, contrast: float64 [N, 1, ...], mean and standard deviation of each row. mean: of all
    samples; typical: the geometric mean of their contrasts; flat: what a flat sample keeps of its contrast."""

    x: np.ndarray
    own: np.ndarray
    contrast: np.ndarray
    mean: float
    typical: float
    flat: float


FAMILIES: Mapping[str, Callable[[_Sample], np.ndarray]] = {
    "level": lambda s: s.x + (LEVEL_TIMES - 1.0) * (s.own - s.mean),
    "contrast": lambda s: s.own + (s.contrast / s.typical) ** CONTRAST_POWER * (s.x - s.own),
    "flat": lambda s: s.own + s.flat * (s.x - s.own),
}
"""How samples are changed: means LEVEL_TIMES as far from that of all, contrasts further from the typical one, flat."""


def stressed(samples: Sequence[Fed], family: str) -> list[Fed]:
    """The samples changed by one of FAMILIES, within the bounds of all values seen; empty where nothing can be.

    Only float32 inputs of RANK_LEAST axes and more are changed, and none of them that holds two values only (masks).
    """
    known = {name: _Seen(samples, name) for name, x in samples[0][0].items() if _can_change(samples, name, x)}
    if not known:
        return []
    found = []
    for feeds, valid in samples:
        fed = dict(feeds)
        for name, seen in known.items():
            moved = FAMILIES[family](seen.sample(feeds[name]))
            fed[name] = np.clip(moved, seen.low, seen.high).astype(np.float32)
        found.append((fed, valid))
    return found


def mixed(statistics: Mapping[str, TensorStatistics], *others: Mapping[str, TensorStatistics]
          ) -> dict[str, TensorStatistics]:  # fmt: skip
    """The statistics of all values together; channel means stay those of the first."""
    found = {name: deepcopy(seen) for name, seen in statistics.items()}
    for other in others:
        for name, seen in found.items():
            channels = seen.channels
            seen.channels = None
            seen.merge(other[name])
            seen.channels = channels
    return found


class _Seen:
    """What all samples of an input have in common."""

    def __init__(self, samples: Sequence[Fed], name: str) -> None:
        arrays = [feeds[name][:valid] for feeds, valid in samples]
        self.low, self.high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
        rows = [_level_and_contrast(a) for a in arrays]
        contrasts = np.concatenate([contrast.reshape(-1) for _, contrast in rows])
        self.mean = float(np.concatenate([level.reshape(-1) for level, _ in rows]).mean())
        self.least = max(float(contrasts.max()) * 2.0**-10, float(np.finfo(np.float32).tiny))
        logs = np.log(np.maximum(contrasts, self.least))
        self.typical = float(np.exp(logs.mean()))
        spread = float(logs.std()) if logs.size > 1 else np.inf
        self.flat = max(FLAT_LEAST, float(np.exp(-FLAT_DEVIATIONS * spread)))

    def sample(self, x: np.ndarray) -> _Sample:
        own, contrast = _level_and_contrast(x)
        return _Sample(x, own, np.maximum(contrast, self.least), self.mean, self.typical, self.flat)


def _can_change(samples: Sequence[Fed], name: str, x: np.ndarray) -> bool:
    if x.dtype != np.float32 or x.ndim < RANK_LEAST:
        return False
    return any(np.unique(feeds[name][:valid]).size > 2 for feeds, valid in samples)


def _level_and_contrast(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = tuple(range(1, x.ndim))
    return x.mean(axis=axes, keepdims=True, dtype=np.float64), x.std(axis=axes, keepdims=True, dtype=np.float64)
