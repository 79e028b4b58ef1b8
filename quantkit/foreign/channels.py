"""Factors for each channel, as NNCF leaves them around convolutions, folded into the scales of integer weights.

BatchNormalization behind a convolution, and activations quantized per channel in front of a depthwise convolution.
The integers of the weights stay (or change sign); only scales and biases are multiplied, in float64, then float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.foreign.affine import real_constant
from quantkit.foreign.linear import LIMITS, Linear, constant_dequantize, linear_of
from quantkit.foreign.weights import BIAS_TOLERANCE, OUTPUT_AXIS, integer_weights
from quantkit.fuse.graph import Reject, constant, is_standard, new_initializer, only_consumer
from quantkit.fuse.patterns import activation_of


def absorb_batchnorms(model: ir.Model) -> None:
    """Folds BatchNormalization, in place; what cannot be folded runs in float32."""
    _wherever(model, "BatchNormalization", _absorb_batchnorm)


def absorb_channel_scales(model: ir.Model) -> None:
    """Folds the scales of activations quantized per channel, in place; what cannot be folded runs in float32."""
    _wherever(model, "QuantizeLinear", _absorb_channel_scales)


def _wherever(model: ir.Model, op_type: str, rule: Callable[[ir.Graph, ir.Node], None]) -> None:
    for node in [n for n in model.graph if is_standard(n, op_type)]:
        try:
            rule(model.graph, node)
        except Reject:
            continue  # what is left has its reason from convert


def _rewritten(graph: ir.Graph, conv: ir.Node, gain: np.ndarray, bias: np.ndarray | None) -> ir.Node:
    """A new node before `conv` with its integer weights times gain [C] and this bias [C]. Raises Reject."""
    source = constant_dequantize(conv.inputs[1])
    weights, scale = integer_weights(conv.inputs[1], conv.op_type)
    signs = (
        np.sign(gain)
        .astype(np.int16)
        .reshape([-1 if i == OUTPUT_AXIS[conv.op_type] else 1 for i in range(weights.ndim)])
    )
    signed = weights * signs
    if source is None or signed.max(initial=0) > LIMITS[weights.dtype][1]:
        raise Reject("a weight of -128 under a negative factor")
    new_scale = (scale * np.where(gain == 0, 1.0, np.abs(gain))).astype(np.float32)
    parts = {"weight": signed.astype(np.int8), "weight_scale": new_scale,
             "weight_zero_point": np.zeros(new_scale.shape, np.int8)}  # fmt: skip
    q, s, z = (new_initializer(graph, f"{conv.name}/{what}", array) for what, array in parts.items())
    dequantize = ir.node("DequantizeLinear", [q, s, z], {"axis": OUTPUT_AXIS[conv.op_type]}, name=source.name)
    out = dequantize.outputs[0]
    out.name, out.shape, out.type = f"{conv.name}/weight_real", q.shape, ir.TensorType(ir.DataType.FLOAT)
    inputs = [conv.inputs[0], out]
    if bias is not None:
        inputs.append(new_initializer(graph, f"{conv.name}/bias", bias.astype(np.float32)))
    new = ir.node(conv.op_type, inputs, {key: a.value for key, a in conv.attributes.items()}, name=conv.name)
    graph.insert_before(conv, [dequantize, new])
    return new


def _replace(graph: ir.Graph, old: list[ir.Node], value: ir.Value, by: ir.Value) -> None:
    by.shape, by.type, name = value.shape, value.type, value.name
    ir.convenience.replace_all_uses_with(value, by, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    by.name = name


def _bias(conv: ir.Node) -> np.ndarray | None:
    """The bias in float64, None if there is none."""
    value = conv.inputs[2] if len(conv.inputs) > 2 else None
    if value is None:
        return None
    node, array = constant_dequantize(value), constant(value)
    if node is not None:
        q, linear = constant(node.inputs[0]), linear_of(node)
        return (q.astype(np.float64) - linear.zero_point) * linear.scale  # type: ignore[union-attr]
    if array is None:
        raise Reject("the bias is not constant")
    return array.astype(np.float64)


def _convolution(value: ir.Value | None, reader: ir.Node) -> ir.Node:
    """The convolution that makes `value`, which only `reader` reads."""
    node = value.producer() if value is not None else None
    if value is None or node is None or not is_standard(node, "Conv") or only_consumer(value) is not reader:
        raise Reject("no convolution before it, or another reader of its output")
    return node


def _absorb_batchnorm(graph: ir.Graph, node: ir.Node) -> None:
    """y = g (conv(x) - mean) + beta, g = gamma / sqrt(variance + epsilon): ONNX BatchNormalization-15."""
    conv = _convolution(node.inputs[0], node)
    if node.attributes.get_int("training_mode"):
        raise Reject("it is in training mode")
    gamma, beta, mean, variance = (real_constant(value) for value in node.inputs[1:5])
    gain = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    before = _bias(conv)
    bias = gain * ((before if before is not None else 0.0) - mean) + beta
    new = _rewritten(graph, conv, gain, np.where(gain == 0, beta, bias))
    _replace(graph, [node, conv], node.outputs[0], new.outputs[0])


def _absorb_channel_scales(graph: ir.Graph, node: ir.Node) -> None:
    """conv -> [Relu or Clip] -> Q -> DQ -> depthwise conv, quantized per channel with scales s and one zero point:

    the first convolution times r / s, the second times s / r, and one scale r between them, the largest of s.
    """
    linear, readers = linear_of(node), _depthwise_readers(node)
    if linear.scale.size == 1:
        raise Reject("one scale")
    zero_point, scale = _one_zero_point(linear)
    unit = np.float32(scale.max())
    factor = scale / unit
    between = [new_initializer(graph, f"{node.name}/scale", np.array(unit, np.float32)),
               new_initializer(graph, f"{node.name}/zero_point", zero_point)]  # fmt: skip
    value, replaced = _scaled_source(graph, node, factor, unit, (linear.zero_point == zero_point).all())
    quantize = _inserted(graph, node, ir.node("QuantizeLinear", [value, *between]))
    for dequantize, reader in readers:
        real = _inserted(graph, dequantize, ir.node("DequantizeLinear", [quantize, *between]))
        weight = constant(constant_dequantize(reader.inputs[1]).inputs[0])  # type: ignore[union-attr]
        assert weight is not None
        scaled = _rewritten(graph, reader, np.repeat(factor, len(weight) // factor.size), _bias(reader))
        scaled.replace_input_with(0, real)
        _replace(graph, [reader, dequantize], reader.outputs[0], scaled.outputs[0])
    _replace(graph, [node, *replaced], node.outputs[0], quantize)


def _inserted(graph: ir.Graph, node: ir.Node, new: ir.Node) -> ir.Value:
    """The output of `new`, which now stands before `node` with its name, its output like that of `node`."""
    new.name, (out,), (like,) = node.name, new.outputs, node.outputs
    out.name, out.shape, out.type = f"{like.name}/scaled", like.shape, like.type
    graph.insert_before(node, new)
    return out


def _scaled_source(graph: ir.Graph, node: ir.Node, factor: np.ndarray, unit: np.float32,
                   one_zero_point: bool) -> tuple[ir.Value, list[ir.Node]]:  # fmt: skip
    """What `node` quantizes, divided by factor [C]: the new value, and the nodes that it takes the place of."""
    source = node.inputs[0]
    activation = source.producer() if source is not None else None
    if source is None or activation is None or only_consumer(source) is not node:
        raise Reject("another reader")
    chain = [] if is_standard(activation, "Conv") else [activation]
    conv = _convolution(activation.inputs[0], activation) if chain else _convolution(source, node)
    if chain:
        _require_scalable(activation, linear_of(node))
    elif not one_zero_point:
        raise Reject("several zero points, and values below 0")
    bias = _in_accumulator_steps(conv, _bias(conv), unit)
    new = _rewritten(graph, conv, 1 / factor, None if bias is None else bias / factor)
    value = new.outputs[0]
    value.name, value.shape, value.type = f"{conv.name}/scaled", source.shape, source.type
    if chain:
        value = _inserted(graph, activation, ir.node("Relu", [value]))
    return value, [*chain, conv]


def _in_accumulator_steps(conv: ir.Node, bias: np.ndarray | None, unit: np.float32) -> np.ndarray | None:
    """The bias rounded to x_scale * w_scale where that moves it by less than BIAS_TOLERANCE of `unit`.

    In a channel that is always 0 the steps of the output can be finer than those of the accumulator.
    """
    producer = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    if bias is None or producer is None or not is_standard(producer, "DequantizeLinear"):
        return bias
    step = linear_of(producer).scale.astype(np.float64) * integer_weights(conv.inputs[1], conv.op_type)[1]
    rounded = np.rint(bias / step) * step
    return np.where(np.abs(rounded - bias) <= BIAS_TOLERANCE * unit, rounded, bias)


def _one_zero_point(linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """(zero point [], scale float64 [C]): the smallest zero point, and the scales that give every channel its largest
    value with it.

    For channels with another zero point, which NNCF gives to those that are always 0, the steps become finer: a value
    moves by less than one of its old steps. Holds for values from 0 up.
    """
    lowest, top = linear.zero_point.min(), LIMITS[linear.zero_point.dtype][1]
    steps = top - linear.zero_point.astype(np.float64)
    if lowest == top or not steps.all():
        raise Reject("a zero point at the upper end")
    return lowest, linear.scale * (steps / (top - float(lowest)))


def _depthwise_readers(node: ir.Node) -> list[tuple[ir.Node, ir.Node]]:
    """The (DequantizeLinear, depthwise convolution) pairs that alone read the output of a QuantizeLinear."""
    wanted, found = linear_of(node), []
    if node.outputs[0].is_graph_output() or not node.outputs[0].uses():
        raise Reject("no reader")
    for use in node.outputs[0].uses():
        reader = only_consumer(use.node.outputs[0])
        if not is_standard(use.node, "DequantizeLinear") or reader is None or not is_standard(reader, "Conv"):
            raise Reject("a reader that is not a convolution")
        own = linear_of(use.node)
        agree = np.array_equal(own.scale, wanted.scale) and np.array_equal(own.zero_point, wanted.zero_point)
        if not agree or {own.axis, wanted.axis} != {1} or reader.attributes.get_int("group", 1) != own.scale.size:
            raise Reject("a reader that is not depthwise, or with other parameters")
        integer_weights(reader.inputs[1], "Conv")
        found.append((use.node, reader))
    return found


def _require_scalable(activation: ir.Node, linear: Linear) -> None:
    """The activation must be Relu in every channel: Relu itself, or a Clip at 0 whose maximum no channel can reach."""
    found = activation_of(activation)
    if found is None or found[0] not in ("Relu", "Clip"):
        raise Reject("an activation that a factor changes")
    if found[0] == "Clip":
        top = np.rint(np.float32(found[1]["max"]) / linear.scale) + linear.zero_point
        if found[1]["min"] != 0.0 or (top < LIMITS[linear.zero_point.dtype][1]).any():
            raise Reject("a Clip whose bounds differ from channel to channel")
