"""QOperator form (QLinearConv, QGemm, 8-bit MaxPool...) written out as DequantizeLinear -> op -> QuantizeLinear.

Signatures: ai.onnx QLinearConv-10 and QLinearMatMul-10; com.microsoft version 1 for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.foreign import REASON_KEY
from quantkit.fuse.graph import Reject, constant, is_standard, new_initializer

MICROSOFT = "com.microsoft"
EIGHT_BIT = (ir.DataType.UINT8, ir.DataType.INT8)
REDUCE_AXES_INPUT_OPSET, SOFTMAX_AXIS_OPSET = 18, 13


class _Site:
    """New nodes in front of one node, which they will replace."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.opset = graph.opset_imports[""]
        self.nodes: list[ir.Node] = []

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None,
             outputs: int = 1, dtype: ir.DataType = ir.DataType.FLOAT) -> list[ir.Value]:  # fmt: skip
        name = self.node.name if op_type not in ("QuantizeLinear", "DequantizeLinear") else None
        label = name or f"{self.node.name}/{op_type}_{len(self.nodes)}"
        new = ir.node(op_type, inputs, dict(attributes or {}), num_outputs=outputs, name=label)
        for i, out in enumerate(new.outputs):
            out.name, out.type = f"{self.node.name}/{op_type}_{len(self.nodes)}_{i}", ir.TensorType(dtype)
        self.nodes.append(new)
        return list(new.outputs)

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if len(self.node.inputs) > index else None

    def dequantize(self, index: int, axis: int | None = None) -> ir.Value:
        """The triple at inputs index, index + 1, index + 2; `axis` counts where the scale is a vector."""
        return self.dequantized([self.input(index + i) for i in range(3)], axis)

    def dequantized(self, triple: Sequence[ir.Value | None], axis: int | None = None) -> ir.Value:
        scale = constant(triple[1])
        if scale is None:
            raise Reject("a scale is computed at run time")
        is_vector = axis is not None and scale.size > 1
        return self.emit("DequantizeLinear", triple, {"axis": axis} if is_vector else {})[0]

    def bias(self, index: int, scales: Sequence[int]) -> ir.Value | None:
        """The int32 bias at inputs[index], whose scale is the product of those at `scales`."""
        value = self.input(index)
        if value is None:
            return None
        factors = [constant(self.input(i)) for i in scales]
        if any(f is None for f in factors):
            raise Reject("a scale is computed at run time")
        product = np.prod([np.asarray(f, np.float64).reshape(-1) for f in np.broadcast_arrays(*factors)], axis=0)  # type: ignore[arg-type]
        scale = product.astype(np.float32)
        made = new_initializer(self.graph, f"{self.node.name}/bias_scale", scale if scale.size > 1 else scale[0])
        return self.emit("DequantizeLinear", [value, made], {"axis": 0} if scale.size > 1 else {})[0]

    def finish(self, values: Sequence[ir.Value], pair: Sequence[ir.Value | None]) -> None:
        """Quantizes the values by the pair (float outputs without one) and puts them in the node's place."""
        for old, value in zip(self.node.outputs, values, strict=True):
            dtype = pair[1].dtype if len(pair) > 1 and pair[1] is not None else ir.DataType.UINT8
            out = self.emit("QuantizeLinear", [value, *pair], dtype=dtype)[0] if pair else value  # type: ignore[arg-type]
            out.shape, name = old.shape, old.name
            ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
            old.name, out.name = f"{name}/replaced", name
        self.graph.insert_before(self.node, self.nodes)
        self.graph.remove(self.node, safe=True)

    def pair(self, index: int) -> list[ir.Value | None]:
        scale, zero_point = self.input(index), self.input(index + 1)
        return [scale] if zero_point is None else [scale, zero_point]


def _attributes(node: ir.Node, *left_out: str) -> dict[str, Any]:
    if node.attributes.get("channels_last") is not None and node.attributes["channels_last"].as_int():
        raise Reject("channels_last layout")
    return {key: value.value for key, value in node.attributes.items() if key not in ("channels_last", *left_out)}


def _conv(site: _Site) -> None:
    x, w, bias = site.dequantize(0), site.dequantize(3, axis=0), site.bias(8, (1, 4))
    site.finish(site.emit("Conv", [x, w, bias] if bias else [x, w], _attributes(site.node)), site.pair(6))


def _matmul(site: _Site) -> None:
    a, b = site.dequantize(0), site.dequantize(3, axis=1)
    site.finish(site.emit("MatMul", [a, b]), site.pair(6))


def _gemm(site: _Site) -> None:
    attributes = {"alpha": 1.0, "transA": 0, "transB": 0} | _attributes(site.node)
    if attributes["alpha"] != 1.0:
        raise Reject(f"alpha is {attributes['alpha']}, not 1")
    a, b = site.dequantize(0), site.dequantize(3, axis=0 if attributes["transB"] else 1)
    bias = site.bias(6, (1, 4))
    site.finish(site.emit("Gemm", [a, b, bias] if bias else [a, b], attributes), site.pair(7) if site.input(7) else [])


def _binary(op_type: str) -> Callable[[_Site], None]:
    def expand(site: _Site) -> None:
        a, b = site.dequantize(0), site.dequantize(3)
        site.finish(site.emit(op_type, [a, b]), site.pair(6))

    return expand


def _unary(op_type: str) -> Callable[[_Site], None]:
    def expand(site: _Site) -> None:
        site.finish(site.emit(op_type, [site.dequantize(0)], _attributes(site.node)), site.pair(3))

    return expand


def _softmax(site: _Site) -> None:
    attributes = _attributes(site.node, "opset")
    version = site.node.attributes["opset"].as_int() if "opset" in site.node.attributes else 0
    if version < SOFTMAX_AXIS_OPSET and attributes.get("axis") != -1:
        raise Reject("Softmax over several axes (its form before opset 13)")
    site.finish(site.emit("Softmax", [site.dequantize(0)], attributes), site.pair(3))


def _reduce_mean(site: _Site) -> None:
    attributes = _attributes(site.node)
    inputs = [site.dequantize(0)]
    if site.opset >= REDUCE_AXES_INPUT_OPSET and "axes" in attributes:
        axes = np.asarray(attributes.pop("axes"), np.int64)
        inputs.append(new_initializer(site.graph, f"{site.node.name}/axes", axes))
    site.finish(site.emit("ReduceMean", inputs, attributes), site.pair(3))


def _concat(site: _Site) -> None:
    values = [site.dequantize(i) for i in range(2, len(site.node.inputs), 3)]
    site.finish(site.emit("Concat", values, _attributes(site.node)), site.pair(0))


def _linear(site: _Site) -> None:
    """QuantizeLinear and DequantizeLinear of com.microsoft: those of ai.onnx where they are 8 bit wide."""
    data, zero_point = site.node.inputs[0], site.input(2)
    kinds = [v.dtype for v in (data, zero_point) if v is not None]
    if not any(kind in EIGHT_BIT for kind in kinds):
        raise Reject("not 8 bit wide")
    new = ir.node(site.node.op_type, site.node.inputs, _attributes(site.node), name=site.node.name)
    new.outputs[0].type = site.node.outputs[0].type
    site.nodes.append(new)
    site.finish(list(new.outputs), [])


QOPERATORS: dict[tuple[str, str], Callable[[_Site], None]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearAdd"): _binary("Add"),
    (MICROSOFT, "QLinearMul"): _binary("Mul"),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearAveragePool"): _unary("AveragePool"),
    (MICROSOFT, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (MICROSOFT, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (MICROSOFT, "QLinearReduceMean"): _reduce_mean,
    (MICROSOFT, "QLinearSigmoid"): _unary("Sigmoid"),
    (MICROSOFT, "QLinearSoftmax"): _softmax,
    (MICROSOFT, "QuantizeLinear"): _linear,
    (MICROSOFT, "DequantizeLinear"): _linear,
}
"""(domain, op type) -> what writes it out."""

MOVING = frozenset(
    "MaxPool Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Resize DepthToSpace SpaceToDepth Gather Expand "
    "Tile Concat".split()
)
"""Standard ops that QOperator models apply to 8-bit tensors as they are; the parameters pass through."""


def _pair_of(value: ir.Value | None) -> list[ir.Value | None]:
    """The scale and zero point that an 8-bit value was quantized with."""
    producer = value.producer() if value is not None else None
    if producer is None or not is_standard(producer, "QuantizeLinear"):
        raise Reject("the parameters of its 8-bit input are not known")
    return list(producer.inputs[1:])


def _move(site: _Site) -> None:
    node = site.node
    count = len(node.inputs) if node.op_type == "Concat" else 1
    pair = _pair_of(node.inputs[0])
    if any(not _same_pair(pair, _pair_of(value)) for value in node.inputs[1:count]):
        raise Reject("8-bit inputs with different parameters")
    if node.op_type == "MaxPool" and any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        raise Reject("the second output (indices) is used")
    data = [site.dequantized([value, *pair]) for value in node.inputs[:count]]
    made = site.emit(node.op_type, [*data, *node.inputs[count:]], _attributes(node), outputs=len(node.outputs))
    site.finish(made, pair)


def _same_pair(a: Sequence[ir.Value | None], b: Sequence[ir.Value | None]) -> bool:
    arrays = [(constant(p), constant(q)) for p, q in zip(a, b, strict=False)]
    return len(a) == len(b) and all(p is not None and q is not None and np.array_equal(p, q) for p, q in arrays)


def expand_qoperators(model: ir.Model) -> None:
    """Writes out every QOperator node of the main graph, in place; those it cannot are left as they are."""
    for node in list(model.graph):
        expand = QOPERATORS.get((node.domain, node.op_type))
        if expand is None and is_standard(node, *MOVING) and node.inputs[0] is not None:
            moves_bytes = node.inputs[0].dtype in EIGHT_BIT and node.inputs[0].const_value is None
            expand = _move if moves_bytes else None
        if expand is None:
            continue
        try:
            expand(_Site(model.graph, node))
        except Reject as reason:
            node.meta[REASON_KEY] = f"{node.op_type}: {reason}"
