"""The lowest opset and IR version that hold a model: what older runtimes can read, they should."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from quantkit.load.opset import minimum_ir_version
from quantkit.load.shapes import light_proto

OLDEST_TARGET = 10
"""QuantizeLinear exists from here on."""
NEGATIVE_AXES = 11
"""Before it, most ops know no axes counted from the end."""
SCALAR_SCALES = 13
"""Before it, DequantizeLinear and QuantizeLinear take one scale."""


def _ceil_mode(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("ceil_mode", 0))


def _one_scale(node: ir.Node) -> bool:
    scale = node.inputs[1]
    return scale is not None and scale.shape is not None and len(scale.shape) == 0


def _always(node: ir.Node) -> bool:
    return True


CHANGES: dict[tuple[str, int], Callable[[ir.Node], bool]] = {
    ("Softmax", 13): _always,
    ("LogSoftmax", 13): _always,
    ("Hardmax", 13): _always,
    ("BatchNormalization", 14): _always,
    ("RoiAlign", 16): _always,
    ("Resize", 11): _always,
    ("Resize", 13): _always,
    ("Resize", 19): _always,
    ("GridSample", 20): _always,
    ("GroupNormalization", 21): _always,
    ("Loop", 11): _always,
    ("Scan", 11): _always,
    ("AveragePool", 19): _ceil_mode,
    ("AveragePool", 22): _ceil_mode,
    ("MaxPool", 22): _ceil_mode,
    ("DequantizeLinear", 13): lambda node: not _one_scale(node),
    ("QuantizeLinear", 13): lambda node: not _one_scale(node),
}
"""(op, opset) -> does a node mean something else before it? Changes that its schema does not show."""


def lower_versions(model: ir.Model) -> None:
    """Opset and IR version as low as every node allows, in place; what onnx.checker then rejects is taken back.

    A node goes below a version of its op only if the older schema has its inputs, outputs, types and attributes with
    the same defaults, and CHANGES does not object.
    """
    current = model.opset_imports.get("", 0)
    if OLDEST_TARGET < current <= onnx.defs.onnx_opset_version():
        lowest = max((_lowest(node, current) for node in model.graph.all_nodes()), default=current)
        for target in sorted({lowest, max(lowest, SCALAR_SCALES)} - {current}):
            if target < current and _at(model, target):
                break
    model.ir_version = minimum_ir_version(model)


def _at(model: ir.Model, target: int) -> bool:
    """Sets the opset if onnx.checker agrees."""
    current, model.opset_imports[""] = model.opset_imports[""], target
    dropped = [(node, name, node.attributes.pop(name)) for node in model.graph.all_nodes() if node.domain == ""
               for name in _newer_attributes(node, target)]  # fmt: skip
    try:
        onnx.checker.check_model(light_proto(model), full_check=True)
    except Exception:  # of the checker or of shape inference: the model stays as it was
        model.opset_imports[""] = current
        for node, name, attribute in dropped:
            node.attributes[name] = attribute
        return False
    return True


def _schema(node: ir.Node, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None


def _newer_attributes(node: ir.Node, version: int) -> list[str]:
    schema = _schema(node, version)
    return [] if schema is None else [name for name in node.attributes if name not in schema.attributes]


def _lowest(node: ir.Node, current: int) -> int:
    """The lowest opset, at least OLDEST_TARGET, at which the node means what it does at `current`."""
    if node.domain not in ("", "ai.onnx"):
        return OLDEST_TARGET
    schema = _schema(node, current)
    if schema is None or any(name not in schema.attributes for name in node.attributes):
        return current
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return current
    version = schema.since_version
    while version > OLDEST_TARGET:
        older = _schema(node, version - 1)
        if older is None or CHANGES.get((node.op_type, version), _never)(node) or not _fits(node, schema, older):
            return version
        schema, version = older, older.since_version
    axes = [node.attributes[key].value for key in ("axis", "axes") if key in node.attributes]
    negative = any(axis < 0 for value in axes for axis in (value if isinstance(value, tuple | list) else [value]))
    return NEGATIVE_AXES if negative else OLDEST_TARGET


def _never(node: ir.Node) -> bool:
    return False


def _fits(node: ir.Node, newer: onnx.defs.OpSchema, older: onnx.defs.OpSchema) -> bool:
    """Whether the older schema holds the node: counts, types, attributes and their defaults."""
    if not (older.min_input <= len(node.inputs) <= older.max_input and len(node.outputs) <= older.max_output):
        return False
    for name, attribute in newer.attributes.items():
        was = older.attributes.get(name)
        given = node.attributes.get(name)
        if was is None and given is not None and not _is_default(given, attribute):
            return False
        if was is not None and given is None and was.default_value != attribute.default_value:
            return False
    return _types_fit(node.inputs, older.inputs, older) and _types_fit(node.outputs, older.outputs, older)


def _is_default(given: ir.Attr, attribute: onnx.defs.OpSchema.Attribute) -> bool:
    default = attribute.default_value
    return default.name == given.name and onnx.helper.get_attribute_value(default) == given.value


def _types_fit(values: object, formal: object, schema: onnx.defs.OpSchema) -> bool:
    for index, value in enumerate(values):  # type: ignore[var-annotated,arg-type]
        if value is None:
            continue
        if value.dtype is None:
            return False
        parameter = formal[min(index, len(formal) - 1)]  # type: ignore[index,arg-type]
        if f"tensor({value.dtype.name.lower()})" not in parameter.types:
            return False
    return True
