"""Softmax and normalizations: each run along some axes, or group of channels, by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import OpName
from quantkit.lower.context import Lowering
from quantkit.lower.plan import Ref
from quantkit.lower.views import View, row_major

EXPONENTIAL_ONE = 1 << 24
"""Fixed-point 1 of the exponentials: the largest power of two up to which float32 holds every integer."""


def _emit_runs(context: Lowering, source: View, kind: str, axis: int, params: Mapping[str, Any]) -> View:
    """An op over the runs of an axis; the axis becomes the innermost, input and output are dense apart from a pitch."""
    rank = len(source.dims)
    order = [*(i for i in range(rank) if i != axis), axis]
    back = [order.index(i) for i in range(rank)]
    x, pitch = context.rows(source.permuted(order))
    out = context.temporary(x.dims, row_major(x.dims))
    count = x.dims[-1]
    sizes = {"rows": math.prod(x.dims[:-1]), "count": count, "in_pitch": pitch, "out_pitch": count}
    context.emit(kind, [Ref(x.buffer, x.offset)], Ref(out.buffer, out.offset), {**sizes, **params})
    return out.permuted(back)


def exponentials(scale: float) -> np.ndarray:
    """int32 [511]: rne(2^24 exp((i - 255) * scale)) for i = 0..255, in float64; 0 above, where no byte leads."""
    table = np.zeros(511, np.int32)
    table[:256] = [round(EXPONENTIAL_ONE * math.exp((i - 255) * scale)) for i in range(256)]
    return table


def lower_softmax(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [*D] -> u8 [*D], each run along `axis` by itself; exponentials from a table, summed exactly as integers. ONNX
    Softmax-13; the arithmetic: docs/numerics.md."""
    x, y = context.params(node, 1), context.params(node, 3)
    params = {"exponentials": exponentials(x.scale), "out_scale": y.scale, "zero_point": y.zero_point}
    axis = node.attributes["axis"].as_int()
    context.set(node.outputs[0], _emit_runs(context, context.view(node.inputs[0]), "QK_SOFTMAX", axis, params))


def _gains(scale: float, *values: np.ndarray | None) -> Iterator[np.ndarray]:
    """Each array divided by the scale of the output, in float64, as float32."""
    for value in values:
        assert value is not None
        yield (value.astype(np.float64).reshape(-1) / scale).astype(np.float32)


def lower_along_last_axes(context: Lowering, node: ir.Node, name: OpName) -> None:
    """LayerNormalization and RMSNormalization: the axes are joined to one."""
    centred = name.base == "LayerNormalization"
    x, y = context.params(node, 1), context.params(node, 5 if centred else 4)
    (gain,) = _gains(y.scale, constant(node.inputs[3]))
    shift = next(_gains(y.scale, constant(node.inputs[4]))) if centred else np.zeros_like(gain)
    source = context.view(node.inputs[0])
    first = len(source.dims) + node.attributes["axis"].as_int()
    joined = context.reshaped(source, (*source.dims[:first], math.prod(source.dims[first:])))
    params = {"in_scale": x.scale, "epsilon": _epsilon(node), "origin": -1 if centred else x.zero_point,
              "zero_point": y.zero_point, "gain": gain, "shift": shift}  # fmt: skip
    out = _emit_runs(context, joined, "QK_NORMALIZE", first, params)
    context.set(node.outputs[0], context.reshaped(out, source.dims))


def lower_group_normalization(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [N, C, *S] -> u8 [N, C, *S]: each of num_groups runs of channels of a sample is brought to mean 0 and
    variance 1, then gain and shift, float32 [C] at inputs 3 and 4. num_groups divides C. ONNX GroupNormalization-21."""
    x, y = context.params(node, 1), context.params(node, 5)
    gain, shift = _gains(y.scale, constant(node.inputs[3]), constant(node.inputs[4]))
    source, in_pitch = context.pixels(context.view(node.inputs[0]))
    out = context.allocate(node.outputs[0], source.dims)
    batch, channels, *spatial = source.dims
    params = {
        "batch": batch, "pixels": math.prod(spatial), "channels": channels, "in_pitch": in_pitch,
        "out_pitch": context.pixels(out)[1], "groups": node.attributes["num_groups"].as_int(), "in_scale": x.scale,
        "epsilon": _epsilon(node), "zero_point": y.zero_point, "gain": gain, "shift": shift,
    }  # fmt: skip
    context.emit("QK_GROUP_NORMALIZE", [Ref(source.buffer, source.offset)], Ref(out.buffer, out.offset), params)


def _epsilon(node: ir.Node) -> float:
    return float(node.attributes["epsilon"].as_float())


def lrn_segments(scale: float, out_scale: float, farthest: int, size: int, alpha: float, beta: float,
                 bias: float) -> np.ndarray:  # fmt: skip
    """float32 [segments, 2]: the factor of LRN where each begins, and its rise over 1 / 65,536 of the segment.

    The factor of a sum of squares S is scale / out_scale * (bias + alpha / size * scale^2 * S)^-beta. Segment k begins
    at S = 2^(k / 128) * (1 + k % 128 / 128), integer division first. farthest: the largest |x - zero point|.
    """
    last = int(np.float32(size * farthest * farthest).view(np.int32)) >> 16
    steps = np.arange(last - (127 << 7) + 2)
    begins = np.ldexp(1 + steps % 128 / 128, steps // 128)
    factor = (scale / out_scale * (bias + alpha / size * (scale * scale) * begins) ** -beta).astype(np.float32)
    return np.stack([factor[:-1], np.diff(factor.astype(np.float64)) / 65536], axis=1).astype(np.float32)


def lower_lrn(context: Lowering, node: ir.Node, name: OpName) -> None:
    """u8 [N, C, *S] -> u8 [N, C, *S]: every value times a factor of the sum of squares of `size` channels around it, by
    the segments of `lrn_segments`. ONNX LRN-13."""
    x, y = context.params(node, 1), context.params(node, 3)
    size = node.attributes["size"].as_int()
    alpha, beta, bias = (float(node.attributes[key].as_float()) for key in ("alpha", "beta", "bias"))
    farthest = max(x.zero_point, 255 - x.zero_point)
    table = lrn_segments(x.scale, y.scale, farthest, size, alpha, beta, bias)
    params = {"before": (size - 1) // 2, "after": size // 2, "in_zero_point": x.zero_point, "zero_point": y.zero_point,
              "segments": table, "segment_count": len(table)}  # fmt: skip
    context.set(node.outputs[0], _emit_runs(context, context.view(node.inputs[0]), "QK_LRN", 1, params))
