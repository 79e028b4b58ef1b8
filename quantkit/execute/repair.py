"""Parts that cost the outputs more than they are worth stay in FP32: found by the error that they bring, not by name.

The last arithmetic of a detector (boxes from distances, scores beside them) and signal processing in front of a network
(spectra whose logarithm is taken) need more than 8 bits, and cost few multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import ref

import onnx_ir as ir

from quantkit.budgets import REPAIR_SECONDS, Deadline
from quantkit.execute.intermediate import with_outputs
from quantkit.execute.session import Session
from quantkit.execute.verify import is_short, mean_db, pooled_db, worst_db
from quantkit.fuse.judged import Bounds, thinned
from quantkit.quantize.select import Selection

POOR_DB = 10.0
"""Below this the search for what spoils the outputs starts: the error is a third of the amplitude. What is calibrated
from all samples may come out much nearer: mobilenet_v3_large has 12 dB here and 26 in the end."""
GOOD_DB, GOOD_SLICE_DB = 18.0, 20.0
"""The search ends where outputs are nearer to FP32 than this, and does not look into quantities inside them that are:
the error is a sixth, or a tenth, of the amplitude."""
MOVES_DB = 25.0
"""Below this what only moves the outputs of the last layers does so in FP32, unless that loses JOIN_GAIN_DB, which one
rounding less can only do by chance: in u8 two classes of a hesitating row often get the same value, and 29 rows of 60
lines that PP-OCRv4 reads were such ties."""
TAIL_GAIN_DB, REGION_GAIN_DB = 3.0, 2.0
"""What FP32 for the last arithmetic, or for one region, must bring on the outputs; 3 dB halve the error's power."""
REGIONS_MOST = 12
RUN_NODES, JOIN_GAIN_DB = 8, 0.5
"""Before whole regions are given up: all nodes of a kind without weights, and runs of nodes (a block or two), with few
of the multiply-adds. What joins must gain JOIN_GAIN_DB, and goes back where less than that is lost by it."""


@dataclass(frozen=True)
class Budget:
    """Nodes with at most `share` of the MACs are given up where outputs are below `below` dB, until `enough` are
    reached."""

    share: float
    below: float
    enough: float


POOR = Budget(share=0.1, below=POOR_DB, enough=GOOD_DB)
POOR_BOUNDED = Budget(share=0.1, below=16.0, enough=22.0)
FINE = Budget(share=0.05, below=20.0, enough=22.0)
"""The last two are for outputs that are all probabilities, masks or few numbers, of which the calibrated model has
hardly more dB than the trial: PP-OCR's recognizer has 18 here, 20 in the end, and reads 58 to 60 of 60 lines as FP32
does."""

Samples = Sequence[Mapping[str, Any]]


@dataclass
class Judged:
    """How near the outputs `got` of a model are to FP32's, by sample. Slices take as long as a third of the runs, so
    they are looked at only where they are asked for."""

    reference: Samples
    got: Samples
    bounds: Bounds | None = None

    @cached_property
    def db(self) -> float:
        """dB of the worst output, by `judged_db`."""
        return judged_db(self.reference, self.got, self.bounds)

    @cached_property
    def by_slice(self) -> float:
        """dB of the worst group of slices of one."""
        return judged_db(self.reference, self.got, self.bounds, by_slice=True)


Judge = Callable[[ir.Model], Judged]


@dataclass
class Repair:
    """names: what stays quantized. reasons: node -> why it was given up."""

    names: list[str]
    reasons: dict[str, str] = field(default_factory=dict)

    def give_up(self, part: Collection[str], reason: str) -> None:
        self.reasons.update((name, reason) for name in self.names if name in part)
        self.names = [name for name in self.names if name not in part]


def judge(samples: Samples, reference: Samples, threads: int | None, bounds: Bounds | None = None) -> Judge:
    """judge(model): how near it is. The model before is not run again, as one step often begins with what the step
    before ended with."""
    last: list[tuple[ref[ir.Model], Judged]] = []

    def measure(model: ir.Model) -> Judged:
        if not last or last[0][0]() is not model:
            last.clear()  # first, so that there are never two
            last.append(
                (ref(model), Judged(reference, outputs_of(model, samples, list(reference[0]), threads), bounds))
            )
        return last[0][1]

    return measure


def outputs_of(model: ir.Model, samples: Samples, names: Sequence[str], threads: int | None) -> Samples:
    """The tensors `names` of an INT8 model for each of the samples, thinned as those of FP32 are."""
    session = Session(with_outputs(model, names), threads)
    return [dict(zip(names, map(thinned, session.run(names, feeds)), strict=True)) for feeds in samples]


def judged_db(reference: Samples, got: Samples, bounds: Bounds | None, *, by_slice: bool = False) -> float:
    """dB of the worst output as mean_db of all samples; of outputs of a few values, over all samples at once."""
    short = {name for name, y in reference[0].items() if is_short(y) and name not in (bounds or {})}
    long = [{name: y for name, y in wanted.items() if name not in short} for wanted in reference]
    each = [worst_db(a, b, by_slice=by_slice, bounds=bounds) for a, b in zip(long, got, strict=True)]
    return min(pooled_db(reference, got, bounds), mean_db(each))


def repair(selection: Selection, quantized: Callable[[set[str]], ir.Model], names: list[str], measure: Judge,
           bounded: bool = False) -> Repair:  # fmt: skip
    """Which of the nodes `names` stay quantized: without the last arithmetic if FP32 for it brings TAIL_GAIN_DB, and
    without what keeps the outputs below GOOD_DB.

    quantized(names) gives the INT8 model with these nodes quantized, which must run. bounded: all outputs are
    probabilities, masks or few numbers, so that POOR_BOUNDED and FINE apply.
    """
    found = Repair(names)
    model = quantized(set(names))
    judged = measure(model)
    whole = judged.db
    moves = last_moves(selection, names) if whole < MOVES_DB else set()
    if moves and len(moves) < len(names):
        without = quantized(set(names) - moves)
        there = measure(without)
        if there.db > whole - JOIN_GAIN_DB:
            reason = (
                f"it only moves values on to FP32: {whole:.1f} dB if they are rounded to u8 for that, "
                f"else {there.db:.1f}"
            )
            found.give_up(moves, reason)
            model, judged, whole, names = without, there, there.db, found.names
    sliced = judged.by_slice
    tail = last_arithmetic(selection, names) if sliced < GOOD_SLICE_DB else set()
    if tail and len(tail) < len(names):
        without = quantized(set(names) - tail)
        there = measure(without)
        if there.by_slice >= sliced + TAIL_GAIN_DB and there.db >= whole - TAIL_GAIN_DB:
            reason = f"the last arithmetic before the outputs: {sliced:.1f} dB in u8, {there.by_slice:.1f} in FP32"
            found.give_up(tail, reason)
            model, whole = without, there.db
    search = _Search(quantized, measure, Deadline(REPAIR_SECONDS))
    bar = POOR_BOUNDED if bounded else POOR
    poor = whole < bar.below
    budget = FINE if bounded and not poor else bar
    if whole < budget.below:
        of_a_kind = kinds(selection, found.names) if poor else []
        cheap = search.cheap_parts(Session(model, 1), of_a_kind, found.names, whole, budget)
        if cheap is not None:
            reason = f"with it in u8 the outputs are {whole:.1f} dB from FP32, without it and its like {cheap.db:.1f}"
            found.give_up(cheap.names, reason)
            model, whole = cheap.model, cheap.db
    if whole < bar.below:
        dear = search.dear_parts(model, found.names, whole, bar)
        reason = f"with it and its neighbours in u8 the outputs are {whole:.1f} dB from FP32, without {dear.db:.1f}"
        found.give_up(dear.names, reason)
    return found


@dataclass(frozen=True)
class _Part:
    """Nodes to give up; the model without them, and how near to FP32 it is."""

    names: frozenset[str]
    model: ir.Model
    db: float


@dataclass
class _Search:
    quantized: Callable[[set[str]], ir.Model]
    measure: Judge
    deadline: Deadline

    def cheap_parts(self, session: Session, kinds: Sequence[list[str]], names: Sequence[str], before: float,
                    budget: Budget) -> _Part | None:  # fmt: skip
        """Nodes that together hold the budget's share of the MACs and whose leaving brings REGION_GAIN_DB; None if
        there are none. Kinds and runs of nodes are tried alone, those that gain most for their MACs join, and what was
        not needed among them goes back."""
        macs = {plan.name: plan.macs for plan in session.plan}
        total = max(1, sum(macs.values()))
        order = [n.name or "" for step in session.steps if step.native for n in step.nodes if n.name in set(names)]
        shares = {name: count / total for name, count in macs.items()}
        eights = [order[i : i + RUN_NODES] for i in range(0, len(order), RUN_NODES)]
        runs = [run for eight in eights for run in _within(eight, shares, budget.share)]
        alone = []
        for part in (*kinds, *runs):
            cost = sum(shares.get(name, 0.0) for name in part)
            if cost <= budget.share and len(part) < len(order) and not self.deadline.is_over:
                alone.append((self._without(names, part).db, cost, part))
        best: _Part | None = None
        reached, spent, joined = before, 0.0, []
        for db, cost, part in sorted(alone, key=lambda entry: -(entry[0] - before) / (0.02 + entry[1])):
            over = spent + cost > budget.share or self.deadline.is_over
            if db <= before or reached >= budget.enough or over:
                continue
            more = self._without(names, [*(best.names if best else ()), *part])
            if more.db > reached + JOIN_GAIN_DB:
                best, reached, spent = more, more.db, spent + cost
                joined.append(part)
        if best is None or reached < before + REGION_GAIN_DB:
            return None
        least = max(before + REGION_GAIN_DB, min(budget.enough, reached - JOIN_GAIN_DB))
        for part in joined:
            best = self._given_back(names, best, part, least)
        return best

    def _given_back(self, names: Sequence[str], best: _Part, part: Sequence[str], least: float) -> _Part:
        """`best` without those of `part`, tried by halving, that `least` dB are reached without."""
        rest = best.names - set(part)
        if rest == best.names or self.deadline.is_over:
            return best
        smaller = self._without(names, sorted(rest)) if rest else None
        if smaller is not None and smaller.db >= least:
            return smaller
        if len(part) > 1:
            for half in (part[: len(part) // 2], part[len(part) // 2 :]):
                best = self._given_back(names, best, half, least)
        return best

    def dear_parts(self, model: ir.Model, names: Sequence[str], before: float, bar: Budget) -> _Part:
        """Parts of regions, one after the other, until `bar.enough` is reached; what was not needed goes back if they
        hold more than the share of the multiply-adds that is cheap."""
        best = _Part(frozenset(), model, before)
        macs = {plan.name: plan.macs for plan in Session(model, 1).plan}
        while best.db < bar.enough and not self.deadline.is_over:
            left = [name for name in names if name not in best.names]
            part = self.worst_part(Session(best.model, 1), left, best.db, bar.enough)
            if part is None:
                break
            best = _Part(best.names | part.names, part.model, part.db)
        order = [name for name in names if name in best.names]
        if sum(macs.get(name, 0) for name in order) > bar.share * max(1, sum(macs.values())):
            best = self._given_back(names, best, order, min(bar.enough, best.db - JOIN_GAIN_DB))
        return best

    def worst_part(self, session: Session, names: Sequence[str], before: float, enough: float) -> _Part | None:
        """The part of a native region (of the only one: a half) whose leaving brings most, narrowed down to what
        brings `enough` dB or most of the gain; None if none brings REGION_GAIN_DB."""
        regions = [[n.name or "" for n in step.nodes if n.name in set(names)] for step in session.steps if step.native]
        regions = [region for region in regions if region]
        if len(regions) == 1:
            regions = [regions[0][: len(regions[0]) // 2], regions[0][len(regions[0]) // 2 :]]
        best: tuple[_Part, list[str]] | None = None
        for region in regions[:REGIONS_MOST]:
            part = self._without(names, region)
            if best is None or part.db > best[0].db:
                best = part, region
            if self.deadline.is_over:
                break
        if best is None or best[0].db < before + REGION_GAIN_DB:
            return None
        return self._narrowed(names, best[1], best[0], min(enough, before + 0.7 * (best[0].db - before)))

    def _narrowed(self, names: Sequence[str], part: list[str], found: _Part, target: float) -> _Part:
        """The smallest run of nodes inside `part`, by halving, without which `target` is reached."""
        while len(part) > 1 and not self.deadline.is_over:
            halves = part[: len(part) // 2], part[len(part) // 2 :]
            better = max((self._without(names, half) for half in halves), key=lambda p: p.db)
            if better.db < target:
                break
            found, part = better, [name for name in part if name in better.names]
        return found

    def _without(self, names: Sequence[str], part: Sequence[str]) -> _Part:
        model = self.quantized(set(names) - set(part))
        return _Part(frozenset(part), model, self.measure(model).db)


def _within(run: list[str], shares: Mapping[str, float], most: float) -> list[list[str]]:
    """A run of nodes, or pieces of it by halving that hold at most the share `most` of the multiply-adds each."""
    if len(run) == 1 or sum(shares.get(name, 0.0) for name in run) <= most:
        return [run]
    middle = len(run) // 2
    return [*_within(run[:middle], shares, most), *_within(run[middle:], shares, most)]


def kinds(selection: Selection, names: Collection[str]) -> list[list[str]]:
    """The quantized nodes without weights by what they do: all sums, all normalizations, all products of attention."""
    found: dict[str, list[str]] = {}
    for node, form in selection.forms.items():
        if node.name in names and not form.name.is_weighted and not form.shares:
            found.setdefault(form.name.base, []).append(node.name or "")
    return list(found.values())


def last_moves(selection: Selection, names: Collection[str]) -> set[str]:
    """Those of the last arithmetic that only move values, and that only such nodes read in u8."""
    last = last_arithmetic(selection, names)
    found: set[str] = set()
    for node, form in reversed(selection.forms.items()) if last else ():
        readers = {use.node for value in node.outputs for use in value.uses()} & selection.forms.keys()
        u8_readers = {reader.name or "" for reader in readers if reader.name in names}
        if node.name in last and form.shares and u8_readers <= found:
            found.add(node.name or "")
    return found


def last_arithmetic(selection: Selection, names: Collection[str]) -> set[str]:
    """The quantized nodes without weights behind which no quantized node with weights lies."""
    nodes = {node for node in selection.forms if node.name in names}
    feeding = {node for node in nodes if selection.forms[node].name.is_weighted}
    waiting = list(feeding)
    while waiting:  # upwards from the nodes with weights, through whatever lies between
        for value in waiting.pop().inputs:
            node = value.producer() if value is not None else None
            if node is not None and node not in feeding:
                feeding.add(node)
                waiting.append(node)
    return {node.name or "" for node in nodes - feeding}
