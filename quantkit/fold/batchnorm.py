"""BatchNormalization goes into the weighted op before or after it, or becomes a depthwise 1x1 Conv.

y = a x + b,   a = scale / sqrt(var + epsilon),   b = bias - a mean        (ONNX BatchNormalization-15, inference)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fold.affine import scale_input, scale_output, weighted
from quantkit.fold.editing import (
    RefusalError,
    add_constant,
    constant_float,
    data_input,
    decide,
    graph_of,
    hand_over,
    rank,
    replace_node,
    rewrite_nodes,
    sole_consumer,
)
from quantkit.types import Decision


def fold_batchnorm(model: ir.Model) -> list[Decision]:
    """Fold every BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul right before or right after it."""
    return rewrite_nodes(model, ("BatchNormalization",), _fold)


def batchnorm_to_conv(model: ir.Model) -> list[Decision]:
    """Make a BatchNormalization over [N, C, H, W] that could not be folded a 1x1 Conv with C groups."""
    return rewrite_nodes(model, ("BatchNormalization",), _to_conv)


def _scale_and_shift(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """a and b, float64 [C]. Raises RefusalError."""
    parameters = [constant_float(value) for value in node.inputs[1:5]]
    if any(parameter is None for parameter in parameters):
        raise RefusalError("BatchNormalization parameters are not float32 constants")
    if node.attributes.get_int("training_mode", 0) or any(out.uses() for out in node.outputs[1:]):
        raise RefusalError("BatchNormalization is in training mode; export the model in eval mode")
    scale, bias, mean, variance = (parameter for parameter in parameters if parameter is not None)
    spread = variance + np.float64(np.float32(node.attributes.get_float("epsilon", 1e-5)))
    if (spread <= 0).any():
        raise RefusalError("BatchNormalization has a variance that is not positive")
    a = scale / np.sqrt(spread)
    return a, bias - a * mean


def _fold(node: ir.Node) -> Decision | None:
    a, b = _scale_and_shift(node)
    reasons = []
    for fold in (_into_producer, _into_consumer):
        try:
            target = fold(node, a, b)
        except RefusalError as refusal:
            reasons.append(str(refusal))
            continue
        if target is not None:
            return decide(node, "folded", f"into {target}")
    if reasons:
        raise RefusalError("; ".join(reasons))
    return None


def _into_producer(node: ir.Node, a: np.ndarray, b: np.ndarray) -> str | None:
    x = data_input(node)
    target = weighted(x.producer())
    if target is None or target.node.graph is not node.graph:
        return None
    if target.channel_axis == -1 and target.output_rank != 2:
        return None
    if sole_consumer(x) is not node:
        why = "is a graph output" if x.is_graph_output() else "has other consumers"
        raise RefusalError(f"the output of {target.node.op_type} {target.node.name} {why}")
    scale_output(target, a, b)
    hand_over(node, x)
    return f"{target.node.op_type} {target.node.name}"


def _into_consumer(node: ir.Node, a: np.ndarray, b: np.ndarray) -> str | None:
    output = node.outputs[0]
    consumer = sole_consumer(output)
    if consumer is None or consumer.inputs[0] is not output or consumer.op_type == "ConvTranspose":
        return None
    target = weighted(consumer)
    if target is None or target.input_channels != a.size or consumer.graph is not node.graph:
        return None
    if target.channel_axis == -1 and target.output_rank != 2:
        return None
    scale_input(target, a, b)
    output.replace_all_uses_with(data_input(node))
    graph_of(node).remove(node, safe=True)
    return f"{consumer.op_type} {consumer.name}"


def _to_conv(node: ir.Node) -> Decision | None:
    a, b = _scale_and_shift(node)
    x = data_input(node)
    if rank(x) != 4:
        raise RefusalError("BatchNormalization stays: nothing beside it takes it, and its input is not [N, C, H, W]")
    graph = graph_of(node)
    weight, bias = a.astype(np.float32).reshape(-1, 1, 1, 1), b.astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise RefusalError("the scales of BatchNormalization are not finite in float32")
    inputs = [x, add_constant(graph, f"{node.name}.weight", weight), add_constant(graph, f"{node.name}.bias", bias)]
    ones = [1, 1]
    attributes = {"kernel_shape": ones, "strides": ones, "dilations": ones, "pads": [0] * 4, "group": int(a.size)}
    decision = decide(node, "rewritten", f"as a depthwise 1x1 Conv of {a.size} channels")
    replace_node(node, "Conv", inputs, attributes)
    return decision
