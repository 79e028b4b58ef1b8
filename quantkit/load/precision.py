"""Half-precision, bfloat16 and double models computed in float32, from which they can be quantized like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.load.shapes import infer_shapes, light_proto
from quantkit.types import Decision

OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
TYPE_ATTRIBUTES = {"Cast": "to"} | dict.fromkeys(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "EyeLike", "Bernoulli", "SequenceEmpty"),
    "dtype",
)
"""Ops whose element type is an attribute."""
LAZY_BYTES = 1 << 20
"""Weights from here on are converted when they are read, so that a large model is not held twice."""


def to_single(model: ir.Model) -> tuple[ir.Model, list[Decision]]:
    """A loaded model whose layers are float16, bfloat16 or double, computed in float32; others come back as they are.

    Inputs and outputs keep their types, through Casts. Values beyond float32 become its largest. A float32 model with
    a part in another type (positions in double) is left alone: there the type was chosen.
    """
    found = Counter(kind for kind in map(_weight_type, model.graph.all_nodes()) if kind is not None)
    kinds = {kind for kind in OTHER_FLOATS if found[kind]}
    if not kinds:
        return model, []
    names = ", ".join(sorted(kind.name.lower() for kind in kinds))
    copy = model.clone()
    copy.meta.update(model.meta)
    try:
        _convert(copy, kinds)
        infer_shapes(copy)
        onnx.shape_inference.infer_shapes(light_proto(copy), check_type=True, strict_mode=True)
    except Exception as error:  # of onnx, on an op that has no float32 form
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return model, [Decision("load", "kept", "model", f"stays {names}: not computable in float32 ({reason})")]
    return copy, [Decision("load", "converted", "model", f"{names} is computed in float32; inputs and outputs keep it")]


def _weight_type(node: ir.Node) -> ir.DataType | None:
    """The element type of a layer's weights; None for a node without."""
    if node.domain != "" or node.op_type not in WEIGHTED or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    return node.inputs[1].dtype


def _convert(model: ir.Model, kinds: set[ir.DataType]) -> None:
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype in kinds:
                _single_constant(value)
        for node in graph:
            _single_attributes(node, kinds)
    _cast_borders(model.graph, kinds)
    borders = {*model.graph.inputs, *model.graph.outputs}
    for value in _values(model):
        if value not in borders and value.type is not None:
            value.type = _single_type(value.type, kinds)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _single_type(kind: ir.TypeProtocol, kinds: set[ir.DataType]) -> ir.TypeProtocol:
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        return type(kind)(_single_type(kind.elem_type, kinds))  # type: ignore[arg-type]
    return ir.TensorType(ir.DataType.FLOAT) if kind.dtype in kinds else kind


def _single(array: np.ndarray) -> np.ndarray:
    limits = np.finfo(np.float32)
    with np.errstate(over="ignore"):
        wide = array.astype(np.float32)
    overflown = np.isinf(wide) & np.isfinite(array.astype(np.float64))
    return np.where(overflown, np.sign(wide) * limits.max, wide).astype(np.float32) if overflown.any() else wide


def _single_constant(value: ir.Value) -> None:
    tensor = value.const_value
    assert tensor is not None
    name = value.name or ""
    value.type = ir.TensorType(ir.DataType.FLOAT)
    if tensor.nbytes < LAZY_BYTES:
        value.const_value = ir.Tensor(_single(tensor.numpy()), name=name)
    else:
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.LazyTensor(lambda: ir.Tensor(_single(tensor.numpy()), name=name),
                                          dtype=ir.DataType.FLOAT, shape=shape, name=name)  # fmt: skip


def _single_attributes(node: ir.Node, kinds: set[ir.DataType]) -> None:
    key = TYPE_ATTRIBUTES.get(node.op_type) if node.domain == "" else None
    if key is not None and node.attributes.get_int(key, 0) in kinds:
        node.attributes[key] = ir.AttrInt64(key, int(ir.DataType.FLOAT))
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in kinds:
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(_single(attribute.as_tensor().numpy())))


def _cast_borders(graph: ir.Graph, kinds: set[ir.DataType]) -> None:
    """Casts behind the inputs and in front of the outputs of these types; an output that is an input stays one."""
    for value in graph.inputs:
        if value.dtype in kinds and value.uses():
            node = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}/Cast")
            node.outputs[0].name, node.outputs[0].shape = f"{value.name}/float32", value.shape
            value.replace_all_uses_with(node.outputs[0])
            node.replace_input_with(0, value)
            graph.insert_before(graph[0], node)
    for i, value in enumerate(graph.outputs):
        producer = value.producer()
        if isinstance(value.type, ir.SequenceType | ir.OptionalType) and value.dtype in kinds:
            raise ValueError(f"output {value.name!r} is a sequence")
        if value.dtype not in kinds or producer is None:
            continue
        node = ir.node("Cast", [value], {"to": int(value.dtype)}, name=f"{value.name}/Cast")
        out = node.outputs[0]
        out.name, out.shape, out.type = value.name, value.shape, value.type
        value.name = f"{value.name}/float32"
        graph.outputs[i] = out
        graph.append(node)
