"""Mul, Add, Sub and Div by per-channel constants go into the weighted op before or after them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fold.affine import Weighted, scale_input, scale_output, weighted
from quantkit.fold.editing import (
    RefusalError,
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


def fold_scale_shift(model: ir.Model) -> list[Decision]:
    """Fold x*c, x/c, x+c, x-c and c-x into the op that makes x, or into the one that reads the result.

    Into the reader only from a graph input or with a constant per channel: a lone scalar behind an activation is part
    of a spelled-out Gelu or HardSwish, which later stages recognise as a whole.
    """
    return rewrite_nodes(model, ("Add", "Sub", "Mul", "Div"), _fold)


def _fold(node: ir.Node) -> Decision | None:
    for position in (1, 0):
        values = constant_float(node.inputs[position])
        x = node.inputs[1 - position]
        if values is None or x is None:
            continue
        affine = _affine(node.op_type, values, position)
        if affine is None:
            return None
        scale, shift = affine
        target = _into_producer(node, x, scale, shift) or _into_consumer(node, x, scale, shift, values.size)
        return decide(node, "folded", f"into {target}") if target else None
    return None


def _affine(op_type: str, c: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift), both of c's shape, with the node = scale * x + shift; c is operand `position`."""
    ones, zeros = np.ones_like(c), np.zeros_like(c)
    if op_type == "Add":
        return ones, c
    if op_type == "Mul":
        return c, zeros
    if op_type == "Sub":
        return (ones, -c) if position == 1 else (-ones, c)
    if position == 0:
        return None
    if (c == 0).any():
        raise RefusalError("Div by a constant that holds 0")
    return 1.0 / c, zeros


def _per_channel(values: np.ndarray, rank: int | None, axis: int, channels: int) -> np.ndarray | None:
    """`values` as [channels] if they broadcast along the channel axis only and do not enlarge the tensor."""
    if rank is None or values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    axis %= rank
    if any(size != 1 for position, size in enumerate(shape) if position != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float64)


def _vectors(target: Weighted, scale: np.ndarray, shift: np.ndarray, channels: int) -> list[np.ndarray] | None:
    found = [_per_channel(values, target.output_rank, target.channel_axis, channels) for values in (scale, shift)]
    return None if any(vector is None for vector in found) else [vector for vector in found if vector is not None]


def _into_producer(node: ir.Node, x: ir.Value, scale: np.ndarray, shift: np.ndarray) -> str | None:
    target = weighted(x.producer())
    if target is None:
        return _into_biased_matmul(node, x, scale, shift)
    if target.node.graph is not node.graph:
        return None
    vectors = _vectors(target, scale, shift, target.output_channels)
    if vectors is None or (target.node.op_type == "MatMul" and shift.any()):
        return None  # MatMul + Add is the form of a biased MatMul
    if sole_consumer(x) is not node:
        if x.is_graph_output():
            raise RefusalError(f"the output of {target.node.op_type} {target.node.name} is a graph output")
        return None  # other readers need the unscaled value
    scale_output(target, *vectors)
    hand_over(node, x)
    return f"{target.node.op_type} {target.node.name}"


def _into_biased_matmul(node: ir.Node, x: ir.Value, scale: np.ndarray, shift: np.ndarray) -> str | None:
    """`node` behind MatMul and the Add of its bias: LayerScale of transformers, say, at the end of each of its blocks.

    Rounded to u8 behind the layer and again behind its scale, a block with channels of different size had 27 dB.
    """
    adder = x.producer()
    if adder is None or adder.domain != "" or adder.op_type != "Add" or adder.graph is not node.graph:
        return None
    position = 1 if constant_float(adder.inputs[1]) is not None else 0
    bias, product = constant_float(adder.inputs[position]), adder.inputs[1 - position]
    target = None if product is None else weighted(product.producer())
    if bias is None or product is None or target is None or target.node.op_type != "MatMul":
        return None
    channels = target.output_channels
    biases = _per_channel(bias, target.output_rank, target.channel_axis, channels)
    vectors = _vectors(target, scale, shift, channels)
    inside = target.node.graph is node.graph and sole_consumer(x) is node and sole_consumer(product) is adder
    if biases is None or vectors is None or not inside:
        return None
    with np.errstate(over="ignore"):
        moved = (biases * vectors[0] + vectors[1]).astype(np.float32)
    if not np.isfinite(moved).all():
        raise RefusalError(f"the new bias {adder.name} would not be finite")
    scale_output(target, vectors[0], np.zeros(channels))
    name = getattr(adder.inputs[position], "name", None) or "bias"
    set_input(adder, position, add_constant(graph_of(node), name, moved))
    hand_over(node, x)
    return f"MatMul {target.node.name} and its bias"


def _into_consumer(node: ir.Node, x: ir.Value, scale: np.ndarray, shift: np.ndarray, size: int) -> str | None:
    output = node.outputs[0]
    consumer = sole_consumer(output)
    if consumer is None or consumer.inputs[0] is not output or consumer.op_type == "ConvTranspose":
        return None
    if size == 1 and not _from_graph_input(x):
        return None
    target = weighted(consumer)
    if target is None or consumer.graph is not node.graph:
        return None
    vectors = _vectors(target, scale, shift, target.input_channels)
    if vectors is None or (target.bias is None and not target.bias_possible and shift.any()):
        return None
    scale_input(target, *vectors)
    output.replace_all_uses_with(x)
    graph_of(node).remove(node, safe=True)
    return f"{consumer.op_type} {consumer.name}"


def _from_graph_input(x: ir.Value) -> bool:
    """Whether x is a graph input behind nothing but arithmetic with constants: the normalisation of an image."""
    while (producer := x.producer()) is not None:
        operands = [value for value in producer.inputs if value is not None and not value.is_initializer()]
        if producer.op_type not in ("Add", "Sub", "Mul", "Div", "Cast") or len(operands) != 1:
            return False
        x = operands[0]
    return x.is_graph_input()
