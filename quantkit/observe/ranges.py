"""From statistics to a range, by one of types.METHODS. Every range holds zero, as padding and ReLU need it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from quantkit.errors import CalibrationError, UsageError
from quantkit.observe.histogram import TensorStatistics
from quantkit.types import QMAX, QuantConfig, Range

MSE_STEPS = 40
"""Clip thresholds tried per side and round of the mse search; three rounds, each four times finer than the last."""
CACHED_VALUES = 1 << 14
"""Numbers of an array of the mse search: 128 KB, of which a few fit the second-level cache."""
ENTROPY_STEPS = 40
"""Clip thresholds tried per side and round of the entropy search; two rounds: bins are no finer."""
SPIKE_BINS = 4
"""Fewer filled bins in a row than this that stand out are a few single values: a range has 1024 bins at least, so that
they lie within one level of 256, where it does not matter which of its bins they fill."""
OUTSIDE_SHARE = 2.0**-32
"""What Q is taken to give a bin beyond the range: a clipped value surprises like one in 2^32 (22 nats), so thresholds
cut off values that are far and few, and no steep end such as that of a ReLU6."""


def range_for(stats: TensorStatistics, method: str, config: QuantConfig | None = None) -> Range:
    """The range of a tensor by one of types.METHODS. Raises CalibrationError when the tensor held no value."""
    if stats.count == 0:
        raise CalibrationError("no value was observed; give at least one sample")
    if method not in _METHODS:
        raise UsageError(f"method {method!r} is unknown; choose one of {', '.join(_METHODS)}")
    config = config or QuantConfig()
    key = method, config.percentile, stats.count, stats.samples, stats.low_sum, stats.high_sum
    if key not in stats.ranges:
        stats.ranges[key] = _METHODS[method](stats, config)
    return stats.ranges[key]


def minmax_range(stats: TensorStatistics, config: QuantConfig) -> Range:
    """[min, max], extended to zero."""
    return Range(min(stats.low, 0.0), max(stats.high, 0.0))


def percentile_range(stats: TensorStatistics, config: QuantConfig) -> Range:
    """The (100 - p) and p percentiles, linear inside a bin, never outside [min, max]; p = 100 is minmax."""
    whole = minmax_range(stats, config)
    if config.percentile >= 100.0 or stats.counted == 0:
        return whole
    cumulative = np.concatenate([[0], np.cumsum(stats.counts)]).astype(np.float64)
    tail = stats.counted * (1.0 - config.percentile / 100.0)
    low, high = np.interp([tail, stats.counted - tail], *_strictly_rising(cumulative, stats.edges))
    return _inside(float(low), float(high), whole)


def mse_range(stats: TensorStatistics, config: QuantConfig) -> Range:
    """The clip thresholds with the least expected squared error of quantize and dequantize, values even in a bin."""
    whole = minmax_range(stats, config)
    if whole.low == whole.high or stats.counted == 0:
        return whole
    edges, drops = _density_drops(*_filled_bins(stats))
    best = _best_fractions(whole, lambda bounds: _expected_error(bounds, edges, drops), steps=MSE_STEPS, rounds=3)
    return _inside(best[0] * whole.low, best[1] * whole.high, whole)


def _best_fractions(whole: Range, loss: Callable[[np.ndarray], np.ndarray], *, steps: int, rounds: int) -> np.ndarray:
    """float64 [2]: the fractions of whole.low and whole.high with the least loss(bounds [n, 2]) -> [n]; the widest of
    equals. One side at a time, on grids of 2 * steps + 1 fractions, each round on one eight times narrower."""
    best, centre, radius = np.ones(2), np.ones(2), 1.0
    sides = [side for side, bound in enumerate((whole.low, whole.high)) if bound != 0.0]
    for _ in range(rounds):
        for side in sides:
            fractions = np.linspace(centre[side] + radius, centre[side] - radius, 2 * steps + 1)
            fractions = np.unique(np.clip(fractions, 0.0, 1.0))[::-1]
            candidates = np.tile(best, (len(fractions), 1))
            candidates[:, side] = fractions
            best = candidates[int(np.argmin(loss(candidates * np.array([whole.low, whole.high]))))]
        centre, radius = best, radius / 8
    return best


def moving_average_range(stats: TensorStatistics, config: QuantConfig) -> Range:
    """[mean of the samples' minima, mean of their maxima], extended to zero: one odd sample moves it little.

    Equal weights, so that the order of the data does not matter. Statistics of a table from before this method, which
    lack the means, give minmax.
    """
    whole = minmax_range(stats, config)
    return _inside(stats.mean_low, stats.mean_high, whole) if stats.samples else whole


def entropy_range(stats: TensorStatistics, config: QuantConfig) -> Range:
    """The clip thresholds for which the 256 levels lose the least information: KL(P || Q), each side for itself.

    P: the histogram, its zero peak levelled (zero is represented exactly and would hide everything else), and inside
    the range all spikes of less than SPIKE_BINS (constant background, saturated activations: with them, the fewer bins
    a level has the better). Q: what the u8 quantizer makes of it: a level's values even over its filled bins, clipped
    ones in the end levels, and nothing beyond, where P is charged OUTSIDE_SHARE. After Migacz, "8-bit inference with
    TensorRT" (GTC 2017), who adds the clipped values to P as well: that hides them, and clips until few are left.
    """
    whole = minmax_range(stats, config)
    histogram = _CumulativeHistogram(stats)
    if whole.low == whole.high or histogram.total <= 0:
        return whole
    best = _best_fractions(whole, histogram.information_lost, steps=ENTROPY_STEPS, rounds=2)
    return _inside(best[0] * whole.low, best[1] * whole.high, whole)


_METHODS: dict[str, Callable[[TensorStatistics, QuantConfig], Range]] = {
    "minmax": minmax_range,
    "moving-average": moving_average_range,
    "percentile": percentile_range,
    "entropy": entropy_range,
    "mse": mse_range,
}


def _inside(low: float, high: float, whole: Range) -> Range:
    """[low, high] with zero in it and nothing outside `whole`."""
    return Range(max(min(float(low), 0.0), whole.low), min(max(float(high), 0.0), whole.high))


def _strictly_rising(cumulative: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without empty bins at both ends, so that interpolation starts where the data starts."""
    filled = np.flatnonzero(np.diff(cumulative))
    part = slice(filled[0], filled[-1] + 2)
    return cumulative[part], edges[part]


def _filled_bins(stats: TensorStatistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(counts, left edges, right edges) of the bins that hold values, the outer edges drawn in to min and max."""
    filled = np.flatnonzero(stats.counts)
    edges = stats.edges
    left, right = edges[filled], edges[filled + 1]
    left, right = np.maximum(left, stats.low), np.minimum(right, stats.high)
    smallest = stats.width * 2.0**-20
    return stats.counts[filled].astype(np.float64), left, np.maximum(right, left + smallest)


def _density_drops(counts: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(edges of bins, each once; by how much the density, count / width, falls at each).

    The integral of a function over bins, by their densities, is the sum of drop times antiderivative over edges.
    """
    edges, places = np.unique(np.concatenate([right, left]), return_inverse=True)
    density = counts / (right - left)
    return edges, np.bincount(places, np.concatenate([density, -density]), len(edges))


def _expected_error(bounds: np.ndarray, edges: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """float64 [candidates]: sum over bins of count * mean squared error, for ranges bounds[:, 0]..bounds[:, 1].

    edges, drops: see _density_drops. A few candidates at a time, so that they stay in the cache.
    """
    span = bounds[:, 1] - bounds[:, 0]
    scale = np.where(span > 0, span, np.inf) / QMAX
    zero_point = np.rint(-bounds[:, 0] / scale)
    total = np.empty(len(bounds))
    step = max(1, CACHED_VALUES // len(edges))
    for part in (slice(start, start + step) for start in range(0, len(bounds), step)):
        u = edges / scale[part, np.newaxis]
        u += zero_point[part, np.newaxis]
        total[part] = _error_integral(u) @ drops
    with np.errstate(invalid="ignore"):
        return np.where(span > 0, total * scale**3, np.inf)


def _error_integral(u: np.ndarray) -> np.ndarray:
    """Integral from 0 to u of (v - clamp(rne(v), 0, 255))^2: 1/12 a level, a cubic inside it and beyond the ends.
    `u` is overwritten."""
    level = np.rint(u)
    np.clip(level, 0, QMAX, out=level)
    u -= level
    cubic = u * u
    cubic *= u
    cubic /= 3.0
    level /= 12.0
    level += cubic
    return level


def _without_zero_peak(stats: TensorStatistics) -> np.ndarray:
    """The counts with the bins on both sides of zero lowered to their outer neighbours."""
    counts = stats.counts.astype(np.float64)
    zero = -stats.first
    if zero < len(counts) - 1:
        counts[zero] = min(counts[zero], counts[zero + 1])
    if zero >= 2:
        counts[zero - 1] = min(counts[zero - 1], counts[zero - 2])
    return counts


def _without_spikes(counts: np.ndarray) -> np.ndarray:
    """Opening by SPIKE_BINS: each bin the most that some run of so many bins with it in holds throughout."""
    padded = np.pad(counts, SPIKE_BINS - 1, mode="edge")
    least = sliding_window_view(padded, SPIKE_BINS).min(axis=1)
    return np.asarray(sliding_window_view(least, SPIKE_BINS).max(axis=1))


class _CumulativeHistogram:
    """Counts, the same without spikes, and filled bins, summed up from the left: differences are levels."""

    def __init__(self, stats: TensorStatistics) -> None:
        counts = _without_zero_peak(stats)
        smooth = _without_spikes(counts)
        self.bins, self.first, self.width = len(counts), stats.first, stats.width
        self.counts, self.smooth = (np.concatenate([[0.0], np.cumsum(part)]) for part in (counts, smooth))
        self.filled = np.concatenate([[0], np.cumsum(smooth > 0)])
        self.total = float(self.counts[-1])

    def information_lost(self, bounds: np.ndarray) -> np.ndarray:
        """float64 [candidates]: KL(P || Q) in nats, less its part that is the same for all ranges bounds[:, 0]..[:, 1].

        Infinite for levels narrower than a bin: of these the histogram knows nothing.
        """
        edges = self._level_edges(bounds)
        inside = np.diff(self.smooth[edges], axis=1)
        below, above = self.counts[edges[:, 0]], self.total - self.counts[edges[:, -1]]
        made = inside.copy()
        made[:, 0] += below
        made[:, -1] += above
        share = np.maximum(made, 1.0) / self.total / np.maximum(np.diff(self.filled[edges], axis=1), 1)
        lost = -(np.sum(inside * np.log(share), axis=1) + (below + above) * np.log(OUTSIDE_SHARE)) / self.total
        return np.where(bounds[:, 1] - bounds[:, 0] >= QMAX * self.width, lost, np.inf)

    def _level_edges(self, bounds: np.ndarray) -> np.ndarray:
        """int [candidates, 257]: the bins at which the levels start and end, half a step around each, the first and
        the last from bound to bound."""
        span = bounds[:, 1] - bounds[:, 0]
        scale = (np.where(span > 0, span, 1.0) / QMAX)[:, np.newaxis]
        zero_point = np.rint(-bounds[:, :1] / scale)
        edges = np.rint((np.arange(QMAX + 2) - 0.5 - zero_point) * (scale / self.width)) - self.first
        edges[:, 0] = np.floor(bounds[:, 0] / self.width) - self.first
        edges[:, -1] = np.floor(bounds[:, 1] / self.width) + 1 - self.first
        return np.maximum.accumulate(np.clip(edges, 0, self.bins).astype(int), axis=1)
