"""How sure a measured accuracy is: confidence intervals of a fraction and of a paired difference, a test of flips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""
PERCENTILES = (50, 90, 95, 99)


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a fraction, within 0..1; (0, 1) without trials.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if trials == 0:
        return 0.0, 1.0
    fraction = successes / trials
    centre = fraction + z * z / (2 * trials)
    spread = z * math.sqrt(fraction * (1 - fraction) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired_difference(fixed: int, broken: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """The interval of (fixed - broken) / trials, two fractions measured on the same samples; (-1, 1) without trials.

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 24 (2005): the Wald interval after 0.5 is added to each cell of the 2 x 2 table.
    """
    if trials == 0:
        return -1.0, 1.0
    total = trials + 2
    difference = (fixed - broken) / total
    variance = (fixed + broken + 1) - (fixed - broken) ** 2 / total
    spread = z * math.sqrt(variance) / total
    return max(-1.0, difference - spread), min(1.0, difference + spread)


def mcnemar_p(fixed: int, broken: int) -> float:
    """The two-sided mid-p value of McNemar's test: would a fair coin split the flips as unevenly? 1 without flips.

    2 P(X < m) + P(X = m) for m = min(fixed, broken), X binomial with fixed + broken trials of 1/2. Source: Fagerland,
    Lydersen and Laake, "The McNemar test for binary matched-pairs data", BMC Medical Research Methodology 13 (2013).
    """
    flips, least = fixed + broken, min(fixed, broken)
    terms = (
        math.exp(math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1) - flips * math.log(2))
        * (1 if k == least else 2)
        for k in range(least + 1)
    )
    return min(1.0, math.fsum(terms))


def latency_percentiles(seconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """{"p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms", "max_ms"} of at least one time, linear between."""
    milliseconds = 1000 * np.asarray(seconds, np.float64)
    values = np.percentile(milliseconds, PERCENTILES)
    named = {f"p{p}_ms": float(value) for p, value in zip(PERCENTILES, values, strict=True)}
    return {
        **named,
        "mean_ms": float(milliseconds.mean()),
        "min_ms": float(milliseconds.min()),
        "max_ms": float(milliseconds.max()),
    }
