"""The accuracy goal: more effort first, then the fewest layers in FP32; the best model found counts in any case."""

from __future__ import annotations

import math
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
    macs: dict[str, int]
    decisions: list[Decision]

    def plain(self, method: str, keep: Collection[str] = ()) -> tuple[ir.Model, Any, Any]: ...
    def made(self, effort: str | None = None, keep: Collection[str] = ()) -> Any: ...


@dataclass(frozen=True)
class Sensitivity:
    """Output SQNR in dB with this layer alone in INT8, and with this layer alone in FP32; macs: a sample's."""

    layer: str
    only_int8: float
    only_fp32: float
    macs: int


@dataclass(frozen=True)
class Found:
    """made: the model; record: the goal, whether it was reached, all that was tried, in plain values for JSON."""

    made: Any
    record: dict[str, Any]


def sensitivity(maker: Makes, measure: Measure, deadline: float = math.inf) -> list[Sensitivity]:
    """Of the weighted layers, weights rounded to nearest; first those that give most for what FP32 costs there.

    What a layer gives is the noise that it makes alone, whatever the others do; what it costs, its share of the
    multiply-accumulates and, for leaving u8 and coming back, an equal share of 1. After `deadline` (time.monotonic) no
    further layer is measured.
    """
    found: list[Sensitivity] = []
    for name in maker.layers:
        if time.monotonic() > deadline:
            break
        others = [other for other in maker.layers if other != name]
        only_int8 = measure(maker.plain(maker.method, others)[0]).sqnr
        only_fp32 = measure(maker.plain(maker.method, [name])[0]).sqnr
        found.append(Sensitivity(name, only_int8, only_fp32, maker.macs[name]))
    total = max(sum(maker.macs.values()), 1)

    def worth(entry: Sensitivity) -> float:
        return float(10.0 ** (-entry.only_int8 / 10) / (entry.macs / total + 1 / len(maker.layers)))

    return sorted(found, key=worth, reverse=True)


class _Search:
    def __init__(self, maker: Makes, goal: Goal, measure: Measure, quick: Measure) -> None:
        self.maker, self.goal, self.measure, self.quick = maker, goal, measure, quick
        self.deadline = time.monotonic() + maker.config.time_budget
        self.decisions: list[Decision] = []
        self.tried: list[dict[str, Any]] = []
        self.ranking: list[Sensitivity] = []
        self.kept: list[str] = []
        self.best: tuple[tuple[float, ...], Any, list[str]] | None = None

    def attempt(self, effort: str, keep: Sequence[str] = ()) -> Any | None:
        """The model if it reaches the goal, else None; it is remembered if it is the nearest to the goal so far."""
        made = self.maker.made(effort, keep)
        score = self.measure(made.model)
        label = f"{len(keep)} layers in FP32" if keep else f"effort {effort}"
        self.tried.append({
            "what": label, "effort": effort, "fp32_layers": len(keep), "reached": self.goal.reached(score),
            "sqnr_db": score.sqnr, "agreement": score.agreement, "drop": score.drop,
        })  # fmt: skip
        self.decisions.append(Decision("quantize", "tried", "model", f"{label}: {in_words(score)}"))
        if self.goal.reached(score):
            return made
        near = nearness(self.goal, score)
        if self.best is None or near > self.best[0]:
            self.best = (near, made, list(keep))
        return None

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def run(self) -> Found:
        made = self._by_effort() or self._by_layers()
        reached = made is not None
        if made is None:
            assert self.best is not None
            _, made, self.kept = self.best
        self.decisions += [
            Decision("quantize", "kept", name, "stays FP32: the accuracy goal needs it") for name in self.kept
        ]
        if not reached:
            self.decisions.append(
                Decision("quantize", "missed", "model", "the accuracy goal; the nearest model is kept")
            )
        return Found(made, {
            "goal": {key: value for key, value in vars(self.goal).items() if value is not None},
            "reached": reached, "tried": self.tried, "kept_fp32": self.kept,
            "sensitivity": [
                {"layer": entry.layer, "only_int8_db": entry.only_int8, "only_fp32_db": entry.only_fp32,
                 "macs": entry.macs} for entry in self.ranking
            ],
        })  # fmt: skip

    def _by_effort(self) -> Any | None:
        for effort in EFFORTS[EFFORTS.index(self.maker.config.effort) :]:
            if self.best is not None and self.is_late:
                return None
            made = self.attempt(effort)
            if made is not None:
                return made
        return None

    def _by_layers(self) -> Any | None:
        """Doubles the number of layers in FP32 until the goal is reached, then halves the last step.

        One layer stays INT8 at least: a model without any is not what was asked for.
        """
        if self.is_late:
            return None
        self.ranking = sensitivity(self.maker, self.quick, self.deadline)
        self.decisions += [
            Decision("quantize", "measured", entry.layer,
                     f"output SQNR {entry.only_int8:.1f} dB with it alone in INT8, {entry.only_fp32:.2f} dB with it "
                     "alone in FP32")
            for entry in self.ranking
        ]  # fmt: skip
        names = [entry.layer for entry in self.ranking]
        most = min(len(names), len(self.maker.layers) - 1)
        missed, found, count = 0, None, 1
        reached = most + 1
        while missed < count < reached and not self.is_late:
            made = self.attempt("balanced", names[:count])
            if made is None:
                missed = count
            else:
                reached, found, self.kept = count, made, names[:count]
            count = min(2 * count, most) if found is None else (missed + reached) // 2
        return found


def nearness(goal: Goal, score: Score) -> tuple[float, float, float]:
    """Greater is nearer to the goal: by the drop beyond it, then the agreement up to it, then the output SQNR."""
    excess = 0.0 if goal.max_drop is None or score.drop is None else max(score.drop - goal.max_drop, 0.0)
    agreed = 0.0 if goal.min_agreement is None else min(score.agreement or 0.0, goal.min_agreement)
    return -excess, agreed, score.sqnr


def search(maker: Makes, goal: Goal, measure: Measure, quick: Measure | None = None) -> Found:
    """The first model that reaches `goal`, else the nearest; what was tried also goes to maker.decisions.

    quick: measures output SQNR on fewer samples, for the sensitivity of layers.
    After config.time_budget seconds nothing new is started.
    """
    looking = _Search(maker, goal, measure, quick or measure)
    found = looking.run()
    maker.decisions.extend(looking.decisions)
    return found


def in_words(score: Score) -> str:
    """For the report: `24.7 dB, agreement 0.996, top-1 drop 0.20`."""
    parts = [f"{score.sqnr:.2f} dB"]
    if score.agreement is not None:
        parts.append(f"agreement {score.agreement:.4f}")
    if score.drop is not None:
        parts.append(f"top-1 drop {score.drop:.2f}")
    return ", ".join(parts)
