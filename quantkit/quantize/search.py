"""The accuracy goal: more effort first, then the fewest layers in FP32; the best model found counts in any case."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir

from quantkit.types import EFFORTS, Decision, Goal, QuantConfig, Score

Measure = Callable[[ir.Model], Score]


class Made(Protocol):
    """A model, and the decisions that belong to it."""

    @property
    def model(self) -> ir.Model: ...
    @property
    def decisions(self) -> list[Decision]: ...


class Makes(Protocol):
    """What the search needs of quantkit.quantize.calibration.Maker."""

    config: QuantConfig
    method: str
    layers: list[str]
    decisions: list[Decision]

    def plain(self, method: str, keep: Collection[str] = ()) -> tuple[ir.Model, Any, Any]: ...
    def made(self, effort: str | None = None, keep: Collection[str] = ()) -> Any: ...


@dataclass(frozen=True)
class Sensitivity:
    """Output SQNR in dB with this layer alone in INT8, and with this layer alone in FP32."""

    layer: str
    only_int8: float
    only_fp32: float


def sensitivity(maker: Makes, measure: Measure) -> list[Sensitivity]:
    """Of every weighted layer, weights rounded to nearest; the layer that costs most first."""
    found = []
    for name in maker.layers:
        others = [other for other in maker.layers if other != name]
        only_int8 = measure(maker.plain(maker.method, others)[0]).sqnr
        only_fp32 = measure(maker.plain(maker.method, [name])[0]).sqnr
        found.append(Sensitivity(name, only_int8, only_fp32))
    return sorted(found, key=lambda entry: -entry.only_fp32)


class _Search:
    def __init__(self, maker: Makes, goal: Goal, measure: Measure) -> None:
        self.maker, self.goal, self.measure = maker, goal, measure
        self.deadline = time.monotonic() + maker.config.time_budget
        self.tried: list[Decision] = []
        self.best: tuple[float, Any] | None = None

    def attempt(self, label: str, effort: str, keep: Sequence[str] = ()) -> Any | None:
        """The model if it reaches the goal, else None; it is remembered if it is the nearest to FP32 so far."""
        made = self.maker.made(effort, keep)
        score = self.measure(made.model)
        reached = self.goal.reached(score)
        self.tried.append(Decision("quantize", "tried", "model", f"{label}: {in_words(score)}"))
        if reached:
            return made
        if self.best is None or score.sqnr > self.best[0]:
            self.best = (score.sqnr, made)
        return None

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def run(self) -> Any:
        effort = self.maker.config.effort
        for effort in EFFORTS[EFFORTS.index(self.maker.config.effort) :]:
            if self.best is not None and self.is_late:
                break
            made = self.attempt(f"effort {effort}", effort)
            if made is not None:
                return made
        if self.is_late or not self.maker.layers:
            return self._missed()
        ranking = sensitivity(self.maker, self.measure)
        self.tried += [
            Decision("quantize", "measured", entry.layer,
                     f"output SQNR {entry.only_int8:.1f} dB with it alone in INT8, {entry.only_fp32:.2f} dB with it "
                     "alone in FP32")
            for entry in ranking
        ]  # fmt: skip
        return self._fewest([entry.layer for entry in ranking], "fast" if effort == "fast" else "balanced")

    def _fewest(self, ranking: list[str], effort: str) -> Any:
        """Doubles the number of layers in FP32 until the goal is reached, then halves the last step.

        One layer stays INT8 at least: a model without any is not what was asked for.
        """
        most = len(ranking) - 1
        missed, found, count = 0, None, 1
        reached = most + 1
        while missed < count < reached and not self.is_late:
            made = self.attempt(f"{count} layers in FP32", effort, ranking[:count])
            if made is None:
                missed = count
            else:
                reached, found = count, made
            count = min(2 * count, most) if found is None else (missed + reached) // 2
        if found is None:
            return self._missed()
        self.tried += [
            Decision("quantize", "kept", name, "stays FP32: the accuracy goal needs it") for name in ranking[:reached]
        ]
        return found

    def _missed(self) -> Any:
        assert self.best is not None
        self.tried.append(Decision("quantize", "missed", "model", "the accuracy goal; the nearest model is kept"))
        return self.best[1]


def search(maker: Makes, goal: Goal, measure: Measure) -> Any:
    """The first model that reaches `goal`, else the one with the highest output SQNR; what was tried goes to
    maker.decisions. After config.time_budget seconds nothing new is started."""
    looking = _Search(maker, goal, measure)
    made = looking.run()
    maker.decisions.extend(looking.tried)
    return made


def in_words(score: Score) -> str:
    """For the report: `24.7 dB, agreement 0.996, top-1 drop 0.20`."""
    parts = [f"{score.sqnr:.2f} dB"]
    if score.agreement is not None:
        parts.append(f"agreement {score.agreement:.4f}")
    if score.drop is not None:
        parts.append(f"top-1 drop {score.drop:.2f}")
    return ", ".join(parts)
