"""Spatial means as depthwise convolutions over the whole image, so that each channel has a scale of its own.

The u8 output of a mean has one scale for all channels; a pooled value is read at one position, so nothing averages its
rounding, and channels that differ in size lose theirs. A convolution's weights take the factors of equalization, the
shift goes into its bias, and all its taps being equal, s8 weights are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant, is_standard, new_initializer, replace_nodes
from quantkit.fuse.opnames import DOMAIN
from quantkit.quantize.layers import Layer

TAPS_MOST = 196
"""14 x 14: a weight of one byte for each tap and channel stays small beside those of the layers that read the mean."""


def means_as_convolutions(model: ir.Model, chosen: Callable[[str], bool]) -> list[str]:
    """Rewrites GlobalAveragePool and ReduceMean over the spatial axes of a fused FP32 `model`, in place.

    chosen: by node name, whether a node may be rewritten. Means over more than TAPS_MOST positions or over a size that
    is not known stay. Returns the names of the nodes that came in beside those that kept their name.
    """
    added = []
    for node in list(model.graph):
        spatial = _pooled_size(node)
        if not chosen(node.name or "") or spatial is None or not 1 < prod(spatial) <= TAPS_MOST:
            continue
        mean = _mean(model.graph, node, spatial)
        if _keeps_rank(node):
            replace_nodes(model.graph, [node], mean, node.outputs[0])
            continue
        model.graph.insert_before(node, mean)
        made = mean.outputs[0]
        made.name = f"{node.outputs[0].name}/pooled"
        made.shape = ir.Shape([*node.inputs[0].shape.dims[:2], *[1] * len(spatial)])  # type: ignore[union-attr]
        made.type = node.outputs[0].type
        flat = ir.node("Flatten", [made], name=f"{node.name}/Flatten")
        replace_nodes(model.graph, [node], flat, node.outputs[0])
        added.append(flat.name or "")
    return added


def is_mean(layer: Layer) -> bool:
    """Whether a layer is such a mean: one weight at all taps of a channel. Its s8 weights are exact."""
    if layer.base != "Conv" or layer.groups != layer.channels or layer.columns == 1:
        return False
    rows = layer.weights
    return bool((rows == rows[:, :1]).all())


def _pooled_size(node: ir.Node) -> tuple[int, ...] | None:
    """The spatial size that a node takes the mean of; None for another node, or where the size is not known."""
    if not is_standard(node, "GlobalAveragePool", "ReduceMean"):
        return None
    x = node.inputs[0]
    dims = [] if x is None or x.shape is None else list(x.shape)
    if len(dims) not in (3, 4) or not all(isinstance(d, int) for d in dims[1:]):
        return None
    if node.op_type == "ReduceMean":
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", ())
        if axes is None or sorted(int(a) % len(dims) for a in axes) != list(range(2, len(dims))):
            return None
    return tuple(d for d in dims[2:] if isinstance(d, int))


def _keeps_rank(node: ir.Node) -> bool:
    return node.op_type == "GlobalAveragePool" or bool(node.attributes.get_int("keepdims", 1))


def _mean(graph: ir.Graph, node: ir.Node, spatial: tuple[int, ...]) -> ir.Node:
    """The fused Conv over the whole of `spatial`."""
    channels, n = int(node.inputs[0].shape[1]), len(spatial)  # type: ignore[union-attr,index,arg-type]
    weights = np.full((channels, 1, *spatial), 1.0 / prod(spatial), np.float32)
    operands = [
        node.inputs[0],
        new_initializer(graph, f"{node.name}/share", weights),
        new_initializer(graph, f"{node.name}/zero", np.zeros(channels, np.float32)),
    ]
    attributes: dict[str, list[int] | int] = {
        "strides": [1] * n,
        "pads": [0] * 2 * n,
        "dilations": [1] * n,
        "group": channels,
    }
    return ir.node("Conv", operands, attributes, domain=DOMAIN, name=node.name)
