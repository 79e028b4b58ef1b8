"""Ranges: each method against a slow, plain computation on the values themselves."""

from __future__ import annotations

import time

import numpy as np
import pytest

from quantkit.errors import CalibrationError, UsageError
from quantkit.observe import NumpyBackend, TensorStatistics, range_for
from quantkit.observe.ranges import _CumulativeHistogram
from quantkit.types import METHODS, QuantConfig, Range


def gather(x) -> TensorStatistics:
    statistics = TensorStatistics()
    statistics.update(np.asarray(x, dtype=np.float32), NumpyBackend())
    return statistics


def squared_error(x: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of quantize and dequantize, as the numerics contract has it."""
    scale = np.float32((high - low) / 255)
    zero_point = np.rint(-low / scale)
    q = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    return float(np.mean((x - (q - zero_point) * scale) ** 2))


def distributions() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    normal = generator.normal(size=200_000)
    laplace = generator.laplace(size=200_000)
    outliers = np.concatenate([normal, [60.0, -35.0]])
    silu = normal * 4 / (1 + np.exp(-normal * 4))
    made = {
        "normal": normal,
        "laplace": laplace,
        "relu": np.maximum(laplace, 0),
        "negative": -np.maximum(laplace, 0),
        "outliers": outliers,
        "relu outlier": np.maximum(outliers, 0),
        "silu": silu,
        "far from zero": normal + 50,
        "relu6": np.clip(normal * 5, 0, 6),
    }
    return {name: x.astype(np.float32) for name, x in made.items()}


DISTRIBUTIONS = distributions()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_range_holds_zero_and_stays_within_the_data(method, name):
    x = DISTRIBUTIONS[name]
    found = range_for(gather(x), method, QuantConfig())
    assert min(x.min(), 0) <= found.low <= 0 <= found.high <= max(x.max(), 0)
    assert found.high > found.low
    assert type(found.low) is float
    assert range_for(gather(x[::-1]), method, QuantConfig()) == found


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_minmax_is_exact(name):
    x = DISTRIBUTIONS[name]
    found = range_for(gather(x), "minmax")
    assert (found.low, found.high) == (min(float(x.min()), 0.0), max(float(x.max()), 0.0))


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99])
@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "negative", "outliers"])
def test_percentiles_are_within_two_bins_of_the_exact_ones(name, percentile):
    x = DISTRIBUTIONS[name]
    statistics = gather(x)
    found = range_for(statistics, "percentile", QuantConfig(percentile=percentile))
    low, high = np.percentile(x, [100 - percentile, percentile])
    assert found.low == pytest.approx(min(low, 0), abs=2 * statistics.width)
    assert found.high == pytest.approx(max(high, 0), abs=2 * statistics.width)


def test_percentile_100_is_minmax():
    statistics = gather(DISTRIBUTIONS["outliers"])
    assert range_for(statistics, "percentile", QuantConfig(percentile=100.0)) == range_for(statistics, "minmax")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_as_good_as_a_plain_search_over_the_values(name):
    x = DISTRIBUTIONS[name]
    found = range_for(gather(x), "mse")
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    fractions = np.linspace(0.05, 1, 20)
    plain = min(
        squared_error(x, a * low, b * high)
        for a in (fractions if low < 0 else [1.0])
        for b in (fractions if high > 0 else [1.0])
    )
    assert squared_error(x, found.low, found.high) <= plain * 1.02  # within-bin positions are not known: 2 %


def test_mse_clips_a_lone_outlier_and_keeps_a_full_range():
    statistics = gather([60.0])
    for _ in range(50):  # 10 million values: one value at 60 then weighs less than steps five times finer
        statistics.merge(gather(DISTRIBUTIONS["relu"]))
    assert range_for(statistics, "mse").high < 20
    uniform = np.linspace(0, 6, 100_000)
    assert range_for(gather(uniform), "mse").high == pytest.approx(6, rel=0.01)


def test_entropy_clips_outliers_and_keeps_a_uniform_range():
    found = range_for(gather(DISTRIBUTIONS["outliers"]), "entropy")
    assert found.high < 30
    assert found.low > -30
    assert range_for(gather(np.linspace(0, 6, 100_000)), "entropy").high == pytest.approx(6, rel=0.02)


def test_entropy_is_not_led_by_the_zeros_of_a_relu():
    x = np.maximum(np.random.default_rng(1).normal(size=100_000), 0)
    sparse = np.concatenate([x, np.zeros(900_000)])
    assert range_for(gather(sparse), "entropy").high == pytest.approx(range_for(gather(x), "entropy").high, rel=0.1)
    assert range_for(gather(sparse), "entropy").high > 1.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("x", "low", "high"),
    [
        (np.zeros(9), 0.0, 0.0),
        (np.full(9, 2.5), 0.0, 2.5),
        (np.full(9, -2.5), -2.5, 0.0),
        (np.full(9, 1e-40), 0.0, float(np.float32(1e-40))),
        (np.full(9, 3e38), 0.0, float(np.float32(3e38))),
    ],
)
def test_constant_tensors_get_the_range_from_zero_to_the_constant(method, x, low, high):
    found = range_for(gather(x), method)
    assert found.low == pytest.approx(low, rel=0.02)
    assert found.high == pytest.approx(high, rel=0.02)


def test_entropy_keeps_the_end_of_a_relu6_with_spikes_of_constant_channels():
    generator = np.random.default_rng(2)
    tail = generator.exponential(0.7, size=200_000)
    spikes = generator.choice([0.31, 0.77, 1.9, 2.53], size=20_000)
    x = np.clip(np.concatenate([np.zeros(800_000), tail, spikes, np.full(900, 7.0)]), 0, 6)
    assert range_for(gather(x), "entropy").high == pytest.approx(6, rel=0.01)


def test_entropy_keeps_the_tail_beside_constant_backgrounds():
    """16 channels of a ReLU with a background value each, three quarters of all values; 0.2 % lie beyond 3.2."""
    generator = np.random.default_rng(4)
    background = generator.choice(generator.uniform(0.2, 1.2, size=16), size=300_000)
    x = np.concatenate([background, generator.exponential(0.65, size=100_000).clip(0, 8)])
    assert range_for(gather(x), "entropy").high > 6


def test_entropy_finds_each_side_for_itself():
    generator = np.random.default_rng(3)
    x = np.concatenate([np.clip(generator.normal(size=400_000), -2, None), [40.0, 50.0]])
    found = range_for(gather(x), "entropy")
    assert found.low == pytest.approx(-2, rel=0.05)
    assert 4 < found.high < 25


def test_entropy_never_loses_more_than_minmax_by_its_own_measure():
    for x in DISTRIBUTIONS.values():
        statistics = gather(x)
        found, whole = (range_for(statistics, method) for method in ("entropy", "minmax"))
        assert divergence(x, found, statistics) <= divergence(x, whole, statistics) + 1e-9


def divergence(x, span, statistics) -> float:
    """The cross entropy of docs/accuracy.md, value by value."""
    bins = np.floor(x.astype(np.float64) / statistics.width).astype(int)
    kinds, counts = np.unique(bins, return_counts=True)
    count = dict(zip(kinds.tolist(), counts.astype(float).tolist(), strict=True))
    for zero, neighbour in ((0, 1), (-1, -2)):
        if zero in count and (zero == 0 or min(kinds) < -1):
            count[zero] = min(count[zero], count.get(neighbour, 0.0))
    ends = statistics.first, statistics.first + len(statistics.counts) - 1

    def smooth(k):
        """The most that four bins in a row with k among them all hold."""
        runs = [[count.get(min(max(j, ends[0]), ends[1]), 0.0) for j in range(k - i, k - i + 4)] for i in range(4)]
        return max(min(run) for run in runs)

    scale = (span.high - span.low) / 255
    zero_point = np.rint(-span.low / scale)
    first, last = np.floor(span.low / statistics.width), np.floor(span.high / statistics.width)
    levels, filled, inside, outside = {}, {}, {}, 0.0
    starts = np.rint((np.arange(1, 256) - 0.5 - zero_point) * scale / statistics.width)
    for k in range(ends[0], ends[1] + 1):
        within = first <= k <= last
        n = smooth(k) if within else count.get(k, 0.0)
        if not n:
            continue
        level = int(np.searchsorted(starts, k, side="right"))
        level = 0 if k < first else 255 if k > last else level
        levels[level] = levels.get(level, 0.0) + n
        if within:
            filled[level] = filled.get(level, 0) + 1
            inside[level] = inside.get(level, 0.0) + n
        else:
            outside += n
    total = sum(count.values())
    lost = sum(n * np.log(max(levels[v], 1.0) / total / filled[v]) for v, n in inside.items())
    return -(lost - outside * 32 * np.log(2)) / total


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_entropy_minimises_is_the_loss_computed_bin_by_bin(name):
    statistics = gather(DISTRIBUTIONS[name])
    histogram = _CumulativeHistogram(statistics)
    whole = range_for(statistics, "minmax")
    for a, b in ((1.0, 1.0), (0.6, 0.9), (0.9, 0.5)):
        span = Range(a * whole.low, b * whole.high)
        found = histogram.information_lost(np.array([[span.low, span.high]]))[0]
        assert found == pytest.approx(divergence(DISTRIBUTIONS[name], span, statistics), rel=1e-6)


def test_moving_average_takes_the_mean_extremes_of_the_samples_and_holds_zero():
    statistics = TensorStatistics()
    statistics.update(np.array([[1, 5], [-3, 7], [-1, 60]], np.float32), NumpyBackend(), samples=3)
    assert range_for(statistics, "moving-average") == Range(-1.0, 24.0)
    statistics.samples = 0  # as in a table of an older version
    assert range_for(statistics, "moving-average") == range_for(statistics, "minmax")


def test_an_unknown_method_and_empty_statistics_are_errors():
    with pytest.raises(UsageError, match="minmax, moving-average"):
        range_for(gather([1.0]), "max")
    with pytest.raises(CalibrationError, match="no value"):
        range_for(TensorStatistics(), "minmax")


@pytest.mark.parametrize("method", METHODS)
def test_a_range_takes_less_than_20_ms(method):
    statistics = gather(DISTRIBUTIONS["outliers"])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        range_for(statistics, method)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.020
