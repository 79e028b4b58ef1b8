"""One walk over the graph that finds every shape, symbols included, and the integer tensors computed from shapes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.fold import shape_values
from quantkit.fold.editing import constant
from quantkit.fold.shape_rules import DIM_RULES, PRIVATE
from quantkit.fold.symbolic import Dim, Size, symbol

LONGEST_ANNOTATION = 100
"""Longer expressions tell nobody anything: such a dimension is written as unknown."""


class ShapeAnalysis:
    """Shapes and shape-valued tensors of the main graph, from its inputs' shapes and its constants.

    Sizes that depend on an input's symbolic dimension are expressions in it; others are symbols of their own. Where
    ONNX has no rule for a node (local functions, vendor ops, subgraphs) the value's annotation counts.
    """

    def __init__(self, model: ir.Model) -> None:
        self._imports = [onnx.helper.make_opsetid(domain, v) for domain, v in model.graph.opset_imports.items()]
        self._versions = dict(model.graph.opset_imports)
        self._dims: dict[ir.Value, tuple[Dim, ...]] = {}
        self._elements: dict[ir.Value, np.ndarray | None] = {}
        self._dtypes: dict[ir.Value, ir.DataType] = {}
        self._named: dict[str, Size] = {}
        for value in model.graph.inputs:
            self._annotate(value)
        for node in model.graph:
            self._visit(node)

    def dims(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The dimensions of `value`, or None if even its rank is unknown."""
        if value.is_initializer() and value.const_value is not None:
            return tuple(int(d) for d in value.const_value.shape.numpy())
        return self._dims.get(value)

    def same_shape(self, a: ir.Value, b: ir.Value) -> bool:
        """Whether both shapes are known to be equal whatever the symbols stand for."""
        return self.dims(a) is not None and self.dims(a) == self.dims(b)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The element type of `value`, by its annotation or inferred."""
        return value.dtype if value.dtype is not None else self._dtypes.get(value)

    def elements(self, value: ir.Value) -> np.ndarray | None:
        """The elements of a tensor of whole numbers: int, bool or Size in an object array; None if unknown."""
        if value not in self._elements and value.is_initializer():
            self._elements[value] = self._constant_elements(value)
        return self._elements.get(value)

    def annotation(self, value: ir.Value) -> ir.Shape | None:
        """The shape to write to `value`: numbers, and short expressions in the file's own symbols; else unknown."""
        dims = self.dims(value)
        if dims is None:
            return None
        return ir.Shape([dim if isinstance(dim, int) else self._public(dim) for dim in dims])

    def _public(self, dim: Size) -> str | None:
        text = str(dim)
        return text if PRIVATE not in text and len(text) <= LONGEST_ANNOTATION else None

    def _constant_elements(self, value: ir.Value) -> np.ndarray | None:
        tensor = value.const_value
        if tensor is None or tensor.size > shape_values.LARGEST:
            return None
        try:
            return shape_values.object_array(constant(value))
        except (shape_values.UndecidedError, TypeError, ValueError, OverflowError):
            return None

    def _annotate(self, value: ir.Value) -> None:
        """Take over the value's annotation; an unknown dimension becomes a symbol of its own."""
        if value.shape is None:
            return
        dims: list[Dim] = []
        for axis, dim in enumerate(value.shape.dims):
            named = dim if isinstance(dim, int) else self._symbol(dim.value or f"{PRIVATE}{value.name}.{axis}")
            dims.append(named)
        self._dims[value] = tuple(dims)

    def _symbol(self, name: str) -> Size:
        return self._named.setdefault(name, symbol(name))

    def _visit(self, node: ir.Node) -> None:
        output = node.outputs[0]
        elements = shape_values.evaluate(node, self)
        if elements is not None:
            self._elements[output] = elements
            self._dims[output] = tuple(elements.shape)
            if output.dtype is not None:
                return
        inferred = self._infer(node)
        for value in node.outputs:
            self._take(value, inferred.get(value.name or ""))
        if node.domain == "" and node.op_type in DIM_RULES:
            self._improve(node)

    def _improve(self, node: ir.Node) -> None:
        try:
            dims = DIM_RULES[node.op_type](node, self)
        except Exception:  # a malformed node, which is not for this walk to tell
            return
        if dims is not None:
            self._dims[node.outputs[0]] = dims

    def _take(self, value: ir.Value, inferred: onnx.TypeProto | None) -> None:
        dims = None if inferred is None else self._parse(value.name or "", inferred)
        if inferred is not None and inferred.tensor_type.elem_type:
            self._dtypes[value] = ir.DataType(inferred.tensor_type.elem_type)
        if dims is not None:
            self._dims[value] = dims
        elif value not in self._dims:
            self._annotate(value)

    def _infer(self, node: ir.Node) -> dict[str, onnx.TypeProto]:
        """Types of the outputs by ONNX's own rules for this node; empty if it has none."""
        if any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values()):
            return {}
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(node.domain, 1), node.domain)
            types = {v.name or "": self._type_proto(v) for v in node.inputs if v is not None}
            data = {v.name or "": t for v in node.inputs if v is not None and (t := self._tensor_proto(v)) is not None}
            proto = ir.serde.serialize_node(node)
            return onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=self._imports)
        except Exception:
            return {}

    def _type_proto(self, value: ir.Value) -> onnx.TypeProto:
        dims, dtype = self.dims(value), self.dtype(value)
        if dtype is None:
            raise ValueError(f"{value.name} has no type")
        if dims is None:
            return onnx.helper.make_tensor_type_proto(int(dtype), None)
        shown = []
        for dim in dims:
            if isinstance(dim, Size):
                self._named.setdefault(str(dim), dim)
            shown.append(dim if isinstance(dim, int) else str(dim))
        return onnx.helper.make_tensor_type_proto(int(dtype), shown)

    def _tensor_proto(self, value: ir.Value) -> onnx.TensorProto | None:
        """A small constant, or a tensor of which every element is known by now."""
        elements, dtype = self.elements(value), self.dtype(value)
        if elements is not None and dtype is not None and all(isinstance(e, int) for e in elements.flat):
            array = elements.astype(dtype.numpy())
        elif (
            value.const_value is not None and value.is_initializer() and value.const_value.size <= shape_values.LARGEST
        ):
            array = value.const_value.numpy()
        else:
            return None
        return onnx.numpy_helper.from_array(np.array(array), value.name)

    def _parse(self, name: str, result: onnx.TypeProto) -> tuple[Dim, ...] | None:
        if not result.tensor_type.HasField("shape"):
            return None
        dims: list[Dim] = []
        for axis, dim in enumerate(result.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                dims.append(dim.dim_value)
            else:
                dims.append(self._symbol(dim.dim_param or f"{PRIVATE}{name}.{axis}"))
        return tuple(dims)
