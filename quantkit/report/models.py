"""Model sources as the reports need them: protobuf, size, threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import OutputError, UsageError
from quantkit.report.files import write_atomically
from quantkit.report.machine import core_count

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

    return onnx_ir.to_proto(getattr(source, "model", source))


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


def thread_count(threads: int | None) -> int:
    """The number of threads asked for, else QUANTKIT_NUM_THREADS, else the cores of this process. Raises UsageError."""
    if threads is None:
        setting = os.environ.get("QUANTKIT_NUM_THREADS")
        if not setting:
            return core_count()
        if not setting.isdecimal():
            raise UsageError(f"QUANTKIT_NUM_THREADS={setting} is not a number of threads; give 1 or more")
        threads = int(setting)
    if threads < 1:
        raise UsageError(f"threads {threads}: give 1 or more")
    return threads
