"""Transposed convolution as plain convolutions: one for each phase of the strides.

Output position o meets input i through tap k where o + pad = i * stride + k * dilation. For all o with the same
remainder by the stride these are the same taps, at a fixed distance from each other: a convolution of stride 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import NO_BUFFER, Lowering
from quantkit.lower.plan import PackedSpec, Ref
from quantkit.lower.views import View, row_major
from quantkit.lower.weighted import AFTER_BIAS, BIAS, W_SCALE, X_PARAMS, W, epilogue, ints


@dataclass(frozen=True)
class Phase:
    """Outputs first, first + stride...: `count` of them. taps: kernel positions, -1 for one of zero weights; the first
    meets input -pad for the first output, each next one is `dilation` further on."""

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    pad: int


def axis_phases(kernel: int, stride: int, dilation: int, pad: int, out: int) -> list[Phase]:
    """The phases of one axis. Zero taps are put before those that would start inside the input: pads stay >= 0."""
    phases = []
    for first in range(min(stride, out)):
        taps = [k for k in reversed(range(kernel)) if (first + pad - k * dilation) % stride == 0]
        at = [(first + pad - k * dilation) // stride for k in taps] or [0]
        step = at[1] - at[0] if len(at) > 1 else 1
        before = max(0, -(-at[0] // step))
        padded = (-1,) * before + (tuple(taps) or (-1,))
        phases.append(Phase(first, -(-(out - first) // stride), padded, step, before * step - at[0]))
    return phases


def _taken(weights: np.ndarray, rows: Phase, columns: Phase) -> np.ndarray:
    """The taps of two phases of weights [out_c, in_c, kernel_h, kernel_w], as s8 [out_c, rows, columns, in_c]."""
    channels_last = np.moveaxis(weights, 1, 3)
    grown = np.pad(channels_last, [(0, 0), (0, 1), (0, 1), (0, 0)])  # tap -1 is the row or column of zeros
    return np.ascontiguousarray(grown[:, list(rows.taps)][:, :, list(columns.taps)])


def _multiplier(context: Lowering, node: ir.Node, name: OpName) -> np.ndarray:
    scale = constant(node.inputs[W_SCALE])
    assert scale is not None
    multiplier = context.params(node, X_PARAMS).scale * scale.astype(np.float64)
    if not name.to_float:
        multiplier = multiplier / epilogue(node, name, AFTER_BIAS, context)[0].scale
    return multiplier.astype(np.float32)


def _geometry(node: ir.Node, weights: np.ndarray, spatial: tuple[int, ...]) -> tuple[np.ndarray, list[list[Phase]]]:
    """Weights with two spatial dimensions (1D gets height 1) and the phases of both."""
    lead = 2 - len(spatial)
    weights = weights.reshape(*weights.shape[:2], *[1] * lead, *weights.shape[2:])
    strides, dilations, extra = (ints(node, key) for key in ("strides", "dilations", "output_padding"))
    begin, end = np.split(np.array(ints(node, "pads")), 2)
    phases = [[Phase(0, 1, (0,), 1, 0)]] * lead
    for i, size in enumerate(spatial):
        kernel = weights.shape[2 + lead + i]
        out = (size - 1) * strides[i] + dilations[i] * (kernel - 1) + 1 + extra[i] - int(begin[i]) - int(end[i])
        phases.append(axis_phases(kernel, strides[i], dilations[i], int(begin[i]), out))
    return weights, phases


def lower_conv_transpose(context: Lowering, node: ir.Node, name: OpName) -> None:
    """A QK_CONV for each pair of phases; where there are several, each is copied into its places of the output."""
    array, bias = constant(node.inputs[W]), constant(node.inputs[BIAS])
    assert array is not None
    assert bias is not None
    x, pitch = context.pixels(context.view(node.inputs[0]))
    spatial = x.dims[2:]
    weights, (all_rows, all_columns) = _geometry(node, array, spatial)
    outs = [sum(phase.count for phase in phases) for phases in (all_rows, all_columns)]
    in_h, in_w = ([1] if len(spatial) == 1 else []) + list(spatial)
    groups = node.attributes["group"].as_int()
    shared: dict[str, Any] = {
        "batch": x.dims[0], "in_h": in_h, "in_w": in_w, "in_c": x.dims[1], "in_pitch": pitch, "out_c": array.shape[0],
        "stride_h": 1, "stride_w": 1, "groups": groups, "in_zero_point": context.params(node, X_PARAMS).zero_point,
    }  # fmt: skip
    multiplier = _multiplier(context, node, name)
    steps = (len(all_rows), len(all_columns))
    target = _Target(context, node, name, (x.dims[0], array.shape[0], outs[0], outs[1]), steps, len(spatial))
    for rows, columns in product(all_rows, all_columns):
        geometry = {
            **shared, "kernel_h": len(rows.taps), "kernel_w": len(columns.taps), "dilation_h": rows.dilation,
            "dilation_w": columns.dilation, "pad_top": rows.pad, "pad_left": columns.pad,
        }  # fmt: skip
        key = f"{node.name}/{rows.first},{columns.first}"
        if key not in context.weights:
            taken = _taken(weights, rows, columns)
            context.weights[key] = PackedSpec(taken, bias.astype(np.int32), multiplier, geometry)
        params = {**geometry, "out_h": rows.count, "out_w": columns.count, "out_pitch": array.shape[0]}
        target.write(Ref(x.buffer, x.offset), params, key, rows, columns)


class _Target:
    """Where the phases go: u8 channels last, or float32 in ONNX's layout.

    dims: [N, C, H, W], also for one dimension; steps: from one output of a phase to the next.
    """

    def __init__(self, context: Lowering, node: ir.Node, name: OpName, dims: tuple[int, int, int, int],
                 steps: tuple[int, int], rank: int) -> None:  # fmt: skip
        self.context, self.dims, self.steps = context, dims, steps
        out, own_dims = node.outputs[0], (*dims[:2], *dims[4 - rank :])
        self.element = 4 if name.to_float else 1
        if name.to_float:
            self.fields: dict[str, Any] = {"to_float": 1}
            whole = (*dims, 4)
            self.view = View(context.float_output(out, own_dims), whole, row_major(whole))
        else:
            self.fields = epilogue(node, name, AFTER_BIAS, context)[1]
            view = context.allocate(out, own_dims)
            height = () if rank == 2 else (0,)
            strides = (*view.strides[:2], *height, *view.strides[2:], 1)
            self.view = View(view.buffer, (*dims, 1), strides, view.offset)

    def write(self, x: Ref, params: dict[str, Any], key: str, rows: Phase, columns: Phase) -> None:
        """One phase: a convolution into scratch memory, and a copy into every steps-th place of the output."""
        batch, channels = self.dims[:2]
        part = (batch, channels, rows.count, columns.count, self.element)
        pixel = channels * self.element
        strides = (rows.count * columns.count * pixel, self.element, columns.count * pixel, pixel, 1)
        scratch = self.context.temporary((int(np.prod(part)),), (1,)).buffer
        self.context.emit("QK_CONV", [x, Ref(NO_BUFFER)], Ref(scratch), {**params, "epilogue": self.fields}, key)
        place = self.view.slice(2, rows.first, rows.count, self.steps[0])
        place = place.slice(3, columns.first, columns.count, self.steps[1])
        self.context.copy(View(scratch, part, strides), place)
