"""From a path, a ModelProto or an onnx_ir.Model to an onnx_ir.Model and the digest of what was read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from quantkit.errors import ModelError
from quantkit.load.parts import copied
from quantkit.load.shapes import light_proto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHUNK_BYTES = 1 << 20
MAP_TYPES = "quantkit.load.map_types"
"""model.meta key: value name -> TypeProto that onnx_ir has no class for."""


@dataclass(frozen=True)
class Source:
    """A model as read. file: its file name, "" when it came from memory. label: what messages call it.

    digest() gives the SHA-256 (hex) of the file, external data included, or of the model in memory; it reads all of it.
    """

    model: ir.Model
    file: str
    label: str
    digest: Callable[[], str]


def parsed(data: bytes) -> onnx.ModelProto:
    """The ModelProto in serialized bytes. Raises ModelError."""
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no public base of its own
        raise ModelError(
            f"the {len(data)} bytes given are no ONNX model ({error}); give a whole file's bytes"
        ) from error


def read(source: str | Path | bytes | onnx.ModelProto | ir.Model) -> Source:
    """Read `source` without materialising external data; a model in memory is copied (its tensors are shared).

    Raises ModelError: the file is missing, not ONNX, truncated, or its external data is; `source` is something else.
    """
    source = getattr(source, "model", source)  # what a stage of quantkit returned
    if isinstance(source, bytes):
        source = parsed(source)
    if isinstance(source, ir.Model):
        return Source(
            copied(source, shares_functions=False), "", source.graph.name or "the model", lambda: _model_digest(source)
        )
    if isinstance(source, onnx.ModelProto):
        label = source.graph.name or "the model"
        content = source.SerializeToString
        return Source(_deserialize(source, label), "", label, lambda: hashlib.sha256(content()).hexdigest())
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise ModelError(f"{kind} is no model; give a path, serialized bytes, an onnx.ModelProto or an onnx_ir.Model")
    path = Path(source)
    proto = _parse(path)
    model = _deserialize(proto, str(path))
    ir.external_data.set_base_dir(model.graph, str(path.parent))
    return Source(model, path.name, str(path), lambda: file_digest(path, proto))


def file_digest(path: str | Path, proto: onnx.ModelProto | None = None) -> str:
    """SHA-256 (hex) of an ONNX file's bytes followed by those of its external data files, sorted by location.

    Raises ModelError when the file cannot be read or parsed.
    """
    path = Path(path)
    proto = _parse(path) if proto is None else proto
    digest = hashlib.sha256()
    for file in [path, *(path.parent / location for location in _external_locations(proto))]:
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise ModelError(f"{path}: external data {file.name!r} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _model_digest(model: ir.Model) -> str:
    """SHA-256 of the graph followed by its weights; never needs them in one proto, which holds 2 GB at most."""
    digest = hashlib.sha256(light_proto(model).SerializeToString())
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def _parse(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of an ONNX file"
        ) from error
    except DecodeError as error:
        raise ModelError(
            f"{path}: not an ONNX file, or a truncated one (its protobuf does not parse); export or copy it again"
        ) from error
    return proto


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: initializers, node attributes, and those of subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(subgraph)


def _external(tensor: onnx.TensorProto) -> dict[str, str] | None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    return {entry.key: entry.value for entry in tensor.external_data}


def _external_locations(proto: onnx.ModelProto) -> list[str]:
    entries = (_external(tensor) for tensor in _tensors(proto.graph))
    return sorted({entry["location"] for entry in entries if entry and entry.get("location")})


def _deserialize(proto: onnx.ModelProto, label: str) -> ir.Model:
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{label}: holds no ONNX graph (an empty file or another kind of protobuf); export it again")
    for tensor in _tensors(proto.graph):
        _check_size(tensor, label)
    maps = _take_map_types(proto.graph)
    try:
        model = ir.from_proto(proto)
        _put_types(proto.graph, maps)
        model.meta[MAP_TYPES] = maps
        return model
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{label}: is not a valid ONNX model ({reason}); export it again") from error


def _take_map_types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Types that onnx_ir cannot hold (maps, of scikit-learn's classifiers), by value; taken out of the graph."""
    found = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        inner = info.type
        while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
            inner = getattr(inner, inner.WhichOneof("value")).elem_type
        if inner.HasField("map_type"):
            found[info.name] = onnx.TypeProto.FromString(info.type.SerializeToString())
            info.ClearField("type")
    return found


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf, with the types that `read` took out put back in."""
    proto = ir.to_proto(model)
    _put_types(proto.graph, model.meta.get(MAP_TYPES, {}))
    return proto


def _put_types(graph: onnx.GraphProto, types: Mapping[str, onnx.TypeProto]) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.name in types:
            info.type.CopyFrom(types[info.name])


def _check_size(tensor: onnx.TensorProto, label: str) -> None:
    """A tensor must hold the bytes that its dims and type ask for; cut files and stripped weights fail here."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(f"{label}: tensor {tensor.name!r} has no element type; export the model again")
    kind = ir.DataType(tensor.data_type)
    count = 1
    for dim in tensor.dims:
        count *= dim
    expected = (count * int(kind.bitwidth) + 7) // 8
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != expected:
            raise ModelError(
                f"{label}: tensor {tensor.name!r} holds {len(tensor.raw_data)} bytes where its shape "
                f"{list(tensor.dims)} needs {expected}; the file is damaged, export it again"
            )
        return
    given = max(len(field) for field in _typed_fields(tensor))
    if count and not given:
        raise ModelError(
            f"{label}: tensor {tensor.name!r} {list(tensor.dims)} has no data; the weights were stripped, "
            "export the model with its weights"
        )
    if given != count and kind not in SEVERAL_A_NUMBER:
        raise ModelError(
            f"{label}: tensor {tensor.name!r} holds {given} numbers where its shape {list(tensor.dims)} needs {count}; "
            "the file is damaged, export it again"
        )


SEVERAL_A_NUMBER = frozenset(
    kind
    for kind in ir.DataType
    if kind.name.startswith("COMPLEX") or kind.name.endswith(("INT4", "FLOAT4E2M1", "INT2"))
)
"""Types of which a number of a typed field holds several elements, or half of one."""


def _typed_fields(tensor: onnx.TensorProto) -> tuple:
    return (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)


def check_external_data(model: ir.Model, label: str) -> None:
    """Every external tensor must lie inside an existing file within the model's folder. Raises ModelError."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                _check_extent(tensor, name, label)


def _check_extent(tensor: ir.ExternalTensor, name: str, label: str) -> None:
    path = Path(tensor.path)
    try:
        available = path.stat().st_size
    except OSError as error:
        raise ModelError(
            f"{label}: external data {str(tensor.location)!r} of tensor {name!r} is missing; "
            "put it beside the model, as it was exported"
        ) from error
    end = (tensor.offset or 0) + tensor.nbytes
    if end > available:
        raise ModelError(
            f"{label}: external data {str(tensor.location)!r} is truncated: tensor {name!r} ends at byte {end}, "
            f"the file at {available}; copy it again"
        )
    if path.resolve().parent != Path(tensor.base_dir).resolve() and not path.resolve().is_relative_to(
        Path(tensor.base_dir).resolve()
    ):
        raise ModelError(
            f"{label}: external data {str(tensor.location)!r} lies outside the model's folder; move it there"
        )
