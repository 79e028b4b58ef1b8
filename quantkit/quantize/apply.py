"""Writes the calibrated graph: selected nodes become static quantkit ops, with QuantizeLinear and
DequantizeLinear where u8 and float32 meet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from quantkit.fold.cleanup import remove_unused_nodes
from quantkit.fuse.expand import expand_in_place, pre_activation_name
from quantkit.fuse.functions import body_attributes, function_for
from quantkit.fuse.graph import constant, given_params, new_initializer, quantkit_name
from quantkit.fuse.opnames import DOMAIN, DOMAIN_VERSION
from quantkit.load.prepared import mark_prepared
from quantkit.quantize.qparams import QuantizedWeights, quantize_array
from quantkit.quantize.select import Selection, becomes_float, reads_u8
from quantkit.quantize.support import StaticForm
from quantkit.types import QuantParams

SUFFIX = "_quantized"


def quantized_name(name: str) -> str:
    """The name of the u8 tensor that stands for the FP32 tensor `name`."""
    return f"{name}{SUFFIX}"


def _same(a: QuantParams, b: QuantParams) -> bool:
    """Equal but for the rounding of a scale that went through a range."""
    return a.zero_point == b.zero_point and abs(a.scale - b.scale) <= 1e-6 * a.scale


def _attribute(name: str, value: object) -> ir.Attr:
    """As `ir.node` makes it; whole numbers and lists of them without its look at every protocol, a tenth of a trial."""
    if type(value) is int:
        return ir.AttrInt64(name, value)
    if isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
        return ir.AttrInt64s(name, list(value))
    return ir.convenience.convert_attribute(name, value)  # type: ignore[arg-type]


class _Writer:
    def __init__(self, model: ir.Model, selection: Selection, params: Mapping[str, QuantParams]) -> None:
        self.graph = model.graph
        self.opset = model.opset_imports[""]
        self.selection = selection
        self.params = params
        self.u8: dict[ir.Value, ir.Value] = {}
        self.floats: dict[ir.Value, ir.Value] = {}
        self.pairs: dict[str, list[ir.Value]] = {}
        self.successors: list[tuple[ir.Value, str]] = []
        self.weights: dict[bytes, list[tuple[np.ndarray, list[ir.Value]]]] = {}
        values = (*self.graph.inputs, *(value for node in self.graph for value in node.outputs))
        self.held = {value.name: value for value in values if (value.name or "").endswith(SUFFIX)}

    def params_of(self, tensor: str) -> QuantParams:
        return self.params[self.selection.group_of[tensor]]

    def pair(self, tensor: str) -> list[ir.Value]:
        """The scale and zero point initializers of a tensor's group."""
        group = self.selection.group_of[tensor]
        if group not in self.pairs:
            p = self.params[group]
            self.pairs[group] = [
                new_initializer(self.graph, f"{group}_scale", np.array(p.scale, np.float32)),
                new_initializer(self.graph, f"{group}_zero_point", np.array(p.zero_point, np.uint8)),
            ]
        return self.pairs[group]

    def quantized(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """The u8 form of a value: of its producer if that is u8, else through a QuantizeLinear that is made once."""
        if value in self.u8:
            return self.u8[value]
        name = value.name or ""
        original, value = value, self.floats.get(value, value)
        array, given = constant(value), given_params(value)
        source = value.producer()
        if source is not None and given is not None and _same(given, self.params_of(name)):
            made = source.inputs[0]  # u8 already, in a model that was quantized in part
            assert made is not None
        elif array is not None:
            made = new_initializer(self.graph, self._free(name), quantize_array(array, self.params_of(name)))
        else:
            node = ir.node("QuantizeLinear", [value, *self.pair(name)], name=f"{name}/QuantizeLinear")
            made = self._named_u8(node.outputs[0], original)
            producer = value.producer()
            self.graph.insert_after(producer, node) if producer is not None else self.graph.insert_before(
                self.graph[0], node
            )
        self.u8[original] = made
        return made

    def _named_u8(self, out: ir.Value, like: ir.Value) -> ir.Value:
        out.name, out.shape, out.type = self._free(like.name or ""), like.shape, ir.TensorType(ir.DataType.UINT8)
        return out

    def _free(self, name: str) -> str:
        """`quantized_name`; a tensor of the model that is called so (onnxruntime's dynamic quantization names them
        alike) gets another name, unless it is an input or output: then ours does."""
        own = quantized_name(name)
        value = self.held.pop(own, None)
        if value is None:
            return own
        fresh = next(f"{own}_{count}" for count in itertools.count(2) if f"{own}_{count}" not in self.held)
        if value.is_graph_input() or value.is_graph_output():
            self.held[own] = value
            return fresh
        value.name, self.held[fresh] = fresh, value
        return own

    def _weight_inputs(self, node: ir.Node, weights: QuantizedWeights, x: str) -> list[ir.Value]:
        x_scale = np.float32(self.params_of(x).scale)
        own = {"bias_quantized": weights.bias, "bias_scale": x_scale * weights.scale}
        biases = [new_initializer(self.graph, f"{node.name}/{what}", array) for what, array in own.items()]
        return [*self._shared_weights(node, weights), *biases]

    def _shared_weights(self, node: ir.Node, weights: QuantizedWeights) -> list[ir.Value]:
        """The weights, their scale and zero point: those of an earlier node where they are equal, as every step of an
        unrolled recurrence has them."""
        key = weights.scale.tobytes()
        for known, values in self.weights.get(key, []):
            if np.array_equal(known, weights.values):
                return values
        zero = np.zeros(weights.scale.shape, np.int8)
        parts = {"weight_quantized": weights.values, "weight_scale": weights.scale, "weight_zero_point": zero}
        made = [new_initializer(self.graph, f"{node.name}/{what}", array) for what, array in parts.items()]
        self.weights.setdefault(key, []).append((weights.values, made))
        return made

    def write(self, node: ir.Node, form: StaticForm, weights: QuantizedWeights | None) -> None:
        to_float = becomes_float(node, form, self.selection.forms)
        name = form.name.at("static", to_float=to_float)
        inputs = [self.floats.get(value, value) for value in form.data] if name.is_stream else []
        for i, value in enumerate(() if name.is_stream else form.data):
            inputs += [self.quantized(value, node), *self.pair(value.name or "")]
            if i == 0 and weights is not None:
                inputs += self._weight_inputs(node, weights, value.name or "")
        inputs += form.extra_inputs(self.graph, node.name or "")
        out_name = node.outputs[0].name or ""
        if name.is_lookup:
            inputs += self.pair(pre_activation_name(out_name))
        if not to_float:
            inputs += self.pair(out_name)
        known = body_attributes(name, self.opset)
        attributes = [_attribute(key, value) for key, value in form.attributes.items()
                      if key in known and value is not None]  # fmt: skip
        new = ir.Node(DOMAIN, name.op_type, inputs, attributes, num_outputs=len(node.outputs), name=node.name)
        self.graph.insert_before(node, new)
        for old, out in zip(node.outputs, new.outputs, strict=True):
            if to_float:
                self._replace(old, out)
            else:
                self.u8[old] = self._named_u8(out, old)
                self._dequantize_for_float_users(old, new)

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        self.floats[old] = new
        new.shape, new.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self.successors.append((new, old.name or ""))

    def _dequantize_for_float_users(self, old: ir.Value, producer: ir.Node) -> None:
        users = [use for use in old.uses() if not reads_u8(use.node, self.selection.forms)]
        if not users and not old.is_graph_output():
            return
        name = old.name or ""
        node = ir.node("DequantizeLinear", [self.u8[old], *self.pair(name)], name=f"{name}/DequantizeLinear")
        self.graph.insert_after(producer, node)
        out = node.outputs[0]
        out.shape, out.type = old.shape, old.type
        self.floats[old] = out
        for use in users:
            use.node.replace_input_with(use.idx, out)
        for i, graph_output in enumerate(self.graph.outputs):
            if graph_output is old:
                self.graph.outputs[i] = out
        self.successors.append((out, name))


def apply(model: ir.Model, selection: Selection, params: Mapping[str, QuantParams],
          weights: Mapping[ir.Node, QuantizedWeights]) -> None:  # fmt: skip
    """Rewrites a fused FP32 `model` in place into the calibrated form.

    params: group name -> parameters; weights: weighted node -> its quantized weights.
    """
    writer = _Writer(model, selection, params)
    for node, form in selection.forms.items():
        writer.write(node, form, weights.get(node))
    model.graph.remove(list(reversed(selection.forms)), safe=True)
    if any(form.name.base == "ResizeLike" for form in selection.forms.values()):
        remove_unused_nodes(model.graph)  # what worked out the sizes
    for value, name in writer.successors:
        value.name = name
    expand_in_place(model)  # fused ops that stayed FP32
    finish_model(model)
    if all(out.type is not None for node in model.graph for out in node.outputs):
        mark_prepared(model)  # else loading infers the types: parts of the model may begin at any value


def set_weights(node: ir.Node, weights: QuantizedWeights, x_scale: float) -> None:
    """Gives a weighted node of a calibrated model other weights of the same shape; others keep what they shared."""
    scale = np.float32(x_scale) * weights.scale
    for index, array in zip(_WEIGHT_INPUTS, (weights.values, weights.scale, weights.bias, scale), strict=True):
        value = node.inputs[index]
        assert value is not None
        if len(value.uses()) > 1:
            assert isinstance(node.graph, ir.Graph)
            node.replace_input_with(index, new_initializer(node.graph, f"{node.name}/tuned_{index}", array))
        else:
            value.const_value = ir.Tensor(array, name=value.name)


def weight_of(node: ir.Node) -> ir.Value:
    """The s8 weights of a weighted node of a calibrated model; nodes may share them."""
    value = node.inputs[_WEIGHT_INPUTS[0]]
    assert value is not None
    return value


_WEIGHT_INPUTS = (3, 4, 6, 7)
"""Where a `Q...` node has its weights, their scale, its bias and the bias's scale: see docs/format.md."""


def finish_model(model: ir.Model) -> None:
    """Attaches the functions that the graph's quantkit nodes need, and drops unused initializers."""
    attach_functions(model)
    for name_, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name_]


def attach_functions(model: ir.Model) -> None:
    """The functions of the quantkit nodes of the graph and of the bodies in it, and no others of that domain."""
    opset = model.opset_imports[""]
    model.opset_imports[DOMAIN] = DOMAIN_VERSION
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    for node in model.graph.all_nodes():
        name = quantkit_name(node)
        if name is not None and node.op_identifier() not in model.functions:
            model.functions[node.op_identifier()] = function_for(name, opset)
