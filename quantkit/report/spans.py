"""How the values of a tensor use its range: as a whole, and channel by channel."""

from __future__ import annotations

import numpy as np

from quantkit.observe import TensorStatistics

LEAST_VALUES = 16
"""Values a channel must have before it can be called constant."""
MOST_VALUES = 0.999
"""The share of the values that `used_share` looks at."""


class ChannelSpans:
    """Least and greatest value of each channel, batch by batch.

    The channels of [N, C, *S] are on axis 1, those of sequences [N, T, C] on the last unless `first`.
    """

    def __init__(self, first: bool = False) -> None:
        self._first = first
        self._low = self._high = np.zeros(0, np.float32)
        self._values = 0

    def add(self, x: np.ndarray) -> None:
        """Adds a batch; one of another number of channels starts anew."""
        if x.ndim < 2 or x.size == 0:
            return
        axis = x.ndim - 1 if x.ndim == 3 and not self._first else 1
        others = tuple(i for i in range(x.ndim) if i != axis)
        low, high = x.min(axis=others), x.max(axis=others)
        if low.shape == self._low.shape:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        else:
            self._values = 0
        self._low, self._high = low, high
        self._values += x.size // low.size

    @property
    def count(self) -> int | None:
        """Number of channels; None where they are none, or hold fewer than LEAST_VALUES values."""
        return self._low.size if self._low.size and self._values >= LEAST_VALUES else None

    @property
    def dead(self) -> int | None:
        """Channels of one constant value."""
        return None if self.count is None else int(np.count_nonzero(self._low == self._high))

    @property
    def spread(self) -> float | None:
        """Span of the whole tensor, zero included, over the median of the live channels' (zero included)."""
        live = self._low != self._high
        if self.count is None or not live.any():
            return None
        low, high = np.minimum(self._low, 0.0), np.maximum(self._high, 0.0)
        return float((high.max() - low.min()) / np.median((high - low)[live]))


def used_share(statistics: TensorStatistics, low: float, high: float) -> float:
    """The share of low..high that holds MOST_VALUES of the values, as many left out at each end; at most 1."""
    cumulative = np.concatenate([[0], np.cumsum(statistics.counts)]) / max(statistics.counted, 1)
    tail = (1.0 - MOST_VALUES) / 2
    first = int(np.searchsorted(cumulative, tail, side="right")) - 1
    last = int(np.searchsorted(cumulative, 1.0 - tail, side="left"))
    bounds = statistics.edges[[first, last]]
    within = min(max(bounds[1], 0.0), high) - max(min(bounds[0], 0.0), low)
    return min(1.0, within / (high - low)) if high > low else 1.0
