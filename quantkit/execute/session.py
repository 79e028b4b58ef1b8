"""Session: runs a model, native regions in the engine and the rest in onnxruntime."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.errors import DataError, EngineError, ModelError, UsageError
from quantkit.execute.binding import CompiledPlan, Pool, aligned_bytes, choose_isa, pack
from quantkit.execute.float_steps import FloatStep
from quantkit.execute.placement import NodePlan, node_plans
from quantkit.lower.plan import PackedSpec
from quantkit.lower.regions import Step, lower_region, partition

PLANS_KEPT = 8
"""Plans of a region kept for different input shapes; the least recently used goes first."""
MAX_THREADS = 1024
CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class Argument:
    """An input or output of a session, as onnxruntime's NodeArg: shape has int, str (symbolic) or None."""

    name: str
    shape: list[int | str | None]
    type: str


@dataclass(frozen=True)
class ModelMeta:
    """What get_modelmeta gives, under onnxruntime's names."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    version: int
    custom_metadata_map: dict[str, str]


def _parsed(data: bytes) -> Any:
    import onnx

    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no public base of its own
        raise ModelError(
            f"the {len(data)} bytes given are no ONNX model ({error}); give a whole file's bytes"
        ) from error


def default_threads() -> int:
    """QUANTKIT_NUM_THREADS, else the CPUs this process may use."""
    text = os.environ.get("QUANTKIT_NUM_THREADS")
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or not 1 <= int(text) <= MAX_THREADS:
        raise UsageError(f"QUANTKIT_NUM_THREADS={text!r} is not a number from 1 to {MAX_THREADS}")
    return int(text)


class NativeRegion:
    """A native step of a session: packed weights, and a plan for each input shape seen lately."""

    def __init__(self, step: Step, isa: str, pool: Pool) -> None:
        self.step, self.isa, self.pool = step, isa, pool
        self._specs: dict[str, PackedSpec] = {}
        self._packed: dict[str, np.ndarray] = {}
        self._plans: OrderedDict[tuple[tuple[int, ...], ...], CompiledPlan] = OrderedDict()
        self._memory: list[np.ndarray] = []
        self._planning = threading.Lock()

    def plan_for(self, shapes: tuple[tuple[int, ...], ...]) -> CompiledPlan:
        """The plan for these input shapes, made at first use."""
        found = self._plans.get(shapes)
        if found is None:
            with self._planning:
                return self._plans.get(shapes) or self._make_plan(shapes)
        with suppress(KeyError):  # another thread may have dropped it just now
            self._plans.move_to_end(shapes)
        return found

    def _make_plan(self, shapes: tuple[tuple[int, ...], ...]) -> CompiledPlan:
        plan = lower_region(self.step, dict(zip(self.step.inputs, shapes, strict=True)), self._specs)
        for name, spec in self._specs.items():
            if name not in self._packed:
                self._packed[name] = pack(self.isa, spec)
        found = self._plans[shapes] = CompiledPlan(plan, self.isa, self._packed)
        while len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return found

    def _borrow(self, size: int) -> np.ndarray:
        try:
            memory = self._memory.pop()
        except IndexError:
            return aligned_bytes(size)
        return memory if memory.size >= size else aligned_bytes(size)

    def run(self, values: dict[str, np.ndarray], nanoseconds: dict[str, int] | None = None) -> None:
        """Reads the region's inputs from `values` and adds its outputs."""
        inputs = [np.ascontiguousarray(values[v.name or ""]) for v in self.step.inputs]
        compiled = self.plan_for(tuple(a.shape for a in inputs))
        outputs = [np.empty(t.dims, t.dtype) for t in compiled.plan.outputs]
        memory = self._borrow(compiled.memory_bytes(self.pool.threads))
        times = np.zeros(len(compiled.plan.ops), np.int64) if nanoseconds is not None else None
        compiled.run(self.pool, memory, [*inputs, *outputs, *compiled.plan.constants], times)
        self._memory.append(memory)
        values.update(zip((t.name for t in compiled.plan.outputs), outputs, strict=True))
        if nanoseconds is not None and times is not None:
            for op, time in zip(compiled.plan.ops, times, strict=True):
                nanoseconds[op.node] = nanoseconds.get(op.node, 0) + int(time)


class Session:
    """Runs an FP32, converted or calibrated model, or an INT8 model of another tool; the calls are those of
    onnxruntime.InferenceSession.

    model: path, serialized bytes, onnx.ModelProto or onnx_ir.Model. threads: at least 1 (default: those of
    sess_options.intra_op_num_threads, else QUANTKIT_NUM_THREADS or all CPUs).
    isa: force "scalar" | "avx2" | "avxvnni" | "avx512vnni" (default: QUANTKIT_ISA or the best); EngineError if missing.
    sess_options, providers: as onnxruntime takes them, so that one class name is all that changes; the CPU must be
    among the providers (UsageError). A session may be used from many threads at once.
    """

    def __init__(
        self,
        model: Any,
        threads: int | None = None,
        isa: str | None = None,
        *,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
    ) -> None:
        from quantkit.foreign import to_static
        from quantkit.load import artifact_kind, load

        if providers and CPU_PROVIDER not in providers:
            raise UsageError(f"providers {list(providers)} lack {CPU_PROVIDER}, which is what quantkit runs on")
        wanted = threads if threads is not None else getattr(sess_options, "intra_op_num_threads", 0) or None
        self.threads = wanted if wanted is not None else default_threads()
        model = _parsed(model) if isinstance(model, bytes) else model
        if not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"threads={wanted} is not in 1..{MAX_THREADS}")
        self.isa = choose_isa(isa)
        self._source = Path(model) if isinstance(model, str | Path) else None
        self._model: ir.Model = load(model, strict=False)
        if artifact_kind(self._model) == "foreign-int8":
            to_static(self._model)
        self._pool = Pool(self.threads)
        self._steps = partition(self._model.graph)
        self._runners = [
            NativeRegion(s, self.isa, self._pool) if s.native else FloatStep(self._model, s, self.threads)
            for s in self._steps
        ]
        self._constants = {
            v.name or "": v.const_value.numpy() for v in self._model.graph.outputs if v.const_value is not None
        }

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata: preprocessing, source file and hash..."""
        return dict(self._model.metadata_props)

    @property
    def plan(self) -> list[NodePlan]:
        """For every node: where it runs, by which kernel, and why; batch 1 where the batch is dynamic."""
        return node_plans(self._model.graph, self._steps, self._runners, self.isa)

    @property
    def steps(self) -> list[Step]:
        """The native regions and onnxruntime steps in the order in which they run."""
        return list(self._steps)

    def get_providers(self) -> list[str]:
        """As onnxruntime's: the CPU alone."""
        return [CPU_PROVIDER]

    def get_modelmeta(self) -> ModelMeta:
        """As onnxruntime's: producer, graph name, description, version and the metadata."""
        m = self._model
        return ModelMeta(m.producer_name or "", m.graph.name or "", m.domain or "", m.doc_string or "",
                         m.model_version or 0, self.metadata)  # fmt: skip

    def __repr__(self) -> str:
        native = sum(len(step.nodes) for step in self._steps if step.native)
        total = sum(len(step.nodes) for step in self._steps)
        source = self._source.name if self._source else "model in memory"
        return f"<quantkit.Session {source}: {native} of {total} nodes native, {self.isa}, {self.threads} threads>"

    def get_inputs(self) -> list[Argument]:
        return [_argument(v) for v in self._model.graph.inputs if not v.is_initializer()]

    def get_outputs(self) -> list[Argument]:
        return [_argument(v) for v in self._model.graph.outputs]

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[np.ndarray]:
        """Outputs by name (None: all, in the model's order) for inputs {name: array}. run_options: not used.

        Raises DataError for a missing or unknown input, a wrong dtype, rank or fixed dimension.
        """
        known = [v.name or "" for v in self._model.graph.outputs]
        wanted = list(output_names) if output_names else known
        for name in wanted:
            if name not in known:
                raise UsageError(f"the model has no output {name!r}; it has {', '.join(known)}")
        values = self._execute(input_feed)
        return [values[name] for name in wanted]

    def profile(self, input_feed: Mapping[str, Any]) -> list[tuple[str, str, str, float, int]]:
        """(node, op, kernel, microseconds, MACs) of each node of one run; onnxruntime steps count as one row each."""
        times: dict[str, int] = {}
        self._execute(input_feed, times)
        rows = [(p.name, p.op, p.kernel, times[p.name] / 1000, p.macs) for p in self.plan if p.name in times]
        steps = [(n, "", "onnxruntime", t / 1000, 0) for n, t in times.items() if n.startswith(FloatStep.PROFILE_NAME)]
        return rows + steps

    def run_intermediate(self, names: Sequence[str], input_feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Tensors inside the model by name; u8 ones (`..._quantized`) come dequantized to float32.

        Builds a session with these tensors as outputs: for reports, not for production.
        """
        from quantkit.execute.intermediate import expose

        inner = Session(expose(self._model, names), self.threads, self.isa)
        outputs = [a.name for a in inner.get_outputs()]
        found = dict(zip(outputs, inner.run(None, input_feed), strict=True))
        return {name: found[name] for name in names if name in found}

    def _execute(self, feeds: Mapping[str, Any], nanoseconds: dict[str, int] | None = None) -> dict[str, np.ndarray]:
        values = {**self._constants, **_checked(self._model, feeds)}
        for runner in self._runners:
            runner.run(values, nanoseconds)
        return values


def _argument(value: ir.Value) -> Argument:
    names = {"FLOAT": "float", "STRING": "string"}
    kind = value.dtype.name if value.dtype is not None else "UNDEFINED"
    dims = [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    return Argument(value.name or "", dims, f"tensor({names.get(kind, kind.lower())})")


def _checked(model: ir.Model, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The feeds as arrays, checked against the model's inputs."""
    inputs = {v.name or "": v for v in model.graph.inputs if not v.is_initializer()}
    missing, unknown = [n for n in inputs if n not in feeds], [n for n in feeds if n not in inputs]
    if missing or unknown:
        listed = ", ".join(inputs)
        wrong = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is unknown"
        raise DataError(f"input {wrong}; the model's inputs are: {listed}")
    return {name: _checked_array(name, value, feeds[name]) for name, value in inputs.items()}


def _checked_array(name: str, value: ir.Value, given: Any) -> np.ndarray:
    array = np.asarray(given)
    if value.dtype is not None and value.dtype != ir.DataType.STRING and array.dtype != value.dtype.numpy():
        raise DataError(
            f"input {name!r} is {array.dtype}, the model wants {value.dtype.numpy()}; convert it with .astype"
        )
    if value.shape is not None:
        dims = [d if isinstance(d, int) else d.value for d in value.shape]
        fits = len(dims) == array.ndim and all(
            not isinstance(d, int) or d == have for d, have in zip(dims, array.shape, strict=True)
        )
        if not fits:
            raise DataError(f"input {name!r} has shape {list(array.shape)}, the model wants {dims}")
    if prod(array.shape) == 0:
        raise DataError(f"input {name!r} is empty: shape {list(array.shape)}")
    return array


__all__ = ["Argument", "EngineError", "Session", "default_threads"]
