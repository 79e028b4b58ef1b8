"""Read an ONNX model into onnx_ir, checked and in one modern form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantkit.load.kind import ArtifactKind, artifact_kind
from quantkit.load.specs import TensorSpec, input_specs, output_specs

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from quantkit.load.reader import Source
    from quantkit.types import Decision

__all__ = [
    "FILE_KEY",
    "KEPT_KEY",
    "SHA256_KEY",
    "VERSION_KEY",
    "ArtifactKind",
    "TensorSpec",
    "artifact_kind",
    "file_digest",
    "infer_shapes",
    "input_specs",
    "load",
    "load_decisions",
    "output_specs",
    "to_proto",
]

FILE_KEY = "quantkit.fp32.file"
"""metadata_props key: file name of the FP32 model ("" is never written)."""
SHA256_KEY = "quantkit.fp32.sha256"
"""metadata_props key: SHA-256 of the FP32 file's bytes, external data included."""
KEPT_KEY = "quantkit.fp32.kept"
"""metadata_props key: why `quantize` wrote an FP32 model."""
VERSION_KEY = "quantkit.version"
"""metadata_props key: the version of quantkit that wrote the file."""
_DECISIONS_KEY = "quantkit.load.decisions"


def load(source: str | Path | bytes | onnx.ModelProto | ir.Model, *, strict: bool = True) -> ir.Model:
    """Read a model and bring it into the one form that later stages expect.

    source: path of an ONNX file (external data stays on disk until used), its bytes, a ModelProto, or an ir.Model
    (copied).
    strict: a model that onnx.checker rejects is an error; otherwise it is only recorded.
    The result: opset >= 13 wherever it converts, the user's local functions inlined, weights as initializers and not
    as inputs, unique node names, inferred shapes; for an FP32 source FILE_KEY and SHA256_KEY in metadata_props.
    Raises ModelError: unreadable, truncated or not ONNX; opset below 7; NaN or infinity in a weight; a tensor beyond
    checks.LARGEST_TENSOR; anything that onnx.checker and onnxruntime both reject.
    """
    from quantkit.errors import ModelError, QuantkitError, first_line

    try:
        return _load(source, strict)
    except QuantkitError:
        raise
    except Exception as error:  # of onnx and onnx_ir, on damaged files
        reason = first_line(error)
        raise ModelError(f"{_label(source)}: is not a valid ONNX model ({reason}); export it again") from error


def _label(source: Any) -> str:
    return source if isinstance(source, str) else str(source) if hasattr(source, "__fspath__") else "the model"


def _load(source: str | Path | bytes | onnx.ModelProto | ir.Model, strict: bool) -> ir.Model:
    from quantkit.load import checks, constants, functions, names, opset, reader, shapes
    from quantkit.types import Decision

    read = reader.read(source)
    model, label = read.model, read.label
    reader.check_external_data(model, label)
    model.graph.sort()
    constants.lift_constants(model)
    decisions: list[Decision] = []
    complaint = checks.check_structure(model)
    if complaint is not None:
        _complain(complaint, label, strict and not checks.onnxruntime_takes(source), decisions)
    model, inlined = functions.inline_functions(model, label)
    model, raised = opset.raise_opset(model, label)
    decisions += inlined + raised
    constants.lift_constants(model)
    for name in constants.drop_initializer_inputs(model):
        decisions.append(Decision("load", "frozen", name, "an initializer that was also a graph input is a constant"))
    model.ir_version = max(model.ir_version, opset.minimum_ir_version(model))
    for name in names.name_nodes(model):
        decisions.append(Decision("load", "renamed", name, "another node has the same name"))
    shapes.clear_placeholders(model)
    shapes.infer_shapes(model)
    checks.check_sizes(model, label)
    checks.check_loops(model, label)
    checks.check_weights(model, label)
    if artifact_kind(model) == "fp32":
        _remember_source(model, read)
    model.meta[_DECISIONS_KEY] = decisions
    model.meta[reader.MAP_TYPES] = read.model.meta.get(reader.MAP_TYPES, {})
    return model


def _complain(complaint: str, label: str, strict: bool, decisions: list[Decision]) -> None:
    from quantkit.errors import ModelError
    from quantkit.types import Decision

    if strict:
        raise ModelError(f"{label}: is not a valid ONNX model ({complaint}); export it again")
    decisions.append(Decision("load", "kept", label, f"onnx.checker objects: {complaint}"))


def _remember_source(model: ir.Model, read: Source) -> None:
    if read.file:
        model.metadata_props[FILE_KEY] = read.file
    if read.file or SHA256_KEY not in model.metadata_props:
        model.metadata_props[SHA256_KEY] = read.digest()


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf; unlike onnx_ir's own, it keeps the types of outputs that are maps."""
    from quantkit.load import reader

    return reader.to_proto(model)


def load_decisions(model: ir.Model) -> list[Decision]:
    """What `load` changed or kept in this model; empty for a model that did not come from `load`."""
    return list(model.meta.get(_DECISIONS_KEY, ()))


def infer_shapes(model: ir.Model) -> None:
    """Infer type and shape of every value, in place; wrong annotations are dropped, never fatal."""
    from quantkit.load import shapes

    shapes.infer_shapes(model)


def file_digest(path: str | Path) -> str:
    """SHA-256 (hex) of an ONNX file with its external data: what SHA256_KEY holds. Raises ModelError if unreadable."""
    from quantkit.load import reader

    return reader.file_digest(path)
