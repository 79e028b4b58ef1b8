"""quantkit's ops written out as standard ONNX: DequantizeLinear -> op -> QuantizeLinear, for runtimes that know no
local functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.fold.cleanup import remove_unused
from quantkit.fuse.functions import Emitter, emit_body
from quantkit.fuse.graph import bodies_of, constant, is_standard, new_initializer, quantkit_name
from quantkit.fuse.opnames import DOMAIN, OpName
from quantkit.load.constants import lift_constants


def write_qdq(model: ir.Model) -> None:
    """Writes out every static and dynamic quantkit node of a loaded model, in place; its functions go."""
    write_graph(model.graph)
    write_bodies(model.graph)
    finish(model)


def write_graph(graph: ir.Graph) -> None:
    """Writes out the quantkit nodes of one graph."""
    for node in list(graph):
        name = quantkit_name(node)
        if name is not None and name.level != "float":
            write_node(graph, node, name)


def write_bodies(graph: ir.Graph, write: Callable[[ir.Graph], None] = write_graph) -> None:
    """Writes out the quantkit nodes in the bodies of the Ifs and Loops of a graph, and in theirs."""
    for node in graph:
        for body in bodies_of(node).values():
            body.opset_imports.update(graph.opset_imports)
            write(body)
            write_bodies(body, write)


def write_node(graph: ir.Graph, node: ir.Node, name: OpName) -> None:
    """The QDQ form of one static node, or the body of a dynamic one, in its place."""
    if name.base == "AveragePool" and name.level == "static":
        _pad_before(graph, node)
    if name.base == "Pad":
        _pad_bytes(graph, node)
    else:
        write_out(graph, node, name)


def _pad_bytes(graph: ir.Graph, node: ir.Node) -> None:
    """A Pad of bytes with the zero point: OpenVINO pads the zero point of a DequantizeLinear too, and fails on it."""
    x, _, zero_point, pads = node.inputs[:4]
    emit = Emitter(graph.opset_imports[""], prefix=f"{node.name}/")
    put_in_place(node, emit.nodes, [emit("Pad", [x, pads, zero_point], {})], "Pad")


def _pad_before(graph: ir.Graph, node: ir.Node) -> None:
    """Padding that counts as values becomes a Pad: OpenVINO pads its u8 pools with the byte 0, not the real 0."""
    pads = list(node.attributes["pads"].as_ints())
    if not (any(pads) and node.attributes["count_include_pad"].as_int()) or node.attributes["ceil_mode"].as_int():
        return
    half = len(pads) // 2
    amounts = new_initializer(graph, f"{node.name}/pads", np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64))
    pad = ir.node("Pad", [*node.inputs[:3], amounts, *node.inputs[1:3]], name=f"{node.name}/Pad")
    pad.outputs[0].name, pad.outputs[0].type = f"{node.name}/padded", node.inputs[0].type  # type: ignore[union-attr]
    graph.insert_before(node, pad)
    node.replace_input_with(0, pad.outputs[0])
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))
    node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 0)
    _pad_bytes(graph, pad)


def finish(model: ir.Model) -> None:
    """What is left to do once no quantkit node is left: constants become initializers, nothing unused stays."""
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    model.opset_imports.pop(DOMAIN, None)
    lift_constants(model)
    remove_unused(model)
    for node in model.graph:
        if is_standard(node, "DequantizeLinear"):
            _one_scale_where_all_are_equal(model.graph, node)


def write_out(graph: ir.Graph, node: ir.Node, name: OpName) -> None:
    """The body of one quantkit node in its place. The op itself takes the node's name, the outputs keep theirs."""
    emit = Emitter(graph.opset_imports[""], prefix=f"{node.name}/")
    inputs, outputs = emit_body(emit, name, node.attributes)
    for formal, actual in zip(inputs, node.inputs, strict=True):
        assert actual is not None
        ir.convenience.replace_all_uses_with(formal, actual)
    if name.base == "ConvTranspose" and name.level == "static":
        _plain_transposed_weights(graph, node, emit)
    if name.base == "Gather" and name.level == "static":
        _gather_of_one(graph, node, emit)
    put_in_place(node, emit.nodes, outputs, name.base)


def put_in_place(node: ir.Node, made: Sequence[ir.Node], outputs: Sequence[ir.Value], base: str) -> None:
    """`made` instead of `node`; its first node of type `base`, if any, takes the name."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    named = next((new for new in made if new.op_type.removeprefix("QLinear") == base), None)
    if named is not None:
        named.name = node.name
    graph.insert_before(node, made)
    for old, new in zip(node.outputs, outputs, strict=True):
        name = old.name
        new.shape, new.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = None, name
    graph.remove(node, safe=True)


def _plain_transposed_weights(graph: ir.Graph, node: ir.Node, emit: Emitter) -> None:
    """The integers of a ConvTranspose of one group in ONNX's order [C_in, C_out, *kernel]; several groups stay in the
    body's own form, which turns them when it runs: their scales, one an output channel, lie along two axes."""
    weights = constant(node.inputs[3])
    if node.attributes["group"].as_int() != 1 or weights is None:
        return
    turned = new_initializer(graph, f"{node.name}/weight_turned", np.ascontiguousarray(weights.swapaxes(0, 1)))
    real = emit("DequantizeLinear", [turned, node.inputs[4], node.inputs[5]], {"axis": 1})
    emit.nodes.insert(0, emit.nodes.pop())
    next(new for new in emit.nodes if new.op_type == "ConvTranspose").replace_input_with(1, real)


def _gather_of_one(graph: ir.Graph, node: ir.Node, emit: Emitter) -> None:
    """A single index is gathered as a list of one, whose axis is squeezed away.

    Behind a Concat, OpenVINO holds scales of the Concat's rank, and leaves them at that where an index removes an axis.
    """
    gather = next(new for new in emit.nodes if new.op_type == "Gather")
    indices = constant(gather.inputs[1])
    if indices is None or indices.ndim:
        return
    gather.replace_input_with(1, new_initializer(graph, f"{node.name}/list", indices.reshape(1)))
    axes = new_initializer(graph, f"{node.name}/axes", np.array([gather.attributes["axis"].as_int()], np.int64))
    quantized = next(use.node for use in gather.outputs[0].uses())
    squeezed = emit("Squeeze", [gather.outputs[0], axes], {})
    quantized.replace_input_with(0, squeezed)
    emit.nodes.insert(emit.nodes.index(gather) + 1, emit.nodes.pop())


def _one_scale_where_all_are_equal(graph: ir.Graph, node: ir.Node) -> None:
    """Per-channel parameters that are all the same become one number: DequantizeLinear has no axis before opset 13."""
    scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2] if len(node.inputs) > 2 else None)
    parts: Mapping[int, np.ndarray | None] = {1: scale, 2: zero_point}
    if scale is None or scale.ndim == 0 or "block_size" in node.attributes:
        return
    if any(array is not None and (array != array.flat[0]).any() for array in parts.values()):
        return
    for index, array in parts.items():
        if array is not None:
            value = new_initializer(graph, f"{node.name}/{node.inputs[index].name}", array.reshape(-1)[0])  # type: ignore[union-attr]
            node.replace_input_with(index, value)
    node.attributes.pop("axis", None)
