"""Which nodes run natively, the native regions they form, and the plan of a region for given shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import onnx_ir as ir

from quantkit.errors import DataError
from quantkit.foreign import LONE_KEY, REASON_KEY
from quantkit.fuse.activations import ACTIVATIONS
from quantkit.fuse.float_only import why_float
from quantkit.fuse.graph import constant, has_int8_body, is_standard, layers_in_bodies, quantkit_name
from quantkit.fuse.opnames import BINARY, WEIGHTED, OpName
from quantkit.load.parts import captured
from quantkit.lower import conv_transpose, elementwise, movement, pools, products, resize, rows, stream, weighted
from quantkit.lower.arena import live_peak, place
from quantkit.lower.context import Lowering
from quantkit.lower.plan import ExternalTensor, PackedSpec, Plan, Ref
from quantkit.lower.views import Buffer, View, row_major

LowerFunction = Callable[[Lowering, ir.Node, OpName], None]

LOWERINGS: dict[str, LowerFunction] = {
    **dict.fromkeys(WEIGHTED, weighted.lower_weighted),
    "ConvTranspose": conv_transpose.lower_conv_transpose,
    **dict.fromkeys(BINARY, elementwise.lower_binary),
    **dict.fromkeys(ACTIVATIONS, elementwise.lower_unary),
    "MaxPool": pools.lower_window_pool,
    "AveragePool": pools.lower_window_pool,
    "GlobalAveragePool": pools.lower_global_pool,
    "GlobalMaxPool": pools.lower_global_pool,
    "ReduceMean": pools.lower_reduce_mean,
    "Reshape": movement.lower_reshape,
    "Flatten": movement.lower_flatten,
    "Transpose": movement.lower_transpose,
    "Squeeze": movement.lower_squeeze,
    "Unsqueeze": movement.lower_unsqueeze,
    "Slice": movement.lower_slice,
    "Split": movement.lower_split,
    "Pad": movement.lower_pad,
    "Concat": movement.lower_concat,
    "DepthToSpace": movement.lower_depth_to_space,
    "ResizeScales": resize.lower_resize,
    "ResizeSizes": resize.lower_resize,
    "ResizeLike": resize.lower_resize,
    "Gather": movement.lower_gather,
    "ActivationMatMul": products.lower_product,
    "PRelu": elementwise.lower_prelu,
    "Softmax": rows.lower_softmax,
    "LayerNormalization": rows.lower_along_last_axes,
    "RMSNormalization": rows.lower_along_last_axes,
    "GroupNormalization": rows.lower_group_normalization,
    "LRN": rows.lower_lrn,
}
"""Base op of a static quantkit node -> how it becomes engine ops."""

STREAM: dict[str, LowerFunction] = {
    "Add": stream.lower_float_add,
    "LayerNormalization": stream.lower_float_normalization,
    "RMSNormalization": stream.lower_float_normalization,
}
"""The same of those whose activations are float32 on both sides."""

EDGES: dict[str, Callable[[Lowering, ir.Node, OpName | None], None]] = {
    "QuantizeLinear": elementwise.lower_quantize,
    "DequantizeLinear": elementwise.lower_dequantize,
}


def why_not_native(node: ir.Node) -> str:
    """The reason why the engine does not run a node; empty if it does."""
    name = quantkit_name(node)
    if name is not None and name.level == "static":
        return "" if name.base in LOWERINGS else f"{name.base} has no kernel"
    if name is not None and name.level == "dynamic":
        return "activation ranges are not fixed yet; run `quantkit calibrate`"
    if not is_standard(node, *EDGES):
        return node.meta.get(REASON_KEY) or _in_float32(node)
    scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2] if len(node.inputs) > 2 else None)
    if scale is None or scale.size != 1 or zero_point is None or zero_point.dtype != np.uint8:
        return f"{node.op_type} is not u8 with one constant scale and zero point"
    edge = node.inputs[0] if node.op_type == "QuantizeLinear" else node.outputs[0]
    if edge is None or edge.const_value is not None:
        return f"{node.op_type} of a constant"
    return node.meta.get(LONE_KEY, "")


def _in_float32(node: ir.Node) -> str:
    layers = layers_in_bodies(node)
    inside = f", and so do the layers in its bodies ({layers})" if layers else ""
    reason = why_float(node)
    return f"{node.op_type} runs in float32{inside}{': ' + reason if reason else ''}"


@dataclass
class Step:
    """Nodes that run together, natively or in onnxruntime. inputs and outputs: values that cross its border.

    control: one If, Loop or Scan with INT8 bodies, each of which runs as a session of its own.
    """

    native: bool
    nodes: list[ir.Node]
    inputs: list[ir.Value]
    outputs: list[ir.Value]
    control: bool = False


def borders(native: bool, nodes: list[ir.Node], control: bool = False) -> Step:
    """The step of these nodes: its inputs are what they read and do not make, its outputs what others read of them."""
    inside = set(nodes)
    inputs = dict.fromkeys(v for n in nodes for v in _reads(n) if v.const_value is None and v.producer() not in inside)
    outputs = [
        out for n in nodes for out in n.outputs
        if out.is_graph_output() or any(use.node not in inside for use in out.uses())
    ]  # fmt: skip
    return Step(native, nodes, list(inputs), outputs, control)


def _reads(node: ir.Node) -> list[ir.Value]:
    """The node's inputs, and what its bodies read from outside."""
    return [*(v for v in node.inputs if v is not None), *captured(node)]


FLOAT, NATIVE, CONTROL = "float", "native", "control"
TURNS = (FLOAT, NATIVE, CONTROL)


def partition(graph: ir.Graph) -> list[Step]:
    """Native regions and onnxruntime steps take turns, each with all nodes that are ready: few borders. An If, Loop or
    Scan with INT8 bodies is a step alone."""
    kinds = {node: CONTROL if has_int8_body(node) else FLOAT if why_not_native(node) else NATIVE for node in graph}
    present = [kind for kind in TURNS if kind != CONTROL or CONTROL in kinds.values()]
    waiting = list(graph)
    makers = {node: _makers(node) for node in graph}
    done: set[ir.Node] = set()
    steps: list[Step] = []
    for turn in cycle(present):
        taken: list[ir.Node] = []
        for node in waiting:
            if not (turn == CONTROL and taken) and kinds[node] == turn and makers[node] <= done:
                done.add(node)
                taken.append(node)
        if taken:
            chosen = set(taken)
            waiting = [n for n in waiting if n not in chosen]
            steps.append(borders(turn == NATIVE, taken, turn == CONTROL))
        if not waiting:
            return steps
    return steps


def _makers(node: ir.Node) -> set[ir.Node]:
    """The producers of what a node reads; one in another graph belongs to a body around this one."""
    producers = (v.producer() for v in _reads(node))
    return {p for p in producers if p is not None and p.graph is node.graph}


def _destinations(step: Step) -> dict[ir.Value, tuple[ir.Value, list[ir.Value]]]:
    """Values that only a channel Concat uses, with equal parameters: value -> (Concat output, inputs before it)."""
    found: dict[ir.Value, tuple[ir.Value, list[ir.Value]]] = {}
    crossing = set(step.outputs)
    inside = set(step.nodes)
    for node in step.nodes:
        name = quantkit_name(node)
        if name is None or name.base != "Concat" or node.attributes["axis"].as_int() != 1:
            continue
        y = node.inputs[3 * name.count]
        values = [node.inputs[3 * i] for i in range(name.count)]
        for i, value in enumerate(values):
            assert value is not None
            same_params = node.inputs[3 * i + 1] is y
            if same_params and value.producer() in inside and len(value.uses()) == 1 and value not in crossing:
                found[value] = (node.outputs[0], values[:i])  # type: ignore[assignment]
    return found


def shape_operands(step: Step) -> dict[ir.Value, ir.Value]:
    """The int64 inputs of a native step: the shape of a Reshape -> the tensor that it gives this shape."""
    reshapes = [node for node in step.nodes if (name := quantkit_name(node)) is not None and name.base == "Reshape"]
    return {v: node.outputs[0] for node in reshapes if (v := node.inputs[3]) is not None and v.const_value is None}


def lower_region(step: Step, dims: Mapping[ir.Value, tuple[int, ...]], weights: dict[str, PackedSpec]) -> Plan:
    """The plan of a native region. dims: the concrete shape of each of its inputs, and what its shape operands hold."""
    first = _lower(step, dims, {}, {}, weights)
    destination = {
        value: (whole, sum(first.dims[v][1] for v in before)) for value, (whole, before) in _destinations(step).items()
    }
    context = _lower(step, dims, destination, first.dims, weights) if destination else first
    return _finish(step, context)


def _lower(step: Step, dims: Mapping[ir.Value, tuple[int, ...]], destination: Mapping[ir.Value, tuple[ir.Value, int]],
           known: Mapping[ir.Value, tuple[int, ...]], weights: dict[str, PackedSpec]) -> Lowering:  # fmt: skip
    context = Lowering(destination, known, weights)
    operands = shape_operands(step)
    for i, value in enumerate(step.inputs):
        buffer = Buffer(0, external=i)
        context.inputs.append(buffer)
        context.dims[value] = dims[value]
        if value in operands:
            context.shape_operands[value] = dims[value]
        elif value.dtype == ir.DataType.UINT8:
            context.set(value, View(buffer, dims[value], row_major(dims[value])))
        else:
            context.floats[value] = (Ref(buffer), dims[value])
    context.outputs = {value: Buffer(0, external=len(step.inputs) + i) for i, value in enumerate(step.outputs)}
    for node in step.nodes:
        context.node = node
        name = quantkit_name(node)
        if name is None:
            EDGES[node.op_type](context, node, None)
        else:
            _lower_node(context, node, name)
    for value in step.outputs:
        if value in context.views:
            view = context.views[value]
            context.copy(view, View(context.outputs[value], view.dims, row_major(view.dims)))
    return context


def _lower_node(context: Lowering, node: ir.Node, name: OpName) -> None:
    """Raises DataError where the shapes of the inputs do not suit the node: a length of 0, say."""
    try:
        (STREAM if name.is_stream else LOWERINGS)[name.base](context, node, name)
    except (ValueError, ZeroDivisionError) as error:
        value = node.inputs[0]
        shape = list(context.dims[value]) if value in context.dims else "a shape that it cannot take"
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{node.name}: its input has {shape}: {reason}; give inputs of another size") from error


def _finish(step: Step, context: Lowering) -> Plan:
    used = [b for b in context.buffers if b.first >= 0]
    arena = place(used)

    def external(value: ir.Value) -> ExternalTensor:
        if value in context.shape_operands:
            return ExternalTensor(value.name or "", (len(context.dims[value]),), np.dtype(np.int64))
        dtype = np.dtype(np.uint8 if value in context.views else np.float32)
        return ExternalTensor(value.name or "", context.dims[value], dtype)

    inputs = [external(v) for v in step.inputs]
    outputs = [external(v) for v in step.outputs]
    order: Sequence[Buffer] = [*context.inputs, *context.outputs.values(), *context.constant_buffers]
    named = {value.name or "": d for value, d in context.dims.items() if value not in context.shape_operands}
    return Plan(context.ops, inputs, outputs, list(order), context.constants, arena, live_peak(used), named)
