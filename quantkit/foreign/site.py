"""The place of one static quantkit node in a graph, where standard operators are written instead of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.functions import Emitter
from quantkit.fuse.graph import Reject, constant, new_initializer
from quantkit.fuse.opnames import OpName
from quantkit.types import QuantParams

WEIGHT_ZERO_POINT = 128
Pair = Sequence[ir.Value | None]


class Site:
    """The new nodes for one static node, and its operands by name.

    operands: its inputs without the pairs. y: scale and zero point of the output, empty if that is float32. pre: those
    in front of an activation that is a table.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node, name: OpName) -> None:
        self.graph, self.node, self.name = graph, node, name
        self.emitter = Emitter(graph.opset_imports[""], prefix=f"{node.name}/")
        inputs = list(node.inputs)
        self.y: Pair = [] if name.to_float else inputs[-2:]
        rest = inputs if name.to_float else inputs[:-2]
        self.pre: Pair = rest[-2:] if name.is_lookup else []
        self.operands = rest[: len(rest) - len(self.pre)]

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None,
             domain: str = "") -> ir.Value:  # fmt: skip
        value = self.emitter(op_type, inputs, attributes or {})
        self.emitter.nodes[-1].domain = domain
        return value

    def abandon(self) -> None:
        """Takes the new nodes back: they no longer use what they were given."""
        for node in self.emitter.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)

    def cast(self, value: ir.Value | None, to: ir.DataType) -> ir.Value:
        return self.emit("Cast", [value], {"to": int(to)})

    def constant(self, what: str, array: np.ndarray | np.generic) -> ir.Value:
        return new_initializer(self.graph, f"{self.node.name}/{what}", np.asarray(array))

    def array(self, index: int) -> np.ndarray:
        found = constant(self.operands[index])
        if found is None:
            raise Reject(f"operand {index} is computed at run time")
        return found

    def params(self, pair: Pair) -> QuantParams:
        """The numbers of a scale and a zero point. Raises Reject where they are computed at run time."""
        scale, zero_point = (constant(value) for value in pair)
        if scale is None or zero_point is None:
            raise Reject("a scale is computed at run time")
        return QuantParams(float(scale.item()), int(zero_point.item()))

    def weights(self) -> tuple[ir.Value, np.ndarray]:
        """The weights as u8, in the op's layout, and their scale float32 [C]."""
        shifted = (self.array(3).astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)
        return self.constant("weight_u8", shifted), self.array(4)

    def zero_points(self, count: int | None = None) -> ir.Value:
        """The zero point of the weights: one, or one a channel."""
        shape = () if count is None else (count,)
        return self.constant("weight_u8_zero_point", np.full(shape, WEIGHT_ZERO_POINT, np.uint8))

    def over_channels(self, array: np.ndarray) -> np.ndarray:
        """[C] in the shape that broadcasts over the output of a weighted op."""
        spatial = self.node.attributes["strides"].as_ints() if "strides" in self.node.attributes else ()
        return array.reshape(-1, *[1] * len(spatial))

    def accumulator(self) -> ir.Value:
        """int32: the exact sums of products with the bias, of Conv, Gemm or MatMul."""
        x, _, x_zero_point = self.operands[:3]
        weights, _ = self.weights()
        bias = self.over_channels(self.array(6))
        if self.name.base == "Conv":
            own = {key: self.node.attributes[key] for key in ("strides", "pads", "dilations", "group")}
            acc = self.emit("ConvInteger", [x, weights, x_zero_point, self.zero_points()], own)
        else:
            if self.name.base == "Gemm":
                weights = self.constant("weight_u8", np.ascontiguousarray(constant(weights).T))  # type: ignore[union-attr]
            acc = self.emit("MatMulInteger", [x, weights, x_zero_point, self.zero_points()])
        acc.type = ir.TensorType(ir.DataType.INT32)
        return self.emit("Add", [acc, self.constant("bias_int32", bias)]) if bias.any() else acc


def clamp_bounds(site: Site, p: QuantParams) -> tuple[int, int]:
    """The bounds of Relu or Clip as bytes: (0, 255) if saturation does it, and where there is no such activation."""
    attributes = site.node.attributes
    if site.name.activation not in ("Relu", "Clip"):
        return 0, 255
    real = (0.0, np.inf) if site.name.activation == "Relu" else (
        attributes["min"].as_float(), attributes["max"].as_float())  # fmt: skip
    steps = np.rint(np.array(real, np.float32) / np.float32(p.scale)) + p.zero_point
    low, high = np.clip(steps, 0, 255).astype(int).tolist()
    return low, high
