"""Quantization error of every layer: its INT8 values against the FP32 tensor of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantkit.report.accuracy import PowerRatio

if TYPE_CHECKING:
    import onnx

    from quantkit.execute import Session

Progress = Callable[[str, int, int | None], None]

QUANTIZED_SUFFIX = "_quantized"
"""The u8 value of FP32 tensor `x` is named `x_quantized` in a calibrated model."""


@dataclass(frozen=True)
class LayerError:
    """SQNR in dB of one quantized tensor, dequantized, all errors before it included."""

    name: str
    op: str
    tensor: str
    sqnr_db: float


def layer_errors(
    reference: onnx.ModelProto,
    session: Session,
    feeds: Iterable[Mapping[str, np.ndarray]],
    progress: Progress | None = None,
) -> list[LayerError]:
    """The error of every tensor that both models hold, in model order, summed over all of `feeds`."""
    from quantkit.observe import FloatRunner

    pairs = _pairs(reference, session)
    if not pairs:
        return []
    exposed = _exposing(reference, [layer.tensor for layer in pairs])
    runner = FloatRunner(exposed, session.threads)
    power = [PowerRatio() for _ in pairs]
    for done, batch in enumerate(feeds):
        fp32 = runner.run(batch, [layer.tensor for layer in pairs])
        int8 = session.run_intermediate([layer.value for layer in pairs], batch)
        for ratio, layer, expected in zip(power, pairs, fp32, strict=True):
            ratio.add(expected, int8[layer.value])
        if progress:
            progress("layers", done + 1, None)
    return [LayerError(layer.node, layer.op, layer.tensor, ratio.db) for layer, ratio in zip(pairs, power, strict=True)]


@dataclass(frozen=True)
class _Pair:
    """A value of the calibrated model, the node that makes it, and the FP32 tensor it stands for."""

    node: str
    op: str
    value: str
    tensor: str


def _pairs(reference: onnx.ModelProto, session: Session) -> list[_Pair]:
    """Every u8 value made by a quantkit op whose FP32 tensor is a node's output in `reference`."""
    made = {name for node in reference.graph.node for name in node.output}
    return [
        _Pair(node.name, node.op_type, value, value.removesuffix(QUANTIZED_SUFFIX))
        for node in session.nodes
        for value in node.outputs
        if value.endswith(QUANTIZED_SUFFIX) and value.removesuffix(QUANTIZED_SUFFIX) in made
    ]


def _exposing(reference: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """A copy of `reference` with `tensors` among its outputs."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(reference)
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in there)
    return model
