"""What the channels of tensors hold over some samples: one FP32 pass for all laws of equalization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantkit.fuse.expand import expand
from quantkit.observe import FloatRunner

if TYPE_CHECKING:
    import onnx_ir as ir

Ends = tuple[np.ndarray, np.ndarray]
"""Lower and upper ends of the channels' ranges, float64 [C] each."""


@dataclass(frozen=True)
class ChannelValues:
    """Of each channel of a tensor, float64 [C]: the least and largest value; mean and mean square, samples alike."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    square: np.ndarray

    @property
    def extremes(self) -> Ends:
        return self.low, self.high

    @property
    def deviations(self) -> Ends:
        """The mean less and plus one standard deviation."""
        spread = np.sqrt(np.maximum(self.square - self.mean * self.mean, 0.0))
        return self.mean - spread, self.mean + spread


class ChannelObserver:
    """Observes channels on `samples`, (feeds, valid rows) of each batch, when first asked."""

    def __init__(self, samples: Iterable[tuple[dict[str, np.ndarray], int]], threads: int | None = None) -> None:
        self._samples, self._threads = samples, threads
        self._axes: Mapping[str, int] = {}
        self._seen: dict[str, ChannelValues] = {}

    def of(self, model: ir.Model, axes: Mapping[str, int]) -> dict[str, ChannelValues]:
        """tensor -> its channels' values. model: fused FP32; the same function each time, as what was seen is kept.

        axes: tensor -> axis of its channels.
        """
        if axes != self._axes:
            self._axes, self._seen = dict(axes), self._observed(model, axes)
        return self._seen

    def _observed(self, model: ir.Model, axes: Mapping[str, int]) -> dict[str, ChannelValues]:
        names = list(axes)
        runner = FloatRunner(expand(model), self._threads, expose=names)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for feeds, valid in self._samples:
            for name, array in zip(names, runner.run(feeds, names), strict=True):
                parts[name].append(_of_batch(array[:valid], axes[name]))
        return {name: _of_all(np.stack(rows)) for name, rows in parts.items()}


def _of_batch(array: np.ndarray, axis: int) -> np.ndarray:
    """float64 [4, C]: min, max, mean, mean square."""
    others = tuple(other for other in range(array.ndim) if other != axis)
    mean = array.mean(axis=others, dtype=np.float64)
    square = array.var(axis=others, dtype=np.float64) + mean * mean
    return np.stack([array.min(axis=others), array.max(axis=others), mean, square]).astype(np.float64)


def _of_all(batches: np.ndarray) -> ChannelValues:
    """batches: float64 [B, 4, C]."""
    low, high, mean, square = batches.transpose(1, 0, 2)
    return ChannelValues(low.min(axis=0), high.max(axis=0), mean.mean(axis=0), square.mean(axis=0))
