"""Shapes known only at run time, worked out from the shapes of the graph's inputs alone.

Exporters take the size of a tensor where they stand, so that a Reshape waits for it. What depends on nothing but the
inputs can be computed before anything else runs, and nothing in the middle of the graph has to exist for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import RefusalError, add_constant, opset, unused_value_name
from quantkit.fold.symbolic import Dim, Rounded

MADE_KEY = "quantkit.fold.input_shapes"
"""Meta of the nodes of such a computation."""
MIN_OF_INTEGERS_OPSET = 12
"""ONNX has Min of int64 from here on."""


def from_input_shapes(value: ir.Value | None) -> bool:
    """Is `value` computed from constants and the shapes of graph inputs, and from nothing else?"""
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        if current is None or current.const_value is not None or current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is None or node.domain != "" or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
            return False
        source = node.inputs[0] if node.op_type == "Shape" else None
        if source is None or not source.is_graph_input():
            waiting.extend(node.inputs)
    return True


def is_made(value: ir.Value | None) -> bool:
    """Was `value` made by `InputShapes`?"""
    node = value.producer() if value is not None else None
    return node is not None and MADE_KEY in node.meta


class InputShapes:
    """Puts the computation of shapes at the start of a model's graph; equal ones are computed once."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._opset = opset(model)
        self._first = next(iter(model.graph), None)
        self._node_names = {node.name for node in model.graph.all_nodes()}
        self._made: dict[tuple[object, ...], ir.Value] = {}
        self._places: dict[str, tuple[ir.Value, int]] = {}
        for value in model.graph.inputs:
            for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
                if not isinstance(dim, int) and dim.value and not value.is_initializer():
                    self._places.setdefault(dim.value, (value, axis))

    def is_known(self, dim: Dim) -> bool:
        """Can `dim` be worked out from the names of the inputs' dimensions?"""
        return isinstance(dim, int) or all(self._is_known_symbol(symbol) for symbol in dim.symbols)

    def _is_known_symbol(self, symbol: str) -> bool:
        if not isinstance(symbol, Rounded):
            return symbol in self._places
        possible = symbol.op_type != "Min" or self._opset >= MIN_OF_INTEGERS_OPSET
        return possible and all(self.is_known(operand) for operand in symbol.operands)

    def vector(self, elements: Sequence[Dim]) -> ir.Value:
        """int64 [len(elements)] of these sizes. Raises RefusalError for one that is not known from the inputs."""
        if not all(self.is_known(element) for element in elements):
            raise RefusalError("a size depends on more than the shapes of the inputs")
        parts: list[ir.Value] = []
        numbers: list[int] = []
        for element in elements:
            if isinstance(element, int):
                numbers.append(element)
                continue
            parts += [self._numbers(numbers)] if numbers else []
            numbers = []
            parts.append(self._size(element))
        parts += [self._numbers(numbers)] if numbers else []
        return parts[0] if len(parts) == 1 else self._node("Concat", parts, len(elements), axis=0)

    def _size(self, size: Dim) -> ir.Value:
        """int64 [1]: the sum of products that `size` is."""
        if isinstance(size, int):
            return self._numbers([size])
        total: ir.Value | None = None
        for symbols, factor in size.terms:
            factors = [self._symbol(symbol) for symbol in symbols]
            if factor != 1 or not factors:
                factors.append(self._numbers([factor]))
            term = factors[0]
            for other in factors[1:]:
                term = self._node("Mul", [term, other])
            total = term if total is None else self._node("Add", [total, term])
        assert total is not None
        return total

    def _symbol(self, symbol: str) -> ir.Value:
        if isinstance(symbol, Rounded):
            return self._node(symbol.op_type, [self._size(operand) for operand in symbol.operands])
        value, axis = self._places[symbol]
        rank = len(value.shape.dims) if value.shape is not None else 0
        return self._node("Gather", [self._node("Shape", [value], rank), self._numbers([axis])], axis=0)

    def _numbers(self, numbers: list[int]) -> ir.Value:
        key = ("numbers", *numbers)
        if key not in self._made:
            self._made[key] = add_constant(self._graph, "input_shapes", np.array(numbers, np.int64))
        return self._made[key]

    def _node(self, op_type: str, inputs: list[ir.Value], length: int = 1, **attributes: int) -> ir.Value:
        """int64 [length]: the output of a node before all that were there."""
        key = (op_type, *inputs)
        if key in self._made:
            return self._made[key]
        out = ir.Value(name=unused_value_name(self._graph, f"input_shapes/{op_type}"), shape=ir.Shape([length]),
                       type=ir.TensorType(ir.DataType.INT64))  # fmt: skip
        node = ir.Node("", op_type, inputs, ir.convenience.convert_attributes(attributes), outputs=[out])
        node.name = self._node_name(f"input_shapes/{op_type}")
        node.meta[MADE_KEY] = True
        assert self._first is not None
        self._graph.insert_before(self._first, node)
        self._made[key] = out
        return out

    def _node_name(self, stem: str) -> str:
        name, count = stem, 1
        while name in self._node_names:
            count += 1
            name = f"{stem}_{count}"
        self._node_names.add(name)
        return name
