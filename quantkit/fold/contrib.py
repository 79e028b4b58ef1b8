"""The fused FP32 ops of onnxruntime are written out: files that it saved optimized, or that its transformer tools made.

Those ops have no INT8 form and hide products from the fusion; written out, they are what the exporter wrote.
Source: onnxruntime's ContribOperators.md, domain com.microsoft version 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.fold.contrib_attention import ATTENTION
from quantkit.fold.contrib_writer import MICROSOFT, Form, Writer, require_rank, require_unused
from quantkit.fold.editing import DONE_NOTHING, RefusalError, data_input, decide, forget_names, input_at, opset, rank
from quantkit.types import Decision

BLOCKED = "com.microsoft.nchwc"
"""Convolutions whose weights and maps onnxruntime has laid out in blocks for the CPU that it saved the file on."""
OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
AXES_OF_UNSQUEEZE = 13
"""The opset from which the axes of Unsqueeze and the sizes of Split are inputs: older files keep their fused ops."""


def _activated(writer: Writer, x: ir.Value, parameters: Sequence[float]) -> ir.Value:
    kind = writer.node.attributes.get_string("activation", "")
    if not kind:
        return x
    names = ACTIVATIONS.get(kind)
    if names is None:
        raise RefusalError(f"{writer.node.op_type} with the activation {kind}")
    if kind == "Clip":
        low, high = (writer.number(value) for value in parameters)
        return writer.emit("Clip", x, low, high)
    return writer.emit(kind, x, **dict(zip(names, parameters, strict=False)))


ACTIVATIONS = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
}  # fmt: skip
"""Activation of a fused layer -> the names of its parameters, in their order."""


def _conv(writer: Writer) -> dict[int, ir.Value]:
    """Conv, + z, activation."""
    node = writer.node
    own = ("activation", "activation_params")
    y = writer.placed("Conv", node.inputs[:3], [a for name, a in node.attributes.items() if name not in own])
    z = input_at(node, 3)
    total = y if z is None else writer.emit("Add", y, z)
    return {0: _activated(writer, total, node.attributes.get_floats("activation_params", ()) or ())}


def _gemm(writer: Writer) -> dict[int, ir.Value]:
    node = writer.node
    own = {name: node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
    turned = {name: node.attributes.get_int(name, 0) for name in ("transA", "transB")}
    parameters = [node.attributes.get_float(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")]
    y = writer.emit("Gemm", *node.inputs, **own, **turned)
    return {0: _activated(writer, y, [value for value in parameters if value is not None])}


def _matmul(writer: Writer) -> dict[int, ir.Value]:
    """alpha * A' B', of which each may have its last two axes exchanged."""
    node = writer.node
    if any(node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")):
        raise RefusalError("FusedMatMul that exchanges its batch axes")
    operands = [data_input(node), node.inputs[1]]
    for index, name in enumerate(("transA", "transB")):
        if node.attributes.get_int(name, 0) and require_rank(operands[index]) >= 2:  # type: ignore[arg-type]
            operands[index] = writer.swapped(operands[index])  # type: ignore[arg-type]
    y, alpha = writer.emit("MatMul", *operands), node.attributes.get_float("alpha", 1.0)
    return {0: y if alpha == 1.0 else writer.emit("Mul", y, writer.number(alpha))}


def _erf_gelu(writer: Writer, x: ir.Value) -> ir.Value:
    erf = writer.emit("Erf", writer.emit("Div", x, writer.number(np.sqrt(2.0))))
    return writer.emit("Mul", writer.emit("Mul", x, writer.emit("Add", erf, writer.number(1.0))), writer.number(0.5))


def _with_bias(writer: Writer) -> ir.Value:
    x, bias = data_input(writer.node), input_at(writer.node, 1)
    return x if bias is None else writer.emit("Add", x, bias)


def _gelu(writer: Writer) -> dict[int, ir.Value]:
    return {0: _erf_gelu(writer, _with_bias(writer))}


def _fast_gelu(writer: Writer) -> dict[int, ir.Value]:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))"""
    x = _with_bias(writer)
    cubed = writer.emit("Mul", writer.emit("Pow", x, writer.number(3.0)), writer.number(0.044715))
    inner = writer.emit("Mul", writer.emit("Add", x, cubed), writer.number(np.sqrt(2.0 / np.pi)))
    term = writer.emit("Add", writer.emit("Tanh", inner), writer.number(1.0))
    return {0: writer.emit("Mul", writer.emit("Mul", x, term), writer.number(0.5))}


def _quick_gelu(writer: Writer) -> dict[int, ir.Value]:
    """x sigmoid(alpha x)"""
    x, alpha = data_input(writer.node), writer.node.attributes.get_float("alpha", 1.702)
    inner = x if alpha == 1.0 else writer.emit("Mul", x, writer.number(alpha))
    return {0: writer.emit("Mul", x, writer.emit("Sigmoid", inner))}


def _skip_norm(writer: Writer) -> dict[int, ir.Value]:
    """LayerNormalization(input + skip + bias); output 3 is that sum."""
    total = _skip_sum(writer, 4)
    epsilon = writer.node.attributes.get_float("epsilon", 1e-12)
    y = writer.emit("LayerNormalization", total, *list(writer.node.inputs)[2:4], epsilon=epsilon, axis=-1)
    return {0: y} | _sum_output(writer, total)


def _skip_rms_norm(writer: Writer) -> dict[int, ir.Value]:
    """x / sqrt(mean(x^2) + epsilon) * gamma, x = input + skip + bias."""
    total = _skip_sum(writer, 3)
    return {0: _rms(writer, total, writer.node.inputs[2])} | _sum_output(writer, total)


def _skip_sum(writer: Writer, bias: int) -> ir.Value:
    node = writer.node
    require_unused(node, 1, 2)
    total = writer.emit("Add", data_input(node), node.inputs[1])
    return total if input_at(node, bias) is None else writer.emit("Add", total, input_at(node, bias))


def _sum_output(writer: Writer, total: ir.Value) -> dict[int, ir.Value]:
    return {3: total} if len(writer.node.outputs) > 3 else {}


def _rms(writer: Writer, x: ir.Value, gamma: ir.Value | None) -> ir.Value:
    epsilon = writer.node.attributes.get_float("epsilon", 1e-5)
    mean = writer.mean(writer.emit("Mul", x, x))
    root = writer.emit("Sqrt", writer.emit("Add", mean, writer.number(epsilon)))
    return writer.emit("Mul", writer.emit("Div", x, root), gamma)


def _rms_norm(writer: Writer) -> dict[int, ir.Value]:
    """SimplifiedLayerNormalization, which onnxruntime keeps in the domain ai.onnx."""
    require_unused(writer.node, 1)
    if writer.node.attributes.get_int("axis", -1) not in (-1, (rank(data_input(writer.node)) or 0) - 1):
        raise RefusalError("SimplifiedLayerNormalization over several axes")
    return {0: _rms(writer, data_input(writer.node), writer.node.inputs[1])}


def _blocked(writer: Writer) -> dict[int, ir.Value]:
    raise RefusalError(
        "onnxruntime has laid its weights out for one kind of CPU; give the model that this one was made from"
    )


FORMS: dict[tuple[str, str], Form] = {
    (MICROSOFT, "FusedConv"): _conv,
    (MICROSOFT, "FusedGemm"): _gemm,
    (MICROSOFT, "FusedMatMul"): _matmul,
    (MICROSOFT, "TransposeMatMul"): _matmul,
    (MICROSOFT, "Gelu"): _gelu,
    (MICROSOFT, "BiasGelu"): _gelu,
    (MICROSOFT, "FastGelu"): _fast_gelu,
    (MICROSOFT, "QuickGelu"): _quick_gelu,
    (MICROSOFT, "SkipLayerNormalization"): _skip_norm,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    (BLOCKED, "Conv"): _blocked,
    **ATTENTION,
}


def write_out_contrib(model: ir.Model) -> list[Decision]:
    """onnxruntime's fused float32 ops of the main graph as the standard ops that they stand for, from opset 13 on."""
    version = opset(model)
    if version < AXES_OF_UNSQUEEZE:
        return []
    forget_names(model.graph)
    decisions = []
    for node in list(model.graph):
        form = FORMS.get((node.domain, node.op_type))
        if form is None or any(value is not None and value.dtype in OTHER_FLOATS for value in node.inputs):
            continue
        writer, was = Writer(node, version), node.op_type
        try:
            writer.finish(form(writer))
            decisions.append(decide(node, "rewritten", f"{was} of onnxruntime as standard ops"))
        except RefusalError as refusal:
            writer.discard()
            decisions.append(decide(node, DONE_NOTHING, str(refusal)))
    return decisions
