"""Sizes that a graph works out at run time, traced back to the tensors that have them.

Exporters write `interpolate(x, size=other.shape[2:])` as Shape, Gather, Slice and Concat in front of a Resize.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import Reject, constant

Size = int | tuple[ir.Value, int]
"""A number, or the size of a tensor along an axis."""
RUN_TIME = "scales or sizes are computed at run time"


def measured_tensor(node: ir.Node) -> ir.Value:
    """The tensor [N, C, H, W] whose H and W a Resize of an image takes, batch and channels staying as they are.

    Raises Reject where its sizes come from anything else.
    """
    x, sizes = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
    found = _sizes(sizes)
    if x is None or x.shape is None or len(found) != 4 or not all(_is_size(found[a], x, a) for a in (0, 1)):
        raise Reject(RUN_TIME)
    height, width = found[2:]
    if isinstance(height, int) or isinstance(width, int) or height[0] is not width[0]:
        raise Reject(RUN_TIME)
    like = height[0]
    if (height[1], width[1]) != (2, 3) or like.shape is None or len(like.shape) != 4:
        raise Reject(RUN_TIME)
    return like


def _is_size(size: Size, x: ir.Value, axis: int) -> bool:
    """Is it that of x along the axis, for all inputs?"""
    wanted = _size_of(x, axis)
    if isinstance(size, int) or isinstance(wanted, int):
        return size == wanted
    tensor, of = size
    if (tensor, of) == (x, axis):
        return True
    dims = [t.shape[a] if t.shape is not None else None for t, a in (size, wanted)]
    names = [dim.value for dim in dims if isinstance(dim, ir.SymbolicDim) and dim.value is not None]
    return len(names) == 2 and names[0] == names[1]


def _size_of(value: ir.Value, axis: int) -> Size:
    dim = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    return dim if isinstance(dim, int) else (value, axis)


def _sizes(value: ir.Value | None) -> list[Size]:
    """The elements of an integer tensor of rank 0 or 1."""
    array = constant(value)
    if array is not None:
        return [int(number) for number in array.reshape(-1)]
    node = value.producer() if value is not None else None
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _READ:
        raise Reject(RUN_TIME)
    return _READ[node.op_type](node)


def _shape(node: ir.Node) -> list[Size]:
    x = node.inputs[0]
    if x is None or x.shape is None or {"start", "end"} & set(node.attributes):
        raise Reject(RUN_TIME)
    return [_size_of(x, axis) for axis in range(len(x.shape))]


def _gather(node: ir.Node) -> list[Size]:
    sizes, indices = _sizes(node.inputs[0]), constant(node.inputs[1])
    if indices is None or indices.ndim > 1:
        raise Reject(RUN_TIME)
    return [sizes[int(index)] for index in indices.reshape(-1)]


def _slice(node: ir.Node) -> list[Size]:
    bounds = [constant(value) for value in node.inputs[1:]]
    if len(bounds) < 2 or any(array is None or array.size != 1 for array in bounds):
        raise Reject(RUN_TIME)
    start, end, *rest = (int(np.asarray(array).item()) for array in bounds)
    return _sizes(node.inputs[0])[start : end : rest[1] if len(rest) > 1 else 1]


def _concat(node: ir.Node) -> list[Size]:
    return [size for value in node.inputs for size in _sizes(value)]


def _same(node: ir.Node) -> list[Size]:
    """Casts, and ranks 0 and 1 into each other."""
    return _sizes(node.inputs[0])


_READ: dict[str, Callable[[ir.Node], list[Size]]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    **dict.fromkeys(("Cast", "Unsqueeze", "Squeeze", "Identity"), _same),
}
"""Op -> the elements of its output."""
