"""Quantization error of every layer: its INT8 values against the FP32 tensor of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.execute.intermediate import expose
from quantkit.execute.session import Session
from quantkit.load import load
from quantkit.load.kind import DOMAIN
from quantkit.observe import FloatRunner
from quantkit.quantize.apply import quantized_name
from quantkit.report.accuracy import PowerRatio

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class LayerError:
    """SQNR in dB of one tensor of the INT8 model, dequantized, the errors of all layers before it included."""

    name: str
    op: str
    tensor: str
    sqnr_db: float


def layer_errors(
    reference: onnx.ModelProto,
    int8: Any,
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    threads: int | None = None,
    isa: str | None = None,
    progress: Progress | None = None,
) -> list[LayerError]:
    """The error of every tensor that a quantkit op makes and `reference` has too, in model order, over all `feeds`.

    reference: FP32 model of standard ops. int8: path, ModelProto or onnx_ir.Model of the calibrated model.
    """
    model = load(int8)
    pairs = _pairs(reference, model)
    if not pairs:
        return []
    tensors, values = [pair.tensor for pair in pairs], [pair.value for pair in pairs]
    float_runner = FloatRunner(reference, threads, expose=tensors)
    session = Session(expose(model, values), threads, isa)
    power = [PowerRatio() for _ in pairs]
    for done, batch in enumerate(feeds):
        arrays = zip(power, float_runner.run(batch, tensors), session.run(values, batch), strict=True)
        for ratio, expected, got in arrays:
            ratio.add(expected, got)
        if progress:
            progress("layers", done + 1, None)
    return [LayerError(pair.name, pair.op, pair.tensor, ratio.db) for pair, ratio in zip(pairs, power, strict=True)]


@dataclass(frozen=True)
class _Pair:
    """A value of the calibrated model, the node that makes it, and the FP32 tensor it stands for."""

    name: str
    op: str
    value: str
    tensor: str


def _pairs(reference: onnx.ModelProto, model: ir.Model) -> list[_Pair]:
    """Every value of a quantkit op that stands for a node's output in `reference`: u8, or float32 of the same name."""
    made = [name for node in reference.graph.node for name in node.output if name]
    tensor_of = {**{name: name for name in made}, **{quantized_name(name): name for name in made}}
    return [
        _Pair(node.name or "", node.op_type, value.name or "", tensor_of[value.name or ""])
        for node in model.graph
        if node.domain == DOMAIN
        for value in node.outputs
        if value.name in tensor_of
    ]
