"""Elementwise activations in a graph: standard ops, and compositions that exporters spell out (SiLU, GELU...)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from quantkit.fuse.activations import ACTIVATIONS
from quantkit.fuse.graph import is_standard, quantkit_name, scalar
from quantkit.fuse.opnames import DOMAIN
from quantkit.types import Decision

X = "x"
"""The pattern variable: the activation's input, the same value wherever it stands."""
Pattern = Any

_CLIP3 = ("Clip", ("Add", X, 3.0), 0.0, 6.0)
_ERF_TERM = [("Add", ("Erf", inner), 1.0) for inner in (("Div", X, math.sqrt(2.0)), ("Mul", X, math.sqrt(0.5)))]
_CUBES = (("Pow", X, 3.0), ("Mul", ("Mul", X, X), X))
_TANH_TERM = [
    ("Add", ("Tanh", ("Mul", ("Add", X, ("Mul", cube, 0.044715)), math.sqrt(2.0 / math.pi))), 1.0) for cube in _CUBES
]


def _halved(term: Pattern) -> list[Pattern]:
    """x * term / 2 in the orders that exporters write."""
    return [("Mul", ("Mul", X, term), 0.5), ("Mul", X, ("Mul", term, 0.5)), ("Mul", ("Mul", X, 0.5), term),
            ("Div", ("Mul", X, term), 2.0)]  # fmt: skip


COMPOSITIONS: list[tuple[str, dict[str, float], list[Pattern]]] = [
    ("Gelu", {}, [p for term in _ERF_TERM for p in _halved(term)]),
    ("GeluTanh", {}, [p for term in _TANH_TERM for p in _halved(term)]),
    ("Mish", {}, [("Mul", X, ("Tanh", ("Softplus", X)))]),
    ("SiLU", {}, [("Mul", X, ("Sigmoid", X))]),
    (
        "HardSwish",
        {},
        [("Div", ("Mul", X, _CLIP3), 6.0), ("Mul", ("Mul", X, _CLIP3), 1.0 / 6.0), ("Mul", X, ("Div", _CLIP3, 6.0)),
         ("Mul", X, ("Mul", _CLIP3, 1.0 / 6.0)), ("Mul", X, ("HardSwishGate", X))],
    ),
    ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}, [("Div", _CLIP3, 6.0), ("Mul", _CLIP3, 1.0 / 6.0)]),
]  # fmt: skip
"""(activation, its attributes, patterns). Add and Mul match in either order; numbers match to 1e-4 (relative)."""

COMMUTATIVE = ("Add", "Mul")


@dataclass
class _State:
    x: ir.Value | None
    nodes: list[ir.Node]


def _match(pattern: Pattern, value: ir.Value | None, state: _State) -> Iterator[_State]:
    """Every way in which `value` fits `pattern`, with the nodes used."""
    if value is None:
        return
    if pattern == X:
        if state.x is None or state.x is value:
            yield _State(value, state.nodes)
        return
    if isinstance(pattern, float):
        number = scalar(value)
        if number is not None and math.isclose(number, pattern, rel_tol=1e-4, abs_tol=1e-6):
            yield state
        return
    node = value.producer()
    op_type, *operands = pattern
    if node is None:
        return
    if op_type == "HardSwishGate":
        yield from _match_gate(node, operands[0], state)
    elif is_standard(node, op_type) and len(node.inputs) == len(operands):
        orders = [operands, operands[::-1]] if op_type in COMMUTATIVE else [operands]
        for order in orders:
            yield from _match_all(order, list(node.inputs), _State(state.x, [*state.nodes, node]))


def _match_gate(node: ir.Node, operand: Pattern, state: _State) -> Iterator[_State]:
    """HardSigmoid with alpha 1/6 and beta 1/2: the gate of HardSwish."""
    found = activation_of(node)
    if found and found[0] == "HardSigmoid" and math.isclose(found[1]["alpha"], 1 / 6, rel_tol=1e-4) \
            and math.isclose(found[1]["beta"], 0.5):  # fmt: skip
        yield from _match(operand, node.inputs[0], _State(state.x, [*state.nodes, node]))


def _match_all(patterns: list[Pattern], values: list[ir.Value | None], state: _State) -> Iterator[_State]:
    if not patterns:
        yield state
        return
    for partial in _match(patterns[0], values[0], state):
        yield from _match_all(patterns[1:], values[1:], partial)


def _is_closed(state: _State, root: ir.Value) -> bool:
    """No value inside the match is used outside it or is a graph output."""
    inside = set(state.nodes)
    inner = [out for node in state.nodes for out in node.outputs if out is not root]
    return all(not v.is_graph_output() and all(use.node in inside for use in v.uses()) for v in inner)


def fuse_compositions(model: ir.Model) -> list[Decision]:
    """Replaces spelled-out activations by one node of domain quantkit (`SiLU`, `Gelu`...)."""
    graph = model.graph
    decisions = []
    for name, attributes, patterns in COMPOSITIONS:
        for root in [n for n in graph if n.domain == "" and n.op_type in ("Mul", "Div")]:
            out = root.outputs[0]
            if root.graph is None:
                continue
            states = (s for p in patterns for s in _match(p, out, _State(None, [])))
            found = next((s for s in states if s.x is not None and _is_closed(s, out)), None)
            if found is None:
                continue
            node = ir.node(name, [found.x], attributes, domain=DOMAIN, name=root.name)
            _replace(graph, found.nodes, node, out)
            decisions.append(Decision("fuse", "fused", root.name or "", f"{len(found.nodes)} nodes -> {name}"))
    return decisions


def _replace(graph: ir.Graph, nodes: list[ir.Node], new: ir.Node, root: ir.Value) -> None:
    from quantkit.fuse.graph import replace_nodes

    replace_nodes(graph, list(dict.fromkeys(nodes)), new, root)


def _clip_bounds(node: ir.Node) -> dict[str, float] | None:
    bounds = dict(ACTIVATIONS["Clip"].attributes)
    for key, value in zip(("min", "max"), node.inputs[1:], strict=False):
        if value is not None:
            number = scalar(value)
            if number is None:
                return None
            bounds[key] = number
    return bounds


def _floats(node: ir.Node, name: str) -> dict[str, float]:
    """The activation's attributes as floats, ONNX's defaults filled in."""
    row = ACTIVATIONS[name].attributes
    return {key: float(node.attributes[key].as_float()) if key in node.attributes else row[key] for key in row}


def activation_of(node: ir.Node) -> tuple[str, dict[str, float]] | None:
    """(activation, attributes) if the node is an elementwise activation of its first input, else None."""
    name = quantkit_name(node)
    if name is not None:
        is_unary = name.level == "float" and name.base in ACTIVATIONS
        return (name.base, _floats(node, name.base)) if is_unary else None
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Clip":
        bounds = _clip_bounds(node)
        return ("Clip", bounds) if bounds else None
    if node.op_type == "PRelu":
        slope = scalar(node.inputs[1])
        return ("LeakyRelu", {"alpha": slope}) if slope is not None else None
    if node.op_type == "Gelu":
        kind = node.attributes["approximate"].as_string() if "approximate" in node.attributes else "none"
        return ("GeluTanh" if kind == "tanh" else "Gelu"), {}
    if node.op_type == "Swish":
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
        return ("SiLU", {}) if alpha == 1.0 else None
    return (node.op_type, _floats(node, node.op_type)) if node.op_type in ACTIVATIONS else None
