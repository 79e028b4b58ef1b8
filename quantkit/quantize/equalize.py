"""Channels scaled and shifted so that one set of u8 or s8 parameters suits them all; the network's function stays.

x' = s x + c for every channel: the layer that makes x takes s and c into its weights and bias, those that read x take
them out again. Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV 2019); Xiao
et al., "SmoothQuant" (ICML 2023); Wei et al., "Outlier Suppression+" (EMNLP 2023) for the shift.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from quantkit.fuse.activations import SCALED
from quantkit.fuse.graph import constant, is_standard, new_initializer, quantkit_name
from quantkit.fuse.opnames import CONVOLUTIONS, OpName
from quantkit.quantize.channel_ids import SWISHES, ChannelIds
from quantkit.quantize.channel_values import ChannelObserver, ChannelValues, Ends


@dataclass(frozen=True)
class Law:
    """s = (column of weights)^by_column / (size of the channel)^by_size.

    The range of a channel is that of its values seen, or, by_deviation, the mean less and plus one standard deviation,
    which further samples change little. The shift takes off its middle; its size is its largest magnitude after that.
    by_size = 0 is cross-layer equalization, repeated: (column of the readers / row of the writer)^by_column.
    """

    by_size: float
    by_column: float
    by_deviation: bool = False


LAWS = {"weights": Law(0.0, 0.5), "smooth": Law(0.5, 0.5), "activations": Law(1.0, 0.0),
        "deviations": Law(0.5, 0.0, by_deviation=True), "smooth-deviations": Law(0.5, 0.5, by_deviation=True),
        "mild-deviations": Law(1 / 3, 0.0, by_deviation=True)}  # fmt: skip
ROUNDS = 8
"""Of cross-layer equalization; each layer has a neighbour on both sides."""
MOST = 64.0
"""A factor differs from the mean of its tensor by this at most: a channel that hardly ever speaks is not blown up."""
EQUALIZED_KEY = "quantkit.equalized"


@dataclass(frozen=True)
class Affine:
    """x' = scale x + shift of the channels on `axis`. scale, shift: float32 [C]."""

    axis: int
    scale: np.ndarray
    shift: np.ndarray


def equalize(model: ir.Model, observer: ChannelObserver, law: str) -> dict[str, Affine]:
    """Rewrites a fused FP32 `model` in place by one of LAWS; the observer's samples give the ranges of the channels.

    Returns what was done to each tensor; empty where nothing may be scaled or shifted.
    """
    ids = ChannelIds(model)
    found = {value: ids.of(value) for value in ids.tensors if value.name}
    known = {value: channels for value, channels in found.items() if channels is not None}
    values = list(known)
    if not values:
        return {}
    seen = observer.of(model, {value.name or "": ids.axis_of(value) for value in values})
    low, high = ({value: _ends(seen[value.name or ""], LAWS[law])[side] for value in values} for side in (0, 1))
    free = {value: _shifted_with(value, ids) for value in values}
    shifts = {other: -(low[value] + high[value]) / 2 for value, others in free.items() for other in others}
    shift_channels(model, shifts)
    size = np.zeros(ids.count)
    for value in values:
        shift = shifts.get(value, 0.0)
        np.maximum.at(size, known[value], np.maximum(np.abs(low[value] + shift), np.abs(high[value] + shift)))
    factors = _factors(model, ids, size, LAWS[law])
    scale_channels(model, ids, factors)
    return {
        value.name or "": Affine(
            ids.axis_of(value),
            factors[known[value]].astype(np.float32),
            (factors[known[value]] * shifts.get(value, np.zeros(1))).astype(np.float32),
        )
        for value in values
    }


def _ends(seen: ChannelValues, law: Law) -> Ends:
    """(lower, upper end of the range) of every channel, float64 [C]: see Law."""
    return seen.deviations if law.by_deviation else seen.extremes


def _factors(model: ir.Model, ids: ChannelIds, size: np.ndarray, law: Law) -> np.ndarray:
    """float64 [ids.count]: 1 for fixed channels, and for those without data or weights."""
    total = np.ones(ids.count)
    for _ in range(ROUNDS if law.by_size == 0 else 1):
        rows, columns = _weight_peaks(model, ids, total)
        known = (size > 0) & (rows > 0) & (columns > 0)
        known[0] = False
        divisor = size[known] ** law.by_size if law.by_size else rows[known] ** law.by_column
        total[known] *= columns[known] ** law.by_column / divisor
    for value in ids.tensors:  # around 1 in every tensor: factors common to a tensor change nothing
        found = ids.of(value)
        moved = None if found is None else found[total[found] != 1.0]
        if moved is not None and moved.size:
            middle = np.exp(np.log(total[moved]).mean())
            total[moved] = np.clip(total[moved], middle / MOST, middle * MOST)
    return total


def _weight_peaks(model: ir.Model, ids: ChannelIds, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(largest |w| of the rows that make each channel, of the columns that read it) after scaling by factors so far."""
    rows, columns = np.zeros(ids.count), np.zeros(ids.count)
    for node in model.graph:
        name = quantkit_name(node)
        if _scales_behind(node) and ids.of(node.outputs[0]) is not None:
            rows[ids.of(node.outputs[0])] = 1.0  # its scale stays FP32: no rows to equalize
        if name is None or not name.is_weighted:
            continue
        weights, given, made = constant(node.inputs[1]), ids.of(node.inputs[0]), ids.of(node.outputs[0])
        assert weights is not None
        size = np.abs(weights.astype(np.float64))
        if given is not None:
            size = size * columns_like(name, node, weights.shape, 1.0 / factors[given])
        size = np.moveaxis(size, 1, 0) if name.base == "MatMul" else size
        if made is not None and not _scales_behind(node):
            size = size * factors[made].reshape(-1, *[1] * (size.ndim - 1))
            np.maximum.at(rows, made, size.reshape(len(size), -1).max(axis=1))
        if given is not None:
            groups = len(given) // size.shape[1]
            by_group = size.reshape(groups, len(size) // groups, size.shape[1], -1)
            np.maximum.at(columns, given, by_group.max(axis=(1, 3)).reshape(-1))
    return rows, columns


def _scales_behind(node: ir.Node) -> bool:
    """Whether a node scales its output in float32, behind what the factors of its channels could not go through."""
    name = quantkit_name(node)
    return node.op_type == "LayerNormalization" if name is None else name.activation in SWISHES


def scale_channels(model: ir.Model, ids: ChannelIds, factors: np.ndarray) -> None:
    """Multiplies every channel by the factor of its id, in place; the function of the model stays the same.

    factors: float64 [ids.count], positive, factors[0] = 1. Weights become s_out W / s_in, biases s_out b; HardSwish on
    sums takes s_out into its scale and shift instead.
    """
    for node in list(model.graph):
        name = quantkit_name(node)
        made = ids.of(node.outputs[0])
        if name is not None and name.is_weighted:
            given, weights = ids.of(node.inputs[0]), constant(node.inputs[1])
            assert weights is not None
            if given is not None:
                _multiply(model.graph, node, 1, columns_like(name, node, weights.shape, 1.0 / factors[given]))
            if made is not None and name.activation in SWISHES:
                _scale_swish(node, name, factors[made])
            elif made is not None:
                shape = (1, -1) if name.base == "MatMul" else (-1, *[1] * (weights.ndim - 1))
                _multiply(model.graph, node, 1, factors[made].reshape(shape))
                _multiply(model.graph, node, 2, factors[made])
        elif node.op_type == "LayerNormalization" and node.domain == "" and made is not None:
            for index in range(1, len(node.inputs)):
                _multiply(model.graph, node, index, factors[made])


def _scale_swish(node: ir.Node, name: OpName, factors: np.ndarray) -> None:
    """scale * HardSwish(x) + shift, both times the factors. float64 [C]."""
    behind = 0 if name.base not in CONVOLUTIONS else len(node.inputs[1].shape) - 2  # type: ignore[union-attr,arg-type]
    numbers = {}
    for key, absent in (("scale", 1.0), ("shift", 0.0)):
        given = node.attributes.pop(key, None)
        old = absent if given is None else given.value if given.type == ir.AttributeType.FLOAT else given.value.numpy()
        numbers[key] = (np.reshape(old, -1) * factors).astype(np.float32).reshape(-1, *[1] * behind)
    if not numbers["shift"].any():
        del numbers["shift"]
    form = next(activation for activation, keys in SCALED.items() if set(keys) == set(numbers))
    node.op_type = replace(name, activation=form).op_type
    for key, array in numbers.items():
        node.attributes[key] = ir.AttrTensor(key, ir.Tensor(array))


def shift_channels(model: ir.Model, shifts: Mapping[ir.Value, np.ndarray]) -> None:
    """Adds constants to the channels of tensors (see `_shifted_with`), in place: b' = b + c_out - W c_in."""
    for node in list(model.graph):
        name = quantkit_name(node)
        if name is None or not name.is_weighted:
            continue
        moved = np.zeros(1)
        x, out = node.inputs[0], node.outputs[0]
        if out in shifts:
            moved = moved + shifts[out]
        if name.add and node.inputs[3] in shifts:
            moved = moved - shifts[node.inputs[3]]  # type: ignore[index]
        if x in shifts:
            weights = constant(node.inputs[1])
            assert weights is not None
            product = weights * columns_like(name, node, weights.shape, shifts[x])  # type: ignore[index]
            kept = 1 if name.base == "MatMul" else 0
            moved = moved - product.sum(axis=tuple(axis for axis in range(weights.ndim) if axis != kept))
        if moved.any():
            bias = constant(node.inputs[2])
            assert bias is not None
            _replace(model.graph, node, 2, bias.astype(np.float64) + moved)


def _shifted_with(value: ir.Value, ids: ChannelIds) -> list[ir.Value]:
    """The value and what other layouts of it are read, if it may be shifted; else nothing.

    That is: made by a weighted layer without activation, read by weighted layers alone, none of which pads it with
    zeros.
    """
    producer = value.producer()
    name = None if producer is None else quantkit_name(producer)
    if name is None or not name.is_weighted or name.activation:
        return []
    found = [value]
    for seen in found:
        if seen.is_graph_output():
            return []
        for use in seen.uses():
            out = use.node.outputs[0]
            if is_standard(use.node, "Flatten", "Squeeze") and ids.of(out) is not None:
                found.append(out)
            elif not _takes_shifted(use.node, use.idx):
                return []
    return found


def _takes_shifted(node: ir.Node, index: int) -> bool:
    reader = quantkit_name(node)
    if reader is None or not reader.is_weighted or reader.base == "ConvTranspose":
        return False
    return index != 0 or reader.base != "Conv" or not any(node.attributes["pads"].as_ints())


def columns_like(name: OpName, node: ir.Node, shape: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Values of the input channels [C_in], shaped so that they multiply weights of this shape."""
    if name.base == "MatMul":
        return values.reshape(-1, 1)
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    spread = np.repeat(values.reshape(groups, -1), shape[0] // groups, axis=0)
    return spread.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))


def _multiply(graph: ir.Graph, node: ir.Node, index: int, by: np.ndarray) -> None:
    array = constant(node.inputs[index])
    assert array is not None
    _replace(graph, node, index, array.astype(np.float64) * by)


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray) -> None:
    """Gives a node a constant of its own: another node may share the old one."""
    value = node.inputs[index]
    assert value is not None
    node.replace_input_with(index, new_initializer(graph, f"{value.name}_equalized", array.astype(np.float32)))


def to_json(done: Mapping[str, Affine]) -> str:
    """For the model's metadata: tensor -> axis, scale and shift as base64 of little-endian float32."""
    code = {
        name: [a.axis, *(base64.b64encode(v.astype("<f4").tobytes()).decode() for v in (a.scale, a.shift))]
        for name, a in done.items()
    }
    return json.dumps(code, separators=(",", ":"))


def from_json(text: str) -> dict[str, Affine]:
    """Inverse of to_json."""
    return {
        name: Affine(axis, *(np.frombuffer(base64.b64decode(part), "<f4") for part in parts))
        for name, (axis, *parts) in json.loads(text).items()
    }


def show_equalized(model: ir.Model, done: Mapping[str, Affine]) -> None:
    """Gives tensors of a float `model` that nobody changed the values that equalization gave them, in place.

    The tensor itself is renamed and goes on to its readers; a Mul and an Add beside it make x' under its name.
    """
    for node in list(model.graph):
        for value in node.outputs:
            affine = done.get(value.name or "")
            if affine is None or value.is_graph_output():
                continue
            name = value.name or ""
            shape = (-1, *[1] * ((len(value.shape) if value.shape is not None else 4) - 1 - affine.axis))
            value.name = f"{name}/before_equalization"
            parts = [
                new_initializer(model.graph, f"{name}/{what}", array.reshape(shape))
                for what, array in (("scale", affine.scale), ("shift", affine.shift))
            ]
            scaled = ir.node("Mul", [value, parts[0]], name=f"{name}/Mul")
            shifted = ir.node("Add", [scaled.outputs[0], parts[1]], name=f"{name}/Add")
            shifted.outputs[0].name, shifted.outputs[0].shape, shifted.outputs[0].type = name, value.shape, value.type
            model.graph.insert_after(node, [scaled, shifted])
