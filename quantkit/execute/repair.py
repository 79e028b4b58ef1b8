"""Parts that cost the outputs more than they are worth stay in FP32: found by the error that they bring, not by name.

The last arithmetic of a detector (boxes from distances, scores beside them) and signal processing in front of a network
(spectra whose logarithm is taken) need more than 8 bits, and cost few multiply-adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from quantkit.execute.intermediate import with_outputs
from quantkit.execute.session import Session
from quantkit.execute.verify import worst_db
from quantkit.quantize.select import Selection

GOOD_DB, GOOD_SLICE_DB = 15.0, 20.0
"""Outputs, and quantities inside them, that are nearer to FP32 than this are not searched for what spoils them: the
error is a sixth, or a tenth, of the amplitude."""
TAIL_GAIN_DB, REGION_GAIN_DB = 3.0, 2.0
"""What FP32 for the last arithmetic, or for one region, must bring on the outputs; 3 dB halve the error's power."""
REGIONS_MOST = 12
SECONDS_MOST = 30.0

Judge = Callable[[ir.Model], "tuple[float, float]"]


@dataclass
class Repair:
    """names: what stays quantized. reasons: node -> why it was given up."""

    names: list[str]
    reasons: dict[str, str] = field(default_factory=dict)

    def give_up(self, part: Collection[str], reason: str) -> None:
        self.reasons.update(dict.fromkeys(part, reason))
        self.names = [name for name in self.names if name not in part]


def judge(samples: Sequence[Mapping[str, object]], reference: Sequence[Mapping[str, object]],
          threads: int | None) -> Judge:  # fmt: skip
    """judge(model): (dB of its worst output, dB of the worst group of slices of one), over all samples."""

    def measure(model: ir.Model) -> tuple[float, float]:
        session = Session(with_outputs(model, list(reference[0])), threads)
        whole, sliced = float("inf"), float("inf")
        for feeds, wanted in zip(samples, reference, strict=True):
            got = dict(zip(wanted, session.run(list(wanted), feeds), strict=True))
            whole = min(whole, worst_db(wanted, got))
            sliced = min(sliced, worst_db(wanted, got, by_slice=True))
        return whole, sliced

    return measure


def repair(selection: Selection, quantized: Callable[[set[str]], ir.Model], names: list[str], measure: Judge) -> Repair:
    """Which of the nodes `names` stay quantized: without the last arithmetic if FP32 for it brings TAIL_GAIN_DB, and
    without the regions that keep the outputs below GOOD_DB.

    quantized(names) gives the INT8 model with these nodes quantized, which must run.
    """
    found = Repair(names)
    model = quantized(set(names))
    whole, sliced = measure(model)
    tail = last_arithmetic(selection, names) if sliced < GOOD_SLICE_DB else set()
    if tail and len(tail) < len(names):
        without = quantized(set(names) - tail)
        db, by_slice = measure(without)
        if by_slice >= sliced + TAIL_GAIN_DB and db >= whole - TAIL_GAIN_DB:
            reason = f"the last arithmetic before the outputs: {sliced:.1f} dB in u8, {by_slice:.1f} in FP32"
            found.give_up(tail, reason)
            model, whole = without, db
    deadline = time.monotonic() + SECONDS_MOST
    while whole < GOOD_DB and time.monotonic() < deadline:
        better = _best_without(Session(model, 1), quantized, found.names, measure, deadline)
        if better is None or better[0] < whole + REGION_GAIN_DB:
            break
        db, region, model = better
        found.give_up(region, f"with its region in u8 the outputs are {whole:.1f} dB from FP32, without {db:.1f}")
        whole = db
    return found


def _best_without(session: Session, quantized: Callable[[set[str]], ir.Model], names: Sequence[str], measure: Judge,
                  deadline: float) -> tuple[float, frozenset[str], ir.Model] | None:  # fmt: skip
    """(dB, region, model) for the native region whose leaving brings most; None if there are not two of them."""
    regions = [frozenset(n.name or "" for n in step.nodes) & set(names) for step in session.steps if step.native]
    regions = [region for region in regions if region]
    best = None
    for region in regions[:REGIONS_MOST] if len(regions) > 1 else []:
        model = quantized(set(names) - region)
        db, _ = measure(model)
        if best is None or db > best[0]:
            best = (db, region, model)
        if time.monotonic() > deadline:
            break
    return best


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
