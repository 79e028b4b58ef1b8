"""The mean of every channel of a tensor, streamed: what the correction of biases needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from quantkit.errors import CalibrationError

KEPT_VALUES = 1 << 16
"""Values of a tensor whose channels are kept for the next sample: 0.5 MB. Those of large pictures fill gigabytes."""


@dataclass
class ChannelSums:
    """Sums and counts of the values seen of each channel on `axis`. sums: float64 [C]; counts: int64 [C]."""

    axis: int
    sums: np.ndarray
    counts: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """float64 [C]; 0 for a channel of which nothing was seen."""
        return self.sums / np.maximum(self.counts, 1)

    def add(self, other: ChannelSums) -> None:
        """Adds what another one has seen: in float64, so add in a fixed order where bits must repeat."""
        self.sums = self.sums + other.sums
        self.counts = self.counts + other.counts

    def to_json(self) -> dict[str, Any]:
        """Plain values; a float reads back as it was."""
        return {"axis": self.axis, "sums": self.sums.tolist(), "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ChannelSums:
        """Inverse of to_json. Raises CalibrationError on anything else."""
        try:
            sums = np.array(document["sums"], dtype=np.float64)
            counts = np.array(document["counts"], dtype=np.int64)
            axis = int(document["axis"])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"the channel sums of a tensor are damaged ({error!r}); calibrate again") from error
        if sums.ndim != 1 or sums.shape != counts.shape or not np.isfinite(sums).all():
            raise CalibrationError("the channel sums of a tensor are damaged; calibrate again")
        return cls(axis, sums, counts)


def channel_sums(part: np.ndarray, shape: tuple[int, ...], axis: int, step: int) -> ChannelSums:
    """Sums over every step-th value of each row of a tensor of this shape.

    part: float32 [rows, ceil(size / step)], contiguous: the values 0, step, 2 step, ... of each row of size
    prod(shape) / rows.
    """
    axis %= len(shape)
    size = prod(shape) // len(part)
    inner, channels = prod(shape[axis + 1 :]), shape[axis]
    starts = -(-np.arange(channels) * inner // step)  # of each channel, where they lie one after the other
    counts = np.diff(starts, append=-(-size // step))
    if (size == inner * channels or channels == 1) and counts.all():
        sums = np.add.reduceat(part, starts, axis=1).sum(axis=0, dtype=np.float64)
    else:
        find = _kept_channels if size // step <= KEPT_VALUES else _channels
        index, counts = find(size, step, inner, channels)
        sums = np.bincount(index, weights=part.sum(axis=0, dtype=np.float64), minlength=channels)
    return ChannelSums(axis, sums, counts * len(part))


def _channels(size: int, step: int, inner: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(channel of the values 0, step, 2 step, ... of a row, how many of them each channel has)."""
    index = np.arange(0, size, step) // inner % channels
    return index, np.bincount(index, minlength=channels)


_kept_channels = lru_cache(maxsize=64)(_channels)
