"""What a native region costs, its conversions to and from u8 included, beside the same nodes in FP32."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.budgets import ROUNDS_SECONDS, Deadline
from quantkit.execute.session import Session
from quantkit.execute.timing import ROUNDS_LEAST, cpu_clock
from quantkit.fuse.expand import expand
from quantkit.load.parts import submodel
from quantkit.lower.regions import borders
from quantkit.observe import FloatRunner
from quantkit.observe.streamed import weight_bytes

ROUNDS = 9
"""Of each measurement; after ROUNDS_SECONDS ROUNDS_LEAST are enough."""
LARGE_WEIGHTS = 1 << 28
"""Bytes of weights above which the regions are timed one after the other in FP32 and not in turns, as they run in a
model: what stays in the caches from round to round makes small ones up to twice as fast."""
LARGE_INPUTS = 1 << 28
"""Bytes of all regions' inputs above which that holds too: no cache keeps them, and every region that is open has its
own memory of what lies between its nodes."""


@dataclass(frozen=True)
class RegionCost:
    """A native region: its quantized nodes, seconds in INT8 and in FP32 (shortest of at most ROUNDS), multiply-adds."""

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
    call = _shortest([(FloatRunner(_number(), 1), {"x": np.ones(1, np.float32)})])[0]
    seconds = session.step_seconds(feeds, ROUNDS, ROUNDS_SECONDS)
    macs = {plan.name: plan.macs for plan in session.plan}
    regions = [
        (region, spent + (call if 0 < i < len(steps) - 1 else 0.0))
        for i, (step, spent) in enumerate(zip(steps, seconds, strict=True))
        if step.native and (region := frozenset(node.name or "" for node in step.nodes) & set(names))
    ]
    floats = _float_seconds(fused, [region for region, _ in regions], feeds)
    return [
        RegionCost(region, spent, in_float - call, sum(macs.get(name, 0) for name in region))
        for (region, spent), in_float in zip(regions, floats, strict=True)
    ]


def _number() -> ir.Model:
    """A model of one number, whose time is that of a call of onnxruntime from Python (3 to 6 us): a region between two
    float steps adds one; as nodes of a float step it has none of its own."""
    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Neg", [x])
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", x.shape, x.type
    return ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 13}, name="number"), ir_version=8)


def _float_seconds(fused: ir.Model, regions: list[frozenset[str]], feeds: Mapping[str, np.ndarray]) -> list[float]:
    """The time of the nodes of each region in onnxruntime on one thread, as a model of their own."""
    steps = [borders(False, [node for node in fused.graph if node.name in region]) for region in regions]
    given = {value.name for value in fused.graph.inputs}
    wanted = list(dict.fromkeys(v.name or "" for step in steps for v in step.inputs if v.name not in given))
    values = dict(feeds)
    if wanted:
        runner = FloatRunner(expand(fused), 1, expose=wanted)
        values.update(zip(wanted, runner.run(feeds, wanted), strict=True))
        del runner
    models = (expand(submodel(fused, step.nodes, step.inputs, step.outputs)) for step in steps)
    fed = [{v.name or "": values[v.name or ""] for v in step.inputs} for step in steps]
    runs = ((FloatRunner(model, 1), inputs) for model, inputs in zip(models, fed, strict=True))
    inputs_bytes = sum(array.nbytes for inputs in fed for array in inputs.values())
    if weight_bytes(fused) > LARGE_WEIGHTS or inputs_bytes > LARGE_INPUTS:
        return [_shortest([run])[0] for run in runs]
    return _shortest(list(runs))


def _shortest(runs: Sequence[tuple[FloatRunner, Mapping[str, np.ndarray]]]) -> list[float]:
    """The shortest time of each of ROUNDS runs, which take turns; of ROUNDS_LEAST where these take ROUNDS_SECONDS."""
    found, clock, deadline = [float("inf")] * len(runs), cpu_clock(), Deadline(ROUNDS_SECONDS)
    for done in range(ROUNDS):
        if done >= ROUNDS_LEAST and deadline.is_over:
            break
        for i, (runner, inputs) in enumerate(runs):
            start = clock()
            runner.run(inputs)
            found[i] = min(found[i], clock() - start)
    return found
