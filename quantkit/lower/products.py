"""Matrix products of two activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.errors import EngineError
from quantkit.fuse.opnames import MAX_DEPTH, OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref
from quantkit.lower.views import View, merge, row_major

BATCH_DIMS = 2


def _stretched(view: View, batch: Sequence[int]) -> View:
    return view.broadcast((*batch, *view.dims[-2:]))


def _batch_loops(context: Lowering, a: View, b: View, out: View) -> tuple[list[int], list[list[int]], View, View]:
    """At most two loops over the matrices that all operands share; operands that do not fit are copied."""
    for copies in ((False, False), (True, False), (False, True), (True, True)):
        views = [
            context.dense(view, row_major(view.dims)) if copied else view
            for view, copied in zip((a, b), copies, strict=True)
        ]
        dims, strides = merge(out.dims[:-2], *(view.strides[:-2] for view in (*views, out)))
        if len(dims) <= BATCH_DIMS:
            break
    pad = BATCH_DIMS - len(dims)
    return [1] * pad + dims, [[0] * pad + s for s in strides], views[0], views[1]


def lower_product(context: Lowering, node: ir.Node, name: OpName) -> None:
    """One QK_MATMUL; `a` is copied unless its last axis is contiguous, `b` is read with any strides. Raises EngineError
    where the sums could leave int32."""
    a_params, b_params, y_params = (context.params(node, i) for i in (1, 4, 6))
    a, b = context.view(node.inputs[0]), context.view(node.inputs[3])
    batch = np.broadcast_shapes(a.dims[:-2], b.dims[:-2])
    rows, depth, columns = a.dims[-2], a.dims[-1], b.dims[-1]
    if depth > MAX_DEPTH:
        raise EngineError(
            f"{node.name}: sums of {depth} products for inputs of this size; int32 holds {MAX_DEPTH}. "
            "Give smaller ones, or quantize again with --keep-fp32 and this node's name"
        )
    if depth > 1 and a.strides[-1] != 1:
        a = context.dense(a, row_major(a.dims))
    dims = (*batch, rows, columns)
    out = context.temporary(dims, row_major(dims))
    batch_dims, strides, a, b = _batch_loops(context, _stretched(a, batch), _stretched(b, batch), out)
    params = {
        "batch": batch_dims, "rows": rows, "columns": columns, "depth": depth,
        "a_batch_stride": strides[0], "a_pitch": a.strides[-2],
        "b_batch_stride": strides[1], "b_stride": list(b.strides[-2:]),
        "out_batch_stride": strides[2], "out_pitch": columns,
        "a_zero_point": a_params.zero_point, "b_zero_point": b_params.zero_point, "zero_point": y_params.zero_point,
        "multiplier": float(np.float32(a_params.scale * b_params.scale / y_params.scale)),
    }  # fmt: skip
    context.emit("QK_MATMUL", [Ref(a.buffer, a.offset), Ref(b.buffer, b.offset)], Ref(out.buffer, out.offset), params)
    context.set(node.outputs[0], out)
