"""A calibrated model cut into its layers: each gets the exact FP32 tensors as inputs, so that its error is its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.execute.intermediate import quantization_pair
from quantkit.fold.cleanup import remove_unused_nodes
from quantkit.fuse.graph import constant


@dataclass(frozen=True)
class Isolated:
    """tensors: FP32 tensor -> the graph input that takes it. inputs: those of the model itself that are still used.

    outputs: float32 graph outputs, `isolated_name` of the value each stands for.
    """

    model: ir.Model
    tensors: dict[str, str]
    inputs: list[str]
    outputs: list[str]


def isolated_name(value: str) -> str:
    """The output that gives what a layer made of exact inputs."""
    return f"{value}/alone"


def quantization_of(value: ir.Value) -> tuple[float, int] | None:
    """(scale, zero point) of a u8 value; None for a float32 one."""
    pair = quantization_pair(value) if value.dtype == ir.DataType.UINT8 else None
    scale, zero_point = (constant(part) for part in pair) if pair is not None else (None, None)
    return (float(scale), int(zero_point)) if scale is not None and zero_point is not None else None


def isolate(model: ir.Model, tensor_of: Mapping[str, str]) -> Isolated:
    """Cut a copy of `model` at every value of `tensor_of` (value name -> FP32 tensor name).

    Whatever used such a value gets the FP32 tensor instead, through a QuantizeLinear with the value's own parameters.
    """
    copy = model.clone()
    graph = copy.graph
    values = [v for node in graph for v in node.outputs if v.name in tensor_of]
    tensors: dict[str, str] = {}
    outputs: list[ir.Value] = []
    for value in values:
        name = value.name or ""
        given = ir.Value(name=f"{tensor_of[name]}/exact", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
        pair = quantization_pair(value) if value.dtype == ir.DataType.UINT8 else None
        if value.uses():
            value.replace_all_uses_with(_quantized(graph, value, given, pair) if pair else given)
            graph.inputs.append(given)
            tensors[tensor_of[name]] = given.name or ""
        outputs.append(_output(graph, value, pair))
    graph.outputs[:] = outputs
    remove_unused_nodes(graph)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    used = {value.name for value in graph.inputs}  # a value that only the model's own outputs read is asked for no more
    tensors = {tensor: name for tensor, name in tensors.items() if name in used}
    inputs = [v.name or "" for v in graph.inputs if v.name not in tensors.values()]
    return Isolated(copy, tensors, inputs, [value.name or "" for value in outputs])


def _quantized(graph: ir.Graph, value: ir.Value, given: ir.Value, pair: tuple[ir.Value, ir.Value]) -> ir.Value:
    """`given` as u8, with the parameters of `value`."""
    node = ir.node("QuantizeLinear", [given, *pair], name=f"{value.name}/exact")
    out = node.outputs[0]
    out.shape, out.type = value.shape, value.type
    graph.insert_after(value.producer(), node)  # type: ignore[arg-type]
    return out


def _output(graph: ir.Graph, value: ir.Value, pair: tuple[ir.Value, ir.Value] | None) -> ir.Value:
    """A float32 graph output named after `value`."""
    name = isolated_name(value.name or "")
    op, inputs = ("Identity", [value]) if pair is None else ("DequantizeLinear", [value, *pair])
    node = ir.node(op, inputs, name=name)
    graph.insert_after(value.producer(), node)  # type: ignore[arg-type]
    out = node.outputs[0]
    out.name, out.shape, out.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    return out
