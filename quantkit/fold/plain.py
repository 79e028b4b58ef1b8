"""Ops with a plainer name: Sum of tensors is Add, Max(x, a * x) is LeakyRelu."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    constant,
    decide,
    graph_of,
    replace_node,
    rewrite_nodes,
    unused_node_name,
    unused_value_name,
)
from quantkit.types import Decision


def name_plainly(model: ir.Model) -> list[Decision]:
    """Sum becomes a chain of Add from left to right, Max(x, a x) with 0 < a < 1 becomes LeakyRelu."""
    return rewrite_nodes(model, ("Sum",), _sum) + rewrite_nodes(model, ("Max",), _max)


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
