"""Maximum and average pooling, windowed, global, and as ReduceMean over spatial axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref
from quantkit.lower.views import View, row_major
from quantkit.lower.weighted import ints


def _window(node: ir.Node, spatial: tuple[int, ...]) -> dict[str, list[int]]:
    """kernel, strides, dilations and pads in two dimensions (1D pooling gets height 1)."""
    one = len(spatial) == 1
    lead = [1] if one else []
    dilations = ints(node, "dilations") if "dilations" in node.attributes else [1] * len(spatial)
    pads = ints(node, "pads")
    begin, end = ([0, pads[0]], [0, pads[1]]) if one else (pads[:2], pads[2:])
    return {"kernel": lead + ints(node, "kernel_shape"), "strides": lead + ints(node, "strides"),
            "dilations": lead + dilations, "begin": begin, "end": end}  # fmt: skip


def _pooled_size(window: dict[str, list[int]], axis: int, size: int, ceil: bool) -> int:
    """ONNX's output size; with ceil_mode a window must start inside the input or its first pad."""
    kernel, stride, dilation = (window[key][axis] for key in ("kernel", "strides", "dilations"))
    span = size + window["begin"][axis] + window["end"][axis] - dilation * (kernel - 1) - 1
    out = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (out - 1) * stride >= size + window["begin"][axis]:
        out -= 1
    return out


def lower_window_pool(context: Lowering, node: ir.Node, name: OpName) -> None:
    """MaxPool and AveragePool: u8 [N, C, L] or [N, C, H, W] -> u8 with the sizes of ONNX MaxPool-22 and
    AveragePool-22, as ceil_mode, dilations and pads have them; averages as the contract has them, see
    docs/numerics.md."""
    x, pitch = context.pixels(context.view(node.inputs[0]))
    spatial = x.dims[2:]
    w = _window(node, spatial)
    in_hw = [1, *spatial] if len(spatial) == 1 else list(spatial)
    ceil = "ceil_mode" in node.attributes and node.attributes["ceil_mode"].as_int() == 1
    out_hw = [_pooled_size(w, axis, size, ceil) for axis, size in enumerate(in_hw)]
    fields: dict[str, Any] = {
        "kernel_h": w["kernel"][0], "kernel_w": w["kernel"][1],
        "stride_h": w["strides"][0], "stride_w": w["strides"][1],
        "dilation_h": w["dilations"][0], "dilation_w": w["dilations"][1], "pad_top": w["begin"][0],
        "pad_left": w["begin"][1], "pad_bottom": w["end"][0], "pad_right": w["end"][1],
    }  # fmt: skip
    if name.base == "AveragePool":
        include = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].as_int() == 1
        fields["count_padding"] = int(include)
    dims = (*x.dims[:2], *(out_hw if len(spatial) == 2 else out_hw[1:]))
    _emit(context, node, name, x, pitch, in_hw, out_hw, _allocated(context, node, dims), fields)


def lower_global_pool(context: Lowering, node: ir.Node, name: OpName) -> None:
    """GlobalMaxPool and GlobalAveragePool: u8 [N, C, *S] -> u8 [N, C, 1...], as a pool over one row of all pixels."""
    x, pitch = context.pixels(context.view(node.inputs[0]))
    pixels = int(np.prod(x.dims[2:], dtype=np.int64))
    _emit_global(context, node, name, x, pitch, pixels, (*x.dims[:2], *(1 for _ in x.dims[2:])))


def lower_reduce_mean(context: Lowering, node: ir.Node, name: OpName) -> None:
    """The mean over neighbouring axes: those behind them are the channels of a pool, those before them its batch."""
    source, axes = context.view(node.inputs[0]), ints(node, "axes")
    kept = node.attributes["keepdims"].as_int() == 1
    first, last = axes[0], axes[-1] + 1
    dims = (*source.dims[:first], *([1] * len(axes) if kept else []), *source.dims[last:])
    if first == 2 and last == len(source.dims):  # over the spatial axes of an image, as it lies in memory
        x, pitch = context.pixels(source)
        _emit_global(context, node, name, x, pitch, math.prod(x.dims[2:]), dims)
        return
    rank = len(source.dims)
    turned = source.permuted([*range(first), *range(last, rank), *range(first, last)])
    batch, channels, pixels = (math.prod(source.dims[a:b]) for a, b in ((0, first), (last, rank), (first, last)))
    if turned.strides[-1] == 1:  # what is summed lies together: each mean is an image of its own
        batch, channels = batch * channels, 1
    x, pitch = context.pixels(context.reshaped(turned, (batch, channels, pixels)))
    out = context.set(node.outputs[0], context.temporary(dims, row_major(dims)))
    _emit(context, node, name, x, pitch, [1, pixels], [1, 1], (out, channels), _whole(pixels))


def _emit_global(context: Lowering, node: ir.Node, name: OpName, x: View, pitch: int, pixels: int,
                 dims: tuple[int, ...]) -> None:  # fmt: skip
    _emit(context, node, name, x, pitch, [1, pixels], [1, 1], _allocated(context, node, dims), _whole(pixels))


def _whole(pixels: int) -> dict[str, Any]:
    """The window that is the whole image, as one row."""
    return {"kernel_h": 1, "kernel_w": pixels, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}


def _allocated(context: Lowering, node: ir.Node, dims: tuple[int, ...]) -> tuple[View, int]:
    view = context.allocate(node.outputs[0], dims)
    return view, context.pixels(view)[1]


def _emit(context: Lowering, node: ir.Node, name: OpName, x: View, pitch: int, in_hw: list[int], out_hw: list[int],
          out: tuple[View, int], fields: dict[str, Any]) -> None:  # fmt: skip
    """One QK_POOL; out: where it writes, and the pitch of its pixels."""
    x_params, y_params = context.params(node, 1), context.params(node, 3)
    average = name.base not in ("MaxPool", "GlobalMaxPool")
    view, out_pitch = out
    params: dict[str, Any] = {
        "batch": x.dims[0], "channels": x.dims[1], "in_h": in_hw[0], "in_w": in_hw[1], "in_pitch": pitch,
        "out_h": out_hw[0], "out_w": out_hw[1], "out_pitch": out_pitch, "average": int(average),
        "in_zero_point": x_params.zero_point, "zero_point": y_params.zero_point, **fields,
    }  # fmt: skip
    if average:
        counts = np.arange(params["kernel_h"] * params["kernel_w"] + 1, dtype=np.float64)
        counts[0] = 1
        params["multiplier_by_count"] = (x_params.scale / (y_params.scale * counts)).astype(np.float32)
    context.emit("QK_POOL", [Ref(x.buffer, x.offset)], Ref(view.buffer, view.offset), params)
