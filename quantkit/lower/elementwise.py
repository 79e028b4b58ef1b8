"""Quantize and dequantize at the edges, activations by table, and binary ops with broadcasting."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.activations import ACTIVATIONS, lookup_table
from quantkit.fuse.graph import constant, quantkit_name
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref
from quantkit.lower.views import View, channels_last_order, merge, nested_like, row_major
from quantkit.lower.weighted import epilogue

BINARY_DIMS = 3


def _is_stream(value: ir.Value | None) -> bool:
    """Made by an op whose activations are float32, in rows."""
    node = value.producer() if value is not None else None
    name = quantkit_name(node) if node is not None else None
    return name is not None and name.is_stream


def _run_sizes(dims: tuple[int, ...]) -> dict[str, int]:
    """A tensor that lies alike on both sides, as one run of pixels."""
    return {"batch": 1, "channels": 1, "pixels": int(np.prod(dims, dtype=np.int64))}


def _convert_sizes(dims: tuple[int, ...]) -> dict[str, int]:
    """batch, channels and pixels of a float tensor; below rank 3 the layouts agree and it is one run of pixels."""
    if len(dims) < 3:
        return _run_sizes(dims)
    return {"batch": dims[0], "channels": dims[1], "pixels": int(np.prod(dims[2:], dtype=np.int64))}


def lower_quantize(context: Lowering, node: ir.Node, name: OpName | None) -> None:
    """QuantizeLinear: float32 in ONNX's layout -> u8 channels last; of a float32 sum or normalization, as it lies."""
    source, dims = context.floats[node.inputs[0]]  # type: ignore[index]
    p = context.params(node, 1)
    if _is_stream(node.inputs[0]):
        rows = context.set(node.outputs[0], context.temporary(dims, row_major(dims)))
        params = {**_run_sizes(dims), "pitch": 1, "scale": p.scale, "zero_point": p.zero_point}
        context.emit("QK_QUANTIZE", [source], Ref(rows.buffer, rows.offset), params)
        return
    view = context.allocate(node.outputs[0], dims)
    sizes = _convert_sizes(dims)
    pitch = context.pixels(view)[1] if len(dims) >= 3 else 1
    params = {**sizes, "pitch": pitch, "scale": p.scale, "zero_point": p.zero_point}
    context.emit("QK_QUANTIZE", [source], Ref(view.buffer, view.offset), params)


def lower_dequantize(context: Lowering, node: ir.Node, name: OpName | None) -> None:
    """DequantizeLinear: u8 of any strides -> float32 in ONNX's layout."""
    p = context.params(node, 1)
    view = context.view(node.inputs[0])
    is_run = len(view.dims) < 3 or any(_is_stream(use.node.outputs[0]) for use in node.outputs[0].uses())
    if is_run:
        view, pitch = context.dense(view, row_major(view.dims)), 1
    else:
        view, pitch = context.pixels(view)
    target = context.float_output(node.outputs[0], view.dims)
    sizes = _run_sizes(view.dims) if is_run else _convert_sizes(view.dims)
    params = {**sizes, "pitch": pitch, "scale": p.scale, "zero_point": p.zero_point}
    context.emit("QK_DEQUANTIZE", [Ref(view.buffer, view.offset)], Ref(target), params)


def lower_unary(context: Lowering, node: ir.Node, name: OpName) -> None:
    """Any activation: y = T[x]."""
    x, y = context.params(node, 1), context.params(node, 3)
    attributes = {key: float(node.attributes[key].as_float()) for key in ACTIVATIONS[name.base].attributes}
    table = lookup_table(name.base, attributes, x.scale, x.zero_point, y.scale, y.zero_point)
    source = context.view(node.inputs[0])
    context.copy(source, context.allocate(node.outputs[0], source.dims, source), table)


def lower_prelu(context: Lowering, node: ir.Node, name: OpName) -> None:
    """A table for each run of channels with one slope."""
    x, y, source = context.params(node, 1), context.params(node, 4), context.view(node.inputs[0])
    array = constant(node.inputs[3])
    assert array is not None
    slopes = array.reshape(-1)
    out = context.allocate(node.outputs[0], source.dims, source)
    starts = [0, *(np.flatnonzero(np.diff(slopes)) + 1).tolist(), source.dims[1]]
    for first, last in pairwise(starts):
        attributes = {"alpha": float(slopes[first])}
        table = lookup_table("LeakyRelu", attributes, x.scale, x.zero_point, y.scale, y.zero_point)
        context.copy(source.slice(1, first, last - first), out.slice(1, first, last - first), table)


def lower_binary(context: Lowering, node: ir.Node, name: OpName) -> None:
    """Add, Sub, Mul of two u8 tensors with numpy broadcasting."""
    a_params, b_params = context.params(node, 1), context.params(node, 4)
    a, b = context.view(node.inputs[0]), context.view(node.inputs[3])
    dims = np.broadcast_shapes(a.dims, b.dims)
    y, fields = epilogue(node, name, 6, context)
    whole = next((v for v in (a, b) if v.dims == dims), None)
    out = context.allocate(node.outputs[0], dims, whole)
    loop_dims, strides, (a, b) = _common_loops(context, a.broadcast(dims), b.broadcast(dims), out)
    pad = BINARY_DIMS - len(loop_dims)
    batch, pixels, channels = [1] * pad + loop_dims
    params: dict[str, Any] = {
        "batch": batch, "pixels": pixels, "channels": channels,
        **{key: [0] * pad + s for key, s in zip(("a_stride", "b_stride", "out_stride"), strides, strict=True)},
        "a_zero_point": a_params.zero_point, "b_zero_point": b_params.zero_point, **fields,
    }  # fmt: skip
    if name.base == "Mul":
        multiplier = a_params.scale * b_params.scale / y.scale
        params |= {"multiply": 1, "a_multiplier": float(np.float32(multiplier)), "b_multiplier": 0.0}
    else:
        sign = -1.0 if name.base == "Sub" else 1.0
        params |= {
            "a_multiplier": float(np.float32(a_params.scale / y.scale)),
            "b_multiplier": sign * float(np.float32(b_params.scale / y.scale)),
        }
    context.emit("QK_BINARY", [Ref(a.buffer, a.offset), Ref(b.buffer, b.offset)], Ref(out.buffer, out.offset), params)


def _common_loops(
    context: Lowering, a: View, b: View, out: View
) -> tuple[list[int], list[list[int]], tuple[View, View]]:
    """At most three loops that all operands share; an operand that does not fit is copied into the output's layout."""
    order = sorted(channels_last_order(len(out.dims)), key=lambda axis: -out.strides[axis])
    layout = nested_like(out, out.dims)
    for operands in ((a, b), (a, None), (None, b), (None, None)):
        first = operands[0] or context.dense(a, layout)
        second = operands[1] or context.dense(b, layout)
        views = [v.permuted(order) for v in (first, second, out)]
        dims, strides = merge(views[0].dims, *(v.strides for v in views))
        if len(dims) <= BINARY_DIMS:
            return dims, strides, (first, second)
    whole = context.temporary(out.dims)
    dims, strides, fixed = _common_loops(context, a, b, whole)
    raise AssertionError(f"dense operands of rank {len(out.dims)} need {len(dims)} loops {strides} {fixed}")
