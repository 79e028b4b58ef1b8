"""Checks on a model before any work is put into it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.load.constants import release
from quantkit.load.shapes import light_proto

MOST_ROUNDS = 1 << 24
"""Of a Loop without a condition: even an empty round takes onnxruntime a microsecond, and one with a layer far more."""
LARGEST_TENSOR = 1 << 30
"""Elements of an activation; 4 GiB in float32. Damaged dimensions go far beyond, real ones stay far below."""
BLOCK_VALUES = 1 << 22
"""Values looked at together: 16 MiB of float32."""
WEIGHT_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
"""Ops whose constant inputs must be finite; other constants may hold -inf (masks) or NaN."""
PASS_THROUGH_OPS = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})
"""Ops through which a weight is followed back to its initializer."""


def check_structure(model: ir.Model) -> str | None:
    """What onnx.checker says against the model, in one line; None if nothing."""
    try:
        proto = light_proto(model)
        for info in (*proto.graph.input, *proto.graph.output):
            info.type.tensor_type.shape.SetInParent()  # a missing shape is an unknown rank: runtimes take it
        onnx.checker.check_model(proto)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return text[:300]
    return None


def onnxruntime_takes(source: Any) -> bool:
    """Whether onnxruntime makes a session of the model, whatever onnx.checker says of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        if isinstance(source, ir.Model):
            source = ir.to_proto(source)
        model = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def check_sizes(model: ir.Model, label: str) -> None:
    """Raises ModelError for a graph without outputs, and for a tensor whose known shape is beyond LARGEST_TENSOR."""
    if not model.graph.outputs:
        raise ModelError(f"{label}: the graph has no outputs; export it again")
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        dims = [] if value.shape is None else value.shape.dims
        size = math.prod(dim for dim in dims if isinstance(dim, int) and dim > 1) if dims else 0
        if size > LARGEST_TENSOR:
            shape = ", ".join(str(dim) for dim in dims)
            raise ModelError(
                f"{label}: tensor {value.name!r} has shape [{shape}], more than {LARGEST_TENSOR >> 30} Gi elements; "
                "a dimension is wrong, export the model again"
            )


def check_loops(model: ir.Model, label: str) -> None:
    """Raises ModelError for a Loop of more than MOST_ROUNDS rounds that nothing ends before: it would run for hours."""
    for node in model.graph.all_nodes():
        count = node.inputs[0].const_value if node.op_type == "Loop" and node.domain == "" and node.inputs[0] else None
        if count is None or count.size != 1 or int(count.numpy().reshape(())) <= MOST_ROUNDS:
            continue
        body, start = node.attributes["body"].as_graph(), node.inputs[1]
        again = body.outputs[0]
        maker = again.producer()
        while maker is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
            again = maker.inputs[0]
            maker = again.producer()
        given = again.const_value is not None or (
            again is body.inputs[1] and (start is None or start.const_value is not None)
        )
        if given:
            raise ModelError(
                f"{label}: {node.name!r} loops {int(count.numpy().reshape(()))} times and nothing ends it earlier; "
                "its trip count is wrong, export the model again"
            )


def check_weights(model: ir.Model, label: str) -> None:
    """NaN and infinity in a weight would spread through every output. Raises ModelError naming tensor and node."""
    checked: set[str] = set()
    for node in model.graph.all_nodes():
        if node.op_type not in WEIGHT_OPS or node.domain != "":
            continue
        for value in node.inputs:
            weight = _initializer_behind(value)
            if weight is None or weight.name in checked:
                continue
            checked.add(weight.name or "")
            _check_finite(weight, node, label)


def _initializer_behind(value: ir.Value | None) -> ir.Value | None:
    while value is not None and not value.is_initializer():
        producer = value.producer()
        if producer is None or producer.op_type not in PASS_THROUGH_OPS:
            return None
        value = producer.inputs[0]
    return value


def _check_finite(weight: ir.Value, node: ir.Node, label: str) -> None:
    tensor = weight.const_value
    if tensor is None or not tensor.dtype.is_floating_point():
        return
    try:
        array = tensor.numpy()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{label}: tensor {weight.name!r} cannot be read ({reason}); export the model again"
        ) from error
    flat = array.reshape(-1)
    blocks = (flat[i : i + BLOCK_VALUES] for i in range(0, flat.size, BLOCK_VALUES))
    count = sum(int(np.count_nonzero(~np.isfinite(b.astype(np.float32) if b.dtype.kind == "V" else b))) for b in blocks)
    if count:
        raise ModelError(
            f"{label}: weight {weight.name!r} of {node.op_type} {node.name!r} holds {count} NaN or infinite values "
            f"of {flat.size}; repair or retrain the model"
        )
    del array, flat, blocks
    release(tensor)
