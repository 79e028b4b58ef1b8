"""Which range method suits each tensor: by the error that its quantization alone makes in the FP32 model's outputs.

That error depends on the range and on nothing else. In a whole INT8 model a new range also shifts how all other errors
meet, which moves the output SQNR by some tenths of a decibel either way: more than most choices of a range do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.observe import FloatRunner
from quantkit.quantize.measure import Fidelity
from quantkit.quantize.qparams import params_from_range
from quantkit.quantize.runners import Run
from quantkit.types import METHODS, QuantParams, Range

LIKE = 0.01
"""Ranges whose bounds differ by less than this share of the span are taken as one."""
LEAST_GAIN_DB = 0.1
"""What another method must gain in a tensor to be taken instead of that of the model."""

Choices = dict[str, str]
"""Parameter group -> method, where it is not that of the model."""


@dataclass(frozen=True)
class TensorChoice:
    """A group of tensors, its method, and the output SQNR in dB with this group alone in INT8, before and after."""

    group: str
    method: str
    before: float
    after: float


class OneQuantized:
    """The FP32 model with some of its tensors quantized to u8 and back; the parameters come with each run.

    model: FP32 in standard ops; not modified. tensors: graph inputs or node outputs; what is neither is left out.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[str], names: Sequence[str], threads: int | None) -> None:
        copy = model.clone()
        graph = copy.graph
        made = {value.name: value for value in [*graph.inputs, *(v for node in graph for v in node.outputs)]}
        self._scale = ir.Value(name="quantkit/scale", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
        self._zero_point = ir.Value(
            name="quantkit/zero_point", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.UINT8)
        )
        for name in tensors:
            if name in made:
                self._quantize(graph, made[name])
        graph.inputs.extend([self._scale, self._zero_point])
        self._runner = FloatRunner(copy, threads, expose=names, spin=False, literal=True)
        self._names = list(names)

    def _quantize(self, graph: ir.Graph, value: ir.Value) -> None:
        parameters = [self._scale, self._zero_point]
        q = ir.node("QuantizeLinear", [value, *parameters], name=f"{value.name}/u8")
        f = ir.node("DequantizeLinear", [q.outputs[0], *parameters], name=f"{value.name}/u8/float")
        f.outputs[0].shape, f.outputs[0].type = value.shape, value.type
        users = [use for use in value.uses() if use.node is not q]
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], [q, f])
        else:
            graph.insert_after(producer, [q, f])
        for node, index in users:
            node.replace_input_with(index, f.outputs[0])

    def with_params(self, params: QuantParams) -> Run:
        """What runs the model with these parameters."""
        given: dict[str, np.ndarray] = {
            self._scale.name or "": np.array(params.scale, np.float32),
            self._zero_point.name or "": np.array(params.zero_point, np.uint8),
        }
        return lambda feeds: dict(zip(self._names, self._runner.run({**feeds, **given}, self._names), strict=True))


def by_tensor(model: ir.Model, groups: Mapping[str, Sequence[str]], spans: Mapping[str, Mapping[str, Range]], base: str,
              fidelity: Fidelity, threads: int | None, deadline: float) -> list[TensorChoice]:  # fmt: skip
    """For each group of tensors whose methods differ, the method with the least error, if it is not `base`.

    model: FP32 in standard ops. groups: group -> its tensors. spans: method -> group -> range. fidelity: of `model`.
    The groups whose methods differ most come first; after `deadline` (time.monotonic) the others keep `base`.
    """
    found = []
    for group in _by_disagreement(spans, base):
        candidates = _alternatives(spans, group, base)
        if not candidates or time.monotonic() > deadline:
            continue
        one = OneQuantized(model, groups[group], fidelity.names, threads)
        scores = {
            method: fidelity.sqnr_of(one.with_params(params_from_range(spans[method][group])))
            for method in (base, *candidates)
        }
        best = max(scores, key=lambda method: scores[method])
        if scores[best] > scores[base] + LEAST_GAIN_DB:
            found.append(TensorChoice(group, best, scores[base], scores[best]))
    return found


def _alternatives(spans: Mapping[str, Mapping[str, Range]], group: str, base: str) -> list[str]:
    """The methods whose range of the group is another than that of `base` and of those before them."""
    seen, found = [spans[base][group]], []
    for method in METHODS:
        span = spans[method][group]
        if all(_distance(span, other) > LIKE for other in seen):
            seen.append(span)
            found.append(method)
    return found


def _by_disagreement(spans: Mapping[str, Mapping[str, Range]], base: str) -> Sequence[str]:
    """The groups, those first for which some method is farthest from `base`; equals in the order of the graph."""
    farthest = {
        group: max(_distance(spans[method][group], span) for method in METHODS) for group, span in spans[base].items()
    }
    return sorted(farthest, key=lambda group: -farthest[group])


def _distance(a: Range, b: Range) -> float:
    """The larger difference of the bounds, as a share of the wider span; 0 for two empty ones."""
    widest = max(a.high - a.low, b.high - b.low)
    return max(abs(a.low - b.low), abs(a.high - b.high)) / widest if widest > 0 else 0.0
