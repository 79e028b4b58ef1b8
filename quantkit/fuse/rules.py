"""The rewrites of a folded FP32 graph into fused ops. `RULES` is the table; each rule matches one anchor node.

An anchor (Conv, Gemm, MatMul with constant weights; Add, Sub, Mul) takes in what follows it: a bias, a residual
Add, an activation, each only where nobody else looks at the value in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.functions import ATTRIBUTES
from quantkit.fuse.graph import (
    Reject,
    constant,
    conv_layout,
    is_standard,
    new_initializer,
    only_consumer,
    replace_nodes,
    same_shape,
)
from quantkit.fuse.opnames import DOMAIN, OpName
from quantkit.fuse.patterns import activation_of


@dataclass
class Match:
    """An anchor and what it takes in. `inputs`: x, w, bias for weighted ops, the operands for binary ones."""

    anchor: ir.Node
    inputs: list[ir.Value]
    attributes: dict[str, Any]
    nodes: list[ir.Node] = field(default_factory=list)
    residual: ir.Value | None = None
    activation: str = ""

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


def weight_of(node: ir.Node, index: int) -> tuple[ir.Value, np.ndarray]:
    """Input `index` and its float32 values. Raises Reject if it is not constant, or of another type."""
    value = node.inputs[index]
    array = constant(value)
    if value is None or array is None:
        raise Reject(f"weight {value.name if value else index!r} is not constant")
    if array.dtype != np.float32:
        raise Reject(f"weight {value.name!r} is {array.dtype}, not float32")
    return value, array


def _bias(graph: ir.Graph, node: ir.Node, index: int, count: int) -> ir.Value:
    """Input `index` as a [count] float32 constant; zeros where it is absent."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return new_initializer(graph, f"{node.name}/bias", np.zeros(count, np.float32))
    array = constant(value)
    if array is None:
        raise Reject(f"bias {value.name!r} is not constant")
    if array.shape == (count,):
        return value
    if array.size not in (1, count):
        raise Reject(f"bias {value.name!r} has shape {array.shape}, not [{count}]")
    return new_initializer(graph, f"{node.name}/bias", np.broadcast_to(array.reshape(-1), (count,)).copy())


def _match_conv(graph: ir.Graph, node: ir.Node) -> Match:
    weight, array = weight_of(node, 1)
    if array.ndim not in (3, 4):
        raise Reject(f"{array.ndim - 2} spatial dimensions; the engine has 1 and 2")
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        raise Reject(f"auto_pad={auto_pad.as_string()} could not be resolved to pads (input size unknown)")
    rank = array.ndim - 2
    defaults = {"strides": [1] * rank, "pads": [0] * 2 * rank, "dilations": [1] * rank, "group": 1}
    attributes = {key: node.attributes[key].value if key in node.attributes else defaults[key]
                  for key in ATTRIBUTES["Conv"]}  # fmt: skip
    bias = _bias(graph, node, 2, array.shape[0])
    return Match(node, [node.inputs[0], weight, bias], attributes)  # type: ignore[list-item]


def _match_conv_transpose(graph: ir.Graph, node: ir.Node) -> Match:
    """The weights are turned into the layout of Conv: [C_out, C_in / group, *kernel]."""
    _, array = weight_of(node, 1)
    rank = array.ndim - 2
    if rank not in (1, 2):
        raise Reject(f"{rank} spatial dimensions; the engine has 1 and 2")
    auto_pad = node.attributes.get("auto_pad")
    if (auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID")) or "output_shape" in node.attributes:
        raise Reject("auto_pad or output_shape; explicit pads are supported")
    defaults = {"strides": [1] * rank, "pads": [0] * 2 * rank, "dilations": [1] * rank, "group": 1,
                "output_padding": [0] * rank}  # fmt: skip
    attributes: dict[str, Any] = {key: node.attributes[key].value if key in node.attributes else default
                                  for key, default in defaults.items()}  # fmt: skip
    if min(attributes["pads"]) < 0:
        raise Reject("negative pads")
    turned = conv_layout(array, attributes["group"])
    weight, bias = new_initializer(graph, f"{node.name}/weight", turned), _bias(graph, node, 2, turned.shape[0])
    return Match(node, [node.inputs[0], weight, bias], attributes)  # type: ignore[list-item]


def _match_gemm(graph: ir.Graph, node: ir.Node) -> Match:
    weight, array = weight_of(node, 1)
    wanted = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    onnx_default = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    got = {key: node.attributes[key].value if key in node.attributes else onnx_default[key] for key in wanted}
    if got != wanted:
        raise Reject(f"attributes {got} are not normalised")
    return Match(node, [node.inputs[0], weight, _bias(graph, node, 2, array.shape[0])], {})  # type: ignore[list-item]


def _match_matmul(graph: ir.Graph, node: ir.Node) -> Match:
    weight, array = weight_of(node, 1)
    if array.ndim != 2:
        raise Reject(f"constant operand has {array.ndim} dimensions; 2 are supported")
    match = Match(node, [node.inputs[0], weight], {}, [node])  # type: ignore[list-item]
    follower = only_consumer(node.outputs[0])
    if follower is not None and is_standard(follower, "Add"):
        other = follower.inputs[1] if follower.inputs[0] is node.outputs[0] else follower.inputs[0]
        shift = constant(other)
        if shift is not None and shift.size == array.shape[1] and shift.shape[-1:] == (array.shape[1],):
            match.nodes.append(follower)
            flat = new_initializer(graph, f"{node.name}/bias", shift.reshape(-1).astype(np.float32))
            match.inputs.append(flat)
            return match
    match.inputs.append(new_initializer(graph, f"{node.name}/bias", np.zeros(array.shape[1], np.float32)))
    return match


def _match_binary(graph: ir.Graph, node: ir.Node) -> Match:
    follower = only_consumer(node.outputs[0])
    if follower is None or activation_of(follower) is None:
        raise Reject("no activation follows")
    if node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        raise Reject(f"{node.outputs[0].dtype} is not float32")
    return Match(node, list(node.inputs), {})  # type: ignore[arg-type]


def _take_residual(match: Match) -> None:
    value = match.output
    follower = only_consumer(value)
    if follower is None or not is_standard(follower, "Add"):
        return
    other = follower.inputs[1] if follower.inputs[0] is value else follower.inputs[0]
    if other is None or other.const_value is not None or not same_shape(other, value):
        return
    match.residual = other
    match.nodes.append(follower)


def _take_activation(match: Match) -> None:
    follower = only_consumer(match.output)
    found = activation_of(follower) if follower is not None else None
    if follower is None or found is None or follower.inputs[0] is not match.output:
        return
    match.activation, attributes = found
    match.attributes.update(attributes)
    match.nodes.append(follower)


RULES: dict[str, Callable[[ir.Graph, ir.Node], Match]] = {
    "Conv": _match_conv,
    "ConvTranspose": _match_conv_transpose,
    "Gemm": _match_gemm,
    "MatMul": _match_matmul,
    "Add": _match_binary,
    "Sub": _match_binary,
    "Mul": _match_binary,
}
"""Anchor op type -> matcher. Weighted anchors come first: they may take in an Add."""


def apply_rule(graph: ir.Graph, node: ir.Node) -> tuple[OpName, Match]:
    """Rewrites one anchor. Returns what it became; raises Reject with the reason, the graph unchanged."""
    match = RULES[node.op_type](graph, node)
    match.nodes = match.nodes or [node]
    name = OpName(node.op_type, "float")
    if name.is_weighted and name.base != "ConvTranspose":  # whose output is written in parts
        _take_residual(match)
    _take_activation(match)
    name = OpName(name.base, "float", match.residual is not None, match.activation)
    inputs = [*match.inputs, *([match.residual] if match.residual is not None else [])]
    fused = ir.node(name.op_type, inputs, match.attributes, domain=DOMAIN, name=node.name)
    replace_nodes(graph, match.nodes, fused, match.output)
    return name, match
