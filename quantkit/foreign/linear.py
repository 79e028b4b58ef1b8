"""QuantizeLinear and DequantizeLinear of a foreign model: their parameters, and one form for all of them.

Afterwards activations are u8 with zero points as quantkit has them, constants are quantized already, and the weights
of Gemm stand as [N, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.errors import QuantkitError
from quantkit.fuse.graph import Reject, constant, is_standard, new_initializer
from quantkit.types import QuantParams

SHIFT = 128
"""s8 + 128 = u8, for values and zero points."""
LIMITS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127), np.dtype(np.int32): (-(2**31), 2**31 - 1)}


@dataclass(frozen=True)
class Linear:
    """Parameters of a QuantizeLinear or DequantizeLinear node: real = (q - zero_point) * scale.

    scale: float32 [] or [C] on `axis`; zero_point: the same shape, of the dtype of the quantized tensor.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int

    def along(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """(scale float32, zero point int32), shaped so that they broadcast over a tensor of this rank."""
        shape = [1] * rank
        if self.scale.size > 1:
            shape[self.axis % rank] = self.scale.size
        else:
            shape = []
        return self.scale.reshape(shape), self.zero_point.astype(np.int32).reshape(shape)


def linear_of(node: ir.Node) -> Linear:
    """The parameters of a node. Raises Reject where they are not constants of 8 bits (or int32, for a bias)."""
    scale = constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = constant(given)
    if scale is None or (given is not None and zero_point is None):
        raise Reject("its scale or zero point is computed at run time")
    if scale.dtype != np.float32:
        raise Reject(f"its scale is {scale.dtype}, not float32")
    if "block_size" in node.attributes and node.attributes["block_size"].as_int():
        raise Reject("it is quantized in blocks")
    if zero_point is None:
        value = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
        dtype = value.dtype.numpy() if value is not None and value.dtype is not None else np.dtype(np.uint8)
        zero_point = np.zeros(scale.shape, dtype)
    if zero_point.dtype not in LIMITS:
        raise Reject(f"it is {zero_point.dtype}, not 8 bits wide")
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return Linear(scale.reshape(-1), np.broadcast_to(zero_point.reshape(-1), (scale.size,)), axis)


def activation_params(node: ir.Node) -> QuantParams:
    """The parameters of an activation as u8: s8 zero points are shifted. Raises Reject for what is not per tensor."""
    linear = linear_of(node)
    if linear.scale.size != 1:
        raise Reject("an activation is quantized per channel")
    dtype = linear.zero_point.dtype
    if dtype not in (np.uint8, np.int8):
        raise Reject(f"an activation is {dtype}")
    try:
        return QuantParams(float(linear.scale[0]), int(linear.zero_point[0]) + (SHIFT if dtype == np.int8 else 0))
    except QuantkitError as error:
        raise Reject(str(error)) from error


def dequantized(q: np.ndarray, linear: Linear) -> np.ndarray:
    """(q - zero_point) * scale in float32: ONNX DequantizeLinear."""
    scale, zero_point = linear.along(q.ndim)
    return (q.astype(np.int32) - zero_point).astype(np.float32) * scale


class Pairs:
    """One scale and one zero point initializer for each pair of parameters in a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._made: dict[QuantParams, list[ir.Value]] = {}

    def __call__(self, params: QuantParams, name: str) -> list[ir.Value]:
        if params not in self._made:
            self._made[params] = [
                new_initializer(self.graph, f"{name}/scale", np.array(params.scale, np.float32)),
                new_initializer(self.graph, f"{name}/zero_point", np.array(params.zero_point, np.uint8)),
            ]
        return self._made[params]


def normalize(model: ir.Model) -> None:
    """Brings QuantizeLinear and DequantizeLinear of the main graph into the one form, in place, values unchanged."""
    pairs = Pairs(model.graph)
    for node in list(model.graph):
        try:
            if is_standard(node, "QuantizeLinear"):
                if constant(node.inputs[0]) is not None:
                    _quantize_constant(model.graph, node)
                else:
                    _shift_activation(model.graph, node, pairs)
            elif is_standard(node, "DequantizeLinear"):
                _state_dtype(node)
            elif is_standard(node, "Transpose"):
                _transpose_constant(model.graph, node)
            elif is_standard(node, "Gemm"):
                _orient_gemm(model.graph, node)
        except Reject:
            continue  # it stays as it is; convert says why, where that matters


def _state_dtype(node: ir.Node) -> None:
    """Behind ops that have no schema the dtype of a tensor is unknown: the zero point tells it."""
    source = node.inputs[0]
    if source is not None and source.dtype is None:
        source.type = ir.TensorType(ir.DataType.from_numpy(linear_of(node).zero_point.dtype))


def _quantize_constant(graph: ir.Graph, node: ir.Node) -> None:
    """QuantizeLinear of a constant becomes the constant: files that keep float weights under fake quantization."""
    array = constant(node.inputs[0])
    if array is None or node.outputs[0].is_graph_output() or array.dtype != np.float32:
        return
    linear = linear_of(node)
    scale, zero_point = linear.along(array.ndim)
    low, high = LIMITS[linear.zero_point.dtype]
    q = np.clip(np.rint(array / scale) + zero_point, low, high).astype(linear.zero_point.dtype)
    ir.convenience.replace_all_uses_with(node.outputs[0], new_initializer(graph, node.outputs[0].name or "", q))
    graph.remove(node, safe=True)


def _shift_activation(graph: ir.Graph, node: ir.Node, pairs: Pairs) -> None:
    """Makes the s8 output of a QuantizeLinear u8. Readers other than DequantizeLinear get the s8 tensor from it."""
    if node.outputs[0].dtype != ir.DataType.INT8:
        return
    old, params = node.outputs[0], activation_params(node)
    pair = pairs(params, old.name or "")
    new = ir.node("QuantizeLinear", [node.inputs[0], *pair], name=node.name)
    out = new.outputs[0]
    out.name, out.shape, out.type = f"{old.name}/u8", old.shape, ir.TensorType(ir.DataType.UINT8)
    graph.insert_before(node, new)
    others = []
    for use in list(old.uses()):
        if is_standard(use.node, "DequantizeLinear") and use.idx == 0 and _is_activation(use.node):
            _read_u8(graph, use.node, out, pairs)
        else:
            others.append(use)
    if others or old.is_graph_output():
        real = ir.node("DequantizeLinear", [out, *pair], name=f"{node.name}/u8")
        real.outputs[0].name, real.outputs[0].type = f"{old.name}/real", ir.TensorType(ir.DataType.FLOAT)
        graph.insert_after(new, real)
        node.replace_input_with(0, real.outputs[0])  # (q - zp) * s / s rounds back to q - zp: the same s8 values
        node.name = f"{node.name}/s8"
    else:
        graph.remove(node, safe=True)


def _is_activation(node: ir.Node) -> bool:
    try:
        activation_params(node)
    except Reject:
        return False
    return True


def _read_u8(graph: ir.Graph, node: ir.Node, source: ir.Value, pairs: Pairs) -> None:
    """`node`, a DequantizeLinear of s8, reads the shifted tensor instead."""
    out = node.outputs[0]
    new = ir.node("DequantizeLinear", [source, *pairs(activation_params(node), source.name or "")], name=node.name)
    new.outputs[0].shape, new.outputs[0].type, name = out.shape, out.type, out.name
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(out, new.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.outputs[0].name = name


def constant_dequantize(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear of a constant that makes `value`, or None."""
    node = value.producer() if value is not None else None
    found = node is not None and is_standard(node, "DequantizeLinear") and constant(node.inputs[0]) is not None
    return node if found else None


def _transposed(graph: ir.Graph, node: ir.Node, order: list[int]) -> ir.Value:
    """A constant DequantizeLinear with its data permuted: a new node before `node`."""
    array, linear = constant(node.inputs[0]), linear_of(node)
    assert array is not None
    data = new_initializer(graph, f"{node.inputs[0].name}/transposed", array.transpose(order))  # type: ignore[union-attr]
    attributes = {"axis": order.index(linear.axis % array.ndim)} if linear.scale.size > 1 else {}
    new = ir.node("DequantizeLinear", [data, *node.inputs[1:]], attributes, name=f"{node.name}/transposed")
    new.outputs[0].name = f"{node.outputs[0].name}/transposed"
    new.outputs[0].type, new.outputs[0].shape = node.outputs[0].type, data.shape
    graph.insert_before(node, new)
    return new.outputs[0]


def _transpose_constant(graph: ir.Graph, node: ir.Node) -> None:
    """DequantizeLinear -> Transpose of a weight, as PyTorch writes linear layers: the transposed weight."""
    source = constant_dequantize(node.inputs[0])
    if source is None or node.outputs[0].is_graph_output():
        return
    rank = constant(source.inputs[0]).ndim  # type: ignore[union-attr]
    order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else list(range(rank))[::-1]
    ir.convenience.replace_all_uses_with(node.outputs[0], _transposed(graph, source, order))
    graph.remove(node, safe=True)


def _orient_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """A quantized weight [K, N] becomes [N, K] with transB = 1."""
    source = constant_dequantize(node.inputs[1])
    if source is None:
        return
    attributes = {key: value.value for key, value in node.attributes.items()}
    if len(node.inputs) < 3 or node.inputs[2] is None:
        attributes["beta"] = 1.0
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        return
    if not attributes.get("transB", 0):
        node.replace_input_with(1, _transposed(graph, source, [1, 0]))
    for key in ("alpha", "beta", "transA"):
        node.attributes.pop(key, None)
    node.attributes["transB"] = ir.AttrInt64("transB", 1)


def remember_constants(model: ir.Model) -> None:
    """Gives the outputs of constant DequantizeLinear nodes their values, so that fuse sees weights there."""
    for node in model.graph:
        array = constant(node.inputs[0]) if is_standard(node, "DequantizeLinear") else None
        if array is None:
            continue
        try:
            linear = linear_of(node)
        except Reject:
            continue
        node.outputs[0].const_value = ir.LazyTensor(
            lambda q=array, p=linear: ir.Tensor(dequantized(q, p)),  # type: ignore[misc]
            dtype=ir.DataType.FLOAT, shape=ir.Shape(array.shape), name=node.outputs[0].name,
        )  # fmt: skip


def forget_constants(model: ir.Model) -> None:
    """Undoes `remember_constants`."""
    for node in model.graph:
        if is_standard(node, "DequantizeLinear"):
            node.outputs[0].const_value = None
