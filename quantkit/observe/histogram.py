"""Streaming statistics of one tensor: exact min and max, and a histogram whose bins widen without a rescan.

Bin k of width 2^e holds the values in [k * 2^e, (k + 1) * 2^e), so every edge is a float32 number, zero is an edge, and
two histograms of different width merge exactly by adding pairs of bins. The final width follows from min and max
alone: the result does not depend on the order of the data or on how it was split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from quantkit.errors import CalibrationError
from quantkit.observe.channels import ChannelSums
from quantkit.types import Range

BINS = 2048
SMALLEST_EXPONENT = -120
"""Bins are never narrower than 2^-120, so that edges stay normal float32 numbers; denormals fall into the zero bins."""
SMALLEST_FLOAT32 = -149
"""Exponent of the smallest float32 number, of which all others are multiples."""
LARGEST_VALUE = 2.0**127
"""Values beyond this count into the outermost bin: the lower edge of one more bin would not be a float32 number."""


class StatisticsBackend(Protocol):
    """The two loops over the data. x: float32, one-dimensional, contiguous."""

    def min_max(self, x: np.ndarray) -> tuple[float, float, int]:
        """(min, max, number of not-finite values), min and max over the finite values."""
        ...

    def histogram(self, x: np.ndarray, low: float, width: float, counts: np.ndarray) -> None:
        """counts[i] += values in [low + i * width, low + (i + 1) * width); outside goes to the first and last bin.

        counts: int64, contiguous. Not-finite values are skipped.
        """
        ...


class NumpyBackend:
    """The loops in numpy: about ten times slower than native code, the same counts."""

    def min_max(self, x: np.ndarray) -> tuple[float, float, int]:
        """See StatisticsBackend."""
        low, high = float(x.min()), float(x.max())
        if math.isfinite(low) and math.isfinite(high):
            return low, high, 0
        finite = x[np.isfinite(x)]
        if finite.size == 0:
            return math.inf, -math.inf, x.size
        return float(finite.min()), float(finite.max()), x.size - finite.size

    def histogram(self, x: np.ndarray, low: float, width: float, counts: np.ndarray) -> None:
        """See StatisticsBackend. width must be a power of two: then x / width is exact, and so is every bin."""
        scaled = np.floor(x * np.float32(1.0 / width))
        scaled -= np.float32(low / width)
        np.clip(scaled, 0, len(counts) - 1, out=scaled)
        counts += np.bincount(scaled[np.isfinite(scaled)].astype(np.intp), minlength=len(counts))


@dataclass
class TensorStatistics:
    """min, max and count of the values, and the histogram: counts[i] belongs to bin `first + i` of width 2^exponent.

    counted: values in the histogram, which may be a part of `count` (see calibrate). Memory is 16 KiB a tensor.
    samples: how many samples are in low_sum and high_sum, the sums of their minima and maxima in units of 2^-149, the
    smallest float32: whole numbers, so that the sums are exact and their order does not matter.
    channels: sums by channel of the values in the histogram, where they were asked for; `observe` sets them.
    ranges: what quantkit.observe.ranges made of it; forgotten when more is seen.
    """

    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    first: int = 0
    exponent: int = SMALLEST_EXPONENT
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    samples: int = 0
    low_sum: int = 0
    high_sum: int = 0
    channels: ChannelSums | None = None
    ranges: dict[tuple[Any, ...], Range] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def mean_low(self) -> float:
        """The mean of the samples' minima; needs samples > 0."""
        return math.ldexp(self.low_sum, SMALLEST_FLOAT32) / self.samples

    @property
    def mean_high(self) -> float:
        """The mean of the samples' maxima; needs samples > 0."""
        return math.ldexp(self.high_sum, SMALLEST_FLOAT32) / self.samples

    @property
    def counted(self) -> int:
        """Number of values in the histogram."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> np.ndarray:
        """float64 [BINS + 1]: the edges of the bins."""
        return (self.first + np.arange(BINS + 1, dtype=np.float64)) * self.width

    def update(
        self, x: np.ndarray, backend: StatisticsBackend, part: np.ndarray | None = None, samples: int = 1
    ) -> int:
        """Adds the values of x (float32, contiguous); `part` of them, if given, goes to the histogram.

        samples: how many samples x holds, one after another, in equal parts.
        Returns the number of NaN and infinities in x; when there are any, nothing is added.
        """
        flat = x.reshape(-1)
        if flat.size == 0:
            return 0
        self.ranges.clear()
        lows, highs, not_finite = zip(*(backend.min_max(row) for row in flat.reshape(samples, -1)), strict=True)
        if any(not_finite):
            return sum(not_finite)
        self._grow(min(lows), max(highs))
        self.count += flat.size
        self.samples += samples
        self.low_sum += sum(map(_in_smallest_units, lows))
        self.high_sum += sum(map(_in_smallest_units, highs))
        sample = flat if part is None else np.ascontiguousarray(part).reshape(-1)
        backend.histogram(sample, self.first * self.width, self.width, self.counts)
        return 0

    def merge(self, other: TensorStatistics) -> None:
        """Adds what another one has seen; the order of merges does not matter (to channel sums, by a rounding)."""
        self.ranges.clear()
        if other.channels is not None:
            if self.channels is None:
                self.channels = ChannelSums(other.channels.axis, other.channels.sums, other.channels.counts)
            else:
                self.channels.add(other.channels)
        if other.count == 0:
            return
        self._grow(other.low, other.high)
        self.count += other.count
        self.samples += other.samples
        self.low_sum += other.low_sum
        self.high_sum += other.high_sum
        copy = TensorStatistics(other.low, other.high, other.count, other.first, other.exponent, other.counts.copy())
        copy._move(self.exponent, self.first)
        self.counts += copy.counts

    def _grow(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent, first = _window(self.low, self.high)
        self._move(exponent, first)

    def _move(self, exponent: int, first: int) -> None:
        """Rewrites the counts for wider bins and another first bin; no count is lost as the window only grows."""
        if (exponent, first) == (self.exponent, self.first):
            return
        filled = np.flatnonzero(self.counts)
        bins = ((self.first + filled) >> min(exponent - self.exponent, 62)) - first
        counts = np.zeros(BINS, dtype=np.int64)
        np.add.at(counts, np.clip(bins, 0, BINS - 1), self.counts[filled])
        self.exponent, self.first, self.counts = exponent, first, counts

    def to_json(self) -> dict[str, Any]:
        """Plain values; the counts without the empty bins at the end."""
        filled = np.flatnonzero(self.counts)
        used = int(filled[-1]) + 1 if filled.size else 0
        known = {} if self.channels is None else {"channels": self.channels.to_json()}
        return {
            "min": self.low,
            "max": self.high,
            "count": self.count,
            "samples": self.samples,
            "min_sum": math.ldexp(self.low_sum, SMALLEST_FLOAT32),
            "max_sum": math.ldexp(self.high_sum, SMALLEST_FLOAT32),
            "histogram": {
                "bin_width_log2": self.exponent,
                "first_bin": self.first,
                "counts": self.counts[:used].tolist(),
            },
            **known,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TensorStatistics:
        """Inverse of to_json. Raises CalibrationError on anything else."""
        try:
            histogram = document["histogram"]
            counts = np.zeros(BINS, dtype=np.int64)
            values = np.array(histogram["counts"], dtype=np.int64)
            counts[: len(values)] = values
            low, high = float(document["min"]), float(document["max"])
            exponent, first = int(histogram["bin_width_log2"]), int(histogram["first_bin"])
            channels = ChannelSums.from_json(document["channels"]) if "channels" in document else None
            samples = int(document.get("samples", 0))  # tables from before moving-average have none
            sums = [_in_smallest_units(float(document.get(key, 0.0))) for key in ("min_sum", "max_sum")]
            count = int(document["count"])
            return cls(low, high, count, first, exponent, counts, samples, sums[0], sums[1], channels)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"the statistics of a tensor are damaged ({error!r}); calibrate again") from error


def _in_smallest_units(value: float) -> int:
    """A float32 value in units of 2^-149: exact."""
    return int(math.ldexp(value, -SMALLEST_FLOAT32))


def _window(low: float, high: float) -> tuple[int, int]:
    """(exponent, first bin) of the narrowest bins of which BINS cover zero and [low, high]."""
    low, high = max(min(low, 0.0), -LARGEST_VALUE), min(max(high, 0.0), LARGEST_VALUE)
    span = high - low
    if span == 0.0:
        return SMALLEST_EXPONENT, 0
    exponent = max(SMALLEST_EXPONENT, math.frexp(span)[1] - BINS.bit_length())
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent, math.floor(math.ldexp(low, -exponent))
