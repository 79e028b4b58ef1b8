"""Small questions about an onnx_ir graph that rules ask all the time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fuse.opnames import DOMAIN, OpName, parse
from quantkit.types import QuantParams


class Reject(Exception):
    """A rule does not apply to a node; the text is the reason, for `inspect`."""


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None if the value is not constant."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element, else None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 and array.dtype.kind in "fiu" else None


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone uses `value`, once; None if there are others or the value is a graph output."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Both shapes are known (symbolic dimensions by name) and equal."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    pairs = zip(a.shape.dims, b.shape.dims, strict=True)
    return all(p == q and (isinstance(p, int) or p.value is not None) for p, q in pairs)


def quantkit_name(node: ir.Node) -> OpName | None:
    """The meaning of a node of domain quantkit; None for every other node."""
    return parse(node.op_type) if node.domain == DOMAIN else None


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether `node` is one of these ops of ai.onnx, the standard domain."""
    return node.domain in ("", "ai.onnx") and node.op_type in op_types


CONTROL_FLOW = ("If", "Loop", "Scan")


def bodies_of(node: ir.Node) -> dict[str, ir.Graph]:
    """The subgraphs of an If, Loop or Scan by attribute name; of every other node, none."""
    return {key: a.as_graph() for key, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH}


def layers_in_bodies(node: ir.Node) -> int:
    """Nodes with weights inside the subgraphs of If, Loop and Scan."""
    inner = [n for body in bodies_of(node).values() for n in body.all_nodes()]
    return sum(is_standard(n, "Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU") for n in inner)


def has_int8_body(node: ir.Node) -> bool:
    """Is it an If, Loop or Scan with calibrated quantkit ops in a body?"""
    if not is_standard(node, *CONTROL_FLOW):
        return False
    names = (quantkit_name(n) for body in bodies_of(node).values() for n in body.all_nodes())
    return any(name is not None and name.level == "static" for name in names)


def given_params(value: ir.Value) -> QuantParams | None:
    """The parameters of a float value that is a dequantized u8 activation; None for every other value."""
    node = value.producer()
    if node is None or not is_standard(node, "DequantizeLinear") or len(node.inputs) < 3:
        return None
    source, scale, zero_point = node.inputs[0], constant(node.inputs[1]), constant(node.inputs[2])
    if source is None or source.const_value is not None or scale is None or zero_point is None:
        return None
    if scale.size != 1 or scale.dtype != np.float32 or zero_point.dtype != np.uint8:
        return None
    return QuantParams(float(scale.item()), int(zero_point.item()))


def conv_layout(weights: np.ndarray, group: int) -> np.ndarray:
    """[C_in, C_out / group, *kernel], as ONNX's ConvTranspose has them, -> [C_out, C_in / group, *kernel], and back."""
    grouped = weights.reshape(group, weights.shape[0] // group, *weights.shape[1:])
    return np.moveaxis(grouped, 2, 1).reshape(-1, weights.shape[0] // group, *weights.shape[2:])


def new_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Registers `array` under `name`, or under `name_2`, `name_3`... where the name is taken; returns its value."""
    taken = graph.initializers
    fresh, count = name, 1
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
    tensor = ir.Tensor(np.asarray(array, order="C"), name=fresh)
    value = ir.Value(name=fresh, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_nodes(graph: ir.Graph, old: list[ir.Node], new: ir.Node, old_output: ir.Value) -> None:
    """Puts `new` where the last of `old` stands; its output takes the name, type and uses of `old_output`."""
    out = new.outputs[0]
    out.shape, out.type = old_output.shape, old_output.type
    name = old_output.name
    graph.insert_before(old_output.producer(), new)  # type: ignore[arg-type]
    ir.convenience.replace_all_uses_with(old_output, out, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    out.name = name
