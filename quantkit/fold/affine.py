"""Weighted ops as affine maps: scale and shift their outputs or inputs by changing weight and bias.

    y = W x + b:   s * y + t = (s W) x + (s b + t)          per output channel
                   W (s * x + t) + b = (W s) x + (b + W t)  per input channel

All in float64, rounded to float32 once. New initializers are made; the old ones may be shared and stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    RefusalError,
    add_constant,
    constant,
    constant_float,
    graph_of,
    input_at,
    rank,
    set_input,
)

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Weighted:
    """A node y = W x + b with constant W and b, its weight viewed as float64 [groups, inputs, outputs, taps].

    inputs and outputs are per group; channel c of the input is group c // inputs, and so for the output.
    bias: float64 [groups * outputs], or None if the node has none (then `bias_possible` says whether it may get one).
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray | None
    bias_possible: bool

    @property
    def input_channels(self) -> int:
        """Channels of x."""
        return self.weight.shape[0] * self.weight.shape[1]

    @property
    def output_channels(self) -> int:
        """Channels of y."""
        return self.weight.shape[0] * self.weight.shape[2]

    @property
    def channel_axis(self) -> int:
        """Axis of the channels of x and y: 1 for convolutions, the last for matrices."""
        return 1 if self.node.op_type in ("Conv", "ConvTranspose") else -1

    @property
    def output_rank(self) -> int | None:
        """Rank of x and y."""
        return _tensor_rank(self.node)

    @property
    def padded(self) -> bool:
        """Whether zeros may be put around x, so that a shift of x cannot be moved past the padding."""
        if self.node.op_type != "Conv":
            return False
        auto = self.node.attributes.get_string("auto_pad", "NOTSET")
        return any(self.node.attributes.get_ints("pads") or ()) or auto not in ("NOTSET", "VALID")


def weighted(node: ir.Node | None) -> Weighted | None:
    """The node as an affine map, or None: another op, or weight or bias is not a float32 constant."""
    if node is None or node.domain != "" or node.op_type not in WEIGHTED_OPS:
        return None
    weight = constant_float(input_at(node, 1))
    bias_value = input_at(node, 2)
    bias = constant_float(bias_value)
    if weight is None or (bias_value is not None and bias is None):
        return None
    view = _grouped(node, weight)
    if view is None:
        return None
    outputs = view.shape[0] * view.shape[2]
    if bias is not None and bias.shape != (outputs,):
        return None
    return Weighted(node, view, bias, bias_possible=node.op_type != "MatMul")


def _grouped(node: ir.Node, weight: np.ndarray) -> np.ndarray | None:
    """The weight as [groups, inputs, outputs, taps]; None where the node is not in plain form."""
    groups: int = node.attributes.get_int("group", 1)
    if node.op_type == "Conv":
        outputs, inputs = weight.shape[:2]
        return weight.reshape(groups, outputs // groups, inputs, -1).transpose(0, 2, 1, 3)
    if node.op_type == "ConvTranspose":
        inputs, outputs = weight.shape[:2]
        return weight.reshape(groups, inputs // groups, outputs, -1)
    if weight.ndim != 2:
        return None
    if node.op_type == "MatMul":
        return weight[None, :, :, None]
    plain = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")] == [1.0, 1.0]
    if not plain or node.attributes.get_int("transA", 0) == 1:
        return None
    return (weight.T if node.attributes.get_int("transB", 0) == 1 else weight)[None, :, :, None]


def _ungrouped(node: ir.Node, view: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Conv":
        return view.transpose(0, 2, 1, 3).reshape(shape)
    if node.op_type == "ConvTranspose" or node.attributes.get_int("transB", 0) == 0:
        return view.reshape(shape)
    return view[0, :, :, 0].T


def _tensor_rank(node: ir.Node) -> int | None:
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = constant(input_at(node, 1))
        return None if weight is None else weight.ndim
    return 2 if node.op_type == "Gemm" else rank(node.inputs[0])


def scale_output(target: Weighted, scale: np.ndarray, shift: np.ndarray) -> None:
    """Make the node compute scale * y + shift. scale, shift: float64 [output_channels]. Raises RefusalError."""
    groups, _, outputs, _ = target.weight.shape
    weight = target.weight * scale.reshape(groups, 1, outputs, 1)
    bias = shift if target.bias is None else target.bias * scale + shift
    _store(target, weight, bias)


def scale_input(target: Weighted, scale: np.ndarray, shift: np.ndarray) -> None:
    """Make the node compute W (scale * x + shift) + b. scale, shift: float64 [input_channels]. Raises RefusalError."""
    if target.padded and shift.any():
        raise RefusalError(f"a shift cannot move past the zero padding of {target.node.op_type} {target.node.name}")
    groups, inputs, _, _ = target.weight.shape
    weight = target.weight * scale.reshape(groups, inputs, 1, 1)
    moved = np.einsum("giot,gi->go", target.weight, shift.reshape(groups, inputs)).reshape(-1)
    _store(target, weight, moved if target.bias is None else target.bias + moved)


def _store(target: Weighted, view: np.ndarray, bias: np.ndarray) -> None:
    node, graph = target.node, graph_of(target.node)
    if target.bias is None and bias.any() and not target.bias_possible:
        raise RefusalError(f"{node.op_type} {node.name} has no bias to take the shift")
    old_weight, old_bias = input_at(node, 1), input_at(node, 2)
    assert old_weight is not None
    assert old_weight.const_value is not None
    shape = tuple(old_weight.const_value.shape.numpy())
    with np.errstate(over="ignore"):
        weight, new_bias = _ungrouped(node, view, shape).astype(np.float32), bias.astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(new_bias).all()):
        raise RefusalError(f"the new weights of {node.op_type} {node.name} would not be finite")
    set_input(node, 1, add_constant(graph, old_weight.name or "weight", weight))
    if target.bias is not None or bias.any():
        name = old_bias.name if old_bias is not None else f"{node.name}.bias"
        set_input(node, 2, add_constant(graph, name or "bias", new_bias))
