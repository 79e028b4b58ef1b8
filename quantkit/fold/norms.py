"""Layer and instance normalization that an exporter spelled out get their names back.

d = x - mean(x)        y = d / sqrt(mean(d^2) + epsilon) [* gamma] [+ beta]

Over the last axes it is LayerNormalization; over the spatial axes, with gamma and beta by channel, it is
InstanceNormalization.
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
    """axes: over which means are taken, from 0 up where the rank is known; else (-1,)."""

    x: ir.Value
    epsilon: float
    axes: tuple[int, ...]


@dataclass(frozen=True)
class _Mean:
    of: ir.Value
    axes: tuple[int, ...]


def name_layer_norms(model: ir.Model) -> list[Decision]:
    """Spelled-out norms become LayerNormalization, for which a model of opset 13 to 16 is raised to 17, or
    InstanceNormalization."""
    if not opset(model) >= OLDEST_RAISED:
        return []
    if opset(model) < FIRST_OPSET and not _may_be_raised(model):
        return []
    decisions = rewrite_nodes(model, ("Div", "Mul"), _rewrite)
    if any(node.op_type == "LayerNormalization" for node in model.graph) and opset(model) < FIRST_OPSET:
        model.opset_imports[""] = FIRST_OPSET
    return decisions


def _may_be_raised(model: ir.Model) -> bool:
    plain = all(node.op_type not in CHANGED_MEANING for node in model.graph.all_nodes())
    return plain and not model.functions


def _rewrite(node: ir.Node) -> Decision | None:
    core = _core(node)
    if core is None:
        return None
    r = rank(core.x)
    last = (-1,) if r is None else tuple(range(r))[-len(core.axes) :]
    spatial = r is not None and r > 2 and core.axes == tuple(range(2, r))
    if spatial:
        done = _as_norm(node, core, "InstanceNormalization", (1,))
        if done is not None:
            return done
    return _as_norm(node, core, "LayerNormalization", core.axes) if core.axes in (last, (-1,)) else None


def _as_norm(node: ir.Node, core: _Core, op_type: str, axes: tuple[int, ...]) -> Decision | None:
    """The normalization with gamma and beta along `axes` in the place of the nodes; None where they are not so."""
    last, gamma = _applied(node, "Mul", core.x, axes)
    last, beta = _applied(last, "Add", core.x, axes)
    sizes = _sizes(core.x, axes)
    shape = gamma.shape if gamma is not None else sizes
    by_channel = op_type == "InstanceNormalization"
    if shape is None or (beta is not None and beta.shape != shape) or (by_channel and gamma is None and beta is None):
        return None
    graph, name = graph_of(node), node.name or "norm"
    scale = add_constant(graph, f"{name}_scale", np.ones(shape, np.float32) if gamma is None else gamma)
    if by_channel and beta is None:
        beta = np.zeros(shape, np.float32)
    inputs = [core.x, scale, *([add_constant(graph, f"{name}_bias", beta)] if beta is not None else [])]
    decision = decide(last, "rewritten", f"its spelled-out form as {op_type}")
    axis = {} if by_channel else {"axis": -len(axes)}
    replace_node(last, op_type, inputs, {**axis, "epsilon": core.epsilon})
    return decision


def _sizes(x: ir.Value, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sizes of x along `axes`; None where one is not known."""
    if x.shape is None:
        return None
    dims = [x.shape[axis] for axis in axes]
    known = tuple(dim for dim in dims if isinstance(dim, int))
    return known if len(known) == len(dims) else None


def _applied(node: ir.Node, op_type: str, x: ir.Value, axes: tuple[int, ...]) -> tuple[ir.Node, np.ndarray | None]:
    """(the node after `node` that applies a constant along `axes` by `op_type`, the constant), else (node, None)."""
    follower = sole_consumer(node.outputs[0])
    if follower is None or follower.op_type != op_type or follower.domain != "" or len(follower.inputs) != 2:
        return node, None
    other = follower.inputs[1] if follower.inputs[0] is node.outputs[0] else follower.inputs[0]
    array = constant(other)
    if array is None or array.dtype != np.float32 or array.ndim == 0:
        return node, None
    along = _along(array, x, axes)
    return (node, None) if along is None else (follower, along)


def _along(array: np.ndarray, x: ir.Value, axes: tuple[int, ...]) -> np.ndarray | None:
    """The constant with only the dimensions `axes` of x, if it has no others."""
    sizes, r = _sizes(x, axes), rank(x)
    if axes in ((-1,), (None if r is None else r - 1,)):
        whole = array.size == array.shape[-1] and (array.size == sizes[0] if sizes else array.size > 1)
        return array.reshape(-1) if whole else None
    if sizes is None or r is None or array.ndim > r:
        return None
    lifted = array.reshape((1,) * (r - array.ndim) + array.shape)
    wanted = tuple(sizes[axes.index(i)] if i in axes else 1 for i in range(r))
    return array.reshape(sizes) if lifted.shape == wanted else None


def _core(node: ir.Node) -> _Core | None:
    """x and epsilon, if the node is d / sqrt(mean(d^2) + epsilon) or d * reciprocal(sqrt(...))."""
    for d, deviation in _quotients(node):
        centre = _centred(d)
        shifted = _made_by(_made_by(deviation, "Sqrt"), "Add", whole=True)
        if centre is None or shifted is None:
            continue
        for position in (0, 1):
            epsilon = constant(shifted.inputs[position])
            square = _mean_of(shifted.inputs[1 - position])
            if epsilon is None or epsilon.size != 1 or square is None or square.axes != centre.axes:
                continue
            if _squared_centre(square.of) == centre:
                return _Core(centre.of, float(epsilon.reshape(())), centre.axes)
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


def _centred(d: ir.Value | None) -> _Mean | None:
    """The mean of x, if d is x - mean(x)."""
    sub = _made_by(d, "Sub", whole=True)
    mean = _mean_of(sub.inputs[1]) if sub is not None else None
    return mean if mean is not None and mean.of is sub.inputs[0] else None


def _squared_centre(square: ir.Value | None) -> _Mean | None:
    """The mean of x, if `square` is (x - mean(x))^2, as a power or a product."""
    product = _made_by(square, "Mul", whole=True)
    if product is not None and product.inputs[0] is product.inputs[1]:
        return _centred(product.inputs[0])
    power = _made_by(square, "Pow", whole=True)
    exponent = constant(power.inputs[1]) if power is not None else None
    is_square = exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0
    return _centred(power.inputs[0]) if power is not None and is_square else None


def _mean_of(value: ir.Value | None) -> _Mean | None:
    """v and axes, if `value` is the mean of v with these axes kept."""
    node = _made_by(value, "ReduceMean", whole=True)
    if node is None or node.attributes.get_int("keepdims", 1) != 1 or node.inputs[0] is None:
        return None
    axes = node.attributes.get_ints("axes")
    if axes is None:
        array = constant(input_at(node, 1))
        axes = None if array is None else [int(a) for a in array.reshape(-1)]
    r = rank(node.inputs[0])
    if axes is None or (r is None and list(axes) != [-1]):
        return None
    return _Mean(node.inputs[0], (-1,) if r is None else tuple(sorted(axis % r for axis in axes)))
