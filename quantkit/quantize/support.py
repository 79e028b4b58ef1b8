"""Which nodes of a fused graph can be u8, as a table: op -> how its static form is written.

`shares` ops move or select values without arithmetic, so input and output have the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fold.input_shapes import from_input_shapes
from quantkit.fuse.float_only import why_float
from quantkit.fuse.functions import ATTRIBUTES, EXTRA_INPUTS
from quantkit.fuse.graph import Reject, constant, layers_in_bodies, new_initializer, quantkit_name, scalar
from quantkit.fuse.masks import adds_a_mask, is_masked
from quantkit.fuse.opnames import MAX_DEPTH, MAX_VARIADIC, NAMED_NORMALIZATIONS, OpName
from quantkit.fuse.patterns import activation_of
from quantkit.fuse.stream import is_in_stream, joins_tokens
from quantkit.quantize.sizes import measured_tensor

MAX_GATHERED = 64
"""Indices of a Gather: each run of neighbours is a copy of its own."""
MAX_NORMALIZED = 1 << 23
"""Values normalized as one: 255 times as many fit an int32."""
MAX_LRN_SIZE = 257
"""Squares of so many differences of bytes have a sum below 2^24, exact in float32."""
MAX_LRN_POWER = 4
"""The factor is linear between 128 points an octave: with this exponent within 1.6e-4 of the power."""


@dataclass(frozen=True)
class StaticForm:
    """The u8 form of a node: `data` are the inputs to be quantized, `extra` the inputs that follow them: constant, or a
    shape worked out from those of the model's inputs."""

    name: OpName
    data: tuple[ir.Value, ...]
    extra: tuple[np.ndarray | ir.Value, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shares: bool = False

    def extra_inputs(self, graph: ir.Graph, node_name: str) -> list[ir.Value]:
        """`extra` as values of `graph`: its constants become initializers named after the node."""
        names = EXTRA_INPUTS.get(self.name.base, ())
        return [
            extra if isinstance(extra, ir.Value) else new_initializer(graph, f"{node_name}/{name}", extra)
            for name, extra in zip(names, self.extra, strict=True)
        ]


def _attributes(node: ir.Node, base: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    known = ATTRIBUTES[base]
    found = {k: node.attributes[k].value for k in known if k in node.attributes}
    return {**{k: v for k, v in defaults.items() if k in known}, **found}


def _constant_input(node: ir.Node, index: int, what: str, default: np.ndarray | None = None) -> np.ndarray:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None and default is not None:
        return default
    array = constant(value)
    if array is None:
        raise Reject(f"{what} is computed at run time")
    return array


def _rank(value: ir.Value) -> int:
    if value.shape is None:
        raise Reject(f"the rank of {value.name!r} is not known")
    return len(value.shape)


def _pool(node: ir.Node) -> StaticForm:
    if len([out for out in node.outputs if out.uses() or out.is_graph_output()]) > 1:
        raise Reject("the second output (indices) is used")
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        raise Reject(f"auto_pad={auto_pad.as_string()} could not be resolved to pads")
    kernel = list(node.attributes["kernel_shape"].as_ints())
    if len(kernel) not in (1, 2):
        raise Reject(f"{len(kernel)} spatial dimensions; the engine has 1 and 2")
    n = len(kernel)
    defaults = {"strides": [1] * n, "pads": [0] * 2 * n, "dilations": [1] * n, "ceil_mode": 0, "count_include_pad": 0}
    attributes = _attributes(node, node.op_type, defaults)
    dilations = node.attributes.get("dilations")
    if node.op_type == "AveragePool" and dilations is not None and set(dilations.as_ints()) != {1}:
        raise Reject("dilated average pooling")
    return StaticForm(OpName(node.op_type), (node.inputs[0],), (), attributes, node.op_type == "MaxPool")  # type: ignore[arg-type]


def _global_pool(node: ir.Node) -> StaticForm:
    if _rank(node.inputs[0]) not in (3, 4):  # type: ignore[arg-type]
        raise Reject("global pooling of other than one or two spatial dimensions")
    return StaticForm(OpName(node.op_type), (node.inputs[0],), shares=node.op_type == "GlobalMaxPool")  # type: ignore[arg-type]


def _reduce_mean(node: ir.Node) -> StaticForm:
    if "axes" in node.attributes:
        axes = np.asarray(node.attributes["axes"].as_ints())
    else:
        axes = _constant_input(node, 1, "the list of axes")
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    normal = sorted(int(a) % rank for a in axes)
    if not normal or normal != list(range(normal[0], normal[0] + len(normal))):
        raise Reject(f"mean over axes {normal}, which are not neighbours")
    keepdims = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    return StaticForm(OpName("ReduceMean"), (node.inputs[0],), (), {"axes": normal, "keepdims": keepdims})  # type: ignore[arg-type]


def _moves(base: str, *inputs: str, **defaults: Any) -> Callable[[ir.Node], StaticForm]:
    def form(node: ir.Node) -> StaticForm:
        extra = tuple(_constant_input(node, 1 + i, what) for i, what in enumerate(inputs))
        return StaticForm(OpName(base), (node.inputs[0],), extra,  # type: ignore[arg-type]
                          _attributes(node, base, defaults) if base in ATTRIBUTES else {}, True)  # fmt: skip

    return form


def _reshape(node: ir.Node) -> StaticForm:
    shape = node.inputs[1]
    if shape is None or shape.const_value is not None or not from_input_shapes(shape):
        return _moves("Reshape", "the shape", allowzero=0)(node)
    attributes = _attributes(node, "Reshape", {"allowzero": 0})
    return StaticForm(OpName("Reshape"), (node.inputs[0],), (shape,), attributes, True)  # type: ignore[arg-type]


def _transpose(node: ir.Node) -> StaticForm:
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    return _moves("Transpose", perm=list(range(rank))[::-1])(node)


def _squeeze(node: ir.Node) -> StaticForm:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        raise Reject("the shape to squeeze is not known")
    if (len(node.inputs) < 2 or node.inputs[1] is None) and not all(isinstance(d, int) for d in shape):
        raise Reject("it squeezes every dimension that is 1, and some are not known before it runs")
    ones = np.array([i for i, d in enumerate(shape) if d == 1], np.int64)
    return StaticForm(OpName("Squeeze"), (node.inputs[0],), (_constant_input(node, 1, "axes", ones),), {}, True)  # type: ignore[arg-type]


def _slice(node: ir.Node) -> StaticForm:
    starts = _constant_input(node, 1, "starts").astype(np.int64)
    ends = _constant_input(node, 2, "ends").astype(np.int64)
    axes = _constant_input(node, 3, "axes", np.arange(starts.size, dtype=np.int64)).astype(np.int64)
    steps = _constant_input(node, 4, "steps", np.ones(starts.size, np.int64)).astype(np.int64)
    if (steps <= 0).any():
        raise Reject("a negative step")
    return StaticForm(OpName("Slice"), (node.inputs[0],), (starts, ends, axes, steps), {}, True)  # type: ignore[arg-type]


def _pad(node: ir.Node) -> StaticForm:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    if mode != "constant" or (fill is not None and scalar(fill) != 0.0):
        raise Reject(f"mode {mode} or a fill value other than 0")
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        raise Reject("an axes input")
    pads = _constant_input(node, 1, "pads").astype(np.int64)
    if (pads < 0).any():
        raise Reject("negative pads")
    return StaticForm(OpName("Pad"), (node.inputs[0],), (pads,), {}, True)  # type: ignore[arg-type]


def _resize(node: ir.Node) -> StaticForm:
    defaults = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
    attributes = {**defaults, **_attributes(node, "ResizeScales", {})}
    if attributes["mode"] not in ("nearest", "linear"):
        raise Reject(f"mode {attributes['mode']}; nearest and linear are supported")
    if any(key in node.attributes and node.attributes[key].value not in (0, "stretch")
           for key in ("antialias", "keep_aspect_ratio_policy")):  # fmt: skip
        raise Reject("antialiasing or a kept aspect ratio")
    supported = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    if attributes["coordinate_transformation_mode"] not in supported or "axes" in node.attributes:
        raise Reject(f"coordinates {attributes['coordinate_transformation_mode']!r} or an axes attribute")
    if _rank(node.inputs[0]) != 4:  # type: ignore[arg-type]
        raise Reject("other than two spatial dimensions")
    for index, base in ((2, "ResizeScales"), (3, "ResizeSizes")):
        value = node.inputs[index] if len(node.inputs) > index else None
        array = constant(value)
        if array is not None and array.size == 4:
            if list(array[:2]) != [1, 1] and (base == "ResizeScales" or array[1] != node.inputs[0].shape[1]):  # type: ignore[union-attr,index]
                raise Reject("batch or channels are resized")
            return StaticForm(OpName(base), (node.inputs[0],), (array,), attributes, True)  # type: ignore[arg-type]
    data = (node.inputs[0], measured_tensor(node))
    return StaticForm(OpName("ResizeLike"), data, (), attributes, True)  # type: ignore[arg-type]


def _concat(node: ir.Node) -> StaticForm:
    if len(node.inputs) > MAX_VARIADIC:
        raise Reject(f"{len(node.inputs)} inputs; at most {MAX_VARIADIC}")
    if joins_tokens(node):
        raise Reject("the sum that reads it is float32, and one scale would lose the smaller of its parts")
    axis = int(node.attributes["axis"].as_int())
    axis = axis % _rank(node.outputs[0]) if axis < 0 else axis
    return StaticForm(OpName("Concat", count=len(node.inputs)), tuple(node.inputs), (), {"axis": axis})  # type: ignore[arg-type]


def _split(node: ir.Node) -> StaticForm:
    count = len(node.outputs)
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    axis = (int(node.attributes["axis"].as_int()) if "axis" in node.attributes else 0) % rank
    size = node.inputs[0].shape[axis]  # type: ignore[union-attr,index]
    if count > MAX_VARIADIC or not isinstance(size, int):
        raise Reject("too many outputs, or the size of the split axis is not known")
    chunk = -(-size // count)
    even = np.array([chunk] * (count - 1) + [size - chunk * (count - 1)], np.int64)
    split = _constant_input(node, 1, "the list of sizes", even).astype(np.int64)
    return StaticForm(OpName("Split", count=count), (node.inputs[0],), (split,), {"axis": axis}, True)  # type: ignore[arg-type]


def _prelu(node: ir.Node) -> StaticForm:
    """One slope a channel; one slope for all is LeakyRelu."""
    slope = _constant_input(node, 1, "the slope").astype(np.float32)
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    lifted = slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
    if rank < 2 or lifted.size != lifted.shape[1]:
        raise Reject(f"a slope of shape {list(slope.shape)}; the engine has one a channel")
    return StaticForm(OpName("PRelu"), (node.inputs[0],), (slope,))  # type: ignore[arg-type]


def _softmax(node: ir.Node) -> StaticForm:
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    return StaticForm(OpName("Softmax"), (node.inputs[0],), (), {"axis": axis % rank})  # type: ignore[arg-type]


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def _checked_count(what: str, sizes: Sequence[object]) -> tuple[int, ...]:
    """The sizes, all of them known, of what is normalized as one."""
    known = tuple(d for d in sizes if isinstance(d, int))
    if len(known) < len(sizes) or not 1 <= prod(known) <= MAX_NORMALIZED:
        raise Reject(f"{what} of sizes {list(sizes)}; the engine has known ones of at most {MAX_NORMALIZED} values")
    return known


def _along_last_axes(node: ir.Node) -> StaticForm:
    """LayerNormalization and RMSNormalization: over the axes from `axis` on; scale and bias in their full shape."""
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        raise Reject("the outputs mean or inverse deviation are used")
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else -1) % rank
    scale = _constant_input(node, 1, "the scale").astype(np.float32)
    dims = node.inputs[0].shape.dims[axis:]  # type: ignore[union-attr]
    sizes = scale.shape if len(dims) == scale.ndim == 1 else _checked_count("normalization", dims)
    extra = [scale]
    if node.op_type == "LayerNormalization":
        extra.append(_constant_input(node, 2, "the bias", np.zeros_like(scale)).astype(np.float32))
    attributes = {"axis": axis - rank, "epsilon": _float(node, "epsilon", 1e-5)}
    full = tuple(np.ascontiguousarray(np.broadcast_to(v, sizes)) for v in extra)
    return StaticForm(OpName(node.op_type, to_float=is_in_stream(node.inputs[0])), (node.inputs[0],), full, attributes)  # type: ignore[arg-type]


def _group_normalization(node: ir.Node) -> StaticForm:
    """GroupNormalization, and InstanceNormalization as one of a channel a group; scale and bias [C, 1...]."""
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    dims = node.inputs[0].shape.dims  # type: ignore[union-attr]
    if rank < 3 or not isinstance(dims[1], int):
        raise Reject("no spatial axes, or an unknown number of channels")
    channels = dims[1]
    groups = node.attributes["num_groups"].as_int() if node.op_type == "GroupNormalization" else channels
    if groups < 1 or channels % groups:
        raise Reject(f"{channels} channels in {groups} groups")
    if groups < channels:  # one channel of any image is small enough
        _checked_count("groups", (channels // groups, *dims[2:]))
    extra = [_constant_input(node, 1 + i, what).astype(np.float32) for i, what in enumerate(("the scale", "the bias"))]
    if any(v.size != channels for v in extra):
        raise Reject("a scale or bias that is not by channel")
    by_channel = tuple(v.reshape(-1, *[1] * (rank - 2)) for v in extra)
    attributes = {"num_groups": groups, "epsilon": _float(node, "epsilon", 1e-5)}
    return StaticForm(OpName("GroupNormalization"), (node.inputs[0],), by_channel, attributes)  # type: ignore[arg-type]


def _lrn(node: ir.Node) -> StaticForm:
    size, bias = node.attributes["size"].as_int(), _float(node, "bias", 1.0)
    attributes = {"size": size, "alpha": _float(node, "alpha", 1e-4), "beta": _float(node, "beta", 0.75), "bias": bias}
    if size > MAX_LRN_SIZE or bias <= 0 or attributes["alpha"] < 0 or abs(attributes["beta"]) > MAX_LRN_POWER:  # type: ignore[operator]
        raise Reject(
            f"{attributes}; the engine has size <= {MAX_LRN_SIZE}, bias > 0, alpha >= 0, |beta| <= {MAX_LRN_POWER}"
        )
    return StaticForm(OpName("LRN"), (node.inputs[0],), (), attributes)  # type: ignore[arg-type]


def _product(node: ir.Node) -> StaticForm:
    for value in node.inputs:
        if _rank(value) < 2:  # type: ignore[arg-type]
            raise Reject(f"{value.name!r} is a vector")  # type: ignore[union-attr]
    depth = node.inputs[0].shape[-1]  # type: ignore[union-attr,index]
    if isinstance(depth, int) and depth > MAX_DEPTH:  # where it is not known, the engine refuses what is too deep
        raise Reject(f"sums of {depth} products; int32 holds {MAX_DEPTH}")
    return StaticForm(OpName("ActivationMatMul"), tuple(node.inputs))  # type: ignore[arg-type]


def _gather(node: ir.Node) -> StaticForm:
    rank = _rank(node.inputs[0])  # type: ignore[arg-type]
    indices = _constant_input(node, 1, "the list of indices").astype(np.int64)
    if indices.ndim > 1 or indices.size > MAX_GATHERED:
        raise Reject(f"indices of shape {list(indices.shape)}; the engine has one index or a list of {MAX_GATHERED}")
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank
    return StaticForm(OpName("Gather"), (node.inputs[0],), (indices,), {"axis": axis}, True)  # type: ignore[arg-type]


def _binary(node: ir.Node) -> StaticForm:
    return StaticForm(OpName(node.op_type), tuple(node.inputs))  # type: ignore[arg-type]


FORMS: dict[str, Callable[[ir.Node], StaticForm]] = {
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Flatten": _moves("Flatten", axis=1),
    "Unsqueeze": _moves("Unsqueeze", "the list of axes"),
    "DepthToSpace": _moves("DepthToSpace", mode="DCR"),
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Concat": _concat,
    "Split": _split,
    "Gather": _gather,
    "MatMul": _product,
    "PRelu": _prelu,
    "Softmax": _softmax,
    "LayerNormalization": _along_last_axes,
    "RMSNormalization": _along_last_axes,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _group_normalization,
    "LRN": _lrn,
    "Add": _binary,
    "Sub": _binary,
    "Mul": _binary,
}
"""Standard op -> its u8 form. Activations come from fuse.activations, weighted ops are already fused."""


def static_form(node: ir.Node) -> StaticForm:
    """The u8 form of a node of a fused FP32 graph; raises Reject with the reason if it has none."""
    fused = quantkit_name(node)
    found = activation_of(node)
    if found is not None:
        form = StaticForm(OpName(found[0]), (node.inputs[0],), (), found[1])  # type: ignore[arg-type]
    elif fused is not None and fused.level == "float" and fused.is_stream:
        form = StaticForm(fused.at("static", to_float=True), tuple(node.inputs))  # type: ignore[arg-type]
    elif fused is not None and fused.level == "float" and fused.base in NAMED_NORMALIZATIONS:
        form = FORMS[fused.base](node)
    elif fused is not None and fused.level == "float":
        data = [node.inputs[0], *node.inputs[3:]] if fused.is_weighted else list(node.inputs)
        form = StaticForm(fused.at("static").widened, tuple(data), (), {k: a.value for k, a in node.attributes.items()})  # type: ignore[arg-type]
    elif node.domain == "" and node.op_type in FORMS:
        form = FORMS[node.op_type](node)
    else:
        layers = layers_in_bodies(node)
        inside = f"the layers in its bodies ({layers}) are judged for themselves"
        raise Reject(inside if layers else why_float(node) or "no INT8 form")
    if adds_a_mask(node) or any(value is not None and is_masked(value) for value in form.data):
        raise Reject("a mask is put on the scores: what samples do not show it hide would not be hidden")
    for value in (*form.data, *node.outputs):
        if value is None:
            raise Reject("an optional input is absent")
        if value.dtype != ir.DataType.FLOAT:
            raise Reject(f"{value.name!r} is {value.dtype.name if value.dtype is not None else 'of unknown type'}")
    return form
