"""Sums and normalizations of float32 tensors, which lie dense in ONNX's order."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref
from quantkit.lower.views import View, row_major


def lower_float_add(context: Lowering, node: ir.Node, name: OpName) -> None:
    """float32 [*D] + float32 [*E] -> float32 by numpy's broadcasting, one rounding. What is repeated along leading
    axes is read again and again, what is stretched otherwise is copied."""
    operands = [context.float_source(value) for value in node.inputs]
    dims = np.broadcast_shapes(*(given for _, given in operands))
    operands.sort(key=lambda operand: operand[1] != dims)  # a whole one first, if there is one
    (a, a_dims), (b, b_dims) = operands
    period = math.prod(b_dims)
    if dims[len(dims) - len(_core(b_dims)) :] != _core(b_dims):
        b, period = _stretched(context, b, b_dims, dims), math.prod(dims)
    out = context.float_output(node.outputs[0], dims)
    params = {"repeats": math.prod(dims) // max(period, 1), "period": period}
    context.emit("QK_ADD_FLOAT", [_stretched(context, a, a_dims, dims), b], Ref(out), params)


def _core(dims: tuple[int, ...]) -> tuple[int, ...]:
    """dims without the ones at their beginning."""
    return dims[next((i for i, d in enumerate(dims) if d != 1), len(dims)) :]


def _stretched(context: Lowering, source: Ref, given: tuple[int, ...], dims: tuple[int, ...]) -> Ref:
    """A float tensor at the size of another, by numpy's broadcasting: itself, or a copy."""
    if given == dims:
        return source
    strides = tuple(4 * stride for stride in row_major(given))
    whole = (*dims, 4)
    target = context.temporary(whole, row_major(whole))
    context.copy(View(source.buffer, (*given, 4), (*strides, 1), source.offset).broadcast(whole), target)
    return Ref(target.buffer, target.offset)


def lower_float_normalization(context: Lowering, node: ir.Node, name: OpName) -> None:
    """float32 [*D] -> float32 [*D]: each run along the axes from `axis` (negative) on, then gain and shift. ONNX
    LayerNormalization-17, RMSNormalization-23; the order of the sums: docs/numerics.md."""
    centred = name.base == "LayerNormalization"
    source, dims = context.floats[node.inputs[0]]  # type: ignore[index]
    gain = _flat(node.inputs[1])
    count = math.prod(dims[len(dims) + node.attributes["axis"].as_int() :])
    params = {
        "rows": math.prod(dims) // max(count, 1), "count": count, "centred": int(centred),
        "epsilon": float(node.attributes["epsilon"].as_float()), "gain": gain,
        "shift": _flat(node.inputs[2]) if centred else np.zeros_like(gain),
    }  # fmt: skip
    out = context.float_output(node.outputs[0], dims)
    context.emit("QK_NORMALIZE_FLOAT", [source], Ref(out), params)


def _flat(value: ir.Value | None) -> np.ndarray:
    array = constant(value)
    assert array is not None
    return np.ascontiguousarray(array, np.float32).reshape(-1)
