"""Softmax and layer normalization: each run along one axis by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref
from quantkit.lower.views import row_major

EXPONENTIAL_ONE = 1 << 24
"""Fixed-point 1 of the exponentials: the largest power of two up to which float32 holds every integer."""


def _emit_runs(context: Lowering, node: ir.Node, kind: str, axis: int, params: Mapping[str, Any]) -> None:
    """An op over the runs of an axis; the axis becomes the innermost, input and output are dense apart from a pitch."""
    source = context.view(node.inputs[0])
    rank = len(source.dims)
    order = [*(i for i in range(rank) if i != axis), axis]
    back = [order.index(i) for i in range(rank)]
    x, pitch = context.rows(source.permuted(order))
    out = context.temporary(x.dims, row_major(x.dims))
    count = x.dims[-1]
    sizes = {"rows": math.prod(x.dims[:-1]), "count": count, "in_pitch": pitch, "out_pitch": count}
    context.emit(kind, [Ref(x.buffer, x.offset)], Ref(out.buffer, out.offset), {**sizes, **params})
    context.set(node.outputs[0], out.permuted(back))


def exponentials(scale: float) -> np.ndarray:
    """int32 [511]: rne(2^24 exp((i - 255) * scale)) for i = 0..255, in float64; 0 above, where no byte leads."""
    table = np.zeros(511, np.int32)
    table[:256] = [round(EXPONENTIAL_ONE * math.exp((i - 255) * scale)) for i in range(256)]
    return table


def lower_softmax(context: Lowering, node: ir.Node, name: OpName) -> None:
    x, y = context.params(node, 1), context.params(node, 3)
    params = {"exponentials": exponentials(x.scale), "out_scale": y.scale, "zero_point": y.zero_point}
    _emit_runs(context, node, "QK_SOFTMAX", node.attributes["axis"].as_int(), params)


def lower_layer_normalization(context: Lowering, node: ir.Node, name: OpName) -> None:
    x, y = context.params(node, 1), context.params(node, 5)
    scale, bias = constant(node.inputs[3]), constant(node.inputs[4])
    assert scale is not None
    assert bias is not None
    params = {
        "in_scale": x.scale, "epsilon": float(node.attributes["epsilon"].as_float()), "zero_point": y.zero_point,
        "gain": (scale.astype(np.float64) / y.scale).astype(np.float32),
        "shift": (bias.astype(np.float64) / y.scale).astype(np.float32),
    }  # fmt: skip
    _emit_runs(context, node, "QK_NORMALIZE", len(context.view(node.inputs[0]).dims) - 1, params)
