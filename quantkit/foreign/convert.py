"""Clusters DequantizeLinear -> op -> QuantizeLinear of a fused graph become static quantkit ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.foreign import LONE_KEY, REASON_KEY
from quantkit.foreign.linear import SHIFT, Pairs, activation_params
from quantkit.foreign.weights import Weights, quantized_weights
from quantkit.fuse.functions import Emitter, body_attributes, emit_activation
from quantkit.fuse.graph import Reject, constant, is_standard, new_initializer, quantkit_name, scalar
from quantkit.fuse.opnames import BINARY, DOMAIN, OpName
from quantkit.quantize.support import StaticForm, static_form
from quantkit.types import Decision, QuantParams

Operand = tuple[ir.Value, QuantParams]
EDGES = ("QuantizeLinear", "DequantizeLinear")


def convert_nodes(model: ir.Model, fused: Sequence[Decision], turned: Mapping[str, Weights]) -> list[Decision]:
    """Converts, in place, what can be; `fused`: what fuse decided; `turned`: the integer weights of the ConvTransposes,
    by node name. Returns the decisions, reasons also in node.meta."""
    refused = {d.node: d.detail for d in fused if d.action == "refused"}
    converter = _Converter(model, turned)
    decisions = []
    for node in list(model.graph):
        if node.graph is None or (node.domain == DOMAIN and quantkit_name(node) is None):
            continue
        label = node.name or ""
        try:
            found = converter.convert(node)
        except Reject as reason:
            node.meta.setdefault(REASON_KEY, refused.get(label) or f"{node.op_type}: {reason}")
            if not is_standard(node, *EDGES):
                decisions.append(Decision("load", "kept", label, node.meta[REASON_KEY]))
            continue
        if found:
            decisions.append(Decision("load", "imported", label, f"{node.op_type} -> {found}"))
    return decisions


class _Converter:
    def __init__(self, model: ir.Model, turned: Mapping[str, Weights]) -> None:
        self.graph = model.graph
        self.turned = turned
        self.opset = model.opset_imports[""]
        self.pairs = Pairs(model.graph)
        self.shifted: dict[ir.Value, ir.Value] = {}

    def convert(self, node: ir.Node) -> str:
        """Converts one node and returns what it became; "" for an edge that stays. Raises Reject."""
        if is_standard(node, "DequantizeLinear"):
            return ""
        if is_standard(node, "QuantizeLinear"):
            return self._requantize(node)
        form = static_form(node)
        if form.shares:
            return self._move(node, form)
        if form.name.is_weighted:
            return self._weighted(node, form)
        operands = [self._operand(value, form) for value in form.data]
        if form.name.is_lookup:
            raise Reject("what goes into its activation is not quantized")
        y = _output_params(node)
        self._emit(node, form, _triples(operands, self.pairs), y)
        return form.name.op_type

    def _operand(self, value: ir.Value, form: StaticForm) -> Operand:
        """The u8 tensor and parameters behind a float operand."""
        producer = value.producer()
        if producer is not None and is_standard(producer, "DequantizeLinear"):
            params = activation_params(producer)
            return self._unsigned(producer, params), params
        number = scalar(value)
        if number is not None and form.name.base in BINARY:
            return self._number(value, number)
        raise Reject(f"its input {value.name!r} is not quantized")

    def _unsigned(self, node: ir.Node, params: QuantParams) -> ir.Value:
        """What `node` dequantizes, as u8. s8 constants are shifted; s8 tensors made elsewhere are quantized anew."""
        source = node.inputs[0]
        assert source is not None
        if source.dtype != ir.DataType.INT8:
            return source
        key = node.outputs[0]
        if key not in self.shifted:
            array = constant(source)
            if array is not None:
                data = (array.astype(np.int16) + SHIFT).astype(np.uint8)
                self.shifted[key] = new_initializer(self.graph, f"{source.name}/u8", data)
            else:
                quantize = ir.node("QuantizeLinear", [key, *self.pairs(params, source.name or "")])
                quantize.name, out = f"{node.name}/u8", quantize.outputs[0]
                out.name, out.shape, out.type = f"{source.name}/u8", source.shape, ir.TensorType(ir.DataType.UINT8)
                self.graph.insert_after(node, quantize)
                self.shifted[key] = out
        return self.shifted[key]

    def _number(self, value: ir.Value, number: float) -> Operand:
        """A float constant of one element, exactly: q - zero_point is 1, -1 or 0, the scale its magnitude."""
        q, zero_point = (1, 0) if number > 0 else (0, int(number < 0))
        params = QuantParams(abs(number) or 1.0, zero_point)
        shape = value.shape.numpy() if value.shape is not None else ()
        return new_initializer(self.graph, f"{value.name}/u8", np.full(shape, q, np.uint8)), params

    def _move(self, node: ir.Node, form: StaticForm) -> str:
        """An op that only moves values: its output keeps the input's parameters, whatever reads it."""
        operands = [self._operand(value, form) for value in form.data]
        operand = operands[0]
        extra = form.extra_inputs(self.graph, node.name or "")
        inputs = [*_triples(operands, self.pairs), *extra, *self.pairs(operand[1], "")]
        new = self._insert(node, form.name, inputs, form)
        for old, out in zip(node.outputs, new.outputs, strict=True):
            self._dequantize(old, out, operand[1])
        self.graph.remove(node, safe=True)
        return form.name.op_type

    def _dequantize(self, old: ir.Value, source: ir.Value, params: QuantParams) -> None:
        """The float `old` becomes a DequantizeLinear of the u8 `source`; later nodes look through it."""
        name = old.name or ""
        node = ir.node("DequantizeLinear", [source, *self.pairs(params, name)], name=f"{name}/DequantizeLinear")
        out = node.outputs[0]
        out.shape, out.type = old.shape, old.type
        self.graph.insert_after(source.producer(), node)  # type: ignore[arg-type]
        ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
        old.name, out.name = f"{name}/replaced", name
        source.name = f"{name}/u8"

    def _requantize(self, node: ir.Node) -> str:
        """DequantizeLinear -> QuantizeLinear: nothing where the parameters agree, else a table (a Concat of one)."""
        producer, old = node.inputs[0].producer() if node.inputs[0] is not None else None, node.outputs[0]
        if producer is None or not is_standard(producer, "DequantizeLinear") or old.dtype == ir.DataType.INT8:
            return ""
        x, y = activation_params(producer), activation_params(node)
        source = self._unsigned(producer, x)
        if x == y and not (old.is_graph_output() or source.const_value is not None):
            ir.convenience.replace_all_uses_with(old, source)
            self.graph.remove(node, safe=True)
            return "nothing: parameters agree"
        if not old.shape:
            raise Reject("the rank of its input is not known or 0")
        form = StaticForm(OpName("Concat", count=1), (), (), {"axis": 0})
        new = self._insert(node, form.name, [source, *self.pairs(x, ""), *self.pairs(y, old.name or "")], form)
        self._take_place(old, new.outputs[0])
        self.graph.remove(node, safe=True)
        return form.name.op_type

    def _weighted(self, node: ir.Node, form: StaticForm) -> str:
        """A weighted op with its whole epilogue if all of it is quantized, else ending in float32."""
        x = self._operand(form.data[0], form)
        try:
            residual = [self._operand(value, form) for value in form.data[1:]]
            y = _output_params(node)
        except Reject:
            return self._to_float(node, form, x)
        if form.name.is_lookup:
            return self._to_float(node, form, x)
        inputs = [*self._weighted_inputs(node, form, x, y), *_triples(residual, self.pairs)]
        self._emit(node, form, inputs, y)
        return form.name.op_type

    def _to_float(self, node: ir.Node, form: StaticForm, x: Operand) -> str:
        """The weighted op natively, its residual and activation in standard float ops after it."""
        name = OpName(form.name.base, to_float=True)
        new = self._insert(node, name, self._weighted_inputs(node, form, x, None), form)
        emit = Emitter(self.opset, prefix=f"{node.name}/")
        value = new.outputs[0]
        value.name, value.type = f"{node.name}/float", ir.TensorType(ir.DataType.FLOAT)
        if form.name.add:
            value = emit("Add", [value, node.inputs[3]], {})
        value = emit_activation(emit, form.name, value, form.attributes)
        self.graph.insert_before(node, emit.nodes)
        self._take_place(node.outputs[0], value)
        self.graph.remove(node, safe=True)
        return name.op_type

    def _weighted_inputs(self, node: ir.Node, form: StaticForm, x: Operand, y: QuantParams | None) -> list[ir.Value]:
        """The x triple, weights and bias of a weighted op. y: of its output, None if that is float32."""
        found = quantized_weights(node, form.name.base, x[1], y, self.turned.get(node.name or ""))
        parts = {"weight_quantized": found.values, "weight_scale": found.scale,
                 "weight_zero_point": np.zeros(found.scale.shape, np.int8), "bias_quantized": found.bias,
                 "bias_scale": np.float32(x[1].scale) * found.scale}  # fmt: skip
        made = [new_initializer(self.graph, f"{node.name}/{what}", array) for what, array in parts.items()]
        return [*_triples([x], self.pairs), *made]

    def _emit(self, node: ir.Node, form: StaticForm, inputs: Sequence[ir.Value], y: QuantParams) -> None:
        """The static op in place of `node` and of the QuantizeLinear nodes that read it."""
        out_name = node.outputs[0].name or ""
        all_inputs = [*inputs, *form.extra_inputs(self.graph, node.name or ""), *self.pairs(y, out_name)]
        new = self._insert(node, form.name, all_inputs, form)
        for old, out in zip(node.outputs, new.outputs, strict=True):
            for quantize in [use.node for use in old.uses()]:
                self._take_place(quantize.outputs[0], out)
                self.graph.remove(quantize, safe=True)
        self.graph.remove(node, safe=True)

    def _insert(self, node: ir.Node, name: OpName, inputs: Sequence[ir.Value], form: StaticForm) -> ir.Node:
        known = body_attributes(name, self.opset)
        attributes = {key: value for key, value in form.attributes.items() if key in known}
        new = ir.node(name.op_type, inputs, attributes, domain=DOMAIN, num_outputs=len(node.outputs), name=node.name)
        for old, out in zip(node.outputs, new.outputs, strict=True):
            out.name, out.shape, out.type = f"{old.name}/u8", old.shape, ir.TensorType(ir.DataType.UINT8)
        self.graph.insert_before(node, new)
        return new

    def _take_place(self, old: ir.Value, new: ir.Value) -> None:
        """`new` gets the uses and the name of `old`. One that is a graph output already goes on under its own name."""
        was_output, name = old.is_graph_output(), old.name
        if was_output and new.is_graph_output():
            copy = ir.node("Identity", [new], name=f"{name}/Identity")
            copy.outputs[0].type = new.type
            self.graph.insert_after(new.producer(), copy)  # type: ignore[arg-type]
            new = copy.outputs[0]
        new.shape = old.shape if old.shape is not None else new.shape
        new.type = new.type if new.type is not None else old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = f"{name}/replaced"
        if was_output or not new.is_graph_output():
            new.name = name


def leave_lone_edges(graph: ir.Graph) -> None:
    """Notes at every QuantizeLinear and DequantizeLinear that no op of ours is behind, that onnxruntime keeps it.

    A model quantized at run time has some at its embeddings: natively each would be a region of its own.
    """
    edges = [node for node in graph if is_standard(node, *EDGES)]
    beside = {node for node in graph if node.domain == DOMAIN}
    for order in (edges, edges[::-1]):  # chains of edges, from either end
        for node in order:
            neighbours = [use.node for use in node.outputs[0].uses()]
            if node.inputs[0] is not None and (producer := node.inputs[0].producer()) is not None:
                neighbours.append(producer)
            if beside.intersection(neighbours):
                beside.add(node)
    for node in edges:
        if node not in beside:
            node.meta[LONE_KEY] = f"{node.op_type}: no quantized op that the engine runs is beside it"


def _triples(operands: Sequence[Operand], pairs: Pairs) -> list[ir.Value]:
    return [v for value, params in operands for v in (value, *pairs(params, value.name or ""))]


def _output_params(node: ir.Node) -> QuantParams:
    """The parameters with which all readers of a node's outputs quantize them; Reject where one takes the float."""
    found: set[QuantParams] = set()
    for out in node.outputs:
        users = [use.node for use in out.uses()]
        if out.is_graph_output() or not users or not all(is_standard(user, "QuantizeLinear") for user in users):
            raise Reject("its output is read as float32")
        found |= {activation_params(user) for user in users if user.outputs[0].dtype != ir.DataType.INT8}
        if any(user.outputs[0].dtype == ir.DataType.INT8 for user in users):
            raise Reject("its output is quantized to s8 for another op")
    if len(found) != 1:
        raise Reject(f"its output is quantized in {len(found)} ways")
    return next(iter(found))
