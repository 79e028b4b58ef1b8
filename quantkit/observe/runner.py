"""Float inference in onnxruntime, with any tensors of the graph exposed as outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import CalibrationError, DataError, ModelError
from quantkit.load.parts import copied
from quantkit.load.specs import TensorSpec
from quantkit.observe.streamed import STREAM_BYTES, StreamedSession, weight_bytes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

INLINE_BYTES = 1_900_000_000
"""Models up to this size go to onnxruntime in memory, larger ones through a folder: protobuf ends at 2 GiB."""
LENT_BYTES = 1 << 20
"""Float32 weights from here on are lent to onnxruntime where they lie: written into a message and read again they take
most of the time that a session of 240 MB needs to open, 0.25 instead of 1 s."""
NAMED = 4
"""Inputs that an error message describes."""
_SPINNING = {True: ("session.force_spinning_stop", "1"), False: ("session.intra_op.allow_spinning", "0")}
_FATAL_ONLY = 4
"""Errors come as exceptions, which say all that onnxruntime would print."""


class FloatRunner:
    """A model in onnxruntime on the CPU. `expose` adds tensors of the graph to the outputs; nothing else changes.

    model: a path, serialized bytes, an onnx.ModelProto or an onnx_ir.Model; it is not modified.
    threads: None leaves the choice to onnxruntime.
    spin: whether idle threads of onnxruntime wait busily during a run: fastest alone, bad where other threads want the
    cores. When a run ends they rest: spinning on, they would hold the cores of whatever is timed next. None: as
    onnxruntime does by itself, spinning on between runs.
    literal: nodes between DequantizeLinear and QuantizeLinear run in float32 as written; else onnxruntime makes integer
    kernels of them and rounds float weights for that, with one scale for all channels.
    arena: onnxruntime keeps the memory of a run for the next one.
    Raises ModelError when onnxruntime refuses the model, CalibrationError for a tensor that is not in it.
    """

    def __init__(
        self,
        model: Any,
        threads: int | None = None,
        *,
        expose: Sequence[str] = (),
        spin: bool | None = True,
        literal: bool = False,
        arena: bool = True,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
        if threads is not None:
            options.intra_op_num_threads = threads
        if spin is not None:
            options.add_session_config_entry(*_SPINNING[spin])
        if literal:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session: Any
        self.inputs: list[TensorSpec]
        self.outputs: list[TensorSpec]
        if _is_large(model):
            self._session = StreamedSession(model, options, _checked(model, expose))
            self.inputs, self.outputs = self._session.inputs, self._session.outputs
            return
        with tempfile.TemporaryDirectory(prefix="quantkit-model-") as folder:
            source, self._lent = _source(model, Path(folder), expose)
            if self._lent:
                values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._lent.values()]
                options.add_external_initializers(list(self._lent), values)
            try:
                self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's exceptions share no base class but Exception
                raise ModelError(f"onnxruntime cannot load the model: {_first_line(error)}") from error
        self.inputs = [_spec(value) for value in self._session.get_inputs()]
        self.outputs = [_spec(value) for value in self._session.get_outputs()]

    @property
    def output_names(self) -> list[str]:
        """Graph outputs in order, then the exposed tensors."""
        return [spec.name for spec in self.outputs]

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """The outputs by name (None: all, in graph order). Raises DataError when onnxruntime refuses the feeds."""
        try:
            return self._session.run(None if names is None else list(names), dict(feeds))
        except Exception as error:
            raise DataError(f"onnxruntime cannot run the model on {described(feeds)}: {_first_line(error)}") from error

    def passes(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The tensors `names` for the feeds, all at once: see quantkit.observe.parted."""
        yield dict(zip(names, self.run(feeds, names), strict=True)) if names else {}


def described(feeds: Mapping[str, np.ndarray]) -> str:
    """Names, dtypes and shapes of the first inputs, for an error message."""
    arrays = {name: array for name, array in feeds.items() if hasattr(array, "shape")}
    shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in islice(arrays.items(), NAMED))
    return shapes + (f" and {len(feeds) - NAMED} more" if len(feeds) > NAMED else "")


def _is_large(model: Any) -> bool:
    import onnx_ir as ir

    return isinstance(model, ir.Model) and weight_bytes(model) > STREAM_BYTES


def _checked(model: Any, expose: Sequence[str]) -> Sequence[str]:
    made = {value.name for node in model.graph for value in node.outputs}
    for name in expose:
        _require_made(name, name in made)
    return expose


def _require_made(name: str, is_made: bool) -> None:
    if not is_made:
        raise CalibrationError(f"tensor {name!r} is made by no node of the model, so it cannot be observed")


def _spec(value: Any) -> TensorSpec:
    """From onnxruntime's NodeArg, whose type reads like tensor(float)."""
    element = value.type.removeprefix("tensor(").removesuffix(")")
    names = {"float": "float32", "double": "float64", "bool": "bool"}
    try:
        dtype = np.dtype(names.get(element, element))
    except (TypeError, ValueError):  # sequences, maps
        dtype = np.dtype(object)
    return TensorSpec(value.name, tuple(value.shape), dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _source(model: Any, folder: Path, expose: Sequence[str]) -> tuple[str | bytes, dict[str, np.ndarray]]:
    """(what InferenceSession takes: a path, in `folder` when the model is too large for protobuf, or bytes; the weights
    that are lent to it by name)."""
    import onnx
    import onnx_ir as ir

    if not expose and isinstance(model, (str, Path)):
        return str(model), {}
    if not expose and isinstance(model, bytes):
        return model, {}
    if isinstance(model, (str, Path, bytes)):
        model = ir.load(model) if isinstance(model, (str, Path)) else onnx.load_model_from_string(model)
    if isinstance(model, onnx.ModelProto):
        model = ir.serde.deserialize_model(model)
    rest = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None and not _is_lent(v)]
    if sum(weight.nbytes for weight in rest) > INLINE_BYTES:
        ir.save(model, folder / "model.onnx", external_data="weights.bin")
        return _expose_on_disk(folder / "model.onnx", expose), {}
    model = copied(model)
    lent = _lend(model)
    proto = ir.serde.serialize_model(model)
    _add_outputs(proto, expose)
    return proto.SerializeToString(), lent


def _is_lent(value: ir.Value) -> bool:
    """Large, and known to onnxruntime as a weight: it drops what nothing reads before it looks for what is lent."""
    tensor = value.const_value
    large = tensor is not None and str(tensor.dtype) == "FLOAT" and tensor.nbytes >= LENT_BYTES
    return large and bool(value.uses()) and not value.is_graph_input()


def _lend(model: ir.Model) -> dict[str, np.ndarray]:
    """Takes the large weights out of a model, in place, but for their names and shapes. Others that are in files come
    into memory: bytes have no folder to look for a file in."""
    import onnx_ir as ir

    lent = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if _is_lent(value):
            assert tensor is not None
            shape = ir.Shape(tensor.shape.numpy())
            lent[name] = np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
            value.const_value = ir.ExternalTensor("lent", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(tensor.numpy(), name=name)
    return lent


def _expose_on_disk(path: Path, expose: Sequence[str]) -> str:
    import onnx

    skeleton = onnx.load(str(path), load_external_data=False)
    _add_outputs(skeleton, expose)
    path.write_bytes(skeleton.SerializeToString())
    return str(path)


def _add_outputs(proto: onnx.ModelProto, names: Iterable[str]) -> None:
    import onnx

    graph = proto.graph
    present = {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output}
    given = {value.name for value in graph.input}
    for name in dict.fromkeys(names):
        if name in present:
            continue
        _require_made(name, name in made and name not in given)
        graph.output.append(onnx.ValueInfoProto(name=name))
