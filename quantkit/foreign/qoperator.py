"""quantkit's ops in QOperator form: integer operators with their scales as inputs, of ai.onnx and com.microsoft.

What has no such form is written out as DequantizeLinear -> op -> QuantizeLinear. Weights are u8 with zero point 128:
the same products as s8, and onnxruntime's u8 x u8 kernels do not saturate on CPUs without VNNI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.foreign.qdq import finish, put_in_place, write_bodies, write_out
from quantkit.fuse.functions import Emitter, emit_activation, emit_base
from quantkit.fuse.graph import Reject, constant, new_initializer, quantkit_name
from quantkit.fuse.opnames import BINARY, PRODUCTS, OpName

MICROSOFT = "com.microsoft"
WEIGHT_ZERO_POINT = 128
SOFTMAX_OPSET = 13
Pair = Sequence[ir.Value | None]


def write_qoperators(model: ir.Model) -> None:
    """Rewrites every static quantkit node of a loaded model, in place; dynamic ones are written out as they are, and
    bodies of If and Loop in QDQ form."""
    for node in list(model.graph):
        name = quantkit_name(node)
        if name is None or name.level == "float":
            continue
        try:
            if name.level == "dynamic":
                raise Reject("its body is made of integer operators already")
            _write(_Site(model, node, name))
        except Reject:
            write_out(model.graph, node, name)
    write_bodies(model.graph)
    finish(model)
    if any(node.domain == MICROSOFT for node in model.graph):
        model.opset_imports.setdefault(MICROSOFT, 1)


class _Site:
    """The new nodes for one static node, and its operands by name."""

    def __init__(self, model: ir.Model, node: ir.Node, name: OpName) -> None:
        self.graph, self.node, self.name = model.graph, node, name
        self.emitter = Emitter(model.opset_imports[""], prefix=f"{node.name}/")
        inputs = list(node.inputs)
        self.y: Pair = [] if name.to_float else inputs[-2:]
        rest = inputs if name.to_float else inputs[:-2]
        self.pre: Pair = rest[-2:] if name.is_lookup else []
        self.operands = rest[: len(rest) - len(self.pre)]

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None,
             domain: str = "") -> ir.Value:  # fmt: skip
        value = self.emitter(op_type, inputs, attributes or {})
        self.emitter.nodes[-1].domain = domain
        return value

    def constant(self, what: str, array: np.ndarray) -> ir.Value:
        return new_initializer(self.graph, f"{self.node.name}/{what}", array)

    def array(self, index: int) -> np.ndarray:
        found = constant(self.operands[index])
        if found is None:
            raise Reject(f"operand {index} is computed at run time")
        return found

    def weights(self) -> tuple[ir.Value, np.ndarray]:
        """The weights as u8, in the op's layout, and their scale float32 [C]."""
        shifted = (self.array(3).astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)
        return self.constant("weight_u8", shifted), self.array(4)

    def zero_points(self, count: int | None = None) -> ir.Value:
        """The zero point of the weights: one, or one a channel."""
        shape = () if count is None else (count,)
        return self.constant("weight_u8_zero_point", np.full(shape, WEIGHT_ZERO_POINT, np.uint8))


def _write(site: _Site) -> None:
    if site.name.base in MOVING:
        outputs = MOVING[site.name.base](site)
    else:
        target = site.pre or site.y
        value = OPERATORS.get(site.name.base, _refused)(site, target)
        outputs = [_activated(site, value, target)]
    put_in_place(site.node, site.emitter.nodes, outputs, site.name.base)


def _refused(site: _Site, target: Pair) -> ir.Value:
    raise Reject(f"{site.name.base} has no QOperator form")


def _activated(site: _Site, value: ir.Value, pair: Pair) -> ir.Value:
    """The activation after an op whose result is u8 with the parameters `pair`."""
    if site.pre:
        return _lookup(site, site.name.activation, [value, *site.pre])
    if not pair or site.name.activation not in ("Relu", "Clip"):
        return value
    attributes = site.node.attributes
    real = (0.0, np.inf) if site.name.activation == "Relu" else (
        attributes["min"].as_float(), attributes["max"].as_float())  # fmt: skip
    scale, zero_point = (constant(value) for value in pair)
    assert scale is not None
    assert zero_point is not None
    low, high = np.clip(np.rint(np.array(real, np.float32) / scale) + float(zero_point), 0, 255).astype(np.uint8)
    if (low, high) == (0, 255):
        return value  # saturation does it
    return site.emit("Clip", [value, site.constant("lowest", low), site.constant("highest", high)])


LOOKUPS = {"Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu"}


def _lookup(site: _Site, activation: str, triple: Sequence[ir.Value | None]) -> ir.Value:
    """An activation that is a table: its own operator, else in float32 between two parameters."""
    attributes = site.node.attributes
    if activation in LOOKUPS:
        own = {"alpha": attributes["alpha"].as_float()} if activation == "LeakyRelu" else {}
        return site.emit(LOOKUPS[activation], [*triple, *site.y], own, MICROSOFT)
    real = site.emit("DequantizeLinear", triple)
    value = emit_activation(site.emitter, OpName("Conv", activation=activation), real, attributes)
    return site.emit("QuantizeLinear", [value, *site.y])


def _accumulator(site: _Site) -> ir.Value:
    """int32: the exact sums of products with the bias, of Conv, Gemm or MatMul."""
    x, _, x_zero_point = site.operands[:3]
    weights, _ = site.weights()
    bias = site.array(6)
    if site.name.base == "Conv":
        keys = ("strides", "pads", "dilations", "group")
        own = {key: site.node.attributes[key] for key in keys}
        bias = bias.reshape(-1, *[1] * len(site.node.attributes["strides"].as_ints()))
        acc = site.emit("ConvInteger", [x, weights, x_zero_point, site.zero_points()], own)
    else:
        if site.name.base == "Gemm":
            weights = site.constant("weight_u8", np.ascontiguousarray(constant(weights).T))  # type: ignore[union-attr]
        acc = site.emit("MatMulInteger", [x, weights, x_zero_point, site.zero_points()])
    acc.type = ir.TensorType(ir.DataType.INT32)
    return site.emit("Add", [acc, site.constant("bias_int32", bias)]) if bias.any() else acc


def _in_float(site: _Site, target: Pair) -> ir.Value:
    """f32(acc) * s_x * s_w [+ residual], quantized unless the op ends in float32."""
    acc = _accumulator(site)
    scale = site.array(7)
    if site.name.base == "Conv":
        scale = scale.reshape(-1, *[1] * len(site.node.attributes["strides"].as_ints()))
    value = site.emit("Cast", [acc], {"to": int(ir.DataType.FLOAT)})
    value = site.emit("Mul", [value, site.constant("real_scale", scale)])
    if site.name.add:
        value = site.emit("Add", [value, site.emit("DequantizeLinear", site.operands[8:11])])
    if site.name.to_float or site.name.is_wide:
        value = emit_activation(site.emitter, site.name, value, site.node.attributes)
    if site.name.to_float:
        return value
    return site.emit("QuantizeLinear", [value, *target])


def _conv(site: _Site, target: Pair) -> ir.Value:
    if site.name.add or site.name.to_float or site.name.is_wide:
        return _in_float(site, target)
    weights, scale = site.weights()
    own = {key: site.node.attributes[key] for key in ("strides", "pads", "dilations", "group")}
    inputs = [*site.operands[:3], weights, site.operands[4], site.zero_points(scale.size), *target, site.operands[6]]
    return site.emit("QLinearConv", inputs, own)


def _gemm(site: _Site, target: Pair) -> ir.Value:
    if site.name.add or site.name.is_wide:
        return _in_float(site, target)
    weights, scale = site.weights()
    inputs = [*site.operands[:3], weights, site.operands[4], site.zero_points(scale.size), site.operands[6], *target]
    return site.emit("QGemm", inputs, {"transB": 1}, MICROSOFT)


def _matmul(site: _Site, target: Pair) -> ir.Value:
    if site.name.add or site.name.to_float or site.name.is_wide or site.array(6).any():
        return _in_float(site, target)
    weights, scale = site.weights()
    inputs = [*site.operands[:3], weights, site.operands[4], site.zero_points(scale.size), *target]
    return site.emit("QLinearMatMul", inputs)


def _product(site: _Site, target: Pair) -> ir.Value:
    return site.emit("QLinearMatMul", [*site.operands, *target])


def _binary(site: _Site, target: Pair) -> ir.Value:
    return site.emit(f"QLinear{site.name.base}", [*site.operands, *target], {}, MICROSOFT)


def _concat(site: _Site, target: Pair) -> ir.Value:
    return site.emit("QLinearConcat", [*target, *site.operands], {"axis": site.node.attributes["axis"]}, MICROSOFT)


def _average_pool(site: _Site, target: Pair) -> ir.Value:
    attributes = site.node.attributes
    if "dilations" in attributes and set(attributes["dilations"].as_ints()) != {1}:
        raise Reject("dilated average pooling")
    if attributes["ceil_mode"].as_int():
        raise Reject("onnxruntime counts the positions beyond the padding in QLinearAveragePool")
    own = {key: attributes[key] for key in ("kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad")}
    return site.emit("QLinearAveragePool", [*site.operands, *target], own, MICROSOFT)


def _global_average(site: _Site, target: Pair) -> ir.Value:
    return site.emit("QLinearGlobalAveragePool", [*site.operands, *target], {"channels_last": 0}, MICROSOFT)


def _reduce_mean(site: _Site, target: Pair) -> ir.Value:
    """The mean over the pixels of an image; QLinearReduceMean has no kernel in onnxruntime."""
    x, attributes = site.operands[0], site.node.attributes
    rank = len(x.shape) if x is not None and x.shape is not None else 0
    if rank < 3 or list(attributes["axes"].as_ints()) != list(range(2, rank)):
        raise Reject("a mean over other axes than the spatial ones")
    mean = _global_average(site, target)
    return mean if attributes["keepdims"].as_int() else site.emit("Flatten", [mean], {"axis": 1})


def _softmax(site: _Site, target: Pair) -> ir.Value:
    own = {"axis": site.node.attributes["axis"], "opset": SOFTMAX_OPSET}
    return site.emit("QLinearSoftmax", [*site.operands, *target], own, MICROSOFT)


def _unary(activation: str) -> Callable[[_Site, Pair], ir.Value]:
    return lambda site, target: _lookup(site, activation, site.operands)


OPERATORS: dict[str, Callable[[_Site, Pair], ir.Value]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys([base for base in BINARY if base != "Sub"], _binary),
    "Concat": _concat,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce_mean,
    "Softmax": _softmax,
    **{activation: _unary(activation) for activation in LOOKUPS},
}
"""Base op -> its u8 result with given parameters, before the activation."""


def _moved(site: _Site) -> list[ir.Value]:
    """An op that moves bytes: itself, on u8."""
    x, own = site.operands[0], list(site.operands[3:])
    pairs = [[constant(value) for value in pair] for pair in (site.operands[1:3], site.y)]
    if any((a != b).any() for a, b in zip(*pairs, strict=True)):  # type: ignore[union-attr]
        raise Reject("its output has other parameters than its input")
    if site.name.base == "Pad":
        own.append(site.operands[2])
    values = emit_base(site.emitter, site.name, [x], own, site.node.attributes)  # type: ignore[list-item,arg-type]
    return list(values) if isinstance(values, Sequence) else [values]


def _resized(site: _Site) -> list[ir.Value]:
    if site.node.attributes["mode"].as_string() != "nearest":
        raise Reject("onnxruntime cuts off interpolated bytes instead of rounding them")
    return _moved(site)


MOVING: dict[str, Callable[[_Site], list[ir.Value]]] = {
    **dict.fromkeys(
        ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Gather"),
        _moved,
    ),
    "ResizeScales": _resized,
    "ResizeSizes": _resized,
}
"""Base op -> its outputs, for ops that keep values as they are."""
