"""Where u8 tensors lie in memory: buffers, and strided views of them in ONNX's dimension order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod


@dataclass(eq=False)
class Buffer:
    """Memory of one or more tensors. external: index among the plan's inputs and outputs, or -1 for the arena.

    size in bytes; first and last: indices of the first and last op that touch it.
    """

    size: int
    external: int = -1
    first: int = -1
    last: int = -1
    offset: int = 0

    def touch(self, op: int) -> None:
        """Notes that op number `op` reads or writes it; called with rising numbers."""
        self.first = op if self.first < 0 else self.first
        self.last = op


@dataclass(frozen=True)
class View:
    """A tensor of `dims` (ONNX order) at byte `offset` of `buffer`; strides in bytes, of u8 elements."""

    buffer: Buffer
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements, which are bytes."""
        return prod(self.dims)

    def slice(self, axis: int, start: int, count: int, step: int = 1) -> View:
        """`count` elements of an axis from `start` on, `step` apart (negative: backwards). Shares the memory."""
        dims, strides = list(self.dims), list(self.strides)
        offset = self.offset + start * strides[axis]
        dims[axis], strides[axis] = count, strides[axis] * step
        return replace(self, dims=tuple(dims), strides=tuple(strides), offset=offset)

    def permuted(self, order: Sequence[int]) -> View:
        """The axes `order`, in this order; axes of size 1 may be left out. Shares the memory."""
        return replace(self, dims=tuple(self.dims[i] for i in order), strides=tuple(self.strides[i] for i in order))

    def broadcast(self, dims: Sequence[int]) -> View:
        """numpy broadcasting: new and repeated axes get stride 0."""
        lead = len(dims) - len(self.dims)
        own = (1,) * lead + self.dims
        strides = (0,) * lead + self.strides
        stretched = tuple(0 if have == 1 and want != 1 else s for have, want, s in zip(own, dims, strides, strict=True))
        return replace(self, dims=tuple(dims), strides=stretched)


def row_major(dims: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor whose last dimension is innermost."""
    strides, step = [], 1
    for d in reversed(dims):
        strides.append(step)
        step *= d
    return tuple(reversed(strides))


def channels_last_order(rank: int) -> tuple[int, ...]:
    """The order of dimensions in memory: batch, spatial..., channels; as it is below rank 3."""
    return (0, *range(2, rank), 1) if rank >= 3 else tuple(range(rank))


def channels_last(dims: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor stored channels last."""
    order = channels_last_order(len(dims))
    dense = row_major([dims[i] for i in order])
    strides = [0] * len(dims)
    for axis, stride in zip(order, dense, strict=True):
        strides[axis] = stride
    return tuple(strides)


def nested_like(view: View, dims: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor of `dims` whose dimensions nest in the order of the strides of `view`, of equal rank.

    A dimension of 1 says nothing by its stride: it stays beside the dimension that follows it channels last.
    """
    base = channels_last_order(len(dims))
    strides = dict(zip(range(len(dims)), view.strides, strict=True))
    following = 0
    for axis in reversed(base):
        if view.dims[axis] == 1:
            strides[axis] = following
        following = strides[axis]
    order = sorted(base, key=lambda axis: -strides[axis])
    dense = row_major([dims[axis] for axis in order])
    found = [0] * len(dims)
    for axis, stride in zip(order, dense, strict=True):
        found[axis] = stride
    return tuple(found)


def merge(dims: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Joins neighbouring dimensions that are contiguous in all operands at once, and drops those of size 1."""
    kept = [i for i, d in enumerate(dims) if d != 1]
    out_dims: list[int] = []
    out: list[list[int]] = [[] for _ in strides]
    for i in kept:
        joins = bool(out_dims) and all(o[-1] == s[i] * dims[i] for o, s in zip(out, strides, strict=True))
        if joins:
            out_dims[-1] *= dims[i]
            for o, s in zip(out, strides, strict=True):
                o[-1] = s[i]
        else:
            out_dims.append(dims[i])
            for o, s in zip(out, strides, strict=True):
                o.append(s[i])
    return out_dims or [1], [o or [0] for o in out]


def reshape_view(view: View, dims: Sequence[int]) -> View | None:
    """`view` with other dimensions and the same row-major order of elements, or None if that takes a copy."""
    old_dims, (old,) = merge(view.dims, view.strides)
    strides: list[int] = []
    remaining = list(zip(old_dims, old, strict=True))
    left, stride = 1, 0
    for d in reversed(dims):
        if d == 1:
            strides.append(0)
            continue
        if left == 1:
            if not remaining:
                return None
            left, stride = remaining.pop()
        if left % d:
            return None
        strides.append(stride)
        left, stride = left // d, stride * d
    return replace(view, dims=tuple(dims), strides=tuple(reversed(strides)))
