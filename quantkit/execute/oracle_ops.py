"""The arithmetic of every quantkit op in numpy: integers, float32 step by step, nothing shared with the engine.

Each op is a function (attributes, inputs) -> list of outputs. Activations are uint8 in ONNX layout [N, C, *S] or any
rank; scales are float32 scalars, zero points uint8 scalars. Formulas: docs/numerics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from quantkit.errors import ModelError, RangeError
from quantkit.execute.oracle_activations import CLAMPS, LOOKUPS, WIDES
from quantkit.execute.oracle_arithmetic import (
    lookup_table,
    pairs,
    params,
    quantize_linear,
    requantize,
)
from quantkit.execute.oracle_moves import MOVES, VARIADIC_MOVES, resize_like
from quantkit.execute.oracle_rows import ROWS
from quantkit.execute.oracle_stream import STREAM
from quantkit.types import QuantParams

Attributes = Mapping[str, Any]
Inputs = Sequence[np.ndarray]
OpFunction = Callable[[Attributes, Inputs], list[np.ndarray]]

COLUMN_ELEMENTS = 1 << 23
"""Float64 elements of one im2col block: 64 MiB."""


def _activated(
    steps: Callable[[QuantParams], np.ndarray], activation: str, attributes: Attributes, targets: list[QuantParams]
) -> np.ndarray:
    """Requantizes steps(target), the float32 value in steps of the target's scale, with an optional activation.

    targets: [y], or [pre, y] for an activation that is a table from pre to y. Wide activations see real values.
    """
    if activation in LOOKUPS:
        pre, y = targets
        table = lookup_table(lambda real: LOOKUPS[activation](real, attributes), pre, y)
        return table[requantize(steps(pre), pre)]
    (y,) = targets
    if activation in WIDES:
        return requantize(WIDES[activation](steps(QuantParams(1.0, 0)), attributes, y.scale), y)
    low, high = (-math.inf, math.inf) if not activation else CLAMPS[activation](attributes)
    bounds = quantize_linear(np.array([low, high], np.float32), y)
    return requantize(steps(y), y, int(bounds[0]), int(bounds[1]))


# ---- convolution and matrix product -------------------------------------------------------------------------------


def _windows(
    x: np.ndarray, kernel: Sequence[int], attributes: Attributes, fill: float, out: Sequence[int]
) -> np.ndarray:
    """Every window of x [N, C, *S]: a view [N, C, *out, *kernel], with `fill` outside of x."""
    rank = len(kernel)
    strides, dilations, pads = _geometry(attributes, rank)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    edges = [(0, 0), (0, 0)]
    for axis in range(rank):
        reach = (out[axis] - 1) * strides[axis] + extents[axis]
        edges.append((pads[axis], max(reach - pads[axis] - x.shape[2 + axis], 0)))
    padded = np.pad(x, edges, constant_values=fill)
    view = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + rank)))
    starts = tuple(slice(0, (n - 1) * s + 1, s) for n, s in zip(out, strides, strict=True))
    return view[(slice(None), slice(None), *starts, *(slice(None, None, d) for d in dilations))]


def _geometry(attributes: Attributes, rank: int) -> tuple[list[int], list[int], list[int]]:
    """strides [rank], dilations [rank], pads [2 * rank] with ONNX's defaults."""
    return (
        list(attributes.get("strides") or [1] * rank),
        list(attributes.get("dilations") or [1] * rank),
        list(attributes.get("pads") or [0] * (2 * rank)),
    )


def _output_sizes(spatial: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[int]:
    """Output sizes of a convolution or pooling. With ceil_mode no window starts behind the input (AveragePool-19)."""
    rank = len(kernel)
    strides, dilations, pads = _geometry(attributes, rank)
    sizes = []
    for axis, (size, k, stride) in enumerate(zip(spatial, kernel, strides, strict=True)):
        room = size + pads[axis] + pads[rank + axis] - ((k - 1) * dilations[axis] + 1)
        count = room // stride + 1
        if attributes.get("ceil_mode", 0):
            count = -(-room // stride) + 1
            count -= (count - 1) * stride >= size + pads[axis]
        sizes.append(count)
    return sizes


def _exact_int32(accumulator: np.ndarray) -> np.ndarray:
    """float64 integers as int32. RangeError if one does not fit: the engine could not hold it either."""
    if accumulator.size and max(-accumulator.min(), accumulator.max()) >= 2.0**31:
        raise RangeError(
            f"an accumulator reaches {np.abs(accumulator).max():.0f}, int32 ends at 2147483647; raise the weight scale"
        )
    return accumulator.astype(np.int32)


def _conv(x: np.ndarray, weights: np.ndarray, attributes: Attributes) -> np.ndarray:
    """sum x * w as float64 [N, M, *out]. x: float64 [N, C, *S] less its zero point. Exact: every sum is below 2^53."""
    groups, kernel = int(attributes.get("group", 1)), weights.shape[2:]
    out = _output_sizes(x.shape[2:], kernel, attributes)
    matrix = weights.reshape(groups, weights.shape[0] // groups, -1).astype(np.float64)
    windows = _windows(x, kernel, attributes, 0.0, out)
    per_row = x.shape[1] * math.prod(kernel) * math.prod(out[1:])
    rows = max(1, COLUMN_ELEMENTS // max(per_row, 1))
    result = np.empty((x.shape[0], weights.shape[0], *out))
    rank = len(kernel)
    for n in range(x.shape[0]):
        for top in range(0, out[0], rows):
            block = windows[n, :, top : top + rows]  # [C, rows, *out[1:], *kernel]
            taps_first = np.moveaxis(block, range(1 + rank, 1 + 2 * rank), range(1, 1 + rank))
            columns = taps_first.reshape(groups, matrix.shape[2], -1)
            result[n, :, top : top + rows] = (matrix @ columns).reshape(weights.shape[0], -1, *out[1:])
    return result


def _conv_transpose(x: np.ndarray, weights: np.ndarray, attributes: Attributes) -> np.ndarray:
    """sum x * w as float64 [N, M, *out]: every input value spreads a kernel. weights: [M, C / group, *kernel]."""
    groups, kernel = int(attributes.get("group", 1)), weights.shape[2:]
    rank = len(kernel)
    strides, dilations, pads = _geometry(attributes, rank)
    extra = list(attributes.get("output_padding") or [0] * rank)
    grown = zip(x.shape[2:], kernel, strides, dilations, extra, strict=True)
    whole = np.zeros((x.shape[0], weights.shape[0], *((n - 1) * s + (k - 1) * d + 1 + e for n, k, s, d, e in grown)))
    parts = list(zip(np.split(x, groups, axis=1), np.split(weights.astype(np.float64), groups), strict=True))
    for tap in np.ndindex(*kernel):
        spread = np.concatenate([np.einsum("nc...,mc->nm...", part, w[(..., *tap)]) for part, w in parts], axis=1)
        starts = [t * d for t, d in zip(tap, dilations, strict=True)]
        places = (slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(starts, x.shape[2:], strides, strict=True))
        whole[(slice(None), slice(None), *places)] += spread
    ends = [n - e for n, e in zip(whole.shape[2:], pads[rank:], strict=True)]
    return whole[(slice(None), slice(None), *(slice(b, e) for b, e in zip(pads[:rank], ends, strict=True)))]


PRODUCTS: dict[str, tuple[int, Callable[[np.ndarray, np.ndarray, Attributes], np.ndarray]]] = {
    "Conv": (1, _conv),
    "ConvTranspose": (1, _conv_transpose),
    "Gemm": (-1, lambda x, w, _: x @ w.T.astype(np.float64)),
    "MatMul": (-1, lambda x, w, _: x @ w.astype(np.float64)),
}
"""Base op -> (the output's channel axis, sum x * w in float64 of x less its zero point)."""


def _accumulate(base: str, attributes: Attributes, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """(int32 accumulator, float64 s_x * s_w[c] shaped to broadcast over it) from x triple, w triple, bias."""
    x, (x_params,) = inputs[0], pairs(inputs[1:3])
    weights, weight_scale, weight_zero, bias = inputs[3:7]
    if weight_zero.any():
        raise ModelError(f"weight zero points must be 0, got {weight_zero}; quantkit weights are symmetric")
    axis, product = PRODUCTS[base]
    accumulator = product(x.astype(np.float64) - x_params.zero_point, weights, attributes)
    shape = [1] * accumulator.ndim
    shape[axis] = -1
    scale = weight_scale.astype(np.float64) * x_params.scale
    return _exact_int32(accumulator + bias.astype(np.float64).reshape(shape)), scale.reshape(shape)


def _weighted(base: str, add: bool, activation: str, attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """Q{Conv|Gemm|MatMul}[Add][Activation]: x triple, w triple, bias, bias scale, [r triple], [pre pair], y pair."""
    accumulator, scale = _accumulate(base, attributes, inputs)
    residual, r_params = (inputs[8], params(*inputs[9:11])) if add else (None, None)

    def steps(target: QuantParams) -> np.ndarray:
        value = accumulator.astype(np.float32) * (scale / target.scale).astype(np.float32)
        if residual is None or r_params is None:
            return value
        return value + _scaled(residual, r_params, target)

    return [_activated(steps, activation, attributes, pairs(inputs[11 if add else 8 :]))]


def _weighted_float(base: str, attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """Q{Conv|Gemm|MatMul}Float: float32 f32(acc) * f32(s_x s_w[c])."""
    accumulator, scale = _accumulate(base, attributes, inputs)
    return [accumulator.astype(np.float32) * scale.astype(np.float32)]


# ---- elementwise --------------------------------------------------------------------------------------------------


def _scaled(q: np.ndarray, p: QuantParams, target: QuantParams) -> np.ndarray:
    """float32 f32(q - zp) * f32(s / s_target)."""
    return (q.astype(np.int32) - p.zero_point).astype(np.float32) * np.float32(p.scale / target.scale)


def _product(a: np.ndarray, a_params: QuantParams, b: np.ndarray, b_params: QuantParams, y: QuantParams) -> np.ndarray:
    """float32 f32((a - zp_a) * (b - zp_b)) * f32(s_a s_b / s_y)."""
    integers = (a.astype(np.int32) - a_params.zero_point) * (b.astype(np.int32) - b_params.zero_point)
    return integers.astype(np.float32) * np.float32(a_params.scale * b_params.scale / y.scale)


BINARIES: dict[str, Callable[..., np.ndarray]] = {
    "Add": lambda a, pa, b, pb, y: _scaled(a, pa, y) + _scaled(b, pb, y),
    "Sub": lambda a, pa, b, pb, y: _scaled(a, pa, y) - _scaled(b, pb, y),
    "Mul": _product,
}


def _activation_matmul(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QActivationMatMul: a triple, b triple, y pair; numpy's matmul of the differences, exact in float64."""
    a, b, (a_params, b_params, y) = inputs[0], inputs[3], pairs([*inputs[1:3], *inputs[4:6], *inputs[6:]])
    products = (a.astype(np.float64) - a_params.zero_point) @ (b.astype(np.float64) - b_params.zero_point)
    multiplier = np.float32(a_params.scale * b_params.scale / y.scale)
    return [requantize(_exact_int32(products).astype(np.float32) * multiplier, y)]


def _binary(base: str, activation: str, attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """Q{Add|Sub|Mul}[Activation]: a triple, b triple, [pre pair], y pair; numpy broadcasting."""
    (a, *a_pair), (b, *b_pair) = inputs[0:3], inputs[3:6]
    steps = partial(BINARIES[base], a, params(*a_pair), b, params(*b_pair))
    return [_activated(steps, activation, attributes, pairs(inputs[6:]))]


def _unary(activation: str, attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """Q{Activation}: x triple, y pair; always a table."""
    x_params, y_params = pairs(inputs[1:])
    if activation in CLAMPS:
        low, high = CLAMPS[activation](attributes)
        return [lookup_table(lambda real: np.clip(real, low, high), x_params, y_params)[inputs[0]]]
    return [lookup_table(lambda real: LOOKUPS[activation](real, attributes), x_params, y_params)[inputs[0]]]


def _concat(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QConcat{n}: n x triples, y pair. An input whose parameters differ from y's goes through a table."""
    y = params(*inputs[-2:])
    parts = []
    for i in range(0, len(inputs) - 2, 3):
        p = params(*inputs[i + 1 : i + 3])
        parts.append(inputs[i] if p == y else lookup_table(np.positive, p, y)[inputs[i]])
    return [np.concatenate(parts, axis=int(attributes["axis"]))]


# ---- pooling ------------------------------------------------------------------------------------------------------


def _mean(total: np.ndarray, count: np.ndarray, x: QuantParams, y: QuantParams) -> np.ndarray:
    """clamp(rne(f32(total) * f32(s_x / (s_y * count))) + zp_y, 0, 255); total: integer sums of x - zp_x."""
    multiplier = (x.scale / (y.scale * np.maximum(count, 1))).astype(np.float32)
    return requantize(total.astype(np.float32) * multiplier, y)


def _average_pool(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QAveragePool: the sum runs over the taps inside x; the count includes padding if count_include_pad says so."""
    x, (x_params, y_params) = inputs[0], pairs(inputs[1:])
    kernel = attributes["kernel_shape"]
    out, taps = _output_sizes(x.shape[2:], kernel, attributes), tuple(range(-len(kernel), 0))
    total = _windows(x.astype(np.int64) - x_params.zero_point, kernel, attributes, 0, out).sum(axis=taps)
    inside = np.ones((1, 1, *x.shape[2:]), np.int64)
    counted = dict(attributes)
    if attributes.get("count_include_pad", 0):
        pads = _geometry(attributes, len(kernel))[2]
        edges = zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)
        inside = np.pad(inside, [(0, 0), (0, 0), *edges], constant_values=1)
        counted["pads"] = [0] * len(pads)
    count = _windows(inside, kernel, counted, 0, out).sum(axis=taps)
    return [_mean(total, count, x_params, y_params)]


def _reduce_mean(axes: Iterable[int], keep: bool, inputs: Inputs) -> np.ndarray:
    """QReduceMean and QGlobalAveragePool: x triple, y pair."""
    x, (x_params, y_params) = inputs[0], pairs(inputs[1:])
    chosen = tuple(axes) or tuple(range(x.ndim))
    total = (x.astype(np.int64) - x_params.zero_point).sum(axis=chosen, keepdims=keep)
    return _mean(total, np.asarray(math.prod(x.shape[a] for a in chosen)), x_params, y_params)


def _same_params(inputs: Inputs) -> None:
    """ModelError unless the x triple and the y pair at the end agree, as ops that only move or pick bytes need."""
    x, y = params(*inputs[1:3]), params(*inputs[-2:])
    if x != y:
        raise ModelError(f"this op moves bytes, so its input {x} and its output {y} must have the same parameters")


def _max_pool(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QMaxPool: padding never wins, as no byte is below 0."""
    _same_params(inputs)
    x, kernel = inputs[0], attributes["kernel_shape"]
    out = _output_sizes(x.shape[2:], kernel, attributes)
    return [_windows(x, kernel, attributes, 0, out).max(axis=tuple(range(-len(kernel), 0)))]


def _global_max_pool(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    _same_params(inputs)
    return [inputs[0].max(axis=tuple(range(2, inputs[0].ndim)), keepdims=True)]


def _moved(move: Callable[..., list[np.ndarray]], attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """A movement op: x triple, its own inputs, y pair."""
    _same_params(inputs)
    return move(inputs[0], attributes, *inputs[3:-2], fill=inputs[-1])


# ---- the table ----------------------------------------------------------------------------------------------------


def _build_table() -> dict[str, OpFunction]:
    """op_type -> function, for every combination of base, residual and activation."""
    activations = ["", *CLAMPS, *LOOKUPS]
    table: dict[str, OpFunction] = {
        "QActivationMatMul": _activation_matmul,
        "QAveragePool": _average_pool,
        "QMaxPool": _max_pool,
        "QGlobalMaxPool": _global_max_pool,
        "QGlobalAveragePool": lambda _, inputs: [_reduce_mean(range(2, inputs[0].ndim), True, inputs)],
        "QReduceMean": lambda a, inputs: [_reduce_mean(a.get("axes", ()), bool(a.get("keepdims", 1)), inputs)],
    }
    for base in PRODUCTS:
        table[f"Q{base}Float"] = partial(_weighted_float, base)
        for activation in activations:
            table[f"Q{base}{activation}"] = partial(_weighted, base, False, activation)
            table[f"Q{base}Add{activation}"] = partial(_weighted, base, True, activation)
        for activation in WIDES:
            table[f"Q{base}{activation}"] = partial(_weighted, base, False, activation)
            table[f"Q{base}Add{activation}"] = partial(_weighted, base, True, activation)
    table |= {f"Q{base}{a}": partial(_binary, base, a) for base in BINARIES for a in activations}
    table |= {f"Q{a}": partial(_unary, a) for a in activations if a}
    table |= {f"Q{name}": partial(_moved, move) for name, move in MOVES.items()}
    table["QResizeLike"] = lambda a, inputs: resize_like(inputs[0], inputs[3], a)
    table |= {f"Q{name}": function for name, function in ROWS.items()}
    return table | STREAM


OPS = _build_table()


def find(op_type: str, input_count: int, output_count: int) -> OpFunction | None:
    """The function of a quantkit op; None if the oracle has none. Concat and Split carry their n in the name."""
    variadic = {f"QConcat{(input_count - 2) // 3}": _concat}
    variadic |= {f"Q{name}{output_count}": partial(_moved, move) for name, move in VARIADIC_MOVES.items()}
    return OPS.get(op_type) or variadic.get(op_type)
