"""From statistics to ranges and first weights: rounded to nearest, with biases that make up for it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from quantkit.fuse.graph import constant
from quantkit.load.constants import release
from quantkit.observe import TensorStatistics, range_for
from quantkit.quantize.bias import channel_axis, expected_row, shifted_bias, spatial_size
from quantkit.quantize.layers import Layer, layer_of
from quantkit.quantize.qparams import QuantizedWeights
from quantkit.quantize.rounded import SHARED_BYTES, rounded_weights
from quantkit.quantize.select import Selection
from quantkit.types import QuantConfig, QuantParams, Range


def observed_tensors(model: ir.Model, selection: Selection) -> list[str]:
    """The tensors whose ranges the data decide: all of the selection but constants."""
    constants = {name for name, value in model.graph.initializers.items() if value.const_value is not None}
    return [name for name in selection.tensors if name not in constants]


def has_static_batch(model: ir.Model) -> bool:
    """Whether an input has a fixed first dimension."""
    return any(value.shape and isinstance(value.shape[0], int) for value in model.graph.inputs)


def table_ranges(model: ir.Model, selection: Selection, statistics: Mapping[str, TensorStatistics],
                 method: str | Mapping[str, str], config: QuantConfig) -> dict[str, Range]:  # fmt: skip
    """The range of every tensor of the selection: by `method`, one for all or by name, from statistics; exactly for
    constants."""
    ranges = {}
    for name in selection.tensors:
        if name in statistics:
            by = method if isinstance(method, str) else method[name]
            ranges[name] = range_for(statistics[name], by, config)
        else:
            array = constant(model.graph.initializers[name])
            assert array is not None
            ranges[name] = Range(float(array.min()), float(array.max()))
    return ranges


def macs_of(layer: Layer, statistics: Mapping[str, TensorStatistics]) -> int:
    """Multiply-accumulates of a sample; of one output position where its output was not observed."""
    seen = statistics.get(layer.output)
    values = seen.count // seen.samples if seen is not None and seen.samples else layer.channels
    return values * layer.columns


def tunable_layers(selection: Selection) -> list[Layer]:
    """The weighted layers of a selection whose inputs are computed, in graph order."""
    return [
        layer_of(node, form)
        for node, form in selection.forms.items()
        if form.name.is_weighted and all(constant(value) is None for value in form.data)
    ]


def all_weights(
    selection: Selection,
    params: Mapping[str, QuantParams],
    config: QuantConfig,
    statistics: Mapping[str, TensorStatistics] | None = None,
) -> dict[ir.Node, QuantizedWeights]:
    """The quantized weights of every weighted node of the selection.

    Where statistics hold the channel means of the input, biases make up for what the rounding of weights shifts.
    """
    weighted = [(node, form) for node, form in selection.forms.items() if form.name.is_weighted]
    tensors = [node.inputs[1].const_value for node, _ in weighted]  # type: ignore[union-attr]
    shared = sum(tensor.nbytes for tensor in tensors if tensor is not None) <= SHARED_BYTES
    found = {}
    for (node, form), tensor in zip(weighted, tensors, strict=True):
        bias = constant(node.inputs[2])
        assert tensor is not None
        assert bias is not None
        source = form.data[0]
        x_scale = params[selection.group_of[source.name or ""]].scale
        axis = 1 if form.name.base == "MatMul" else 0
        rounded = rounded_weights(tensor, bias, x_scale, axis=axis, per_channel=config.per_channel, shared=shared)
        made = rounded.with_bias(bias, x_scale, name=node.name or "")
        known = None if statistics is None else statistics.get(source.name or "")
        if known is not None and known.channels is not None:
            layer = layer_of(node, form)
            shift = rounded.mean_error(layer, expected_row(layer, known.channels.means, spatial_size(source, layer)))
            bias = shifted_bias(layer, rounded.scale, shift, x_scale)
            made = rounded.with_bias(bias, x_scale, name=layer.name)
            del layer
        found[node] = made
        release(tensor)
    return found


def weighted_inputs(selection: Selection) -> dict[str, int]:
    """tensor -> axis of its channels, of the computed inputs of weighted layers."""
    return {layer.source: channel_axis(layer) for layer in tunable_layers(selection)}
