"""Checks on a model before any work is put into it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.load.shapes import light_proto

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
    finite = np.isfinite(array.astype(np.float32) if array.dtype.kind == "V" else array)
    if not finite.all():
        count = int(finite.size - np.count_nonzero(finite))
        raise ModelError(
            f"{label}: weight {weight.name!r} of {node.op_type} {node.name!r} holds {count} NaN or infinite values "
            f"of {finite.size}; repair or retrain the model"
        )
