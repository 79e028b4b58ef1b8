"""Opset versions: below 13 many ops take axes and pads as attributes; one modern form keeps later stages simple."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.load.shapes import light_proto
from quantkit.types import Decision

OLDEST = 7
"""The oldest opset that onnxruntime and onnx.version_converter support."""
MODERN = 13
"""From here on, axes are inputs (Squeeze, Unsqueeze, ReduceSum, Split); such files are left alone."""
RESIZE_WITH_MODES = 11
"""From here on Resize names its coordinate and rounding modes; onnx.version_converter leaves the new defaults in."""
MISCONVERTED_OPS = frozenset(["Hardmax"])
"""Ops whose meaning changed at opset 13 without onnx.version_converter knowing: such a file stays as it is."""
SCAN_WITHOUT_BATCH = 9
"""Scan has lost its batch dimension here; the converter only renames it."""
TARGETS = (17, 16, 15, 14, 13)
"""Tried in this order when a file is older than MODERN."""


def raise_opset(model: ir.Model, label: str) -> tuple[ir.Model, list[Decision]]:
    """Convert a model below opset 13 to opset 17, or to the highest below that converts; else keep it as it is.

    Raises ModelError below opset 7 and when the file imports no ai.onnx opset but uses its ops.
    """
    version = model.graph.opset_imports.get("")
    if version is None:
        if any(node.domain == "" for node in model.graph.all_nodes()):
            raise ModelError(f"{label}: uses ai.onnx ops but imports no ai.onnx opset; export it again")
        return model, []
    if version < OLDEST:
        raise ModelError(f"{label}: opset {version} is older than {OLDEST}; export it again with opset 17 or newer")
    if version > onnx.defs.onnx_opset_version():
        newest = onnx.defs.onnx_opset_version()
        return model, [
            Decision("load", "kept", label, f"opset {version} is newer than {newest}, the newest known here")
        ]
    if version >= MODERN:
        return model, []
    if version < SCAN_WITHOUT_BATCH and any(node.op_type == "Scan" for node in model.graph.all_nodes()):
        return model, [Decision("load", "kept", label, f"opset {version} stays: its Scan has a batch dimension")]
    reasons = []
    for target in TARGETS:
        try:
            converted = _convert(model, target)
        except Exception as error:
            reasons.append(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
            continue
        return converted, [Decision("load", "raised", label, f"opset {version} to {target}")]
    return model, [Decision("load", "kept", label, f"opset {version} stays, it does not convert: {reasons[0]}")]


def _convert(model: ir.Model, target: int) -> ir.Model:
    changed = sorted({node.op_type for node in model.graph.all_nodes()} & MISCONVERTED_OPS)
    if changed:
        raise ValueError(f"{changed[0]} means something else since opset {MODERN}")
    proto = light_proto(model)
    kept_inputs = {value.name for value in model.graph.inputs}
    converted = ir.from_proto(onnx.version_converter.convert_version(proto, target))
    graph = converted.graph
    for value in list(graph.inputs):
        source = model.graph.initializers.get(value.name or "")
        if source is None or value.name in graph.initializers:
            continue
        value.const_value = source.const_value
        if value.name not in kept_inputs:
            graph.inputs.remove(value)
        graph.register_initializer(value)
    _check_weights_survived(model, converted)
    if model.graph.opset_imports[""] < RESIZE_WITH_MODES:
        _keep_resize_meaning(converted)
    converted.ir_version = max(model.ir_version, minimum_ir_version(converted))
    converted.metadata_props.update(model.metadata_props)
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    return converted


def _keep_resize_meaning(model: ir.Model) -> None:
    """Upsample and Resize-10 map output to input by x / scale and round down, or up where they shrink.

    Source: ONNX Resize-10 (which leaves the rounding open) and what onnxruntime does for it.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Resize" or node.domain != "" or "coordinate_transformation_mode" in node.attributes:
            continue
        scales = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
        shrinks = scales is not None and bool((scales.numpy() < 1).any())
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if shrinks else "floor"}
        for name, mode in modes.items():
            node.attributes[name] = ir.AttrString(name, mode)


def _check_weights_survived(model: ir.Model, converted: ir.Model) -> None:
    used = {value.name for node in converted.graph.all_nodes() for value in node.inputs if value is not None}
    known = set(converted.graph.initializers) | {value.name for value in converted.graph.inputs}
    lost = [name for name in model.graph.initializers if name in used and name not in known]
    if lost:
        raise ValueError(f"the converter lost initializer {lost[0]!r}")


def minimum_ir_version(model: ir.Model) -> int:
    """The lowest IR version that may hold the model's opsets; 8 with local functions, 4 with plain initializers."""
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    lowest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return max(lowest, 8 if model.functions else 4)
