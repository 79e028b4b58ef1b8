"""From statistics to a range: minmax, percentile, mse, entropy. Every range holds zero, as padding and ReLU need it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantkit.errors import CalibrationError, UsageError
from quantkit.observe.histogram import TensorStatistics
from quantkit.types import QMAX, QuantConfig, Range

MSE_STEPS = 40
"""Clip thresholds tried per side and round of the mse search; three rounds, each four times finer than the last."""
ENTROPY_LEVELS = QMAX + 1
ENTROPY_STEPS = 128
"""Thresholds tried by the entropy search, evenly spaced."""


def range_for(stats: TensorStatistics, method: str, config: QuantConfig | None = None) -> Range:
    """The range of a tensor by one of types.METHODS. Raises CalibrationError when the tensor held no value."""
    if stats.count == 0:
        raise CalibrationError("no value was observed; give at least one sample")
    if method not in _METHODS:
        raise UsageError(f"method {method!r} is unknown; choose one of {', '.join(_METHODS)}")
    return _METHODS[method](stats, config or QuantConfig())


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
    """The clip thresholds with the least expected squared error of quantize and dequantize, values even inside a bin.

    One side at a time, from minmax, on ever finer grids; data on one side of zero has only one threshold to find.
    """
    whole = minmax_range(stats, config)
    if whole.low == whole.high or stats.counted == 0:
        return whole
    counts, left, right = _filled_bins(stats)
    best = np.array([1.0, 1.0])
    sides = [side for side, bound in enumerate((whole.low, whole.high)) if bound != 0.0]
    centre, radius = np.ones(2), 1.0
    for _ in range(3):
        for side in sides:
            fractions = np.clip(np.linspace(centre[side] - radius, centre[side] + radius, 2 * MSE_STEPS + 1), 0.0, 1.0)
            fractions = np.unique(fractions)
            candidates = np.tile(best, (len(fractions), 1))
            candidates[:, side] = fractions
            bounds = candidates * np.array([whole.low, whole.high])
            best = candidates[int(np.argmin(_expected_error(bounds, counts, left, right)))]
        centre, radius = best, radius / 8
    return _inside(best[0] * whole.low, best[1] * whole.high, whole)


def entropy_range(stats: TensorStatistics, config: QuantConfig) -> Range:
    """The threshold on |x| for which 256 levels lose the least information (Kullback-Leibler divergence).

    After Migacz, "8-bit inference with TensorRT" (GTC 2017), on the affine range [max(min, -t), min(max, t)].
    The bins at zero get their neighbour's count: zero is represented exactly and would hide everything else.
    """
    whole = minmax_range(stats, config)
    counts = _without_zero_peak(stats)
    zero = -stats.first
    below, above = int(np.ceil(-whole.low / stats.width)), int(np.floor(whole.high / stats.width)) + 1
    below, above = min(below, zero), min(above, len(counts) - zero)
    longest = max(below, above)
    shortest = ENTROPY_LEVELS // (2 if min(below, above) > 0 else 1)
    if longest <= shortest or stats.counted == 0:
        return whole
    lengths = np.unique(np.linspace(shortest, longest, ENTROPY_STEPS).round().astype(int))
    losses = [_divergence(counts, zero - min(below, length), zero + min(above, length)) for length in lengths]
    threshold = float(lengths[int(np.argmin(losses))]) * stats.width
    return _inside(max(whole.low, -threshold), min(whole.high, threshold), whole)


_METHODS: dict[str, Callable[[TensorStatistics, QuantConfig], Range]] = {
    "minmax": minmax_range,
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


def _expected_error(bounds: np.ndarray, counts: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 [candidates]: sum over bins of count * mean squared error, for ranges bounds[:, 0]..bounds[:, 1]."""
    span = bounds[:, 1] - bounds[:, 0]
    scale = np.where(span > 0, span, np.inf)[:, np.newaxis] / QMAX
    zero_point = np.rint(-bounds[:, :1] / scale)
    error = _error_integral(right / scale + zero_point) - _error_integral(left / scale + zero_point)
    with np.errstate(invalid="ignore"):
        total = (error * scale**3) @ (counts / (right - left))
    return np.where(span > 0, total, np.inf)


def _error_integral(u: np.ndarray) -> np.ndarray:
    """Integral from 0 to u of (v - clamp(rne(v), 0, 255))^2: 1/12 a level, a cubic inside it and beyond the ends."""
    level = np.clip(np.rint(u), 0, QMAX)
    rest = u - level
    return level / 12.0 + rest * rest * rest / 3.0


def _without_zero_peak(stats: TensorStatistics) -> np.ndarray:
    """The counts with the bins on both sides of zero lowered to their outer neighbours."""
    counts = stats.counts.astype(np.float64)
    zero = -stats.first
    if zero < len(counts) - 1:
        counts[zero] = min(counts[zero], counts[zero + 1])
    if zero >= 2:
        counts[zero - 1] = min(counts[zero - 1], counts[zero - 2])
    return counts


def _divergence(counts: np.ndarray, start: int, stop: int) -> float:
    """KL(P || Q): P = the bins start..stop-1 with the outliers added at both ends, Q = the bins in 256 levels."""
    inside = counts[start:stop]
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    levels = np.arange(len(inside)) * ENTROPY_LEVELS // len(inside)
    filled = inside > 0
    sums = np.bincount(levels, weights=inside, minlength=ENTROPY_LEVELS)
    shares = np.bincount(levels, weights=filled, minlength=ENTROPY_LEVELS)
    quantized = np.where(filled, sums[levels] / np.maximum(shares[levels], 1), 0.0)
    used = reference > 0
    p, q = reference[used] / reference.sum(), quantized[used] / max(quantized.sum(), 1.0)
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-9))))
