"""A scale and a shift behind an activation become part of it: `scale * act(x) + shift` is one table in u8."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from quantkit.fuse.activations import AFFINE, WITH_AFFINE
from quantkit.fuse.graph import constant, is_standard, only_consumer, replace_nodes, scalar
from quantkit.fuse.opnames import DOMAIN
from quantkit.fuse.patterns import activation_of
from quantkit.types import Decision

Affine = tuple[float, float]
STEPS: dict[str, Callable[[float, float, float, bool], Affine | None]] = {
    "Mul": lambda scale, shift, c, first: (scale * c, shift * c),
    "Div": lambda scale, shift, c, first: (scale / c, shift / c) if first and c else None,
    "Add": lambda scale, shift, c, first: (scale, shift + c),
    "Sub": lambda scale, shift, c, first: (scale, shift - c) if first else (-scale, c - shift),
}
"""op -> what a step makes of (scale, shift), given its constant and whether the tensor is its first operand."""


def fuse_affine(model: ir.Model) -> list[Decision]:
    """Replaces an activation of WITH_AFFINE and the arithmetic with single numbers behind it by one node, in place.

    Relu alone is a clamp, free of any rounding: a scale without a shift stays behind it.
    """
    decisions = []
    for node in list(model.graph):
        found = activation_of(node)
        if found is None or found[0] not in WITH_AFFINE:
            continue
        nodes, (scale, shift) = _chain(node)
        if len(nodes) == 1 or (found[0] == "Relu" and shift == 0.0):
            continue
        attributes = {**found[1], "scale": scale, "shift": shift}
        fused = ir.node(found[0] + AFFINE, [node.inputs[0]], attributes, domain=DOMAIN, name=node.name)
        replace_nodes(model.graph, nodes, fused, nodes[-1].outputs[0])
        decisions.append(Decision("fuse", "fused", node.name or "", f"{len(nodes)} nodes -> {fused.op_type}"))
    return decisions


def _chain(node: ir.Node) -> tuple[list[ir.Node], Affine]:
    """The activation and what follows it, each the only reader of the one before, and what that amounts to."""
    nodes, affine = [node], (1.0, 0.0)
    while True:
        value = nodes[-1].outputs[0]
        follower = only_consumer(value)
        if follower is None or not is_standard(follower, *STEPS):
            return nodes, affine
        first = follower.inputs[0] is value
        number = _number(follower.inputs[1 if first else 0], value)
        after = None if number is None else STEPS[follower.op_type](*affine, number, first)
        if after is None:
            return nodes, affine
        nodes, affine = [*nodes, follower], after


def _number(operand: ir.Value | None, value: ir.Value) -> float | None:
    """The single number in `operand`, if arithmetic with it leaves the shape of `value` as it is."""
    array = constant(operand)
    rank = 0 if value.shape is None else len(value.shape)
    return scalar(operand) if array is not None and array.ndim <= rank else None
