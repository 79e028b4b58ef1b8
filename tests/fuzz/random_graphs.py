"""Random FP32 graphs of what CNNs are made of: a hypothesis strategy.

A graph grows from one input by steps (STEPS), each of which takes values that are already there and appends a few
nodes. Weights are seeded normals, scaled by fan-in, so that activations stay near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
LARGEST = 6000
"""Elements of a tensor."""
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.1}, "Sigmoid": {}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "HardSwish": {}, "Tanh": {}, "Elu": {"alpha": 1.0}, "Softplus": {},
}  # fmt: skip

Shape = tuple[int, ...]


@dataclass
class Builder:
    """The graph so far. draw: hypothesis'; values: name -> shape, in the order in which they were made."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    rng: np.random.Generator
    values: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def int(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def yes(self) -> bool:
        return bool(self.draw(st.booleans()))

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def some(self, rank: int = 4, like: Shape | None = None) -> str | None:
        """A value of this rank, or shaped as `like`; None if there is none. The latest comes first in shrinking."""
        made = [item for item in self.values.items() if item[0] != "x"] or list(self.values.items())
        fitting = [name for name, shape in made if (shape == like if like else len(shape) == rank)]
        return self.pick(fitting[::-1]) if fitting else None

    def constant(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.rng.normal(size=shape) * scale).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(self, op: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        return self.nodes_of(op, inputs, [shape], **attributes)[0]

    def nodes_of(self, op: str, inputs: Sequence[str], shapes: Sequence[Shape], **attributes: Any) -> list[str]:
        names = [f"v{len(self.values) + i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{len(self.nodes)}", **attributes))
        self.values.update(zip(names, shapes, strict=True))
        return names


def activation(b: Builder, x: str) -> str:
    """One of ACTIVATIONS, a Clip, a spelled-out SiLU or HardSwish, a PRelu, or a HardSwish with an affine."""
    shape = b.values[x]
    kind = b.pick([*ACTIVATIONS, "Clip", "SiLU", "PRelu", "Affine"])
    if kind == "Clip":
        low, high = b.pick([(0.0, 6.0), (-1.0, 1.0), (0.0, 1.0)])
        return b.node("Clip", [x, *(b.constant(np.float32(v)) for v in (low, high))], shape)
    if kind == "SiLU":
        return b.node("Mul", [x, b.node("Sigmoid", [x], shape)], shape)
    if kind == "Affine":
        scaled = b.node("Mul", [b.node("HardSwish", [x], shape), b.constant(np.float32(1.5))], shape)
        return b.node("Add", [scaled, b.constant(np.float32(-0.25))], shape)
    if kind == "PRelu":
        channels = (shape[1], *[1] * (len(shape) - 2)) if len(shape) > 2 else (1,)
        return b.node("PRelu", [x, b.normal(*channels, scale=0.3)], shape)
    return b.node(kind, [x], shape, **ACTIVATIONS[kind])


def maybe_activation(b: Builder, x: str) -> str:
    return activation(b, x) if b.yes() else x


def conv_of(b: Builder, x: str, *, out_c: int | None = None, keep_size: bool = False, groups: int = 1) -> str | None:
    """A conv with random geometry; None if its output would be empty or large."""
    n, in_c, *size = b.values[x]
    kernel, strides, dilations, pads, out = [], [], [], [], []
    for length in size:
        k = b.pick([1, 3, 2, 5])
        d = b.pick([1, 1, 2]) if k > 1 else 1
        span = (k - 1) * d
        s = 1 if keep_size else b.pick([1, 1, 2, 3])
        before = span // 2 if keep_size else b.int(0, span)
        after = span - before if keep_size else b.int(0, span)
        kernel.append(k), strides.append(s), dilations.append(d), pads.append((before, after))
        out.append((length + before + after - span - 1) // s + 1)
    out_c = out_c or groups * b.int(1, max(1, 40 // groups))
    if min(out) < 1 or n * out_c * prod(out) > LARGEST:
        return None
    fan_in = in_c // groups * prod(kernel)
    inputs = [x, b.normal(out_c, in_c // groups, *kernel, scale=fan_in**-0.5)]
    if b.yes():
        inputs.append(b.normal(out_c, scale=0.3))
    return b.node("Conv", inputs, (n, out_c, *out), kernel_shape=kernel, strides=strides, dilations=dilations,
                  pads=[p[0] for p in pads] + [p[1] for p in pads], group=groups)  # fmt: skip


def conv(b: Builder, x: str) -> str | None:
    y = conv_of(b, x)
    return y and maybe_activation(b, y)


def grouped_conv(b: Builder, x: str) -> str | None:
    """Depthwise, depthwise with a multiplier, or some groups."""
    channels = b.values[x][1]
    groups = b.pick([channels, *(g for g in (2, 3, 4) if channels % g == 0)])
    y = conv_of(b, x, groups=groups, out_c=channels * b.pick([1, 1, 2]))
    return y and maybe_activation(b, y)


def residual(b: Builder, x: str) -> str | None:
    shape = b.values[x]
    y = conv_of(b, x, out_c=shape[1], keep_size=True)
    if y is None:
        return None
    other = b.some(like=shape) or x
    return maybe_activation(b, b.node("Add", [y, other] if b.yes() else [other, y], shape))


def conv_transpose(b: Builder, x: str) -> str | None:
    n, in_c, h, w = b.values[x]
    k, s = b.int(1, 3), b.int(1, 2)
    out_c = b.int(1, 8)
    out = [(length - 1) * s + k for length in (h, w)]
    if n * out_c * prod(out) > LARGEST:
        return None
    return b.node("ConvTranspose", [x, b.normal(in_c, out_c, k, k, scale=(in_c * k * k) ** -0.5)],
                  (n, out_c, *out), kernel_shape=[k, k], strides=[s, s])  # fmt: skip


def binary(b: Builder, x: str) -> str:
    shape = b.values[x]
    y = b.node(b.pick(["Add", "Mul", "Sub"]), [x, b.some(like=shape) or x], shape)
    return maybe_activation(b, y)


def squeeze_and_excite(b: Builder, x: str) -> str | None:
    n, c, *_ = shape = b.values[x]
    pooled = b.node("GlobalAveragePool", [x], (n, c, 1, 1))
    gate = conv_of(b, pooled, out_c=c, keep_size=True)
    return gate and b.node("Mul", [x, b.node("Sigmoid", [gate], (n, c, 1, 1))], shape)


def concat(b: Builder, x: str) -> str | None:
    n, _, h, w = b.values[x]
    others = [v for v, s in b.values.items() if len(s) == 4 and (s[0], *s[2:]) == (n, h, w)]
    parts = [x, *(b.pick(others) for _ in range(b.int(1, 2)))]
    channels = sum(b.values[p][1] for p in parts)
    return b.node("Concat", parts, (n, channels, h, w), axis=1) if n * channels * h * w <= LARGEST else None


def split(b: Builder, x: str) -> str | None:
    n, c, h, w = b.values[x]
    if c < 2:
        return None
    first = b.int(1, c - 1)
    shapes = [(n, first, h, w), (n, c - first, h, w)]
    return b.nodes_of("Split", [x, b.ints(first, c - first)], shapes, axis=1)[b.int(0, 1)]


def slice_(b: Builder, x: str) -> str | None:
    shape = b.values[x]
    axis, step = b.int(1, 3), b.int(1, 2)
    start = b.int(0, shape[axis] - 1)
    size = len(range(start, shape[axis], step))
    out = (*shape[:axis], size, *shape[axis + 1 :])
    return b.node("Slice", [x, b.ints(start), b.ints(shape[axis]), b.ints(axis), b.ints(step)], out)


def pool(b: Builder, x: str) -> str | None:
    n, c, *size = b.values[x]
    op, ceil = b.pick(["MaxPool", "AveragePool"]), b.int(0, 1)
    kernel = [b.int(1, 3) for _ in size]
    strides = [b.int(1, 3) for _ in size]
    pads = [b.int(0, k - 1) for k in (*kernel, *kernel)]
    out = []
    for i, length in enumerate(size):
        span = length + pads[i] + pads[i + 2] - kernel[i]
        steps = -(-span // strides[i]) if ceil else span // strides[i]
        if ceil and steps * strides[i] >= length + pads[i]:
            return None  # the last window would lie in the padding: releases of ONNX differ on whether it counts
        out.append(steps + 1)
    if min(out) < 1:
        return None
    extra = {"count_include_pad": b.int(0, 1)} if op == "AveragePool" and not ceil else {}
    return b.node(op, [x], (n, c, *out), kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=ceil, **extra)


def resize(b: Builder, x: str) -> str | None:
    n, c, h, w = b.values[x]
    up = b.int(1, 3), b.int(1, 2)
    if n * c * h * w * prod(up) > LARGEST:
        return None
    mode, coordinates = b.pick(["nearest", "linear"]), b.pick(["half_pixel", "asymmetric"])
    return b.node("Resize", [x, "", b.constant(np.array([1, 1, *up], np.float32))], (n, c, h * up[0], w * up[1]),
                  mode=mode, coordinate_transformation_mode=coordinates)  # fmt: skip


def pad(b: Builder, x: str) -> str | None:
    n, c, h, w = b.values[x]
    top, left, bottom, right = (b.int(0, 2) for _ in range(4))
    out = (n, c, h + top + bottom, w + left + right)
    return b.node("Pad", [x, b.ints(0, 0, top, left, 0, 0, bottom, right)], out) if prod(out) <= LARGEST else None


def channel_shuffle(b: Builder, x: str) -> str | None:
    n, c, h, w = shape = b.values[x]
    groups = [g for g in (2, 3, 4) if c % g == 0]
    if not groups:
        return None
    g = b.pick(groups)
    y = b.node("Reshape", [x, b.ints(n, g, c // g, h, w)], (n, g, c // g, h, w))
    y = b.node("Transpose", [y], (n, c // g, g, h, w), perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [y, b.ints(*shape)], shape)


def float_op(b: Builder, x: str) -> str:
    """An op that has no u8 form."""
    return b.node(b.pick(["Sin", "Atan", "Round"]), [x], b.values[x])


def spatial_normalization(b: Builder, x: str) -> str:
    """LRN over channels, or over the pixels of a channel or of a group as PyTorch spells it out, or over everything."""
    n, c, h, w = shape = b.values[x]
    kind = b.pick(["LRN", "InstanceNormalization", "LayerNormalization", "groups"])
    if kind == "LRN":
        attributes = {"size": b.pick([5, 3, 1, 9]), "alpha": b.pick([1e-4, 0.5]), "beta": b.pick([0.75, 1.0])}
        return b.node("LRN", [x], shape, **attributes)
    if kind == "groups":
        g = b.pick([g for g in (1, 2, 4, c) if c % g == 0])
        sizes, ones, zeros = (n, g, c // g * h * w), np.ones(g, np.float32), np.zeros(g, np.float32)
        y = b.node("Reshape", [x, b.ints(0, g, -1)], sizes)
        y = b.node("InstanceNormalization", [y, b.constant(ones), b.constant(zeros)], sizes)
        y = b.node("Mul", [b.node("Reshape", [y, b.ints(*shape)], shape), b.normal(c, 1, 1)], shape)
        return b.node("Add", [y, b.normal(c, 1, 1, scale=0.3)], shape)
    if kind == "InstanceNormalization":
        return b.node(kind, [x, b.normal(c), b.normal(c, scale=0.3)], shape)
    axis = b.int(1, 3)
    sizes = (c, h, w)[axis - 1 :]
    return b.node(kind, [x, b.normal(*sizes), b.normal(*sizes, scale=0.3)], shape, axis=axis)


def normalization(b: Builder, x: str) -> str:
    """Over the channels, as transformers and ConvNeXt have it."""
    n, c, h, w = b.values[x]
    y = b.node("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    if b.yes():
        y = b.node("LayerNormalization", [y, b.normal(c), b.normal(c, scale=0.3)], (n, h, w, c), axis=-1)
    else:
        y = b.node("Softmax", [y], (n, h, w, c), axis=-1)
    return b.node("Transpose", [y], (n, c, h, w), perm=[0, 3, 1, 2])


def global_pool(b: Builder, x: str) -> str:
    n, c, *_ = b.values[x]
    if b.yes():
        return b.node("ReduceMean", [x, b.ints(2, 3)], (n, c, 1, 1), keepdims=1)
    return b.node(b.pick(["GlobalAveragePool", "GlobalMaxPool"]), [x], (n, c, 1, 1))


def dense(b: Builder, x: str) -> str:
    """Flatten and Gemm or MatMul; the result goes back to rank 4."""
    n, out_c = b.values[x][0], b.int(1, 40)
    depth = prod(b.values[x][1:])
    y = b.node("Flatten", [x], (n, depth))
    if b.yes():
        y = b.node("Gemm", [y, b.normal(out_c, depth, scale=depth**-0.5), b.normal(out_c)], (n, out_c), transB=1)
    else:
        y = b.node("MatMul", [y, b.normal(depth, out_c, scale=depth**-0.5)], (n, out_c))
    return b.node("Reshape", [maybe_activation(b, y), b.ints(n, out_c, 1, 1)], (n, out_c, 1, 1))


def attention(b: Builder, x: str) -> str:
    """Products of two activations."""
    n, c, h, w = shape = b.values[x]
    tokens = b.node("Reshape", [x, b.ints(n, c, h * w)], (n, c, h * w))
    turned = b.node("Transpose", [tokens], (n, h * w, c), perm=[0, 2, 1])
    scores = b.node("Softmax", [b.node("MatMul", [tokens, turned], (n, c, c))], (n, c, c), axis=-1)
    return b.node("Reshape", [b.node("MatMul", [scores, tokens], (n, c, h * w)), b.ints(*shape)], shape)


STEPS = (
    conv, residual, grouped_conv, binary, concat, split, pool, resize, pad, slice_, channel_shuffle, activation,
    squeeze_and_excite, global_pool, dense, float_op, conv_transpose, normalization, attention,
    spatial_normalization,
)  # fmt: skip


@st.composite
def graphs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> onnx.ModelProto:
    """A valid FP32 model with input "x", a weighted op first, then 1 to 8 steps, and 1 or 2 outputs."""
    b = Builder(draw, np.random.default_rng(draw(st.integers(0, 1 << 32))))
    shape = (b.int(1, 2), b.pick([3, 1, 4, 8, 16, 17, 33]), b.int(1, 9), b.int(1, 9))
    b.values["x"] = shape
    conv_of(b, "x", keep_size=True)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=8)):
        step(b, b.some())
    made = [name for name in b.values if name != "x"]
    outputs = [made[-1]]
    if b.yes():
        outputs.append(b.pick(made))
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, b.values[name])
        for name in ("x", *dict.fromkeys(outputs))
    ]
    graph = helper.make_graph(b.nodes, "random", infos[:1], infos[1:], b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
