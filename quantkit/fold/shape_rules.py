"""Output shapes that ONNX's inference leaves open when a dimension is symbolic; the other ops are left to ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from quantkit.fold.symbolic import (
    Dim,
    Size,
    broadcast,
    equals,
    exact_quotient,
    floor_divide,
    is_size,
    product,
    smaller,
    symbol,
)

if TYPE_CHECKING:
    from quantkit.fold.shape_analysis import ShapeAnalysis

Dims = tuple[Dim, ...]
ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Where", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "Min", "Max", "Mean", "Sum",
)  # fmt: skip
"""Ops whose output has the shape to which their inputs broadcast."""
PRIVATE = "$"
"""Begins the symbol of a dimension that no input names; such symbols are never written to the model."""
TO_THE_END = (1 << 31) - 1
"""Ends from here on mean "to the end": exporters write INT32_MAX or INT64_MAX."""


def _input_dims(node: ir.Node, analysis: ShapeAnalysis, index: int = 0) -> Dims | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else analysis.dims(value)


def _vector(node: ir.Node, analysis: ShapeAnalysis, index: int) -> list[Dim] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    elements = None if value is None else analysis.elements(value)
    return None if elements is None else elements.reshape(-1).tolist()


def _reshape(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    dims, target = _input_dims(node, analysis), _vector(node, analysis, 1)
    if target is None:
        return None
    copies = node.attributes.get_int("allowzero", 0) == 0
    if dims is None:
        known = not any(isinstance(e, int) and e <= 0 for e in target)
        return tuple(target) if known else None
    result: list[Dim] = [dims[i] if copies and e == 0 and i < len(dims) else e for i, e in enumerate(target)]
    if -1 in result:
        rest = product(e for e in result if e != -1)
        quotient = exact_quotient(product(dims), rest)
        position = result.index(-1)
        result[position] = quotient if quotient is not None else symbol(f"{PRIVATE}{node.outputs[0].name}.{position}")
    return tuple(result)


def _expand(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    dims, target = _input_dims(node, analysis), _vector(node, analysis, 1)
    if dims is None or target is None:
        return None
    width = max(len(dims), len(target))
    left: list[Dim] = [*([1] * (width - len(dims))), *dims]
    right: list[Dim] = [*([1] * (width - len(target))), *target]
    return tuple(_broadcast(a, b) for a, b in zip(left, right, strict=True))


def _broadcast(a: Dim, b: Dim) -> Dim:
    """The common dimension of two that broadcast: a number above 1 decides, and a symbol wins over 1."""
    if a == 1 or b == 1:
        return b if a == 1 else a
    return a if isinstance(a, int) else b


def _elementwise(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    """What the operands broadcast to; where that depends on the symbols, as ONNX has it."""
    known = [_input_dims(node, analysis, index) for index in range(len(node.inputs))]
    output = analysis.dims(node.outputs[0])
    if output is None or any(dims is None for dims in known):
        return None
    result = list(output)
    for axis in range(-len(output), 0):
        dim: Dim | None = 1
        for dims in known:
            if dims is not None and len(dims) >= -axis and dim is not None:
                dim = broadcast(dim, dims[axis])
        result[axis] = output[axis] if dim is None else dim
    return tuple(result)


def _range(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    """limit - start by steps of 1, start - limit by steps of -1, where that cannot be below 0."""
    bounds = [_vector(node, analysis, index) for index in range(3)]
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, limit, step = (bound[0] for bound in bounds if bound is not None)
    length = limit - start if step == 1 else start - limit if step == -1 else None
    return (length,) if length is not None and is_size(length) else None


def _constant_of_shape(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    target = _vector(node, analysis, 0)
    return None if target is None else tuple(target)


def _concat(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    parts = [_input_dims(node, analysis, index) for index in range(len(node.inputs))]
    known = [dims for dims in parts if dims is not None]
    if len(known) != len(parts) or len({len(dims) for dims in known}) != 1:
        return None
    axis = node.attributes.get_int("axis", 0) % len(known[0])
    total: Dim = 0
    for dims in known:
        total = total + dims[axis]
    merged = [next((d for d in column if isinstance(d, int)), column[0]) for column in zip(*known, strict=True)]
    merged[axis] = total
    return tuple(merged)


def _slice(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    dims, starts, ends = _input_dims(node, analysis), _vector(node, analysis, 1), _vector(node, analysis, 2)
    if dims is None or starts is None or ends is None:
        return None
    axes = _vector(node, analysis, 3) if len(node.inputs) > 3 else list(range(len(starts)))
    steps = _vector(node, analysis, 4) if len(node.inputs) > 4 else [1] * len(starts)
    if axes is None or steps is None:
        return None
    result = list(dims)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(axis, int):
            return None
        name = f"{PRIVATE}{node.outputs[0].name}.{axis}"
        result[axis] = _sliced(dims[axis], start, end, step, name)
    return tuple(result)


def _sliced(dim: Dim, start: Dim, end: Dim, step: Dim, name: str) -> Dim:
    """Length of dim[start:end:step]; a symbol called `name` where clamping depends on the size."""
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int) and isinstance(step, int) and step:
        return len(range(*slice(start, end if step > 0 or end >= -dim else None, step).indices(dim)))
    to_the_end = (isinstance(end, int) and end >= TO_THE_END) or equals(end, dim) is True
    if start == 0 and to_the_end and step == 1:
        return dim
    if start == 0 and step == 1 and isinstance(dim, int) and is_size(end):
        return smaller(end, dim)
    return symbol(name)


def _window(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    """Conv and pooling over symbolic spatial sizes with explicit pads: floor((d + pads - extent) / stride) + 1."""
    dims = _input_dims(node, analysis)
    output = analysis.dims(node.outputs[0])
    if dims is None or output is None or len(dims) != len(output) or all(isinstance(d, int) for d in dims[2:]):
        return None
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or node.attributes.get_int("ceil_mode", 0) == 1:
        return None
    weight = _input_dims(node, analysis, 1) if node.op_type == "Conv" else None
    kernel = node.attributes.get_ints("kernel_shape") or (weight[2:] if weight else None)
    if kernel is None:
        return None
    spatial = len(dims) - 2
    strides = node.attributes.get_ints("strides") or (1,) * spatial
    dilations = node.attributes.get_ints("dilations") or (1,) * spatial
    pads = node.attributes.get_ints("pads") or (0,) * (2 * spatial)
    result = list(output)
    for axis in range(spatial):
        if isinstance(kernel[axis], Size):
            return None
        extent = (int(kernel[axis]) - 1) * dilations[axis] + 1  # type: ignore[arg-type]
        free = dims[axis + 2] + (pads[axis] + pads[axis + spatial] - extent)
        result[axis + 2] = floor_divide(free, strides[axis]) + 1
    return tuple(result)


def _resize(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    """Sizes as given; whole-number scales multiply."""
    if (
        node.attributes.get_ints("axes")
        or node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        return None
    sizes = _vector(node, analysis, 3)
    if sizes:
        return tuple(sizes)
    dims, scales = _input_dims(node, analysis), _vector(node, analysis, 2)
    if dims is None or not scales or len(scales) != len(dims):
        return None
    return tuple(dim * scale for dim, scale in zip(dims, scales, strict=True))


def _flatten(node: ir.Node, analysis: ShapeAnalysis) -> Dims | None:
    dims = _input_dims(node, analysis)
    if dims is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return product(dims[:axis]), product(dims[axis:])


DIM_RULES: dict[str, Callable[[ir.Node, ShapeAnalysis], Dims | None]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Concat": _concat,
    "Slice": _slice,
    "Conv": _window,
    "MaxPool": _window,
    "AveragePool": _window,
    "Resize": _resize,
    "Flatten": _flatten,
    "Range": _range,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "GroupNormalization": _input_dims,  # ONNX has no inference for it
}
"""op type -> dimensions of its first output, or None to keep what ONNX inferred."""
