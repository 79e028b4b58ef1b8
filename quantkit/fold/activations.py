"""Spelled-out hard activations get their name back before their constants could be folded into neighbours.

HardSigmoid(x) = Clip(x + 3, 0, 6) / 6           HardSwish(x) = x * Clip(x + 3, 0, 6) / 6
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import constant, decide, input_at, opset, replace_node, rewrite_nodes, sole_consumer
from quantkit.types import Decision

HARD_SWISH_OPSET = 14
"""ai.onnx has HardSwish from this opset on."""
TOLERANCE = 1e-6
"""Relative: exporters round 1/6 to float32 in different ways."""
HARD_SIGMOID = {"alpha": 1.0 / 6.0, "beta": 0.5}


def name_activations(model: ir.Model) -> list[Decision]:
    """Make Clip(x + 3, 0, 6) / 6 a HardSigmoid, and x times it, in either order of the division, a HardSwish."""
    swish = opset(model) >= HARD_SWISH_OPSET

    def rewrite(node: ir.Node) -> Decision | None:
        scaled = _divided_by_six(node)
        if scaled is not None and sole_consumer(scaled) is node:
            if (source := _clipped(scaled)) is not None:
                return _replace(node, "HardSigmoid", source, HARD_SIGMOID)
            if swish and (source := _times_itself(scaled.producer(), _clipped)) is not None:
                return _replace(node, "HardSwish", source, {})
        if swish and (source := _times_itself(node, _hard_sigmoid)) is not None:
            return _replace(node, "HardSwish", source, {})
        return None

    return rewrite_nodes(model, ("Mul", "Div"), rewrite)


def _replace(node: ir.Node, op_type: str, source: ir.Value, attributes: dict[str, float]) -> Decision:
    decision = decide(node, "rewritten", f"its spelled-out form as {op_type}")
    replace_node(node, op_type, [source], attributes)
    return decision


def _scalar(value: ir.Value | None) -> float | None:
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _close(a: float | None, b: float) -> bool:
    return a is not None and bool(np.isclose(a, b, rtol=TOLERANCE, atol=0.0))


def _divided_by_six(node: ir.Node) -> ir.Value | None:
    """v, if the node is v / 6 or v * (1/6)."""
    if node.op_type == "Div":
        return node.inputs[0] if _close(_scalar(node.inputs[1]), 6.0) else None
    for position in (0, 1):
        if _close(_scalar(node.inputs[position]), 1.0 / 6.0):
            return node.inputs[1 - position]
    return None


def _clipped(value: ir.Value | None) -> ir.Value | None:
    """x, if value is Clip(x + 3, 0, 6)."""
    clip = value.producer() if value is not None else None
    if clip is None or clip.op_type != "Clip" or clip.domain != "":
        return None
    if _scalar(input_at(clip, 1)) != 0.0 or _scalar(input_at(clip, 2)) != 6.0:
        return None
    shifted = clip.inputs[0]
    add = shifted.producer() if shifted is not None else None
    if add is None or add.op_type != "Add" or add.domain != "":
        return None
    for position in (0, 1):
        if _scalar(add.inputs[position]) == 3.0:
            return add.inputs[1 - position]
    return None


def _hard_sigmoid(value: ir.Value | None) -> ir.Value | None:
    """x, if value is HardSigmoid(x) with the slope and offset of HardSwish."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "HardSigmoid" or node.domain != "":
        return None
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return node.inputs[0] if _close(alpha, HARD_SIGMOID["alpha"]) and beta == HARD_SIGMOID["beta"] else None


def _times_itself(node: ir.Node | None, gate: Callable[[ir.Value | None], ir.Value | None]) -> ir.Value | None:
    """x, if the node is the Mul x * gate(x) in either order."""
    if node is None or node.op_type != "Mul" or node.domain != "":
        return None
    for position in (0, 1):
        source = gate(node.inputs[position])
        if source is not None and source is node.inputs[1 - position]:
            return source
    return None
