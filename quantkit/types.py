"""Values that pass between the stages. Frozen, validated once at construction; no behaviour beyond that."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantkit.errors import CalibrationError, UsageError

QMIN, QMAX = 0, 255
"""Range of an unsigned 8-bit activation."""
WEIGHT_MAX = 127
"""Weights are symmetric: -127..127, never -128."""
BIAS_LIMIT = 1 << 30
"""|bias| stays below this, so that bias and products together fit int32."""

METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse")
AUTO = "auto"
"""The method that chooses one of METHODS for each tensor, by measured output error."""
EFFORTS = ("fast", "balanced", "best")


@dataclass(frozen=True)
class Range:
    """The interval of real values that a tensor's quantized form covers. low <= high, both finite."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise CalibrationError(
                f"range [{self.low}, {self.high}] is not finite; check the data for NaN and infinity"
            )
        if self.low > self.high:
            raise CalibrationError(f"range [{self.low}, {self.high}] is empty; low must not exceed high")


@dataclass(frozen=True)
class QuantParams:
    """Per-tensor u8 quantization: real = (q - zero_point) * scale. scale is a positive float32 value."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise CalibrationError(f"scale {self.scale} must be positive and finite")
        if float(np.float32(self.scale)) != self.scale:
            raise CalibrationError(f"scale {self.scale!r} is not a float32 value; round it with numpy.float32 first")
        if not QMIN <= self.zero_point <= QMAX:
            raise CalibrationError(f"zero point {self.zero_point} is outside {QMIN}..{QMAX}")

    @property
    def range(self) -> Range:
        """The real values of the lowest and the highest u8."""
        return Range((QMIN - self.zero_point) * self.scale, (QMAX - self.zero_point) * self.scale)


@dataclass(frozen=True)
class Decision:
    """One thing a stage did or refused to do, for the log, `inspect` and reports.

    stage: "load" | "fold" | "fuse" | "observe" | "quantize" | "lower".
    action: what was done, as a past participle ("folded", "removed", "fused", "kept", "refused"...).
    node: the node it was done to. detail: the rule, the result or the reason.
    """

    stage: str
    action: str
    node: str
    detail: str


@dataclass(frozen=True)
class Score:
    """How near an INT8 model comes to FP32: output SQNR in dB, share of equal classes, loss of top-1 in points.

    agreement is None for outputs without classes, drop without labels.
    """

    sqnr: float
    agreement: float | None = None
    drop: float | None = None


@dataclass(frozen=True)
class Goal:
    """What an INT8 model must reach: most points of top-1 lost, least share of equal classes, least output SQNR."""

    max_drop: float | None = None
    min_agreement: float | None = None
    min_sqnr: float | None = None

    def reached(self, score: Score) -> bool:
        """Whether `score` meets all that is asked for; what could not be measured is not met."""
        slack = 1e-9  # 0.896 - 0.891 is a hair more than 0.005
        checks = (
            (self.max_drop, None if score.drop is None or self.max_drop is None else self.max_drop - score.drop),
            (
                self.min_agreement,
                None if score.agreement is None or self.min_agreement is None else score.agreement - self.min_agreement,
            ),
            (self.min_sqnr, None if self.min_sqnr is None else score.sqnr - self.min_sqnr),
        )
        return all(wanted is None or (margin is not None and margin >= -slack) for wanted, margin in checks)


@dataclass(frozen=True)
class QuantConfig:
    """How to quantize. `keep_fp32` holds regular expressions over node names (full match or search: `re.search`).

    method: one of METHODS for all tensors, AUTO for one chosen by tensor; None: the one that measures best.
    keep_int8: quantize all that runs right in INT8, also where it is not faster on this machine.
    goal: raise the effort, then keep layers in FP32, until it is reached on the calibration samples.
    time_budget: seconds after which the search for the goal starts nothing new.
    """

    method: str | None = None
    percentile: float = 99.99
    keep_fp32: tuple[str, ...] = ()
    effort: str = "balanced"
    per_channel: bool = True
    seed: int = 0
    keep_int8: bool = False
    goal: Goal | None = None
    time_budget: float = 1200.0

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in (*METHODS, AUTO):
            raise UsageError(f"method {self.method!r} is unknown; choose one of {', '.join((*METHODS, AUTO))}")
        if self.effort not in EFFORTS:
            raise UsageError(f"effort {self.effort!r} is unknown; choose one of {', '.join(EFFORTS)}")
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"percentile {self.percentile} must be above 50 and at most 100")
