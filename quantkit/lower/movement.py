"""Ops that move u8 values without arithmetic: mostly views, a copy where memory must really change."""

from __future__ import annotations

import math

import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.quantize.qparams import requantize_table


def _list(node: ir.Node, index: int) -> list[int]:
    array = constant(node.inputs[index])
    assert array is not None
    return [int(v) for v in array.reshape(-1)]


def lower_reshape(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 of the shape at input 3, constant or a shape operand of the region: 0 keeps a dimension (unless
    allowzero), -1 is what is left. ONNX Reshape-19.

    A view where the strides allow it, else one copy. Raises ValueError for a shape of another number of elements.
    """
    x, shape = context.view(node.inputs[0]), node.inputs[3]
    target = context.shape_operands[shape] if shape in context.shape_operands else _list(node, 3)
    allow_zero = "allowzero" in node.attributes and node.attributes["allowzero"].as_int() == 1
    dims = [x.dims[i] if d == 0 and not allow_zero else d for i, d in enumerate(target)]
    if -1 in dims:
        known = math.prod(d for d in dims if d != -1)
        dims[dims.index(-1)] = x.size // known if known else 0
    if math.prod(dims) != x.size:
        raise ValueError(f"{list(x.dims)} cannot become {dims}")
    context.set(node.outputs[0], context.reshaped(x, dims))


def lower_flatten(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 [product of D before `axis`, product of the rest]; axis in -rank..rank. A view, or one copy. ONNX
    Flatten-13."""
    x = context.view(node.inputs[0])
    axis = node.attributes["axis"].as_int()
    axis = axis + len(x.dims) if axis < 0 else axis
    context.set(node.outputs[0], context.reshaped(x, (math.prod(x.dims[:axis]), math.prod(x.dims[axis:]))))


def lower_transpose(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 with the axes in the order `perm`: always a view. ONNX Transpose-13."""
    order = list(node.attributes["perm"].as_ints())
    context.set(node.outputs[0], context.view(node.inputs[0]).permuted(order))


def lower_squeeze(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 without the axes at input 3, each of size 1, in -rank..rank-1: always a view. ONNX Squeeze-13."""
    x = context.view(node.inputs[0])
    axes = {a % len(x.dims) for a in _list(node, 3)}
    kept = [i for i in range(len(x.dims)) if i not in axes]
    context.set(node.outputs[0], x.permuted(kept))


def lower_unsqueeze(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 with axes of size 1 at the places of the output that input 3 names, negative ones from its end.
    ONNX Unsqueeze-13."""
    x = context.view(node.inputs[0])
    axes = _list(node, 3)
    rank = len(x.dims) + len(axes)
    new = {a % rank for a in axes}
    old = iter(x.dims)
    dims = [1 if i in new else next(old) for i in range(rank)]
    context.set(node.outputs[0], context.reshaped(x, dims))


def lower_slice(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8: starts, ends, axes and steps (negative ones too) at inputs 3 to 6, clipped to the tensor. Always a
    view. ONNX Slice-13."""
    view = context.view(node.inputs[0])
    for start, end, axis, step in zip(*(_list(node, i) for i in range(3, 7)), strict=True):
        axis %= len(view.dims)
        size = view.dims[axis]
        first, last, _ = slice(start, end, step).indices(size)
        view = view.slice(axis, first, max(0, -(-(last - first) // step)), step)
    context.set(node.outputs[0], view)


def lower_gather(context: Lowering, node: ir.Node, name: OpName) -> None:
    """One index is a view; a list is one copy for each run of neighbours."""
    x, axis = context.view(node.inputs[0]), node.attributes["axis"].as_int()
    array = constant(node.inputs[3])
    assert array is not None
    size = x.dims[axis]
    indices = [int(i) + size if i < 0 else int(i) for i in array.reshape(-1)]
    if array.ndim == 0:
        kept = [i for i in range(len(x.dims)) if i != axis]
        context.set(node.outputs[0], x.slice(axis, indices[0], 1).permuted(kept))
        return
    dims = [*x.dims[:axis], len(indices), *x.dims[axis + 1 :]]
    out = context.allocate(node.outputs[0], dims, x)
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            context.copy(x.slice(axis, indices[start], i - start), out.slice(axis, start, i - start))
            start = i


def lower_split(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 parts along `axis`, of the sizes at input 3, which add up to that dimension: views. ONNX
    Split-18."""
    x = context.view(node.inputs[0])
    axis, start = node.attributes["axis"].as_int(), 0
    for out, count in zip(node.outputs, _list(node, 3), strict=True):
        context.set(out, x.slice(axis, start, count))
        start += count


def lower_pad(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 with the pads at input 3 (all begins, then all ends, each >= 0) filled with the zero point at
    input 5, which stands for 0.0. ONNX Pad-18, mode constant."""
    x = context.view(node.inputs[0])
    pads = _list(node, 3)
    rank = len(x.dims)
    begin, end = pads[:rank], pads[rank:]
    dims = [d + b + e for d, b, e in zip(x.dims, begin, end, strict=True)]
    out = context.allocate(node.outputs[0], dims)
    zero_point = context.params(node, 4).zero_point
    inner = out
    for axis in range(rank):
        if begin[axis]:
            context.fill(inner.slice(axis, 0, begin[axis]), zero_point)
        if end[axis]:
            context.fill(inner.slice(axis, begin[axis] + x.dims[axis], end[axis]), zero_point)
        inner = inner.slice(axis, begin[axis], x.dims[axis])
    context.copy(x, inner)


def lower_concat(context: Lowering, node: ir.Node, name: OpName) -> None:
    """Inputs that were already written into their slice of the output cost nothing."""
    axis = node.attributes["axis"].as_int()
    views = [context.view(node.inputs[3 * i]) for i in range(name.count)]
    y = context.params(node, 3 * name.count)
    dims = list(views[0].dims)
    dims[axis] = sum(v.dims[axis] for v in views)
    out = context.views.get(node.outputs[0]) or context.allocate(node.outputs[0], dims)
    start = 0
    for i, view in enumerate(views):
        target = out.slice(axis, start, view.dims[axis])
        start += view.dims[axis]
        x = context.params(node, 3 * i + 1)
        if x != y:
            context.copy(view, target, requantize_table(x, y))
        elif not (view.buffer is target.buffer and view.offset == target.offset and view.strides == target.strides):
            context.copy(view, target)


def lower_depth_to_space(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [N, C, H, W] -> u8 [N, C / b^2, H b, W b], b = blocksize, modes DCR and CRD: two reshapes around a
    transpose, of which one copies. ONNX DepthToSpace-13."""
    x = context.view(node.inputs[0])
    block = node.attributes["blocksize"].as_int()
    n, c, h, w = x.dims
    inner = c // block**2
    if node.attributes["mode"].as_string() == "DCR":
        parts = context.reshaped(x, (n, block, block, inner, h, w)).permuted((0, 3, 4, 1, 5, 2))
    else:
        parts = context.reshaped(x, (n, inner, block, block, h, w)).permuted((0, 1, 4, 2, 5, 3))
    context.set(node.outputs[0], context.reshaped(parts, (n, inner, h * block, w * block)))
