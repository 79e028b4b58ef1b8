"""The state of lowering one region at fixed shapes: views of tensors, ops so far, where outputs are placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.errors import DataError
from quantkit.fuse.graph import constant
from quantkit.lower.plan import PackedSpec, PlanOp, Ref
from quantkit.lower.views import (
    Buffer,
    View,
    channels_last,
    channels_last_order,
    merge,
    nested_like,
    reshape_view,
    row_major,
)
from quantkit.types import QuantParams

MAX_COPY_DIMS = 6
NO_BUFFER = Buffer(0, external=-2)
"""Stands for: no such tensor."""


class Lowering:
    """Collects the ops of a plan.

    destination: u8 value -> (the Concat output it is a channel slice of, first channel): written in place, no copy.
    known_dims: dims of values from an earlier pass, needed to size such an output before all its parts are lowered.
    """

    def __init__(
        self,
        destination: Mapping[ir.Value, tuple[ir.Value, int]],
        known_dims: Mapping[ir.Value, tuple[int, ...]],
        weights: dict[str, PackedSpec],
    ) -> None:
        self.destination = destination
        self.known_dims = known_dims
        self.weights = weights
        self.views: dict[ir.Value, View] = {}
        self.dims: dict[ir.Value, tuple[int, ...]] = {}
        self.floats: dict[ir.Value, tuple[Ref, tuple[int, ...]]] = {}
        self.shape_operands: dict[ir.Value | None, tuple[int, ...]] = {}
        self.constants: list[np.ndarray] = []
        self.constant_buffers: list[Buffer] = []
        self.inputs: list[Buffer] = []
        self.outputs: dict[ir.Value, Buffer] = {}
        self.ops: list[PlanOp] = []
        self.buffers: list[Buffer] = []
        self.node: ir.Node | None = None

    def params(self, node: ir.Node, index: int) -> QuantParams:
        """The scale and zero point that stand at inputs `index` and `index + 1`."""
        scale, zero_point = constant(node.inputs[index]), constant(node.inputs[index + 1])
        assert scale is not None
        assert zero_point is not None
        return QuantParams(float(scale.item()), int(zero_point.item()))

    def view(self, value: ir.Value | None) -> View:
        """The view of a u8 value; a constant becomes a buffer of the plan."""
        assert value is not None
        array = constant(value)
        if value not in self.views and array is not None:
            self.constants.append(np.ascontiguousarray(array))
            buffer = Buffer(array.size, external=len(self.constants) - 1)
            self.set(value, View(buffer, array.shape, row_major(array.shape)))
            self.constant_buffers.append(buffer)
        return self.views[value]

    def float_source(self, value: ir.Value | None) -> tuple[Ref, tuple[int, ...]]:
        """Where a float32 value lies in ONNX's layout, and its shape; a constant becomes a buffer of the plan."""
        assert value is not None
        array = constant(value)
        if value not in self.floats and array is not None:
            self.constants.append(np.frombuffer(np.ascontiguousarray(array, np.float32).tobytes(), np.uint8))
            buffer = Buffer(4 * array.size, external=len(self.constants) - 1)
            self.floats[value] = Ref(buffer), array.shape
            self.constant_buffers.append(buffer)
        return self.floats[value]

    def float_output(self, value: ir.Value, dims: Sequence[int]) -> Buffer:
        """Float32 memory in ONNX's layout: the plan's output `value`, or arena memory if it stays inside."""
        dims = self._possible(dims)
        self.dims[value] = dims
        buffer = self.outputs.get(value)
        if buffer is None:
            buffer = self.temporary((4 * int(np.prod(dims, dtype=np.int64)),), (1,)).buffer
        self.floats[value] = (Ref(buffer), dims)
        return buffer

    def float_to_channels_first(self, source: View, target: Buffer, dims: Sequence[int]) -> None:
        """float32 [N, *S, C] -> [N, C, *S], as a copy of 4-byte elements."""
        batch, channels, pixels = dims[0], dims[1], int(np.prod(dims[2:], dtype=np.int64))
        shape = (batch, channels, pixels, 4)
        from_ = View(source.buffer, shape, (4 * channels * pixels, 4, 4 * channels, 1), source.offset)
        self.copy(from_, View(target, shape, row_major(shape)))

    def allocate(self, value: ir.Value, dims: Sequence[int], like: View | None = None) -> View:
        """Memory for an output, inside a Concat's output where it will end up there anyway.

        Dense; the dimensions nest as those of `like` do, else channels last.
        """
        dims = tuple(int(d) for d in dims)
        place = self.destination.get(value)
        if place is None:
            view = self.temporary(dims, None if like is None else nested_like(like, dims))
        else:
            whole, start = place
            if whole not in self.views:
                self.set(whole, self.allocate(whole, self.known_dims[whole]))
            view = self.views[whole].slice(1, start, dims[1])
        return self.set(value, view)

    def temporary(self, dims: Sequence[int], strides: Sequence[int] | None = None) -> View:
        """Fresh arena memory, channels last unless strides are given. Raises DataError for a dimension below 0."""
        dims = self._possible(dims)
        buffer = Buffer(int(np.prod(dims, dtype=np.int64)))
        self.buffers.append(buffer)
        return View(buffer, dims, tuple(strides) if strides is not None else channels_last(dims))

    def _possible(self, dims: Sequence[int]) -> tuple[int, ...]:
        """dims as int. Raises DataError where a window is longer than what it slides over."""
        made = tuple(int(d) for d in dims)
        if any(d < 0 for d in made):
            where = self.node.name if self.node is not None else "a node"
            raise DataError(f"{where}: inputs are too small for it, its output would be {list(made)}; give larger ones")
        return made

    def set(self, value: ir.Value, view: View) -> View:
        """Says that `value` is `view` from now on. Returns the view."""
        self.views[value] = view
        self.dims[value] = view.dims
        return view

    def emit(
        self, kind: str, inputs: Sequence[Ref], output: Ref, params: Mapping[str, Any], weights: str | None = None
    ) -> None:
        """Adds an engine op of the current node. kind: QK_... of native/qk.h, params: the fields of its parameters
        there; weights: name among `self.weights`. Buffers that it reads or writes live at least until it."""
        index = len(self.ops)
        for ref in (*inputs, output):
            if ref.buffer is not NO_BUFFER:
                ref.buffer.touch(index)
        name = self.node.name if self.node is not None else ""
        self.ops.append(PlanOp(kind, tuple(inputs), output, params, name or "", weights))

    def copy(self, source: View, target: View, table: bytes | None = None) -> None:
        """target[...] = T[source[...]], any strides; split over its outer dimension where it has more than six."""
        order = sorted(range(len(target.dims)), key=lambda i: -target.strides[i])
        source, target = source.permuted(order), target.permuted(order)
        dims, (from_, to) = merge(target.dims, source.strides, target.strides)
        if len(dims) > MAX_COPY_DIMS:
            axis = next(i for i, d in enumerate(target.dims) if d != 1)
            for i in range(target.dims[axis]):
                self.copy(source.slice(axis, i, 1), target.slice(axis, i, 1), table)
            return
        pad = MAX_COPY_DIMS - len(dims)
        params: dict[str, Any] = {
            "dims": [1] * pad + dims, "in_stride": [0] * pad + from_, "out_stride": [0] * pad + to,
        }  # fmt: skip
        if table is not None:
            params["table"] = np.frombuffer(table, np.uint8)
        kind = "QK_COPY" if table is None else "QK_LOOKUP"
        self.emit(kind, [Ref(source.buffer, source.offset)], Ref(target.buffer, target.offset), params)

    def fill(self, target: View, value: int) -> None:
        """target[...] = value (0..255), any strides. At most MAX_COPY_DIMS dimensions after joining neighbours."""
        dims, (strides,) = merge(target.dims, target.strides)
        pad = MAX_COPY_DIMS - len(dims)
        params = {"dims": [1] * pad + dims, "in_stride": [0] * 6, "out_stride": [0] * pad + strides, "value": value}
        self.emit("QK_FILL", [], Ref(target.buffer, target.offset), params)

    def dense(self, view: View, strides: Sequence[int]) -> View:
        """`view` itself if it has these strides (where a dimension is more than 1), else a copy that has them."""
        same = all(d == 1 or a == b for d, a, b in zip(view.dims, view.strides, strides, strict=True))
        if same:
            return view
        fresh = self.temporary(view.dims, strides)
        self.copy(view, fresh)
        return fresh

    def pixels(self, view: View) -> tuple[View, int]:
        """A view whose channels are adjacent and whose pixels, batch included, are one run at a constant pitch.

        Axis 1 holds the channels. Returns (the view, copied if need be; pitch in bytes).
        """
        order = channels_last_order(len(view.dims))
        ordered = view.permuted(order)
        dims, (outer,) = merge(ordered.dims[:-1], ordered.strides[:-1])
        channels_adjacent = ordered.dims[-1] == 1 or ordered.strides[-1] == 1
        pitch = outer[-1] if dims[-1] > 1 else ordered.dims[-1]
        if channels_adjacent and len(dims) == 1 and pitch >= ordered.dims[-1]:
            return view, pitch
        return self.dense(view, channels_last(view.dims)), ordered.dims[-1]

    def rows(self, view: View) -> tuple[View, int]:
        """Like `pixels`, but the last axis holds the channels, as in MatMul."""
        last = len(view.dims) - 1
        swapped = view.permuted((0, last, *range(1, last))) if last >= 1 else view
        fixed, pitch = self.pixels(swapped)
        back = (0, *range(2, last + 1), 1)
        return fixed.permuted(back) if last >= 1 else fixed, pitch

    def reshaped(self, view: View, dims: Sequence[int]) -> View:
        """The same elements in row-major order under other dimensions; a copy only where strides demand it.

        The copy is channels last where that can be written in one pass (channel shuffle), else row-major.
        """
        dims = tuple(dims)
        found = reshape_view(view, dims)
        if found is not None:
            return found
        strides = channels_last(dims)
        as_source = reshape_view(View(NO_BUFFER, dims, strides), view.dims)
        if as_source is not None:
            target = self.temporary(dims, strides)
            self.copy(view, replace(as_source, buffer=target.buffer))
            return target
        flat = self.dense(view, row_major(view.dims))
        result = reshape_view(flat, dims)
        assert result is not None
        return result
