"""Back from fused FP32 ops to standard ONNX, for running the graph in onnxruntime with its tensors in view."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fuse.functions import ATTRIBUTES, EXTRA_INPUTS, Emitter, emit_activation, emit_base
from quantkit.fuse.graph import constant, conv_layout, new_initializer, quantkit_name
from quantkit.fuse.opnames import DOMAIN, OpName
from quantkit.load.parts import copied


def pre_activation_name(output_name: str) -> str:
    """The name, in an expanded graph, of what goes into the activation of the fused op that makes `output_name`."""
    return f"{output_name}/pre_activation"


def expand(model: ir.Model) -> ir.Model:
    """A copy of `model` in which every fused FP32 node is spelled out in standard ops; tensor names are kept.

    The input of each fused activation is named by `pre_activation_name`. Initializers are shared with `model`. Static
    nodes, of a model that was quantized in part, stay.
    """
    copy = copied(model)
    expand_in_place(copy)
    if not any(node.domain == DOMAIN for node in copy.graph):
        copy.opset_imports.pop(DOMAIN, None)
    return copy


def expand_in_place(model: ir.Model, *, only_unweighted: bool = False) -> None:
    """Spells out the fused FP32 nodes of `model`; with only_unweighted those without weights alone."""
    for node in list(model.graph):
        name = quantkit_name(node)
        if name is not None and name.level == "float" and not (only_unweighted and name.is_weighted):
            _expand_node(model, node, name)


def _transposed_convolution(graph: ir.Graph, emit: Emitter, node: ir.Node) -> ir.Value:
    """With its weights as ONNX has them, as a constant: a function body has to rearrange them by nodes."""
    array = constant(node.inputs[1])
    assert array is not None
    turned = conv_layout(array, node.attributes["group"].as_int())
    weight = new_initializer(graph, f"{node.name}/onnx_weight", turned)
    own = {key: node.attributes[key] for key in ATTRIBUTES["ConvTranspose"]}
    made: ir.Value = emit("ConvTranspose", [node.inputs[0], weight, node.inputs[2]], own)
    return made


def _expand_node(model: ir.Model, node: ir.Node, name: OpName) -> None:
    out = node.outputs[0]
    emit = Emitter(model.opset_imports[""], prefix=f"{node.name}/")
    operands = 3 if name.is_weighted else len(node.inputs) - len(EXTRA_INPUTS.get(name.base, ()))
    extra = [] if name.is_weighted else node.inputs[operands:]
    if name.base == "ConvTranspose":
        value = _transposed_convolution(model.graph, emit, node)
    else:
        value = emit_base(emit, name, node.inputs[:operands], extra, node.attributes)  # type: ignore[arg-type]
    if name.add:
        value = emit("Add", [value, node.inputs[3]], {})
    if name.activation:
        value.name = pre_activation_name(out.name or "")
        value = emit_activation(emit, name, value, node.attributes)
    for made in emit.nodes:
        made.meta.update(node.meta)
        _avoid_initializers(model.graph, made)
        if made.outputs[0].name == out.name:  # the result of an earlier expansion of a node of the same name
            made.outputs[0].name = f"{out.name}/inner"
        made.outputs[0].type = _type_of(made)
    base = next((made for made in emit.nodes if made.op_type == name.base), None)
    if base is not None:  # the activation may be made of ops of the same type, and names are unique
        base.name = node.name
    model.graph.insert_before(node, emit.nodes)
    value.shape, value.type = out.shape, out.type
    ir.convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    value.name = out.name


_INTEGERS, _FLOATS = ir.DataType.INT64, ir.DataType.FLOAT
_CONSTANT_TYPES = {"value_int": _INTEGERS, "value_ints": _INTEGERS, "value_float": _FLOATS, "value_floats": _FLOATS}


def _type_of(made: ir.Node) -> ir.TypeProtocol | None:
    """The type of what a node of an expansion gives: that of its first input, but for the few that make numbers."""
    if made.op_type == "Shape":
        return ir.TensorType(ir.DataType.INT64)
    if made.op_type == "Cast":
        return ir.TensorType(ir.DataType(made.attributes["to"].as_int()))
    if made.op_type in ("Constant", "ConstantOfShape"):
        kinds = [_CONSTANT_TYPES.get(name) or made.attributes[name].as_tensor().dtype for name in made.attributes]
        return ir.TensorType(kinds[0]) if kinds else ir.TensorType(ir.DataType.FLOAT)
    return made.inputs[0].type if made.inputs and made.inputs[0] is not None else None


def _avoid_initializers(graph: ir.Graph, made: ir.Node) -> None:
    """Renames outputs that a constant of an earlier expansion, lifted since, is called like."""
    for out in made.outputs:
        name, count = out.name, 1
        while out.name in graph.initializers:
            count += 1
            out.name = f"{name}_{count}"
