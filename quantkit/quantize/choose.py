"""Which ranges and which equalization: judged on samples that gave no range, and on changed ones among them.

The samples that an INT8 model meets are taken to be like those of the calibration, with a few of each of
stress.FAMILIES: STRESS_WEIGHT of each to one of the others. What clips these loses by it here, not later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from quantkit.budgets import CHOOSE_SECONDS, Deadline
from quantkit.errors import CalibrationError
from quantkit.fuse.expand import expand
from quantkit.fuse.graph import quantkit_name
from quantkit.load.parts import copied
from quantkit.observe import Batch, TensorStatistics, observe
from quantkit.observe.runner import STREAM_BYTES
from quantkit.observe.streamed import weight_bytes
from quantkit.quantize.channel_values import ChannelObserver
from quantkit.quantize.equalize import EQUALIZED_KEY, LAWS, equalize, to_json
from quantkit.quantize.gates import gates_as_clamps
from quantkit.quantize.initial import has_static_batch, observed_tensors, weighted_inputs
from quantkit.quantize.means import means_as_convolutions
from quantkit.quantize.measure import Fidelity, Samples
from quantkit.quantize.replay import halves
from quantkit.quantize.runners import OpenInt8
from quantkit.quantize.select import select
from quantkit.quantize.stress import FAMILIES, STRESSED_SAMPLES, Fed, mixed, stressed
from quantkit.quantize.tune import GROWTH_MOST
from quantkit.types import METHODS, Decision

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.quantize.calibration import Maker

JUDGED_SAMPLES = 64
"""Samples of which one half gives ranges and the other half judges them."""
EQUALIZE_DB = 0.5
"""Equalization must gain this before the weights are tuned: draws of positions differ by as much afterwards."""
EQUALIZE_UNJUDGED_DB = 6.0
"""The same where all samples are needed for the ranges: only outlier channels explain such a gain."""
CLOSE_DB = 1.0
"""`best` also tunes the methods that measured within this of the first: tuning moves models by about as much."""
STRESS_WEIGHT = 0.03
"""What the samples of a family count for beside the samples as they are."""
SAME_DB = 0.25
"""Choices this near each other measure the same: another half of the samples would put them in another order."""
CHANGED_EVERY = 2
"""Of the batches that give ranges to be judged, each of so many gives ranges changed as well."""
STRESS_EVERY = 3
"""Of the batches that judge, each of so many judges changed as well."""


PLAIN, ROOM, STRESS = KINDS = ("", " with room", " with stress")
"""Ranges of the samples as they are; with room for the extremes of others; of changed samples, too."""


@dataclass(frozen=True)
class Judge:
    """The FP32 outputs of samples, and with their weight those of changed ones. changed: which of its batches are."""

    fidelity: Fidelity
    changed: Sequence[bool]

    def scores(self, model: ir.Model, open_int8: OpenInt8) -> tuple[float, float]:
        """(SQNR over all by their weights, over the changed ones alone) in dB."""
        return self.fidelity.sqnr_and_of(model, open_int8, self.changed)


def judge_of(maker: Maker, samples: Sequence[Fed]) -> Judge:
    """The judge by `samples`."""
    parts = [(samples, 1.0)]
    for family in FAMILIES:
        few = stressed(samples, family)[::STRESS_EVERY]
        parts.append((few, STRESS_WEIGHT * len(samples) / max(len(few), 1)))
    fed = [batch for part, _ in parts for batch in part]
    weights = [weight for part, weight in parts for _ in part]
    changed = [part is not samples for part, _ in parts for _ in part]
    return Judge(Fidelity(maker.expanded, fed, maker.threads, weights=weights), changed)


@dataclass(frozen=True)
class Choice:
    """Law of equalization (None: as it is), method of ranges, one of KINDS, and what it measures in dB: over all
    samples, and over the changed ones."""

    law: str | None
    method: str
    kind: str
    score: float
    safety: float

    def __str__(self) -> str:
        equalized = f"{self.law}, " if self.law else ""
        return f"{equalized}{self.method}{self.kind} {self.score:.2f} dB"


def safest(choices: Sequence[Choice], same_db: float = SAME_DB) -> Choice:
    """Of those that measure within same_db of the best, the one that loses least on changed samples."""
    best = max(choice.score for choice in choices)
    return max((choice for choice in choices if choice.score >= best - same_db), key=lambda choice: choice.safety)


def chosen_maker(maker: Maker, backend: Any = None) -> Maker:
    """The maker of the model by the method, the statistics and the law of equalization that measure best.

    A law is taken if it gains EQUALIZE_DB. Channels brought to their largest values seen are clipped one by one by
    larger ones: judged are samples that gave no range, where there are such.
    """
    deadline = Deadline(CHOOSE_SECONDS)
    known, unseen = halves(maker.judged(JUDGED_SAMPLES), cut=not has_static_batch(maker.model))
    trial = _Trial(maker, known, judge_of(maker, unseen or known), backend, deadline)
    plain = trial.best_of(None, trial.methods, KINDS)
    assert plain is not None
    best = plain
    if weight_bytes(maker.model) <= STREAM_BYTES:  # equalized weights are copies
        judged_db = EQUALIZE_DB if maker.config.per_channel else 0.0  # one scale a layer: rows must be alike
        best = trial.equalized(plain, judged_db if unseen else EQUALIZE_UNJUDGED_DB)
    maker.tell("methods", trial.to_score, trial.to_score)
    made = maker if best.law is None else variant(maker, best.law, maker.replay, backend)
    assert made is not None
    made.mixture = mixture_of(made, maker.replay.first(STRESSED_SAMPLES), backend) if best.kind == STRESS else None
    made.has_room = best.kind == ROOM
    chosen = f"ranges by {best.method}{best.kind}, equalized by {best.law or 'none'}"
    tried = ", ".join(map(str, trial.tried))
    ended = f"; no others were measured after {CHOOSE_SECONDS:g} s" if trial.ended else ""
    made.decisions.append(Decision("quantize", "measured", "model", f"{chosen}: {tried}{ended}"))
    made.settle(best.method, [choice.method for choice in trial.tried if _is_close(choice, best)])
    return made


def _is_close(choice: Choice, best: Choice) -> bool:
    """Whether tuning may change their order; with the same law and the same statistics."""
    return (choice.law, choice.kind) == (best.law, best.kind) and choice.score > best.score - CLOSE_DB


class _Trial:
    """Measures choices: ranges from the samples `known`, the score by `judge`. Until the deadline, but the method that
    is taken without any measurement in any case; ended: whether others were left out for it."""

    def __init__(self, maker: Maker, known: Sequence[Fed], judge: Judge, backend: Any, deadline: Deadline) -> None:
        self.maker, self.known, self.judge, self.backend = maker, known, judge, backend
        self.deadline, self.ended = deadline, False
        wanted = maker.config.method
        self.methods = (wanted,) if wanted in METHODS else METHODS
        self.observer = ChannelObserver(known, maker.threads)
        self.tried: list[Choice] = []
        each = maker.config.per_channel  # else rows must be alike, and the noise of weights hides what ranges lose
        self.laws = [law for law in LAWS if each or law == "weights"]
        self.same_db = SAME_DB if each else 0.0
        self.scored, self.to_score = 0, 4 * len(self.methods) + 3 * len(self.laws)
        self._made: dict[str | None, Maker] = {}
        self._mixtures: dict[str | None, dict[str, TensorStatistics] | None] = {}

    def best_of(self, law: str | None, methods: Sequence[str], kinds: Sequence[str]) -> Choice | None:
        """The best of the methods and kinds of ranges with a law, none measured twice; None: no channel is free."""
        if law not in self._made:
            fresh = variant(self.maker, law, self.known, self.backend, self.observer)
            if fresh is None:
                return None
            self._made[law] = fresh
        base = self.maker.base
        found = {(choice.method, choice.kind): choice for choice in self.tried if choice.law == law}
        for kind in kinds:
            for method in sorted(methods, key=lambda method: method != base):
                if (method, kind) not in found and (choice := self._measured(law, method, kind, first=not found)):
                    found[method, kind] = choice
        ordered = [found[method, kind] for kind, method in product(kinds, methods) if (method, kind) in found]
        self.tried += [choice for choice in ordered if choice not in self.tried]
        return safest(ordered, self.same_db)

    def _measured(self, law: str | None, method: str, kind: str, first: bool) -> Choice | None:
        """None where the time is over, unless it is the first choice, or where nothing can be changed for STRESS."""
        if self.deadline.is_over and not first:
            self.ended = True
            return None
        made = self._made[law]
        if kind == STRESS and law not in self._mixtures:
            self._mixtures[law] = mixture_of(made, self.known[::CHANGED_EVERY], self.backend)
        if kind == STRESS and self._mixtures[law] is None:
            return None
        made.mixture, made.has_room = self._mixtures[law] if kind == STRESS else None, kind == ROOM
        self.maker.tell("methods", min(self.scored, self.to_score), self.to_score)
        self.scored += 1
        assert made.open_int8 is not None
        return Choice(law, method, kind, *self.judge.scores(made.plain(method)[0], made.open_int8))

    def equalized(self, plain: Choice, least_gain: float) -> Choice:
        """The best law with the method of `plain`, then the best method with it; `plain` where it gains too little."""
        kinds = (ROOM, STRESS) if plain.kind == STRESS else KINDS
        found = []
        for law in self.laws:
            if self.deadline.is_over:
                self.ended = True
                break
            choice = self.best_of(law, (plain.method,), kinds)
            if choice is None:
                return plain
            found.append(choice)
            self._forget(found)
        if not found:
            return plain
        best = safest(found, self.same_db)
        if len(self.methods) > 1:
            best = self.best_of(best.law, self.methods, (best.kind,)) or best
        return best if best.score >= plain.score + least_gain else plain

    def _forget(self, found: Sequence[Choice]) -> None:
        """Gives up the models of all laws but those that may still be taken: they are copies."""
        least = max(choice.score for choice in found) - self.same_db
        near = {choice.law for choice in found if choice.score >= least}
        self._made = {law: made for law, made in self._made.items() if law in near}
        self._mixtures = {law: mixture for law, mixture in self._mixtures.items() if law in near}


def variant(maker: Maker, law: str | None, samples: Samples, backend: Any, observer: ChannelObserver | None = None
            ) -> Maker | None:  # fmt: skip
    """The maker for the model equalized by a law (None: as it is), observed on `samples`; None where no channel is
    free, or where nodes that share weights would get too many of their own. observer: of the same samples, for all
    laws."""
    copy = copied(maker.model)
    chosen = set(maker.chosen)
    if law is not None:
        if maker.config.per_channel:
            chosen.update(means_as_convolutions(copy, lambda name: name in maker.chosen))
        gates_as_clamps(copy, lambda name: name in maker.chosen)
        bytes_shared = _weight_bytes(copy)
        done = equalize(copy, observer or ChannelObserver(samples, maker.threads), law)
        if not done or _weight_bytes(copy) > (1.0 + GROWTH_MOST) * bytes_shared:
            return None
        copy.metadata_props[EQUALIZED_KEY] = to_json(done)
    selection = select(copy, lambda name: name not in chosen)
    statistics = observe(expand(copy), observed_tensors(copy, selection), _batches(samples), backend=backend,
                         channels=weighted_inputs(selection), threads=maker.threads)  # fmt: skip
    return maker.like(copy, selection, statistics)


def _weight_bytes(model: ir.Model) -> int:
    """Bytes of the weights that nodes read, each counted once."""
    read = {node.inputs[1] for node in model.graph if (name := quantkit_name(node)) is not None and name.is_weighted}
    return sum(value.const_value.nbytes for value in read if value is not None and value.const_value is not None)


def mixture_of(maker: Maker, samples: Sequence[Fed], backend: Any) -> dict[str, TensorStatistics] | None:
    """The maker's statistics and those of changed samples; None where nothing can be changed, or FP32 breaks by it."""
    changed = (batch for family in FAMILIES for batch in stressed(samples, family))
    first = next(changed, None)
    if first is None:
        return None
    tensors = observed_tensors(maker.model, maker.selection)
    try:
        seen = observe(maker.expanded, tensors, _batches(chain([first], changed)), backend=backend,
                       threads=maker.threads)  # fmt: skip
    except CalibrationError:  # a flat sample divided by its deviation, say
        return None
    return mixed(maker.statistics, seen)


def _batches(samples: Samples) -> Iterator[Batch]:
    return (Batch(feeds, None, [f"row {row}" for row in range(valid)], valid) for feeds, valid in samples)
