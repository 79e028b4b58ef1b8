"""Integer tensors computed from shapes, element by element: numbers where known, sizes where not.

Elements are numpy object arrays of int, bool or symbolic.Size, so that Gather, Concat, Slice ... are numpy's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from quantkit.fold.symbolic import Dim, Size, equals, product, truncated_divide

if TYPE_CHECKING:
    from quantkit.fold.shape_analysis import ShapeAnalysis

LARGEST = 1024
"""Tensors with more elements are data, not shapes."""

INTEGERS = frozenset([ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL])


class UndecidedError(Exception):
    """The elements cannot be told without running the model."""


def evaluate(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray | None:
    """The elements of the node's first output, or None."""
    rule = ELEMENT_RULES.get(node.op_type)
    if rule is None or node.domain != "":
        return None
    try:
        result = rule(node, analysis)
    except Exception:  # undecided, or the node is malformed, which is not for this walk to tell
        return None
    return result if result.size <= LARGEST else None


def object_array(elements: object) -> np.ndarray:
    """A numpy object array of `elements`, with python ints inside."""
    array = np.asarray(elements, dtype=object)
    return np.asarray(np.frompyfunc(_python_number, 1, 1)(array), dtype=object)


def _python_number(element: object) -> object:
    if isinstance(element, (Size, bool, int)):
        return element
    if isinstance(element, np.bool_):
        return bool(element)
    if isinstance(element, (float, np.floating)):
        if not float(element).is_integer():
            raise UndecidedError
        return int(element)
    return int(element)  # type: ignore[call-overload]


def _elements(node: ir.Node, analysis: ShapeAnalysis, index: int) -> np.ndarray:
    value = node.inputs[index] if index < len(node.inputs) else None
    elements = None if value is None else analysis.elements(value)
    if elements is None:
        raise UndecidedError
    return elements


def _numbers(node: ir.Node, analysis: ShapeAnalysis, index: int) -> list[int]:
    flat = _elements(node, analysis, index).reshape(-1).tolist()
    if not all(isinstance(element, int) for element in flat):
        raise UndecidedError
    return [int(element) for element in flat]


def _dims(node: ir.Node, analysis: ShapeAnalysis) -> tuple[Dim, ...]:
    value = node.inputs[0]
    dims = None if value is None else analysis.dims(value)
    if dims is None:
        raise UndecidedError
    return dims


def _shape(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    dims = _dims(node, analysis)
    return object_array([*dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]])


def _size(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    return object_array(product(_dims(node, analysis)))


def _same(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    return _elements(node, analysis, 0)


def _cast(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    target = ir.DataType(node.attributes.get_int("to", 0))
    if target == ir.DataType.BOOL or not (target in INTEGERS or target.is_floating_point()):
        raise UndecidedError
    return _elements(node, analysis, 0)


def _gather(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    indices = np.array(_numbers(node, analysis, 1), int).reshape(_elements(node, analysis, 1).shape)
    return object_array(_elements(node, analysis, 0).take(indices, axis=node.attributes.get_int("axis", 0)))


def _concat(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    parts = [_elements(node, analysis, index) for index in range(len(node.inputs))]
    return np.concatenate(parts, axis=node.attributes.get_int("axis", 0))


def _axes(node: ir.Node, analysis: ShapeAnalysis) -> tuple[int, ...] | None:
    attribute = node.attributes.get_ints("axes")
    if attribute is not None:
        return tuple(attribute)
    return tuple(_numbers(node, analysis, 1)) if len(node.inputs) > 1 and node.inputs[1] is not None else None


def _unsqueeze(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    axes = _axes(node, analysis)
    if axes is None:
        raise UndecidedError
    return np.expand_dims(_elements(node, analysis, 0), axes)


def _squeeze(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    return np.squeeze(_elements(node, analysis, 0), _axes(node, analysis))


def _reshape(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    return _elements(node, analysis, 0).reshape(_numbers(node, analysis, 1))


def _slice(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    data = _elements(node, analysis, 0)
    starts, ends = _numbers(node, analysis, 1), _numbers(node, analysis, 2)
    axes = _numbers(node, analysis, 3) if len(node.inputs) > 3 and node.inputs[3] else list(range(len(starts)))
    steps = _numbers(node, analysis, 4) if len(node.inputs) > 4 and node.inputs[4] else [1] * len(starts)
    if any(step < 0 for step in steps):
        raise UndecidedError
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return data[tuple(index)]


def _elementwise(function: Callable) -> Callable[[ir.Node, ShapeAnalysis], np.ndarray]:
    def rule(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
        operands = [_elements(node, analysis, index) for index in range(len(node.inputs))]
        return object_array(np.frompyfunc(function, len(operands), 1)(*operands))

    return rule


def _div(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    """ONNX truncates integers towards zero. Floats only if the division leaves nothing."""
    exact_only = node.outputs[0].dtype is None or node.outputs[0].dtype.is_floating_point()

    def divide(a: Dim, b: Dim) -> Dim:
        result = truncated_divide(a, b)
        if exact_only and result * b != a:
            raise UndecidedError
        return result

    return _elementwise(divide)(node, analysis)


def _mod(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0:
        return a % b
    if not isinstance(b, int) or b <= 0 or not isinstance(a, Size):
        raise UndecidedError
    return 0 if truncated_divide(a, b) * b == a else _undecided()


def _undecided() -> Dim:
    raise UndecidedError


def _equal(a: Dim, b: Dim) -> bool:
    answer = equals(a, b)
    if answer is None:
        raise UndecidedError
    return answer


def _where(condition: bool, a: Dim, b: Dim) -> Dim:
    if not isinstance(condition, bool):
        raise UndecidedError
    return a if condition else b


def _extreme(best: Callable) -> Callable[..., Dim]:
    def rule(*operands: Dim) -> Dim:
        if all(isinstance(operand, int) for operand in operands):
            return best(operands)
        return operands[0] if all(operand == operands[0] for operand in operands) else _undecided()

    return rule


def _constant_of_shape(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    shape = _numbers(node, analysis, 0)
    if product(shape) > LARGEST:  # type: ignore[operator]
        raise UndecidedError
    tensor = node.attributes.get_tensor("value")
    fill = 0 if tensor is None else tensor.numpy().reshape(-1)[0]
    return object_array(np.full(shape, fill))


def _reduce_prod(node: ir.Node, analysis: ShapeAnalysis) -> np.ndarray:
    data = _elements(node, analysis, 0)
    if data.ndim != 1:
        raise UndecidedError
    result = product(data.tolist())
    return object_array([result] if node.attributes.get_int("keepdims", 1) else result)


ELEMENT_RULES: dict[str, Callable[[ir.Node, ShapeAnalysis], np.ndarray]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Floor": _same,
    "Ceil": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Slice": _slice,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Neg": _elementwise(lambda a: -a),
    "Div": _div,
    "Mod": _elementwise(_mod),
    "Equal": _elementwise(_equal),
    "Where": _elementwise(_where),
    "Max": _elementwise(_extreme(max)),
    "Min": _elementwise(_extreme(min)),
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _reduce_prod,
}
"""op type -> the elements of its output. Floats are kept only while they are whole numbers."""
