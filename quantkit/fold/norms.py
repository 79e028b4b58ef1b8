"""Layer normalization that an exporter spelled out gets its name back.

d = x - mean(x)        y = d / sqrt(mean(d^2) + epsilon) [* gamma] [+ beta]        over the last axis
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    add_constant,
    constant,
    decide,
    graph_of,
    input_at,
    opset,
    rank,
    replace_node,
    rewrite_nodes,
    sole_consumer,
)
from quantkit.types import Decision

FIRST_OPSET = 17
"""ai.onnx has LayerNormalization from this opset on."""
OLDEST_RAISED = 13
CHANGED_MEANING = frozenset(["RoiAlign"])
"""The only op that computes something else at opset 17 than at 13 for the same inputs and attributes."""


@dataclass(frozen=True)
class _Core:
    x: ir.Value
    epsilon: float


def name_layer_norms(model: ir.Model) -> list[Decision]:
    """Spelled-out LayerNorms become LayerNormalization; a model of opset 13 to 16 is raised to 17 for it."""
    if not opset(model) >= OLDEST_RAISED:
        return []
    if opset(model) < FIRST_OPSET and not _may_be_raised(model):
        return []
    decisions = rewrite_nodes(model, ("Div", "Mul"), _rewrite)
    if any(d.action == "rewritten" for d in decisions) and opset(model) < FIRST_OPSET:
        model.opset_imports[""] = FIRST_OPSET
    return decisions


def _may_be_raised(model: ir.Model) -> bool:
    plain = all(node.op_type not in CHANGED_MEANING for node in model.graph.all_nodes())
    return plain and not model.functions


def _rewrite(node: ir.Node) -> Decision | None:
    core = _core(node)
    if core is None:
        return None
    last, gamma = _applied(node, "Mul", core.x)
    last, beta = _applied(last, "Add", core.x)
    channels = core.x.shape[-1] if core.x.shape is not None else None
    size = gamma.size if gamma is not None else channels if isinstance(channels, int) else None
    if size is None or (beta is not None and beta.size != size):
        return None
    graph, name = graph_of(node), node.name or "norm"
    scale = add_constant(graph, f"{name}_scale", np.ones(size, np.float32) if gamma is None else gamma)
    inputs = [core.x, scale, *([add_constant(graph, f"{name}_bias", beta)] if beta is not None else [])]
    decision = decide(last, "rewritten", "its spelled-out form as LayerNormalization")
    replace_node(last, "LayerNormalization", inputs, {"axis": -1, "epsilon": core.epsilon})
    return decision


def _applied(node: ir.Node, op_type: str, x: ir.Value) -> tuple[ir.Node, np.ndarray | None]:
    """(the node after `node` that applies a constant [C] by `op_type`, the constant), else (node, None)."""
    follower = sole_consumer(node.outputs[0])
    if follower is None or follower.op_type != op_type or follower.domain != "" or len(follower.inputs) != 2:
        return node, None
    other = follower.inputs[1] if follower.inputs[0] is node.outputs[0] else follower.inputs[0]
    array = constant(other)
    channels = x.shape[-1] if x.shape is not None else None
    if array is None or array.dtype != np.float32 or array.ndim == 0 or array.size != array.shape[-1]:
        return node, None
    if array.size != channels and (array.size == 1 or isinstance(channels, int)):
        return node, None
    return follower, array.reshape(-1)


def _core(node: ir.Node) -> _Core | None:
    """x and epsilon, if the node is d / sqrt(mean(d^2) + epsilon) or d * reciprocal(sqrt(...))."""
    for d, deviation in _quotients(node):
        x = _centred(d)
        shifted = _made_by(_made_by(deviation, "Sqrt"), "Add", whole=True)
        if x is None or shifted is None:
            continue
        for position in (0, 1):
            epsilon = constant(shifted.inputs[position])
            square = _mean_of(shifted.inputs[1 - position])
            if epsilon is not None and epsilon.size == 1 and _squared_centre(square) is x:
                return _Core(x, float(epsilon.reshape(())))
    return None


def _quotients(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    a, b = input_at(node, 0), input_at(node, 1)
    if node.op_type == "Div":
        return [(a, b)]
    pairs = [(a, _made_by(b, "Reciprocal")), (b, _made_by(a, "Reciprocal"))]
    return [pair for pair in pairs if pair[1] is not None]


def _made_by(value: ir.Value | None, op_type: str, whole: bool = False):  # type: ignore[no-untyped-def]
    """The first input of the node of this type that makes `value` (or the node itself), else None."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type or node.domain != "":
        return None
    return node if whole else node.inputs[0]


def _centred(d: ir.Value | None) -> ir.Value | None:
    """x, if d is x - mean(x)."""
    sub = _made_by(d, "Sub", whole=True)
    if sub is None or _mean_of(sub.inputs[1]) is not sub.inputs[0]:
        return None
    return sub.inputs[0]


def _squared_centre(square: ir.Value | None) -> ir.Value | None:
    """x, if `square` is (x - mean(x))^2, as a power or a product."""
    product = _made_by(square, "Mul", whole=True)
    if product is not None and product.inputs[0] is product.inputs[1]:
        return _centred(product.inputs[0])
    power = _made_by(square, "Pow", whole=True)
    exponent = constant(power.inputs[1]) if power is not None else None
    is_square = exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0
    return _centred(power.inputs[0]) if power is not None and is_square else None


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """v, if `value` is the mean of v over its last axis with that axis kept."""
    node = _made_by(value, "ReduceMean", whole=True)
    if node is None or node.attributes.get_int("keepdims", 1) != 1:
        return None
    axes = node.attributes.get_ints("axes")
    if axes is None:
        array = constant(input_at(node, 1))
        axes = None if array is None else [int(a) for a in array.reshape(-1)]
    if axes is None or len(axes) != 1:
        return None
    r = rank(node.inputs[0])
    return node.inputs[0] if axes[0] == -1 or (r is not None and axes[0] == r - 1) else None
