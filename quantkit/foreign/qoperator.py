"""quantkit's ops in QOperator form: integer operators with their scales as inputs, of ai.onnx and com.microsoft.

What has no such form is written out as DequantizeLinear -> op -> QuantizeLinear. Weights are u8 with zero point 128:
the same products as s8, and onnxruntime's u8 x u8 kernels do not saturate on CPUs without VNNI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.foreign.qdq import finish, put_in_place, write_bodies, write_out
from quantkit.foreign.site import Pair, Site, clamp_bounds
from quantkit.fuse.functions import emit_activation, emit_base
from quantkit.fuse.graph import Reject, constant, quantkit_name
from quantkit.fuse.opnames import BINARY, PRODUCTS, OpName

MICROSOFT = "com.microsoft"
SOFTMAX_OPSET = 13


def write_qoperators(model: ir.Model) -> None:
    """Rewrites every static quantkit node of a loaded model, in place; dynamic ones are written out as they are, and
    bodies of If and Loop in QDQ form."""
    for node in list(model.graph):
        name = quantkit_name(node)
        if name is None or name.level == "float":
            continue
        try:
            if name.level == "dynamic" or name.is_stream:
                raise Reject("its body is made of integer operators already, or of float32 ones for good")
            _write(Site(model.graph, node, name))
        except Reject:
            write_out(model.graph, node, name)
    write_bodies(model.graph)
    finish(model)
    if any(node.domain == MICROSOFT for node in model.graph):
        model.opset_imports.setdefault(MICROSOFT, 1)


def _write(site: Site) -> None:
    if site.name.base in MOVING:
        outputs = MOVING[site.name.base](site)
    else:
        target = site.pre or site.y
        value = OPERATORS.get(site.name.base, _refused)(site, target)
        outputs = [_activated(site, value, target)]
    put_in_place(site.node, site.emitter.nodes, outputs, site.name.base)


def _refused(site: Site, target: Pair) -> ir.Value:
    raise Reject(f"{site.name.base} has no QOperator form")


def _activated(site: Site, value: ir.Value, pair: Pair) -> ir.Value:
    """The activation after an op whose result is u8 with the parameters `pair`."""
    if site.pre:
        return _lookup(site, site.name.activation, [value, *site.pre])
    if not pair or site.name.activation not in ("Relu", "Clip"):
        return value
    low, high = clamp_bounds(site, site.params(pair))
    if (low, high) == (0, 255):
        return value  # saturation does it
    return site.emit("Clip", [value, site.constant("lowest", np.uint8(low)), site.constant("highest", np.uint8(high))])


LOOKUPS = {"Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu"}


def _lookup(site: Site, activation: str, triple: Sequence[ir.Value | None]) -> ir.Value:
    """An activation that is a table: its own operator, else in float32 between two parameters."""
    attributes = site.node.attributes
    if activation in LOOKUPS:
        own = {"alpha": attributes["alpha"].as_float()} if activation == "LeakyRelu" else {}
        return site.emit(LOOKUPS[activation], [*triple, *site.y], own, MICROSOFT)
    real = site.emit("DequantizeLinear", triple)
    value = emit_activation(site.emitter, OpName("Conv", activation=activation), real, attributes)
    return site.emit("QuantizeLinear", [value, *site.y])


def _in_float(site: Site, target: Pair) -> ir.Value:
    """f32(acc) * s_x * s_w [+ residual], quantized unless the op ends in float32."""
    scale = site.over_channels(site.array(7))
    value = site.cast(site.accumulator(), ir.DataType.FLOAT)
    value = site.emit("Mul", [value, site.constant("real_scale", scale)])
    if site.name.add:
        value = site.emit("Add", [value, site.emit("DequantizeLinear", site.operands[8:11])])
    if site.name.to_float or site.name.is_wide:
        value = emit_activation(site.emitter, site.name, value, site.node.attributes)
    if site.name.to_float:
        return value
    return site.emit("QuantizeLinear", [value, *target])


def _conv(site: Site, target: Pair) -> ir.Value:
    if site.name.add or site.name.to_float or site.name.is_wide:
        return _in_float(site, target)
    weights, scale = site.weights()
    own = {key: site.node.attributes[key] for key in ("strides", "pads", "dilations", "group")}
    inputs = [*site.operands[:3], weights, site.operands[4], site.zero_points(scale.size), *target, site.operands[6]]
    return site.emit("QLinearConv", inputs, own)


def _gemm(site: Site, target: Pair) -> ir.Value:
    if site.name.add or site.name.is_wide:
        return _in_float(site, target)
    weights, scale = site.weights()
    inputs = [*site.operands[:3], weights, site.operands[4], site.zero_points(scale.size), site.operands[6], *target]
    return site.emit("QGemm", inputs, {"transB": 1}, MICROSOFT)


def _matmul(site: Site, target: Pair) -> ir.Value:
    if site.name.add or site.name.to_float or site.name.is_wide or site.array(6).any():
        return _in_float(site, target)
    weights, scale = site.weights()
    inputs = [*site.operands[:3], weights, site.operands[4], site.zero_points(scale.size), *target]
    return site.emit("QLinearMatMul", inputs)


def _product(site: Site, target: Pair) -> ir.Value:
    return site.emit("QLinearMatMul", [*site.operands, *target])


def _binary(site: Site, target: Pair) -> ir.Value:
    return site.emit(f"QLinear{site.name.base}", [*site.operands, *target], {}, MICROSOFT)


def _concat(site: Site, target: Pair) -> ir.Value:
    return site.emit("QLinearConcat", [*target, *site.operands], {"axis": site.node.attributes["axis"]}, MICROSOFT)


def _average_pool(site: Site, target: Pair) -> ir.Value:
    attributes = site.node.attributes
    if "dilations" in attributes and set(attributes["dilations"].as_ints()) != {1}:
        raise Reject("dilated average pooling")
    if attributes["ceil_mode"].as_int():
        raise Reject("onnxruntime counts the positions beyond the padding in QLinearAveragePool")
    own = {key: attributes[key] for key in ("kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad")}
    return site.emit("QLinearAveragePool", [*site.operands, *target], own, MICROSOFT)


def _global_average(site: Site, target: Pair) -> ir.Value:
    return site.emit("QLinearGlobalAveragePool", [*site.operands, *target], {"channels_last": 0}, MICROSOFT)


def _reduce_mean(site: Site, target: Pair) -> ir.Value:
    """The mean over the pixels of an image; QLinearReduceMean has no kernel in onnxruntime."""
    x, attributes = site.operands[0], site.node.attributes
    rank = len(x.shape) if x is not None and x.shape is not None else 0
    if rank < 3 or list(attributes["axes"].as_ints()) != list(range(2, rank)):
        raise Reject("a mean over other axes than the spatial ones")
    mean = _global_average(site, target)
    return mean if attributes["keepdims"].as_int() else site.emit("Flatten", [mean], {"axis": 1})


def _softmax(site: Site, target: Pair) -> ir.Value:
    own = {"axis": site.node.attributes["axis"], "opset": SOFTMAX_OPSET}
    return site.emit("QLinearSoftmax", [*site.operands, *target], own, MICROSOFT)


def _unary(activation: str) -> Callable[[Site, Pair], ir.Value]:
    return lambda site, target: _lookup(site, activation, site.operands)


OPERATORS: dict[str, Callable[[Site, Pair], ir.Value]] = {
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


def _moved(site: Site) -> list[ir.Value]:
    """An op that moves bytes: itself, on u8."""
    x, own = site.operands[0], list(site.operands[3:])
    pairs = [[constant(value) for value in pair] for pair in (site.operands[1:3], site.y)]
    if any((a != b).any() for a, b in zip(*pairs, strict=True)):  # type: ignore[union-attr]
        raise Reject("its output has other parameters than its input")
    if site.name.base == "Pad":
        own.append(site.operands[2])
    values = emit_base(site.emitter, site.name, [x], own, site.node.attributes)  # type: ignore[list-item,arg-type]
    return list(values) if isinstance(values, Sequence) else [values]


def _resized(site: Site) -> list[ir.Value]:
    if site.node.attributes["mode"].as_string() != "nearest":
        raise Reject("onnxruntime cuts off interpolated bytes instead of rounding them")
    return _moved(site)


MOVING: dict[str, Callable[[Site], list[ir.Value]]] = {
    **dict.fromkeys(
        ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Gather"),
        _moved,
    ),
    "ResizeScales": _resized,
    "ResizeSizes": _resized,
}
"""Base op -> its outputs, for ops that keep values as they are."""
