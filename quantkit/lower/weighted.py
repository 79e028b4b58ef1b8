"""Conv, Gemm and MatMul with constant weights: one engine op with its whole epilogue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.activations import ACTIVATIONS, WIDE, lookup_table
from quantkit.fuse.graph import Reject, constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import NO_BUFFER, Lowering
from quantkit.lower.plan import PackedSpec, Ref
from quantkit.lower.views import View, row_major
from quantkit.types import QMAX, QMIN, QuantParams

X_PARAMS, W, W_SCALE, BIAS, AFTER_BIAS = 1, 3, 4, 6, 8
"""Positions of a weighted node's inputs; r and its parameters, then the pre pair, then the y pair follow."""
HARD_SWISH, LEAKY_RELU = 1, 2
"""qk_wide_activation of native/qk.h."""
SHIFT_MOST = 2.0**20
"""Output steps beyond which the engine clamps before it rounds: see qk_epilogue.steepest."""
REAL = QuantParams(1.0, 0)
"""Steps of 1: what the sums in front of a wide activation are scaled to."""


def activation_attributes(node: ir.Node, activation: str) -> dict[str, Any]:
    """The attributes of the activation that `node` holds, such as alpha; those by channel as float64 [C]."""
    row = ACTIVATIONS[activation]
    numbers = {key: float(node.attributes[key].as_float()) for key in row.attributes}
    arrays = {key: node.attributes[key].as_tensor().numpy().astype(np.float64).reshape(-1) for key in row.by_channel}
    return {**numbers, **arrays}


def clamp_bounds(node: ir.Node, activation: str, y: QuantParams) -> tuple[int, int]:
    """The u8 bounds that Relu or Clip put on a tensor with parameters y."""
    if activation not in ("Relu", "Clip"):
        return QMIN, QMAX
    if activation == "Relu":
        return y.zero_point, QMAX
    bounds = activation_attributes(node, "Clip")
    with np.errstate(over="ignore"):
        low, high = (
            np.clip(np.rint(np.float32(bounds[key]) / np.float32(y.scale)) + np.float32(y.zero_point), QMIN, QMAX)
            for key in ("min", "max")
        )
    return int(min(low, high)), int(high)


def epilogue(node: ir.Node, name: OpName, after: int, context: Lowering) -> tuple[QuantParams, dict[str, Any]]:
    """The parameters that accumulators are requantized to, and the fields of qk_epilogue but for the residual's.

    Behind a wide activation the parameters are REAL: sums are scaled to the values that they stand for."""
    if name.is_wide:
        return REAL, wide_fields(node, name.activation, context.params(node, after), _channels(node))
    if not name.is_lookup:
        y = context.params(node, after)
        low, high = clamp_bounds(node, name.activation, y)
        return y, {"zero_point": y.zero_point, "low": low, "high": high}
    pre, y = context.params(node, after), context.params(node, after + 2)
    attributes = activation_attributes(node, name.activation)
    table = lookup_table(name.activation, attributes, pre.scale, pre.zero_point, y.scale, y.zero_point)
    fields = {"zero_point": pre.zero_point, "low": QMIN, "high": QMAX, "table": np.frombuffer(table, np.uint8)}
    return pre, fields


def _channels(node: ir.Node) -> int:
    bias = constant(node.inputs[BIAS])
    assert bias is not None
    return bias.size


def wide_fields(node: ir.Node, activation: str, y: QuantParams, channels: int) -> dict[str, Any]:
    """The fields of qk_epilogue for an activation on the sums, to u8 with parameters y."""
    attributes = activation_attributes(node, activation)
    fields: dict[str, Any] = {"zero_point": y.zero_point, "low": QMIN, "high": QMAX}
    if activation == f"{WIDE}LeakyRelu":
        slopes = {"rising": 1.0 / y.scale, "falling": attributes["alpha"] / y.scale}
        return fields | {"activation": LEAKY_RELU, **slopes}
    scale, shift = (
        np.broadcast_to(np.float32(attributes.get(key, default) / divisor), channels).copy()
        for key, default, divisor in (("scale", 1.0, 6.0 * y.scale), ("shift", 0.0, y.scale))
    )
    steepest = 6.0 * float(np.abs(scale).max()) if np.abs(shift).max() <= SHIFT_MOST else np.inf
    shifts = {"activation_shift": shift} if shift.any() else {}
    return fields | {"activation": HARD_SWISH, "activation_scale": scale, "steepest": steepest, **shifts}


def conv_geometry(node: ir.Node, name: OpName) -> dict[str, int]:
    """Kernel, strides, dilations, first pads and groups, in two dimensions (1D convolutions get height 1)."""
    if name.base != "Conv":
        return {"kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1,
                "pad_top": 0, "pad_left": 0, "groups": 1}  # fmt: skip
    array = constant(node.inputs[W])
    assert array is not None
    one = array.ndim == 3
    kernel = ([1] if one else []) + list(array.shape[2:])
    strides, dilations = ([1] if one else []) + ints(node, "strides"), ([1] if one else []) + ints(node, "dilations")
    pads = ints(node, "pads")
    top, left = (0, pads[0]) if one else (pads[0], pads[1])
    return {"kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": strides[0], "stride_w": strides[1],
            "dilation_h": dilations[0], "dilation_w": dilations[1], "pad_top": top, "pad_left": left,
            "groups": node.attributes["group"].as_int()}  # fmt: skip


def ints(node: ir.Node, key: str) -> list[int]:
    """An attribute that is a list of integers. Raises KeyError if `node` has none of this name."""
    return list(node.attributes[key].as_ints())


def _kernel_layout(node: ir.Node, name: OpName) -> np.ndarray:
    """Weights as s8 [out_c, kernel_h, kernel_w, in_c / groups]: a view; copies of all layers would stay in memory."""
    w = constant(node.inputs[W])
    assert w is not None
    if name.base == "Conv":
        return np.moveaxis(w if w.ndim == 4 else w[:, :, None, :], 1, 3)
    return (w if name.base == "Gemm" else w.T)[:, None, None, :]


def pack_spec(node: ir.Node, name: OpName, context: Lowering) -> PackedSpec:
    """The weights, bias and multipliers of a node, ready for the engine to pack."""
    x = context.params(node, X_PARAMS)
    scale, bias = constant(node.inputs[W_SCALE]), constant(node.inputs[BIAS])
    assert scale is not None
    assert bias is not None
    weights = _kernel_layout(node, name)
    multiplier = x.scale * scale.astype(np.float64)
    if not name.to_float:
        y, _ = epilogue(node, name, AFTER_BIAS + 3 * name.add, context)
        multiplier = multiplier / y.scale
    geometry = conv_geometry(node, name)
    params = {**geometry, "in_c": weights.shape[3] * geometry["groups"], "out_c": weights.shape[0],
              "in_zero_point": x.zero_point}  # fmt: skip
    return PackedSpec(weights, bias.astype(np.int32), multiplier.astype(np.float32), params)


def _output_size(size: int, kernel: int, stride: int, dilation: int, pad: int) -> int:
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1


def _conv_sizes(node: ir.Node, name: OpName, x: View, geometry: dict[str, int]) -> tuple[list[int], tuple[int, int]]:
    """([in_h, in_w, out_h, out_w], output spatial dims as ONNX has them is derived by the caller)."""
    spatial = list(x.dims[2:])
    in_h, in_w = ([1] if len(spatial) == 1 else []) + spatial
    pads = ints(node, "pads")
    total_h, total_w = (0, pads[0] + pads[1]) if len(pads) == 2 else (pads[0] + pads[2], pads[1] + pads[3])
    out_h = _output_size(in_h, geometry["kernel_h"], geometry["stride_h"], geometry["dilation_h"], total_h)
    out_w = _output_size(in_w, geometry["kernel_w"], geometry["stride_w"], geometry["dilation_w"], total_w)
    return [in_h, in_w], (out_h, out_w)


def lower_weighted(context: Lowering, node: ir.Node, name: OpName) -> None:
    """One QK_CONV op; Gemm and MatMul are 1x1 convolutions over rows."""
    spec = context.weights.get(node.name or "") or pack_spec(node, name, context)
    out_c = spec.params["out_c"]
    source = context.view(node.inputs[0])
    if name.base == "Conv":
        x, pitch = context.pixels(source)
        (in_h, in_w), (out_h, out_w) = _conv_sizes(node, name, x, spec.params)  # type: ignore[arg-type]
        batch, dims = x.dims[0], (x.dims[0], out_c, *((out_h, out_w) if len(x.dims) == 4 else (out_w,)))
    else:
        x, pitch = context.rows(source)
        in_h = out_h = int(np.prod(x.dims[:-1], dtype=np.int64))
        in_w = out_w = batch = 1
        dims = (*x.dims[:-1], out_c)
    sizes = {"batch": batch, "in_h": in_h, "in_w": in_w, "in_pitch": pitch, "out_h": out_h, "out_w": out_w}
    spec = replace(spec, params={**sizes, **spec.params})  # the first sizes help to choose the kernel
    context.weights[node.name or ""] = spec
    _emit(context, node, name, spec, Ref(x.buffer, x.offset), sizes, dims)


def _emit(context: Lowering, node: ir.Node, name: OpName, spec: PackedSpec, x: Ref, sizes: dict[str, int],
          dims: tuple[int, ...]) -> None:  # fmt: skip
    out = node.outputs[0]
    as_channels = name.base == "Conv"
    params: dict[str, Any] = {**spec.params, **sizes}
    if name.to_float:
        _emit_float(context, node, params, x, dims, as_channels)
        return
    y, fields = epilogue(node, name, AFTER_BIAS + 3 * name.add, context)
    residual = Ref(NO_BUFFER)
    if name.add:
        r = context.params(node, AFTER_BIAS + 1)
        layout = context.pixels if as_channels else context.rows
        r_view, params["residual_pitch"] = layout(context.view(node.inputs[AFTER_BIAS]))
        if r_view.dims != dims:
            raise Reject(f"residual has shape {r_view.dims}, the output {dims}")
        residual = Ref(r_view.buffer, r_view.offset)
        fields |= {"residual_multiplier": float(np.float32(r.scale / y.scale)), "residual_zero_point": r.zero_point}
    params["epilogue"] = fields
    if as_channels:
        view = context.allocate(out, dims)
        _, params["out_pitch"] = context.pixels(view)
    else:
        view = context.set(out, context.temporary(dims, row_major(dims)))
        params["out_pitch"] = dims[-1]
    context.emit("QK_CONV", [x, residual], Ref(view.buffer, view.offset), params, weights=node.name)


def _emit_float(context: Lowering, node: ir.Node, params: dict[str, Any], x: Ref, dims: tuple[int, ...],
                as_channels: bool) -> None:  # fmt: skip
    """Float32 output straight from the accumulators. Rows are already in ONNX's order; images are transposed after."""
    params["epilogue"] = {"to_float": 1}
    params["out_pitch"] = params["out_c"]
    external = context.float_output(node.outputs[0], dims)
    if not as_channels or params["out_h"] * params["out_w"] == 1:
        context.emit("QK_CONV", [x, Ref(NO_BUFFER)], Ref(external), params, weights=node.name)
        return
    size = int(np.prod(dims, dtype=np.int64))
    scratch = context.temporary((size * 4,), (1,))
    context.emit("QK_CONV", [x, Ref(NO_BUFFER)], Ref(scratch.buffer), params, weights=node.name)
    context.float_to_channels_first(scratch, external, dims)
