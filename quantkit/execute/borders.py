"""What a native region costs, its conversions to and from u8 included, beside the same nodes in FP32."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.execute.session import Session
from quantkit.execute.timing import cpu_clock
from quantkit.fuse.expand import expand
from quantkit.load.parts import submodel
from quantkit.lower.regions import borders
from quantkit.observe import FloatRunner

ROUNDS = 9
CALL_SECONDS = 6e-6
"""One call of onnxruntime from Python. A region between two float steps adds one; as nodes of a float step it has none
of its own."""


@dataclass(frozen=True)
class RegionCost:
    """A native region: its quantized nodes, seconds in INT8 and in FP32 (shortest of ROUNDS), multiply-adds."""

    names: frozenset[str]
    int8: float
    fp32: float
    macs: int

    @property
    def saved(self) -> float:
        """Seconds that INT8 saves in a run; negative: it loses."""
        return self.fp32 - self.int8


def region_costs(session: Session, fused: ir.Model, names: Collection[str], feeds: Mapping[str, np.ndarray]
                 ) -> list[RegionCost]:  # fmt: skip
    """The cost of each native region of an INT8 `session` of `fused`, whose quantized nodes are `names`.

    A model of one step has no borders inside, so no region of it can be given up alone: then the list is empty.
    """
    steps = session.steps
    if len(steps) == 1:
        return []
    seconds = session.step_seconds(feeds, ROUNDS)
    macs = {plan.name: plan.macs for plan in session.plan}
    regions = [
        (region, spent)
        for step, spent in zip(steps, seconds, strict=True)
        if step.native and (region := frozenset(node.name or "" for node in step.nodes) & set(names))
    ]
    floats = _float_seconds(fused, [region for region, _ in regions], feeds)
    return [
        RegionCost(region, spent + CALL_SECONDS, in_float - CALL_SECONDS, sum(macs.get(name, 0) for name in region))
        for (region, spent), in_float in zip(regions, floats, strict=True)
    ]


def _float_seconds(fused: ir.Model, regions: list[frozenset[str]], feeds: Mapping[str, np.ndarray]) -> list[float]:
    """The time of the nodes of each region in onnxruntime on one thread, as a model of their own."""
    steps = [borders(False, [node for node in fused.graph if node.name in region]) for region in regions]
    given = {value.name for value in fused.graph.inputs}
    wanted = list(dict.fromkeys(v.name or "" for step in steps for v in step.inputs if v.name not in given))
    values = dict(feeds)
    if wanted:
        runner = FloatRunner(expand(fused), 1, expose=wanted)
        values.update(zip(wanted, runner.run(feeds, wanted), strict=True))
    found, clock = [], cpu_clock()
    for step in steps:
        runner = FloatRunner(expand(submodel(fused, step.nodes, step.inputs, step.outputs)), 1)
        inputs = {v.name or "": values[v.name or ""] for v in step.inputs}
        best = float("inf")
        for _ in range(ROUNDS):
            start = clock()
            runner.run(inputs)
            best = min(best, clock() - start)
        found.append(best)
    return found
