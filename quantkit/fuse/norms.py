"""Group and RMS normalization, which exporters spell out for opsets without an op of that name.

group   Reshape [N, G, -1] -> InstanceNormalization with scale 1 and bias 0 -> Reshape back -> * gamma -> + beta
rms     x / sqrt(mean(x^2) + epsilon) * gamma, over the last axis
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant, is_standard, new_initializer, replace_nodes, same_shape, scalar
from quantkit.fuse.opnames import DOMAIN
from quantkit.types import Decision


@dataclass(frozen=True)
class _Found:
    """extra: constants after x, by name. nodes: all of the match, the last makes the result."""

    base: str
    x: ir.Value
    extra: dict[str, np.ndarray]
    attributes: dict[str, float | int]
    nodes: list[ir.Node]


def fuse_norms(model: ir.Model) -> list[Decision]:
    """Replaces each by one FP32 node of domain quantkit, in place."""
    decisions = []
    for node in list(model.graph):
        found = _group(node) if is_standard(node, "Add") else _rms(node) if is_standard(node, "Mul") else None
        if node.graph is None or found is None or not _is_closed(found):
            continue
        root = node.outputs[0]
        extra = [new_initializer(model.graph, f"{node.name}/{what}", array) for what, array in found.extra.items()]
        new = ir.node(found.base, [found.x, *extra], found.attributes, domain=DOMAIN, name=node.name)
        replace_nodes(model.graph, found.nodes, new, root)
        decisions.append(Decision("fuse", "fused", node.name or "", f"{len(found.nodes)} nodes -> {found.base}"))
    return decisions


def _is_closed(found: _Found) -> bool:
    """No value inside the match is read outside it or is a graph output."""
    inside = set(found.nodes)
    inner = [out for node in found.nodes[:-1] for out in node.outputs]
    return all(not v.is_graph_output() and all(use.node in inside for use in v.uses()) for v in inner)


def _made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_standard(node, *op_types) else None


def _splits(node: ir.Node) -> Iterator[tuple[ir.Value | None, np.ndarray]]:
    """(operand, the other one's constant) of a binary node."""
    for position in (0, 1):
        array = constant(node.inputs[position])
        if array is not None and array.dtype == np.float32:
            yield node.inputs[1 - position], array


def _by_channel(array: np.ndarray, x: ir.Value) -> np.ndarray | None:
    """The constant as [C, 1...], if it has one value a channel of x."""
    rank = len(x.shape) if x.shape is not None else 0
    lifted = array.reshape((1,) * (rank - array.ndim) + array.shape) if array.ndim <= rank else array
    if rank < 3 or lifted.ndim != rank or lifted.size != lifted.shape[1] or lifted.size != x.shape[1]:  # type: ignore[index]
        return None
    return lifted.reshape(-1, *[1] * (rank - 2))


def _group(add: ir.Node) -> _Found | None:
    for product, beta in _splits(add):
        mul = _made_by(product, "Mul")
        for normal, gamma in _splits(mul) if mul is not None else ():
            back = _made_by(normal, "Reshape")
            instance = _made_by(back.inputs[0], "InstanceNormalization") if back is not None else None
            grouped = _made_by(instance.inputs[0], "Reshape") if instance is not None else None
            if mul is None or back is None or instance is None or grouped is None:
                continue
            x = grouped.inputs[0]
            groups = _plain_groups(instance, grouped)
            if x is None or not groups or not same_shape(x, back.outputs[0]):
                continue
            extra = {"scale": _by_channel(gamma, x), "bias": _by_channel(beta, x)}
            if any(array is None for array in extra.values()):
                continue
            attributes = {"num_groups": groups, "epsilon": instance.attributes.get_float("epsilon", 1e-5)}
            nodes = [grouped, instance, back, mul, add]
            return _Found("GroupNormalization", x, extra, attributes, nodes)  # type: ignore[arg-type]
    return None


def _plain_groups(instance: ir.Node, grouped: ir.Node) -> int:
    """The number of groups of [N, G, rest] normalized without scale and bias; 0 if it is something else."""
    scale, bias, shape = constant(instance.inputs[1]), constant(instance.inputs[2]), grouped.outputs[0].shape
    if scale is None or bias is None or (scale != 1).any() or bias.any() or shape is None or len(shape) != 3:
        return 0
    batch = grouped.inputs[0].shape if grouped.inputs[0] is not None else None
    return scale.size if batch is not None and len(batch) and batch[0] == shape[0] else 0


def _rms(mul: ir.Node) -> _Found | None:
    for normal, gamma in _splits(mul):
        quotient = normal.producer() if normal is not None else None
        if quotient is None or gamma.ndim == 0 or gamma.size != gamma.shape[-1]:
            continue
        for x, root, between in _quotients(quotient):
            shifted = _made_by(root.inputs[0], "Add")
            for position in (0, 1):
                epsilon = scalar(shifted.inputs[position]) if shifted is not None else None
                mean = _made_by(shifted.inputs[1 - position], "ReduceMean") if shifted is not None else None
                square = _square_of(x, mean) if mean is not None else None
                if epsilon is None or shifted is None or mean is None or square is None:
                    continue
                if x.shape is None or x.shape[-1] != gamma.size:
                    continue
                nodes = [square, mean, shifted, root, *between, quotient, mul]
                attributes = {"axis": -1, "epsilon": epsilon}
                return _Found("RMSNormalization", x, {"scale": gamma.reshape(-1)}, attributes, nodes)
    return None


def _quotients(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Node, list[ir.Node]]]:
    """(x, the Sqrt it is divided by, nodes in between): x / sqrt, x * reciprocal(sqrt) or x * (1 / sqrt)."""
    if is_standard(node, "Div"):
        root = _made_by(node.inputs[1], "Sqrt")
        if root is not None and node.inputs[0] is not None:
            yield node.inputs[0], root, []
    elif is_standard(node, "Mul"):
        for position in (0, 1):
            x, inverse = node.inputs[1 - position], _made_by(node.inputs[position], "Reciprocal", "Div")
            if inverse is None or (inverse.op_type == "Div" and scalar(inverse.inputs[0]) != 1.0):
                continue
            root = _made_by(inverse.inputs[-1], "Sqrt")
            if root is not None and x is not None:
                yield x, root, [inverse]


def _square_of(x: ir.Value, mean: ir.Node) -> ir.Node | None:
    """The node that makes x^2, if `mean` is its mean over the last axis, kept."""
    axes = mean.attributes.get_ints("axes")
    if axes is None:
        array = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
        axes = None if array is None else [int(a) for a in array.reshape(-1)]
    last = len(x.shape) - 1 if x.shape is not None else -1
    if axes is None or list(axes) not in ([-1], [last]) or mean.attributes.get_int("keepdims", 1) != 1:
        return None
    square = _made_by(mean.inputs[0], "Mul", "Pow")
    if square is None or square.inputs[0] is not x:
        return None
    is_square = square.inputs[1] is x if square.op_type == "Mul" else scalar(square.inputs[1]) == 2.0
    return square if is_square else None
