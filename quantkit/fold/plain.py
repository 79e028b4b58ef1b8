"""Ops with a plainer name: Sum of tensors is Add, Max(x, a * x) is LeakyRelu, Max and Min with a number are Clip."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    add_constant,
    constant,
    constant_float,
    decide,
    graph_of,
    opset,
    rank,
    replace_node,
    rewrite_nodes,
    unused_node_name,
    unused_value_name,
)
from quantkit.types import Decision

CLIP_WITH_INPUTS = 11
"""The opset from which the bounds of Clip are inputs."""
GUARD_MOST = 0.01
"""A bound nearer to 0 than this, other than 0, guards a logarithm or a division: in u8 it would be 0."""


def name_plainly(model: ir.Model) -> list[Decision]:
    """Sum becomes a chain of Add from left to right, Max(x, a x) with 0 < a < 1 becomes LeakyRelu, Max(x, 0) Relu, and
    Max and Min of a tensor and another number become Clip, but for numbers that guard a division."""
    named = rewrite_nodes(model, ("Sum",), _sum) + rewrite_nodes(model, ("Max",), _max)
    if opset(model) < CLIP_WITH_INPUTS:
        return named
    return named + rewrite_nodes(model, ("Max", "Min"), _bound)


def _sum(node: ir.Node) -> Decision | None:
    if len(node.inputs) < 2 or any(value is None for value in node.inputs):
        return None
    graph, total = graph_of(node), node.inputs[0]
    decision = decide(node, "rewritten", f"Sum of {len(node.inputs)} tensors as Add")
    for value in node.inputs[1:-1]:
        out = ir.Value(name=unused_value_name(graph, f"{node.outputs[0].name}_part"), type=node.outputs[0].type)
        part = ir.Node("", "Add", [total, value], outputs=[out])
        part.name = unused_node_name(graph, f"{node.name}_part")
        graph.insert_before(node, part)
        total = out
    replace_node(node, "Add", [total, node.inputs[-1]])
    return decision


def _max(node: ir.Node) -> Decision | None:
    if len(node.inputs) != 2:
        return None
    for x, scaled in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        slope = None if scaled is None else _factor(scaled, x)
        if x is not None and slope is not None and 0.0 < slope < 1.0:
            decision = decide(node, "rewritten", "Max(x, a x) as LeakyRelu")
            replace_node(node, "LeakyRelu", [x], {"alpha": slope})
            return decision
    return None


def _bound(node: ir.Node) -> Decision | None:
    """TensorFlow writes its bounds so; as activations they are u8, and cost nothing behind weights."""
    if len(node.inputs) != 2:
        return None
    for x, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        bound, axes = constant_float(other), rank(x)
        if (
            x is None
            or bound is None
            or axes is None
            or bound.size != 1
            or bound.ndim > axes
            or constant(x) is not None
        ):
            continue
        number = float(bound.reshape(()))
        if np.isnan(number) or 0.0 < abs(number) < GUARD_MOST:
            continue
        new = "Relu" if node.op_type == "Max" and number == 0.0 else "Clip"
        decision = decide(node, "rewritten", f"{node.op_type}(x, {number:g}) as {new}")
        if new == "Relu":
            replace_node(node, new, [x])
            return decision
        value = add_constant(graph_of(node), f"{node.outputs[0].name}_bound", np.array(number, np.float32))
        replace_node(node, new, [x, value] if node.op_type == "Max" else [x, None, value])
        return decision
    return None


def _factor(scaled: ir.Value, x: ir.Value | None) -> float | None:
    """a, if `scaled` is a * x with a number a."""
    product = scaled.producer()
    if product is None or product.op_type != "Mul" or product.domain != "" or x is None:
        return None
    for position in (0, 1):
        array = constant(product.inputs[position]) if len(product.inputs) == 2 else None
        if array is not None and array.size == 1 and array.dtype == np.float32 and product.inputs[1 - position] is x:
            return float(array.reshape(()))
    return None
