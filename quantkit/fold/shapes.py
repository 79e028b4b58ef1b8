"""Shape arithmetic disappears: what is known becomes constant, a dynamic batch becomes 0 or -1 in a Reshape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import RefusalError, add_constant, constant, decide, graph_of, rewrite_nodes
from quantkit.fold.input_shapes import InputShapes, is_made
from quantkit.fold.shape_analysis import ShapeAnalysis
from quantkit.fold.shape_values import ELEMENT_RULES
from quantkit.fold.symbolic import Dim, exact_quotient, shown
from quantkit.types import Decision

INT64_MAX = np.iinfo(np.int64).max
SHOWN_NUMBERS = 16
"""Numbers that a decision lists one by one: twice those of the longest shape in practice."""


def annotate_shapes(model: ir.Model) -> None:
    """Write the inferred shape, and the type where it is missing, to every value that a node of the graph computes.

    Graph outputs keep the shape they declare.
    """
    analysis = ShapeAnalysis(model)
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is None and (dtype := analysis.dtype(value)) is not None:
                value.dtype = dtype
            shape = analysis.annotation(value)
            if shape is not None and (value.shape is None or not value.is_graph_output()):
                value.shape = shape


def fold_shapes(model: ir.Model) -> list[Decision]:
    """Make shape-valued inputs constant: all elements known, or a form that copies what is not.

    Reshape: 0 for a dimension of the input, one -1; where more sizes are open, an input that depends on nothing but the
    shapes of the model's inputs. Slice: INT64_MAX for "to the end", negative offsets from it.
    Expand: 1 for a dimension that stays. Resize: sizes that are a fixed multiple of the input become scales.
    """
    analysis, shapes = ShapeAnalysis(model), InputShapes(model)

    def replace(node: ir.Node) -> Decision | None:
        return _replace_known(node, analysis)

    def rewrite(node: ir.Node) -> Decision | None:
        return SHAPE_INPUT_RULES[node.op_type](node, analysis)

    def reshape(node: ir.Node) -> Decision | None:
        return _reshape(node, analysis, shapes)

    return (
        rewrite_nodes(model, ELEMENT_RULES, replace)
        + rewrite_nodes(model, SHAPE_INPUT_RULES, rewrite)
        + rewrite_nodes(model, ["Reshape"], reshape)
    )


def _replace_known(node: ir.Node, analysis: ShapeAnalysis) -> Decision | None:
    """A tensor whose elements are all numbers, if a node reads it that is not shape arithmetic itself."""
    output = node.outputs[0]
    elements = analysis.elements(output)
    if elements is None or output.is_graph_output() or output.dtype is None or not _all_known(elements):
        return None
    if all(_is_known_output(user, analysis) for user, _ in output.uses()):
        return None
    array = elements.astype(output.dtype.numpy())
    output.replace_all_uses_with(add_constant(graph_of(node), output.name or node.op_type, array))
    return decide(node, "folded", f"shape arithmetic to {_in_words(array)}")


def _in_words(array: np.ndarray) -> str:
    """The numbers of a shape; of a larger tensor, such as ConstantOfShape makes, its size."""
    return str(array.tolist()) if array.size <= SHOWN_NUMBERS else f"a constant of shape {list(array.shape)}"


def _is_known_output(node: ir.Node, analysis: ShapeAnalysis) -> bool:
    elements = analysis.elements(node.outputs[0])
    return elements is not None and _all_known(elements) and not node.outputs[0].is_graph_output()


def _all_known(elements: np.ndarray) -> bool:
    return all(isinstance(element, int) for element in elements.flat)


def _open_elements(node: ir.Node, index: int, analysis: ShapeAnalysis) -> list[Dim] | None:
    """The elements of an input that is not constant yet; None where there is nothing to do or nothing known."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or constant(value) is not None:
        return None
    elements = analysis.elements(value)
    return None if elements is None else elements.reshape(-1).tolist()


def _dims(node: ir.Node, analysis: ShapeAnalysis) -> tuple[Dim, ...] | None:
    value = node.inputs[0]
    return None if value is None else analysis.dims(value)


def _write(node: ir.Node, index: int, numbers: list[int]) -> Decision:
    value = node.inputs[index]
    name = (value.name if value is not None else None) or f"{node.name}_shape"
    node.replace_input_with(index, add_constant(graph_of(node), name, np.array(numbers, np.int64)))
    return decide(node, "folded", f"shape arithmetic to {numbers}")


def _reshape(node: ir.Node, analysis: ShapeAnalysis, shapes: InputShapes) -> Decision | None:
    target, dims = _open_elements(node, 1, analysis), _dims(node, analysis)
    if target is None:
        return None
    if node.attributes.get_int("allowzero", 0) and any(e == 0 for e in target):
        raise RefusalError("a Reshape to a computed shape with allowzero stays")
    numbers: list[int | None] = []
    for position, element in enumerate(target):
        if isinstance(element, int):
            numbers.append(element)
        elif dims is not None and position < len(dims) and dims[position] == element:
            numbers.append(0)
        else:
            numbers.append(None)
    unknown = [position for position, number in enumerate(numbers) if number is None]
    if len(unknown) > 1 or (unknown and -1 in numbers):
        return _reshape_by_inputs(node, target, numbers, shapes)
    node.attributes.pop("allowzero", None)
    return _write(node, 1, [-1 if number is None else number for number in numbers])


def _reshape_by_inputs(node: ir.Node, target: list[Dim], numbers: list[int | None], shapes: InputShapes
                       ) -> Decision | None:  # fmt: skip
    """Several sizes are open: they are worked out from the inputs' shapes, but for one, which may be what is left."""
    if is_made(node.inputs[1]):
        return None
    elements = [size if number is None else number for size, number in zip(target, numbers, strict=True)]
    strange = [position for position, element in enumerate(elements) if not shapes.is_known(element)]
    if len(strange) == 1 and -1 not in elements:
        elements[strange[0]] = -1
    elif strange:
        raise RefusalError(f"Reshape to {shown(target)} has more than one size known only at run time")
    node.replace_input_with(1, shapes.vector(elements))
    node.attributes.pop("allowzero", None)
    return decide(node, "folded", f"shape arithmetic to {shown(elements)}, from the inputs' shapes")


def _expand(node: ir.Node, analysis: ShapeAnalysis) -> Decision | None:
    target, dims = _open_elements(node, 1, analysis), _dims(node, analysis)
    if target is None or dims is None:
        return None
    shift = len(target) - len(dims)
    numbers = []
    for position, element in enumerate(target):
        if isinstance(element, int):
            numbers.append(element)
        elif position >= shift and dims[position - shift] == element:
            numbers.append(1)
        else:
            raise RefusalError(f"Expand to {shown(target)} needs a size known only at run time")
    return _write(node, 1, numbers)


def _slice(node: ir.Node, analysis: ShapeAnalysis) -> Decision | None:
    dims = _dims(node, analysis)
    opened = [_open_elements(node, index, analysis) for index in (1, 2)]
    if dims is None or opened == [None, None]:
        return None
    starts = opened[0]
    bounds = analysis.elements(node.inputs[1]) if node.inputs[1] is not None else None
    if bounds is None:
        return None
    axes_value = node.inputs[3] if len(node.inputs) > 3 else None
    axes = list(range(bounds.size)) if axes_value is None else constant(axes_value)
    steps_value = node.inputs[4] if len(node.inputs) > 4 else None
    steps = np.ones(bounds.size) if steps_value is None else constant(steps_value)
    if axes is None or steps is None or (steps < 0).any():
        return None
    sizes = [dims[int(axis)] for axis in axes]
    numbers = [
        None if elements is None else [_bound(e, size) for e, size in zip(elements, sizes, strict=True)]
        for elements in (starts, opened[1])
    ]
    done = None
    for index, values in zip((1, 2), numbers, strict=True):
        if values is not None:
            done = _write(node, index, values)
    return done


def _bound(element: Dim, size: Dim) -> int:
    """A start or end as a number: itself, or relative to the end of the axis."""
    if isinstance(element, int):
        return element
    difference = element - size
    if not isinstance(difference, int):
        raise RefusalError(f"Slice bound {shown([element])} on an axis {shown([size])} is known only at run time")
    return difference if difference < 0 else INT64_MAX


def _resize(node: ir.Node, analysis: ShapeAnalysis) -> Decision | None:
    sizes, dims = _open_elements(node, 3, analysis), _dims(node, analysis)
    if sizes is None or dims is None or len(sizes) != len(dims):
        return None
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    ratios = []
    for size, dim in zip(sizes, dims, strict=True):
        ratio = exact_quotient(size, dim)
        if not isinstance(ratio, int) or ratio < 1:
            raise RefusalError(f"Resize to {shown(sizes)} is no fixed multiple of its input")
        ratios.append(ratio)
    name = node.inputs[3].name if node.inputs[3] is not None else None
    scales = add_constant(graph_of(node), name or f"{node.name}_scales", np.array(ratios, np.float32))
    node.replace_input_with(2, scales)
    node.resize_inputs(3)
    return decide(node, "folded", f"sizes to scales {ratios}")


SHAPE_INPUT_RULES: dict[str, Callable[[ir.Node, ShapeAnalysis], Decision | None]] = {
    "Expand": _expand,
    "Slice": _slice,
    "Resize": _resize,
}
"""op type -> how its shape input becomes constant although some sizes are not known."""
