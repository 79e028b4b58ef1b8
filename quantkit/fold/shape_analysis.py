"""One walk over the graph that finds every shape, symbols included, and the integer tensors computed from shapes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.fold import shape_values
from quantkit.fold.editing import constant
from quantkit.fold.shape_rules import DIM_RULES, PRIVATE
from quantkit.fold.symbolic import Dim, Size, symbol

LONGEST_ANNOTATION = 100
"""Longer expressions tell nobody anything: such a dimension is written as unknown."""

Known = tuple[int, tuple[int | str, ...] | None, tuple[str, tuple[int, ...], bytes] | None]
"""Of an input: element type, dimensions (a symbol is its name), and its dtype, shape and bytes where it is small and
known."""


@lru_cache(maxsize=1 << 14)
def infer_types(domain: str, op_type: str, versions: tuple[tuple[str, int], ...], outputs: int,
                attributes: tuple[bytes, ...], inputs: tuple[Known | None, ...]
                ) -> list[onnx.TypeProto | None]:  # fmt: skip
    """Types of a node's outputs by ONNX's rule for its op: kept, since blocks repeat and every pass asks again.

    attributes: serialized AttributeProtos. Raises what onnx raises for an op that it does not know, or wrong inputs.
    """
    names = ["" if known is None else f"x{i}" for i, known in enumerate(inputs)]
    node = onnx.NodeProto(domain=domain, op_type=op_type, input=names, output=[f"y{i}" for i in range(outputs)])
    node.attribute.extend(onnx.AttributeProto.FromString(data) for data in attributes)
    types, data = {}, {}
    for name, known in zip(names, inputs, strict=True):
        if known is not None:
            types[name] = onnx.helper.make_tensor_type_proto(known[0], known[1])
            if known[2] is not None:
                dtype, shape, content = known[2]
                data[name] = onnx.numpy_helper.from_array(np.frombuffer(content, dtype).reshape(shape), name)
    schema = onnx.defs.get_schema(op_type, dict(versions).get(domain, 1), domain)
    imports = [onnx.helper.make_opsetid(*version) for version in versions]
    found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    return [found.get(name) for name in node.output]


class ShapeAnalysis:
    """Shapes and shape-valued tensors of the main graph, from its inputs' shapes and its constants.

    Sizes that depend on an input's symbolic dimension are expressions in it; others are symbols of their own. Where
    ONNX has no rule for a node (local functions, vendor ops, subgraphs) the value's annotation counts.
    """

    def __init__(self, model: ir.Model) -> None:
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
            types = infer_types(
                node.domain, node.op_type, tuple(self._versions.items()), len(node.outputs),
                tuple(ir.serde.serialize_attribute(a).SerializeToString() for a in node.attributes.values()),
                tuple(None if value is None else self._known(value) for value in node.inputs),
            )  # fmt: skip
        except Exception:
            return {}
        return {v.name or "": kind for v, kind in zip(node.outputs, types, strict=True) if kind is not None}

    def _known(self, value: ir.Value) -> Known:
        dims, dtype = self.dims(value), self.dtype(value)
        if dtype is None:
            raise ValueError(f"{value.name} has no type")
        if dims is not None:
            self._named.update({str(dim): dim for dim in dims if isinstance(dim, Size) and str(dim) not in self._named})
        shown = None if dims is None else tuple(dim if isinstance(dim, int) else str(dim) for dim in dims)
        array = self._array(value, dtype)
        plain = array is not None and array.dtype.kind in "biuf"  # others have no name that numpy reads back
        return int(dtype), shown, (array.dtype.str, array.shape, array.tobytes()) if plain else None  # type: ignore[union-attr]

    def _array(self, value: ir.Value, dtype: ir.DataType) -> np.ndarray | None:
        """A small constant, or a tensor of which every element is known by now."""
        elements = self.elements(value)
        if elements is not None and all(isinstance(e, int) for e in elements.flat):
            return np.array(elements.astype(dtype.numpy()))
        if value.const_value is not None and value.is_initializer() and value.const_value.size <= shape_values.LARGEST:
            return np.array(value.const_value.numpy())
        return None

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
