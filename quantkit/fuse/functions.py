"""Model-local functions: what each op of domain `quantkit` means, written in standard ONNX.

The same emission code writes function bodies (attributes by reference) and expands fused FP32 nodes in a graph
(attributes by value), so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.activations import ACTIVATIONS
from quantkit.fuse.opnames import BINARY, DOMAIN, PRODUCTS, OpName

_INTS, _INT, _STRING, _FLOAT, _TENSOR = (
    ir.AttributeType.INTS,
    ir.AttributeType.INT,
    ir.AttributeType.STRING,
    ir.AttributeType.FLOAT,
    ir.AttributeType.TENSOR,
)
_POOL = {"kernel_shape": _INTS, "strides": _INTS, "pads": _INTS, "ceil_mode": _INT}

ATTRIBUTES: dict[str, dict[str, ir.AttributeType]] = {
    "Conv": {"strides": _INTS, "pads": _INTS, "dilations": _INTS, "group": _INT},
    "ConvTranspose": {"strides": _INTS, "pads": _INTS, "dilations": _INTS, "group": _INT, "output_padding": _INTS},
    "MaxPool": {**_POOL, "dilations": _INTS},
    "AveragePool": {**_POOL, "count_include_pad": _INT, "dilations": _INTS},
    "ReduceMean": {"axes": _INTS, "keepdims": _INT},
    "Reshape": {"allowzero": _INT},
    "Flatten": {"axis": _INT},
    "Transpose": {"perm": _INTS},
    "ResizeScales": {"mode": _STRING, "coordinate_transformation_mode": _STRING, "nearest_mode": _STRING},
    "ResizeSizes": {"mode": _STRING, "coordinate_transformation_mode": _STRING, "nearest_mode": _STRING},
    "ResizeLike": {"mode": _STRING, "coordinate_transformation_mode": _STRING, "nearest_mode": _STRING},
    "DepthToSpace": {"blocksize": _INT, "mode": _STRING},
    "Gather": {"axis": _INT},
    "Concat": {"axis": _INT},
    "Split": {"axis": _INT},
    "Softmax": {"axis": _INT},
    "LayerNormalization": {"axis": _INT, "epsilon": _FLOAT},
    "RMSNormalization": {"axis": _INT, "epsilon": _FLOAT},
    "GroupNormalization": {"num_groups": _INT, "epsilon": _FLOAT},
    "LRN": {"size": _INT, "alpha": _FLOAT, "beta": _FLOAT, "bias": _FLOAT},
}
"""Attributes of each base op that a quantkit node carries to its body, with ONNX's names."""

EXTRA_INPUTS: dict[str, tuple[str, ...]] = {
    "Reshape": ("shape",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Pad": ("pads",),
    "ResizeScales": ("scales",),
    "ResizeSizes": ("sizes",),
    "Split": ("split",),
    "Gather": ("indices",),
    "LayerNormalization": ("scale", "bias"),
    "RMSNormalization": ("scale",),
    "GroupNormalization": ("scale", "bias"),
    "PRelu": ("slope",),
}
"""Constant inputs that follow the activation inputs of a base op."""

SINCE_OPSET = {("AveragePool", "dilations"): 19, ("Reshape", "allowzero"): 14}
"""Attributes that an op has only from an opset on."""
FIRST_OPSET = {"LayerNormalization": 17}
RMS_OPSET = 23
"""ONNX has RMSNormalization from here on; before, quantkit knows it over the last axis, spelled out."""
"""Ops that ONNX has only from an opset on; models of older opsets do not hold them."""
REDUCE_AXES_INPUT_OPSET = 18


class Emitter:
    """Collects standard ONNX nodes. `emit(op_type, inputs, attributes)` returns the (first) output."""

    def __init__(self, opset: int, prefix: str = "") -> None:
        self.opset = opset
        self.prefix = prefix
        self.nodes: list[ir.Node] = []

    def __call__(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], outputs: int = 1
    ) -> Any:
        attrs = [
            value if isinstance(value, ir.Attr) and value.name == name else _attribute(name, value)
            for name, value in attributes.items()
        ]
        node = ir.Node(
            "", op_type, inputs, attrs, num_outputs=outputs, name=f"{self.prefix}{op_type}_{len(self.nodes)}"
        )
        for i, out in enumerate(node.outputs):
            out.name = f"{self.prefix}{op_type}_{len(self.nodes)}_{i}"
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs


def _attribute(name: str, value: Any) -> ir.Attr:
    """An attribute called `name` from a Python value or from an attribute (or reference) of another name."""
    if isinstance(value, ir.Attr):
        return ir.Attr(name, value.type, value.value, value.ref_attr_name)
    return ir.convenience.convert_attribute(name, value)


def body_attributes(name: OpName, opset: int) -> dict[str, ir.AttributeType]:
    """The attributes of a quantkit op at an opset of the default domain."""
    known = ATTRIBUTES.get(name.base, {})
    table = {key: kind for key, kind in known.items() if opset >= SINCE_OPSET.get((name.base, key), 0)}
    activation = name.base if name.base in ACTIVATIONS else name.activation
    if activation:
        row = ACTIVATIONS[activation]
        table.update(dict.fromkeys(row.attributes, _FLOAT) | dict.fromkeys(row.by_channel, _TENSOR))
    return table


def emit_base(emit: Emitter, name: OpName, data: Sequence[ir.Value], extra: Sequence[ir.Value],
              attributes: Mapping[str, Any]) -> Any:  # fmt: skip
    """The op itself in FP32: `data` are float operands (for weighted ops x, w, bias), `extra` as EXTRA_INPUTS."""
    base = name.base
    own = {k: attributes[k] for k in body_attributes(OpName(base), emit.opset) if k in attributes}
    if base in ACTIVATIONS:
        return ACTIVATIONS[base].body(emit, data[0], own)
    if base == "ConvTranspose":
        return emit(base, [data[0], _transposed_weights(emit, data[1], own["group"]), *data[2:]], own)
    if base == "Gemm":
        return emit("Gemm", data, {"transB": 1})
    if base == "MatMul":
        return emit("Add", [emit("MatMul", data[:2], {}), data[2]], {})
    if base == "ActivationMatMul":
        return emit("MatMul", data, {})
    if base == "ResizeScales":
        return emit("Resize", [data[0], None, extra[0]], own)
    if base == "ResizeSizes":
        return emit("Resize", [data[0], None, None, extra[0]], own)
    if base == "ResizeLike":
        return emit("Resize", [data[0], None, None, _sizes_like(emit, *data)], own)
    if base == "GroupNormalization":
        return _group_normalization(emit, data[0], extra, own)
    if base == "RMSNormalization" and emit.opset < RMS_OPSET:
        return _rms_normalization(emit, data[0], extra[0], own)
    if base == "ReduceMean" and emit.opset >= REDUCE_AXES_INPUT_OPSET:
        axes = emit("Constant", [], {"value_ints": own.pop("axes")})
        return emit("ReduceMean", [data[0], axes], own)
    return emit(base, [*data, *extra], own, outputs=name.count if base == "Split" else 1)


def emit_activation(emit: Emitter, name: OpName, value: ir.Value, attributes: Mapping[str, Any]) -> ir.Value:
    """The activation of a fused op, if it has one."""
    if not name.activation:
        return value
    row = ACTIVATIONS[name.activation]
    return row.body(emit, value, {k: attributes[k] for k in (*row.attributes, *row.by_channel)})


def _sizes_like(emit: Emitter, x: ir.Value, like: ir.Value) -> ir.Value:
    """Batch and channels of x, then the spatial sizes of `like`."""
    bounds = [emit("Constant", [], {"value_ints": [bound]}) for bound in (0, 2, 1 << 31)]
    own, given = (
        emit("Slice", [emit("Shape", [value], {}), *bounds[i : i + 2]], {}) for i, value in enumerate((x, like))
    )
    return emit("Concat", [own, given], {"axis": 0})


def _transposed_weights(emit: Emitter, w: ir.Value, group: Any) -> ir.Value:
    """[C_out, C_in / group, *kernel], as of Conv, -> [C_in, C_out / group, *kernel], as ONNX's ConvTranspose has it.

    The kernel is one dimension on the way, so that one permutation serves every number of spatial dimensions.
    """

    def ints(*values: int) -> ir.Value:
        return emit("Constant", [], {"value_ints": list(values)})

    groups = emit("Unsqueeze", [emit("Constant", [], {"value_int": group}), ints(0)], {})
    kernel = emit("Slice", [emit("Shape", [w], {}), ints(2), ints(1 << 31)], {})
    inner = emit("Slice", [emit("Shape", [w], {}), ints(1), ints(2)], {})
    taps = emit("ReduceProd", [kernel], {"keepdims": 1})
    split = emit("Reshape", [w, emit("Concat", [groups, ints(-1), inner, taps], {"axis": 0})], {})
    turned = emit("Transpose", [split], {"perm": [0, 2, 1, 3]})
    outer = emit("Slice", [emit("Shape", [turned], {}), ints(2), ints(3)], {})
    return emit("Reshape", [turned, emit("Concat", [ints(-1), outer, kernel], {"axis": 0})], {})


def _group_normalization(emit: Emitter, x: ir.Value, extra: Sequence[ir.Value], own: Mapping[str, Any]) -> ir.Value:
    """InstanceNormalization of [N, groups, rest], then a scale and bias [C, 1...] as of opset 21: for every opset.

    ONNX's GroupNormalization of opset 18 scales by group.
    """

    def ints(*values: int) -> ir.Value:
        return emit("Constant", [], {"value_ints": list(values)})

    groups = emit("Unsqueeze", [emit("Constant", [], {"value_int": own["num_groups"]}), ints(0)], {})
    shape = emit("Concat", [ints(0), groups, ints(-1)], {"axis": 0})
    ones, zeros = (
        emit("ConstantOfShape", [groups], {"value": ir.tensor(np.array([v], np.float32))}) for v in (1.0, 0.0)
    )
    grouped = [emit("Reshape", [x, shape], {}), ones, zeros]
    normal = emit("InstanceNormalization", grouped, {"epsilon": own["epsilon"]})
    back = emit("Reshape", [normal, emit("Shape", [x], {})], {})
    return emit("Add", [emit("Mul", [back, extra[0]], {}), extra[1]], {})


def _rms_normalization(emit: Emitter, x: ir.Value, scale: ir.Value, own: Mapping[str, Any]) -> ir.Value:
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis. Source: ONNX RMSNormalization-23."""
    name, attributes = OpName("ReduceMean"), {"axes": [-1], "keepdims": 1}
    mean = emit_base(emit, name, [emit("Mul", [x, x], {})], [], attributes)
    epsilon = emit("Constant", [], {"value_float": own["epsilon"]})
    deviation = emit("Sqrt", [emit("Add", [mean, epsilon], {})], {})
    return emit("Mul", [emit("Div", [x, deviation], {}), scale], {})


def _inputs(*names: str) -> list[ir.Value]:
    return [ir.Value(name=name) for name in names]


def _triple(name: str) -> list[ir.Value]:
    return _inputs(name, f"{name}_scale", f"{name}_zero_point")


def _operands(name: OpName) -> list[str]:
    """The names of the activations that an op without weights takes."""
    if name.base == "Concat":
        return [f"x{i}" for i in range(name.count)]
    if name.base == "ResizeLike":
        return ["x", "like"]
    return ["a", "b"] if name.base in (*BINARY, *PRODUCTS) else ["x"]


def _static_body(emit: Emitter, name: OpName, attrs: Mapping[str, Any]) -> tuple[list[ir.Value], list[ir.Value]]:
    """DequantizeLinear -> op -> [Add] -> [activation] -> QuantizeLinear; of float32 sums, the op alone."""
    inputs: list[ir.Value] = []
    if name.is_stream:
        data, extra = _inputs(*_operands(name)), _inputs(*EXTRA_INPUTS.get(name.base, ()))
        return [*data, *extra], [emit_base(emit, name, data, extra, attrs)]

    def dequantized(tensor: str, **kwargs: Any) -> ir.Value:
        values = _triple(tensor)
        inputs.extend(values)
        return emit("DequantizeLinear", values, kwargs)

    if name.is_weighted:
        x, w = dequantized("x"), dequantized("w", axis=1 if name.base == "MatMul" else 0)
        bias = _inputs("bias", "bias_scale")
        inputs.extend(bias)
        data = [x, w, emit("DequantizeLinear", bias, {"axis": 0})]
    else:
        data = [dequantized(operand) for operand in _operands(name)]
    extra = _inputs(*EXTRA_INPUTS.get(name.base, ()))
    inputs.extend(extra)
    value = emit_base(emit, name, data, extra, attrs)
    if name.add:
        value = emit("Add", [value, dequantized("r")], {})
    if name.is_lookup:
        pre = _inputs("pre_scale", "pre_zero_point")
        inputs.extend(pre)
        value = emit("DequantizeLinear", [emit("QuantizeLinear", [value, *pre], {}), *pre], {})
    if name.activation:
        value = emit_activation(emit, name, value, attrs)
    if name.to_float:
        return inputs, [value]
    y = _inputs("y_scale", "y_zero_point")
    inputs.extend(y)
    values = list(value) if name.base == "Split" and name.count > 1 else [value]
    return inputs, [emit("QuantizeLinear", [v, *y], {}) for v in values]


def _shifted_to_unsigned(emit: Emitter, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """s8 weights as u8 with zero point 128: the same products; onnxruntime before 1.24 has no ConvInteger for s8."""
    offset = emit("Constant", [], {"value": ir.tensor(np.array(128, np.int32))})
    wide = emit("Add", [emit("Cast", [weight], {"to": int(ir.DataType.INT32)}), offset], {})
    zero_point = emit("Constant", [], {"value": ir.tensor(np.array(128, np.uint8))})
    return emit("Cast", [wide], {"to": int(ir.DataType.UINT8)}), zero_point


def _dynamic_body(emit: Emitter, name: OpName, attrs: Mapping[str, Any]) -> tuple[list[ir.Value], list[ir.Value]]:
    """DynamicQuantizeLinear -> ConvInteger or MatMulInteger -> scale -> bias -> [Add] -> [activation]."""
    x, w, scale, bias = inputs = _inputs("x", "w", "w_scale", "bias")
    x_q, x_scale, x_zero = emit("DynamicQuantizeLinear", [x], {}, outputs=3)
    if name.base == "Conv":
        own = {k: attrs[k] for k in ATTRIBUTES["Conv"]}
        unsigned, zero_point = _shifted_to_unsigned(emit, w)
        acc = emit("ConvInteger", [x_q, unsigned, x_zero, zero_point], own)
    elif name.base == "ConvTranspose":  # ONNX has no integer form of it: the same numbers as float32
        own = {k: attrs[k] for k in ATTRIBUTES["ConvTranspose"]}
        difference = emit("Sub", [emit("Cast", [value], {"to": 1}) for value in (x_q, x_zero)], {})
        weight = _transposed_weights(emit, emit("Cast", [w], {"to": 1}), own["group"])
        acc = emit("ConvTranspose", [difference, weight], own)
    else:
        weight = emit("Transpose", [w], {"perm": [1, 0]}) if name.base == "Gemm" else w
        acc = emit("MatMulInteger", [x_q, weight, x_zero], {})
    real = emit("Mul", [emit("Cast", [acc], {"to": 1}), emit("Mul", [x_scale, scale], {})], {})
    value = emit("Add", [real, bias], {})
    if name.add:
        residual = ir.Value(name="r")
        inputs.append(residual)
        value = emit("Add", [value, residual], {})
    return inputs, [emit_activation(emit, name, value, attrs)]


def emit_body(emit: Emitter, name: OpName, attributes: Mapping[str, Any]) -> tuple[list[ir.Value], list[ir.Value]]:
    """The body of a static or dynamic quantkit op: its formal inputs, in the op's order, and its outputs."""
    return (_static_body if name.level == "static" else _dynamic_body)(emit, name, attributes)


def function_for(name: OpName, opset: int) -> ir.Function:
    """The model-local function of a static or dynamic quantkit op, its body at `opset` of the default domain."""
    types = body_attributes(name, opset)
    references = {key: ir.RefAttr(key, key, kind) for key, kind in types.items()}
    emit = Emitter(opset)
    inputs, outputs = emit_body(emit, name, references)
    for i, value in enumerate(outputs):
        value.name = "y" if len(outputs) == 1 else f"y{i}"
    graph = ir.Graph(inputs, outputs, nodes=emit.nodes, opset_imports={"": opset}, name=name.op_type)
    attributes = [ir.Attr(key, kind, None) for key, kind in types.items()]
    return ir.Function(DOMAIN, name.op_type, graph=graph, attributes=attributes)
