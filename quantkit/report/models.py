"""Model sources as the reports need them: protobuf and size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import OutputError
from quantkit.report.files import write_atomically

if TYPE_CHECKING:
    import onnx

PROTOBUF_LIMIT = 2_000_000_000
"""A protobuf ends at 2 GiB; larger weights go to a file beside it."""


def model_proto(source: Path | str | Any) -> onnx.ModelProto:
    """The model as it is, external data included, not upgraded or folded; from a path, ModelProto or onnx_ir.Model."""
    import onnx

    if isinstance(source, (str, Path)):
        return onnx.load(source)
    if isinstance(source, onnx.ModelProto):
        return source
    import onnx_ir

    return onnx_ir.to_proto(source)


def model_bytes(source: Path | str | Any) -> int:
    """Size on disk with its external data, or as it would be serialized."""
    if not isinstance(source, (str, Path)):
        return model_proto(source).ByteSize()
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    path = Path(source)
    graph = onnx.load(path, load_external_data=False).graph
    beside = {ExternalDataInfo(tensor).location for tensor in graph.initializer if uses_external_data(tensor)}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in beside)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model atomically. Raises OutputError if it cannot be written or is too large for one file."""
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise OutputError(f"{path}: {model.ByteSize()} bytes do not fit one ONNX file; export a smaller model")
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))
