"""Model sources as the reports need them: protobuf and size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import OutputError
from quantkit.report.files import write_atomically

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

EXTERNAL_BYTES = 512 << 20
"""A protobuf ends at 2 GiB and is held whole by whoever reads it; larger weights go to a file beside it."""
STREAMED_BYTES = 64 << 20
"""Weights from here on are written one by one: onnx's own way holds the model three times."""


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


def save(model: ir.Model, path: Path) -> None:
    """Writes a model atomically, in the way that its size asks for. Raises OutputError."""
    from quantkit.load import to_proto

    size = weight_bytes(model)
    if size > EXTERNAL_BYTES:
        save_external(model, path)
    elif size > STREAMED_BYTES:
        save_streamed(model, path)
    else:
        save_model(to_proto(model), path)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model atomically; weights beyond EXTERNAL_BYTES go to `path`.data beside it. Raises OutputError."""
    if model.ByteSize() > EXTERNAL_BYTES:
        import onnx_ir

        save_external(onnx_ir.from_proto(model), path)
        return
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))


def save_streamed(model: ir.Model, path: Path) -> None:
    """As save_model, but weight by weight: beside the model only one serialized tensor is in memory at a time.

    The graph is a field of known length, so its bytes may follow piece by piece: protobuf's encoding, fields of
    length-delimited type.
    """
    import onnx_ir

    from quantkit.load import to_proto
    from quantkit.load.parts import copied

    weights = [value for value in model.graph.initializers.values() if value.const_value is not None]
    shell = copied(model)
    for value in weights:
        shell.graph.initializers[value.name or ""].const_value = None
    shell.graph.initializers.clear()
    proto = to_proto(shell)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")

    def pieces() -> Iterator[bytes]:
        for value in weights:
            tensor = onnx_ir.serde.serialize_tensor(value.const_value)  # type: ignore[arg-type]
            tensor.name = value.name or ""
            yield tensor.SerializeToString()

    def write(temporary: Path) -> None:
        sizes = [len(piece) for piece in pieces()]
        length = len(graph) + sum(len(_field(INITIALIZER, size)) + size for size in sizes)
        with temporary.open("wb") as stream:
            stream.write(proto.SerializeToString() + _field(GRAPH, length) + graph)
            for piece in pieces():
                stream.write(_field(INITIALIZER, len(piece)))
                stream.write(piece)

    write_atomically(path, write)


GRAPH, INITIALIZER = 7, 5
"""Field numbers of ModelProto.graph and GraphProto.initializer in onnx.proto."""


def _field(number: int, length: int) -> bytes:
    """The tag of a length-delimited field and its length, as protobuf's varints."""
    found, rest = bytearray([number << 3 | 2]), length
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*found, rest])


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def save_external(model: ir.Model, path: Path) -> None:
    """Write a model with its weights in `path`.data, tensor by tensor: no second copy of the weights in memory.

    Both files appear whole, the data first. Raises OutputError if the file system refuses.
    """
    import onnx_ir

    data = f"{path.name}.data"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            onnx_ir.save(model, Path(folder, path.name), external_data=data)
            for name in (data, path.name):
                if Path(folder, name).exists():
                    Path(folder, name).replace(path.with_name(name))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
