"""Calibrated models for runtimes that know no local functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import ModelError, UsageError
from quantkit.load import KEPT_KEY, artifact_kind, load, to_proto

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

FORMATS = ("qdq", "qoperator")
QUANTKIT_KINDS = ("converted", "calibrated")
EXTERNAL = "quantkit.report.external"
"""model.meta key: weights of the model that was exported lay in a file of their own."""

REWRITTEN = "quantkit.report.rewritten"
"""model.meta key: the model that was exported held quantkit ops."""


def export(model: Path | Any, format_: str = "qdq", exact: bool | None = None) -> ir.Model:
    """A converted or calibrated model in standard operators, for runtimes that know no local functions.

    format_: "qdq" (ai.onnx only) or "qoperator" (QLinearConv and its like, of ai.onnx and com.microsoft; QDQ around
    what has no such form). Opset and IR version are the lowest that hold the ops; inputs, outputs and metadata stay;
    external weights are not read. A model that `quantize` kept in FP32 is in standard operators already and stays as
    it is.
    exact: of "qdq", and its default: the form that computes the engine's bits in any runtime with float32 arithmetic as
    IEEE 754 has it: integers in float32 with scales of 1, one rounding an op, tables. False: DequantizeLinear -> op ->
    QuantizeLinear, which runtimes join to INT8 kernels, and whose results differ by ties.
    Raises ModelError for any other model without quantkit ops, UsageError for another format, or an exact qoperator.
    """
    import onnx_ir as ir

    from quantkit.foreign.exact import write_exact
    from quantkit.foreign.qdq import write_qdq
    from quantkit.foreign.qoperator import write_qoperators
    from quantkit.load import infer_shapes
    from quantkit.load.oldest import lower_versions

    if format_ not in FORMATS:
        raise UsageError(f"format {format_!r} is unknown; choose one of {', '.join(FORMATS)}")
    exact = format_ == "qdq" if exact is None else exact
    if exact and format_ != "qdq":
        raise UsageError(f"format {format_!r} has no exact form; choose qdq")
    loaded = load(model)
    kind = artifact_kind(loaded)
    if kind not in QUANTKIT_KINDS and KEPT_KEY not in loaded.metadata_props:
        label = model if isinstance(model, (str, Path)) else "the model"
        done = "it needs no export" if kind == "foreign-int8" else "run `quantkit quantize` on it first"
        raise ModelError(f"{label} is {kind}, not a model of quantkit; {done}")
    weights = [value.const_value for value in loaded.graph.initializers.values()]
    loaded.meta[REWRITTEN] = kind in QUANTKIT_KINDS
    loaded.meta[EXTERNAL] = any(isinstance(weight, ir.ExternalTensor) for weight in weights)
    {"qdq": write_exact if exact else write_qdq, "qoperator": write_qoperators}[format_](loaded)
    infer_shapes(loaded)
    lower_versions(loaded)
    return loaded


def export_qdq(model: Path | Any) -> onnx.ModelProto:
    """`export` in the QDQ form that runtimes join to INT8 kernels, as protobuf, for models below its 2 GB."""
    return to_proto(export(model, exact=False))


def save_export(model: ir.Model, path: Path) -> None:
    """Writes an exported model; weights that were external, and those beyond EXTERNAL_BYTES, go to `path`.data."""
    from quantkit.report.models import EXTERNAL_BYTES, save_external, save_model, weight_bytes

    if model.meta.get(EXTERNAL) or weight_bytes(model) > EXTERNAL_BYTES:
        save_external(model, path)
    else:
        save_model(to_proto(model), path)
