"""A factor behind reshapes, transposes and products of activations goes into the weights that it stems from.

Attention divides its scores by the square root of the head size: softmax(q k^T / c) = softmax((q / c) k^T), and q / c
is made by a layer whose weights hold the factor as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.fold.affine import Weighted, scale_output, weighted
from quantkit.fold.editing import (
    add_constant,
    constant_float,
    decide,
    graph_of,
    hand_over,
    rewrite_nodes,
    set_input,
    sole_consumer,
)
from quantkit.types import Decision

MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Ops whose result is their first input in another shape or order."""


@dataclass(frozen=True)
class _Source:
    """What a factor goes into: a layer, and the biases added behind it as (node, input, value)."""

    layer: Weighted
    biases: tuple[tuple[ir.Node, int, np.ndarray], ...] = ()


def carry_factors(model: ir.Model) -> list[Decision]:
    """Fold x * c and x / c with a single c into the layer that makes x, where moves or a product are in between.

    Next to the layer itself, `fold_scale_shift` does it.
    """
    return rewrite_nodes(model, ("Mul", "Div"), _carry)


def _carry(node: ir.Node) -> Decision | None:
    found = _factor(node)
    if found is None:
        return None
    x, factor = found
    producer = x.producer()
    if producer is None or not _is_passage(producer):
        return None
    source = _source(node, x)
    if source is None:
        return None
    channels = np.full(source.layer.output_channels, factor)
    scale_output(source.layer, channels, np.zeros_like(channels))
    for adder, position, bias in source.biases:
        old = adder.inputs[position]
        assert old is not None
        name = old.name or "bias"
        set_input(adder, position, add_constant(graph_of(adder), name, (bias * factor).astype(np.float32)))
    hand_over(node, x)
    return decide(node, "folded", f"into {source.layer.node.op_type} {source.layer.node.name}")


def _factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """(x, c) where the node is x * c with one finite c that is not 0."""
    for position in (1, 0) if node.op_type == "Mul" else (1,):
        values, x = constant_float(node.inputs[position]), node.inputs[1 - position]
        if values is None or values.size != 1 or x is None or x.shape is None or values.ndim > len(x.shape):
            continue
        c = float(values.reshape(-1)[0])
        return (x, c if node.op_type == "Mul" else 1.0 / c) if np.isfinite(c) and c != 0 else None
    return None


def _is_passage(node: ir.Node) -> bool:
    return node.domain == "" and (node.op_type in MOVES or (node.op_type == "MatMul" and weighted(node) is None))


def _source(reader: ir.Node, value: ir.Value) -> _Source | None:
    """The layer behind `value`; None where one is met on the way that anything but `reader` reads, too."""
    producer = value.producer()
    if producer is None or producer.graph is not reader.graph or sole_consumer(value) is not reader:
        return None
    layer = weighted(producer)
    if layer is not None:
        return _Source(layer)
    if producer.domain == "" and producer.op_type == "Add":
        return _biased(producer)
    if not _is_passage(producer):
        return None
    operands = producer.inputs[:2] if producer.op_type == "MatMul" else producer.inputs[:1]
    return next((found for x in operands if x is not None and (found := _source(producer, x))), None)


def _biased(adder: ir.Node) -> _Source | None:
    for position in (1, 0):
        bias, x = constant_float(adder.inputs[position]), adder.inputs[1 - position]
        found = _source(adder, x) if bias is not None and x is not None else None
        if found is not None and bias is not None:
            return _Source(found.layer, (*found.biases, (adder, position, bias)))
    return None
