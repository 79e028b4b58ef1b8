"""Removes nodes that change nothing: Identity, Dropout, no-op casts, reshapes, pads, slices, x*1, x+0 ..."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import bypass, constant, data_input, decide, input_at, known_shape, rewrite_nodes
from quantkit.fold.shape_analysis import ShapeAnalysis
from quantkit.types import Decision

IdentityRule = Callable[[ir.Node, ShapeAnalysis], "ir.Value | None"]
"""The value that the first output of a node equals, or None if the node does something."""


def remove_identities(model: ir.Model) -> list[Decision]:
    """Remove every node whose (only used) output equals its first input or, for x+0 and x*1, its other operand."""
    analysis = ShapeAnalysis(model)

    def remove(node: ir.Node) -> Decision | None:
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return None
        replacement = IDENTITY_RULES[node.op_type](node, analysis)
        if replacement is None or (replacement.dtype != node.outputs[0].dtype and node.op_type != "Identity"):
            return None
        removed = bypass(node, replacement)
        return decide(node, "removed", f"{node.op_type} that changes nothing") if removed else None

    return rewrite_nodes(model, IDENTITY_RULES, remove)


def _always(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    return data_input(node)


def _dropout(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    """Inference unless the training_mode input is there; then it must be the constant False."""
    training = input_at(node, 2)
    if training is None:
        return data_input(node)
    flag = constant(training)
    return data_input(node) if flag is not None and not flag.any() else None


def _same_type(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    x = data_input(node)
    return x if x.dtype is not None and x.dtype == node.attributes.get_int("to") else None


def _same_shape(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    """Ops that keep values and order: equal shapes mean that nothing happened."""
    x = data_input(node)
    return x if analysis.same_shape(x, node.outputs[0]) else None


def _transpose(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    """The identity permutation, or one that moves only dimensions of size 1 and leaves the shape as it is."""
    x = data_input(node)
    if x.shape is None:
        return None
    order = list(node.attributes.get_ints("perm") or range(len(x.shape))[::-1])
    moved = [axis for axis in order if x.shape[axis] != 1]
    return x if order == sorted(order) or (moved == sorted(moved) and analysis.same_shape(x, node.outputs[0])) else None


def _pad(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    pads = constant(input_at(node, 1))
    return data_input(node) if pads is not None and not pads.any() else None


def _tile(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    repeats = constant(node.inputs[1])
    return data_input(node) if repeats is not None and (repeats == 1).all() else None


def _slice(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    """Equal shapes; with steps of 1 (a step of -1 keeps the shape and reverses)."""
    steps = input_at(node, 4)
    values = constant(steps)
    if steps is not None and (values is None or (values != 1).any()):
        return None
    return _same_shape(node, analysis)


def _single(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    return data_input(node) if len(node.inputs) == 1 else None


def _resize(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    """Scales that are all 1, or sizes equal to the input's, without a crop."""
    if node.attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    scales = constant(input_at(node, 2))
    if scales is not None and scales.size:
        return data_input(node) if (scales == 1).all() else None
    return _same_shape(node, analysis) if known_shape(node.outputs[0]) is not None else None


def _pool(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
    """A window of one element that visits every element."""
    kernel = node.attributes.get_ints("kernel_shape")
    strides = node.attributes.get_ints("strides") or (1,)
    pads = node.attributes.get_ints("pads") or (0,)
    one = kernel is not None and set(kernel) == {1} and set(strides) == {1} and set(pads) == {0}
    return data_input(node) if one else None


def _neutral(element: float, either_side: bool) -> IdentityRule:
    """x op element == x, for a constant that does not broadcast x to another shape."""

    def rule(node: ir.Node, analysis: ShapeAnalysis) -> ir.Value | None:
        for operand in (1, 0) if either_side else (1,):
            values, kept = constant(node.inputs[operand]), node.inputs[1 - operand]
            if values is not None and kept is not None and np.all(values == element):
                return kept if _keeps_shape(kept, values, node.outputs[0], analysis) else None
        return None

    return rule


def _keeps_shape(kept: ir.Value, values: np.ndarray, output: ir.Value, analysis: ShapeAnalysis) -> bool:
    if values.size == 1 and kept.shape is not None and values.ndim <= len(kept.shape):
        return True
    return analysis.same_shape(kept, output)


IDENTITY_RULES: dict[str, IdentityRule] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _same_type,
    "Reshape": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Expand": _same_shape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _same_shape,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mean": _single,
    "Resize": _resize,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False),
    "Add": _neutral(0, either_side=True),
    "Sub": _neutral(0, either_side=False),
    "Pow": _neutral(1, either_side=False),
}
"""op type -> its rule."""
