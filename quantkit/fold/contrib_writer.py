"""New ops in front of a node and in its place: how quantkit.fold.contrib writes out what onnxruntime has fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import RefusalError, add_constant, graph_of, rank, unused_node_name, unused_value_name

MICROSOFT = "com.microsoft"
AXES_AS_INPUTS = 18
"""The opset from which the axes of ReduceMean are an input."""


class Writer:
    """Puts the ops that stand for a node in front of it, then those values in the place of its outputs."""

    def __init__(self, node: ir.Node, version: int) -> None:
        self.node, self.graph, self.version = node, graph_of(node), version
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []

    def emit(self, op_type: str, *inputs: ir.Value | None, **attributes: int | float | Sequence[int]) -> ir.Value:
        """The output of a new node; shape inference will say what it is."""
        return self.placed(op_type, inputs, ir.convenience.convert_attributes(attributes))

    def placed(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr]) -> ir.Value:
        """As `emit`, with the attributes of another node."""
        out = ir.Value(name=unused_value_name(self.graph, f"{self.node.outputs[0].name}_{op_type}"))
        made = ir.Node("", op_type, inputs, attributes, outputs=[out])
        made.name = unused_node_name(self.graph, f"{self.node.name}/{op_type}")
        self.graph.insert_before(self.node, made)
        self._nodes.append(made)
        return out

    def number(self, value: float) -> ir.Value:
        return self.array("number", np.array(value, np.float32))

    def array(self, name: str, array: np.ndarray) -> ir.Value:
        value = add_constant(self.graph, f"{self.node.name}_{name}", array)
        self._constants.append(value)
        return value

    def integers(self, *values: int) -> ir.Value:
        return self.array("integers", np.array(values, np.int64))

    def mean(self, x: ir.Value) -> ir.Value:
        """Over the last axis, which stays."""
        if self.version >= AXES_AS_INPUTS:
            return self.emit("ReduceMean", x, self.integers(-1), keepdims=1)
        return self.emit("ReduceMean", x, axes=[-1], keepdims=1)

    def swapped(self, x: ir.Value) -> ir.Value:
        """The last two axes exchanged. Raises RefusalError where the rank is not known."""
        axes = list(range(require_rank(x)))
        return self.emit("Transpose", x, perm=[*axes[:-2], axes[-1], axes[-2]])

    def counted(self, x: ir.Value | None, axis: int) -> ir.Value:
        """0, 1, ... for each place along an axis: int64 [size]."""
        size = self.emit("Gather", self.emit("Shape", x), self.array("axis", np.array(axis, np.int64)), axis=0)
        zero, one = (self.array(name, np.array(value, np.int64)) for name, value in (("first", 0), ("step", 1)))
        return self.emit("Range", zero, size, one)

    def finish(self, values: Mapping[int, ir.Value]) -> None:
        """values: output index -> what takes its place, name, type and shape included."""
        for index, value in values.items():
            output = self.node.outputs[index]
            output.replace_all_uses_with(value, replace_graph_outputs=True)
            value.name, value.shape, value.type, output.name = output.name, output.shape, output.type, None
        self.graph.remove(self.node, safe=True)

    def discard(self) -> None:
        """Takes back what was written: the node stays."""
        for made in reversed(self._nodes):
            self.graph.remove(made, safe=True)
        for value in self._constants:
            del self.graph.initializers[value.name or ""]


def require_rank(x: ir.Value) -> int:
    found = rank(x)
    if found is None:
        raise RefusalError(f"the rank of {x.name!r} is not known")
    return found


def require_unused(node: ir.Node, *indices: int) -> None:
    """Raises RefusalError where one of these outputs is read."""
    for index in indices:
        if index < len(node.outputs) and (node.outputs[index].uses() or node.outputs[index].is_graph_output()):
            raise RefusalError(f"output {index} of {node.op_type} is read")


Form = Callable[[Writer], "dict[int, ir.Value]"]
"""Writes the ops; output index -> value. Raises RefusalError: what was written is taken back."""
