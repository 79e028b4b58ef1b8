"""Shape inference over a whole model, without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from quantkit.load.parts import copied

if TYPE_CHECKING:
    from collections.abc import Iterator

LIGHT_BYTES = 4096
"""Initializers up to this size keep their values in a light proto: shapes, axes, pads, scales, splits."""

UNNAMED_PREFIX = "unk__"
"""onnx.shape_inference names the dimensions it cannot tell so; they carry no information and are written as unknown."""


def clear_placeholders(model: ir.Model) -> None:
    """Dimensions of graph inputs and outputs written as -1 or "?" mean unknown, each on its own: no common symbol."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([None if _is_placeholder(dim) else dim for dim in value.shape.dims])


def _is_placeholder(dim: int | ir.SymbolicDim) -> bool:
    return dim < 0 if isinstance(dim, int) else dim.value in ("", "?", "-1")


def light_proto(model: ir.Model) -> onnx.ModelProto:
    """The model with every large initializer turned into a graph input: small whatever the size of the weights.

    The model itself is left alone.
    """
    copy = copied(model)
    copy.ir_version = max(copy.ir_version, 4)  # below 4 every initializer must be listed as an input
    graph = copy.graph
    listed = set(graph.inputs)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.nbytes <= LIGHT_BYTES:
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy().copy(), name=name)
            continue
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        del graph.initializers[name]
        value.const_value = None
        if value not in listed:
            graph.inputs.append(value)
    return ir.to_proto(copy)


def infer_shapes(model: ir.Model) -> None:
    """Infer type and shape of every value, in place. Wrong annotations in the file are dropped, never fatal.

    Values that cannot be inferred (ops without a schema) keep the file's annotation. Graph inputs keep theirs; outputs
    keep the one they state and get the inferred one when they state none.
    """
    annotated = {value: (value.shape, value.type) for value in _inner_values(model)}
    for value in annotated:
        value.shape = None
    inferred = _infer(model)
    left = [value for value in annotated if value.name not in inferred]
    for value in left:
        value.shape, value.type = annotated[value]
    if any(value.shape is not None for value in left):
        inferred = _infer(model)
    for value in annotated:
        if value.name in inferred:
            _write(value, inferred[value.name])
    for value in model.graph.outputs:
        if value.shape is None and value.name in inferred:
            _write(value, inferred[value.name])


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        if isinstance(graph, ir.Graph):
            for node in graph:
                yield from (v for v in node.outputs if v.name and not v.is_graph_output())


def _infer(model: ir.Model) -> dict[str, onnx.TypeProto]:
    """Inferred types with a shape, by value name, subgraphs included. A model that inference rejects gives none."""
    try:
        proto = onnx.shape_inference.infer_shapes(light_proto(model), data_prop=True)
    except Exception:
        return {}
    return {info.name: info.type for info in _infos(proto.graph) if info.type.tensor_type.HasField("shape")}


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.value_info
    yield from graph.output
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _infos(attribute.g)


def _write(value: ir.Value, inferred: onnx.TypeProto) -> None:
    tensor = inferred.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    value.shape = ir.Shape([None if isinstance(d, str) and d.startswith(UNNAMED_PREFIX) else d for d in dims])
    if tensor.elem_type:
        value.dtype = ir.DataType(tensor.elem_type)
