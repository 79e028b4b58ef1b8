"""Nodes whose inputs are all constant are computed now, by onnxruntime: the same values as at run time."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.fold.editing import RefusalError, add_constant, constant, decide, graph_of, known_shape, rewrite_nodes
from quantkit.types import Decision

LARGEST_RESULT_BYTES = 16 << 20
"""A result above this is folded only if it is no larger than the constants it replaces, or is a weight."""
LARGEST_WEIGHT_BYTES = 1 << 30
"""The same for what a Conv, Gemm or MatMul takes as its weight: it will be four times smaller in INT8."""
WEIGHTED_OPS = frozenset(["Conv", "Gemm", "MatMul"])

NOT_FOLDED = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
        *("Dropout", "QuantizeLinear", "DequantizeLinear", "If", "Loop", "Scan"),
    }
)
"""Random ops, ops with subgraphs, and quantization that was put there on purpose."""
GROWING = frozenset(["ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Pad", "OneHot", "EyeLike"])
"""Ops whose result may be far larger than their inputs: computed only when its size is known before."""


def fold_constants(model: ir.Model) -> list[Decision]:
    """Replace ai.onnx nodes that have only constant inputs by their value. Graph outputs keep their node."""
    op_types = {node.op_type for node in model.graph if _is_candidate(node)}
    return rewrite_nodes(model, op_types, _fold) if op_types else []


def _is_candidate(node: ir.Node) -> bool:
    return (
        node.domain == ""
        and node.op_type not in NOT_FOLDED
        and (len(node.inputs) > 0 or node.op_type == "Constant")
        and all(value is None or (value.is_initializer() and value.const_value is not None) for value in node.inputs)
        and not any(output.is_graph_output() for output in node.outputs)
    )


def _fold(node: ir.Node) -> Decision | None:
    if not _is_candidate(node):
        return None
    input_bytes = sum(value.const_value.nbytes for value in node.inputs if value is not None and value.const_value)
    limit = max(input_bytes, LARGEST_WEIGHT_BYTES if _is_weight(node.outputs[0]) else LARGEST_RESULT_BYTES)
    _refuse_growth(node, _expected_bytes(node), limit)
    results = _evaluate(node)
    _refuse_growth(node, sum(result.nbytes for result in results), limit)
    graph = graph_of(node)
    for output, result in zip(_named_outputs(node), results, strict=True):
        if output.uses():
            output.replace_all_uses_with(add_constant(graph, output.name or node.op_type, result))
    graph.remove(node, safe=True)
    return decide(node, "folded", f"{node.op_type} of constants")


def _expected_bytes(node: ir.Node) -> int:
    """Bytes of the outputs by their inferred shapes; 0 where unknown and harmless."""
    total = 0
    for output in node.outputs:
        shape = known_shape(output)
        if shape is not None and output.dtype is not None:
            total += math.prod(shape) * math.ceil(output.dtype.bitwidth / 8)
        elif node.op_type in GROWING:
            raise RefusalError(f"{node.op_type} of constants has a result of unknown size")
    return total


def _is_weight(value: ir.Value) -> bool:
    return any(use.node.op_type in WEIGHTED_OPS and use.idx == 1 for use in value.uses())


def _refuse_growth(node: ir.Node, result_bytes: int, limit: int) -> None:
    if result_bytes > limit:
        raise RefusalError(
            f"{node.op_type} of constants would give {result_bytes >> 20} MiB, the limit is {limit >> 20} MiB"
        )


def _named_outputs(node: ir.Node) -> list[ir.Value]:
    """The outputs that are not left out."""
    return [value for value in node.outputs if value.name]


def _evaluate(node: ir.Node) -> list[np.ndarray]:
    """All outputs of a node with constant inputs."""
    import onnxruntime

    feeds = {value.name or "": constant(value) for value in node.inputs if value is not None}
    proto = _single_node_model(node)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(result) for result in session.run(None, feeds)]
    except Exception:
        # types that onnxruntime lacks for this op: the ONNX reference has them all
        from onnx.reference import ReferenceEvaluator

        return [np.asarray(result) for result in ReferenceEvaluator(proto).run(None, feeds)]


def _single_node_model(node: ir.Node) -> onnx.ModelProto:
    def info(value: ir.Value) -> onnx.ValueInfoProto:
        tensor = value.const_value
        shape = list(tensor.shape.numpy()) if tensor is not None else None
        kind = tensor.dtype if tensor is not None else value.dtype
        return onnx.helper.make_tensor_value_info(value.name or "", int(kind or 0), shape)

    inputs = {value.name: info(value) for value in node.inputs if value is not None}
    outputs = [
        info(value) if value.dtype is not None else onnx.helper.make_empty_tensor_value_info(value.name or "")
        for value in _named_outputs(node)
    ]
    graph = onnx.helper.make_graph([ir.serde.serialize_node(node)], "constant", list(inputs.values()), outputs)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in graph_of(node).opset_imports.items()]
    lowest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=max(lowest, 4))
