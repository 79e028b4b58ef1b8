"""Models of which a part is quantized already: that part stays as it is, the rest is FP32 like any other model."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.foreign import to_static
from quantkit.fuse.graph import constant, is_standard, quantkit_name
from quantkit.load import artifact_kind
from quantkit.quantize.apply import finish_model
from quantkit.types import Decision

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def float_layers(model: ir.Model) -> list[ir.Node]:
    """The nodes with weights that are still float: not integers behind a DequantizeLinear."""
    return [node for node in model.graph if is_standard(node, *WEIGHTED) and constant(node.inputs[1]) is not None]


def rest_in_words(model: ir.Model) -> str:
    """What an error about an already quantized model adds where a part of it is FP32; empty if none is."""
    left = len(float_layers(model))
    return f". {left} of its layers are still FP32: --partial quantizes those" if left else ""


def adopt(model: ir.Model) -> list[Decision]:
    """The quantized part of a loaded model as static quantkit ops where it has such a form, in place.

    Says how much of the model is quantized already, and why a quantized node was left as it is.
    """
    decisions = to_static(model) if artifact_kind(model) == "foreign-int8" else []
    static = [name for name in map(quantkit_name, model.graph) if name is not None and name.level == "static"]
    layers = sum(name.is_weighted for name in static)
    note = f"{layers} layers with weights are quantized already and stay, {len(float_layers(model))} are FP32"
    return [Decision("load", "kept", "model", note), *decisions]


def settle(model: ir.Model) -> None:
    """The functions of the static nodes at the model's opset, which folding may have raised."""
    if any(quantkit_name(node) is not None for node in model.graph):
        finish_model(model)
