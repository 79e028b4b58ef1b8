"""Session: runs a model, native regions in the engine and the rest in onnxruntime."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from quantkit.budgets import Deadline
from quantkit.cores import core_count
from quantkit.errors import DataError, EngineError, UsageError
from quantkit.execute.arguments import Argument, FeedCheck, ModelMeta, argument_of
from quantkit.execute.binding import choose_isa
from quantkit.execute.region import NativeRegion
from quantkit.execute.stored import Shapes, StoredModel, StoredStep
from quantkit.execute.streams import Streams
from quantkit.execute.timing import ROUNDS_LEAST, cpu_clock
from quantkit.lower.plan import PackedSpec, Plan

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.execute.control import ControlStep, RunBody
    from quantkit.execute.float_steps import FloatStep
    from quantkit.execute.placement import NodePlan
    from quantkit.lower.regions import Step

MAX_THREADS = 1024
CPU_PROVIDER = "CPUExecutionProvider"


def default_threads() -> int:
    """QUANTKIT_NUM_THREADS, else the CPUs this process may use."""
    text = os.environ.get("QUANTKIT_NUM_THREADS")
    if text is None:
        return core_count()
    if not text.isdigit() or not 1 <= int(text) <= MAX_THREADS:
        raise UsageError(f"QUANTKIT_NUM_THREADS={text!r} is not a number from 1 to {MAX_THREADS}")
    return int(text)


class Session:
    """Runs an FP32, converted or calibrated model, or an INT8 model of another tool; the calls are those of
    onnxruntime.InferenceSession.

    model: path, serialized bytes, onnx.ModelProto or onnx_ir.Model. threads: at least 1 (default: those of
    sess_options.intra_op_num_threads, else QUANTKIT_NUM_THREADS or all CPUs).
    isa: force "scalar" | "avx2" | "avxvnni" | "avx512vnni" (default: QUANTKIT_ISA or the best); EngineError if missing.
    streams: requests served side by side, each on its own share of the threads (throughput); more callers wait. None:
    every request may use all threads (latency), and one that finds them busy runs on its caller alone.
    pin: every stream keeps to CPUs of its own (Linux); a caller is pinned while its request runs.
    sess_options, providers, provider_options: as onnxruntime takes them, so that one class name is all that changes;
    the CPU must be among the providers (UsageError), and options of providers have no effect.
    A session may be used from many threads at once.
    """

    def __init__(
        self,
        model: Any,
        threads: int | None = None,
        isa: str | None = None,
        *,
        streams: int | None = None,
        pin: bool = False,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Any = None,
    ) -> None:
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers or ()]
        if names and CPU_PROVIDER not in names:
            raise UsageError(f"providers {names} lack {CPU_PROVIDER}, which is what quantkit runs on")
        wanted = threads if threads is not None else getattr(sess_options, "intra_op_num_threads", 0) or None
        self.threads = wanted if wanted is not None else default_threads()
        if not isinstance(self.threads, int) or not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"threads={wanted!r} is not a number in 1..{MAX_THREADS}")
        self.isa = choose_isa(isa)
        self._source = model
        self._streams = Streams(self.threads, streams, pin)
        self._stored = StoredModel.open(Path(model), self.isa) if isinstance(model, str | Path) else None
        self._constants: dict[str, np.ndarray] = {}
        self._runners: list[NativeRegion | FloatStep | ControlStep]
        if self._stored is not None and self._stored.known:
            self._inputs, self._outputs = self._stored.inputs, self._stored.outputs
            self._open_steps(self._stored.steps)
            self._stored.steps = []  # they hold the models of steps, which onnxruntime has by now
        else:
            self._open_model()
        self._output_names = [a.name for a in self._outputs]
        self._checked = FeedCheck(self._inputs)
        self._whole = self._one_float_step()
        self._unread = {a.name for a in self._inputs} - set(self._whole.inputs if self._whole is not None else ())

    def _open_model(self) -> None:
        graph = self._model.graph
        self._inputs = [argument_of(v) for v in graph.inputs if not v.is_initializer()]
        self._outputs = [argument_of(v) for v in graph.outputs]
        self._constants = {v.name or "": v.const_value.numpy() for v in graph.outputs if v.const_value is not None}
        steps = [self._step_record(step) for step in self._steps]
        if not self._may_be_stored(steps):
            self._stored = None
        if self._stored is not None:
            self._stored.describe(self._inputs, self._outputs, dict(self._model.metadata_props), steps)
        self._open_steps(steps)

    def _may_be_stored(self, steps: Sequence[StoredStep]) -> bool:
        """Is a part of the model native, the rest not too large, all weights in the file, and no output constant?"""
        initializers = self._model.graph.initializers.values()
        in_file = not any(hasattr(v.const_value, "base_dir") for v in initializers)
        native = [step.model is None for step in steps]
        small = all(step.model is None or isinstance(step.model, bytes) for step in steps)
        bodies = any(step.control for step in steps)
        return in_file and small and any(native) and not self._constants and not bodies

    def _step_record(self, step: Step) -> StoredStep:
        inputs = [v.name or "" for v in step.inputs]
        if step.native or step.control:
            return StoredStep(inputs, control=step.control)
        from quantkit.execute.float_steps import step_model

        operators = ", ".join(dict.fromkeys(node.op_type for node in step.nodes))
        return StoredStep(inputs, step_model(self._model, step), step.nodes[0].name or "", operators)

    def _open_steps(self, steps: Sequence[StoredStep]) -> None:
        alone = len(steps) == 1
        self._runners = [
            self._control(i) if s.control else self._region(i, s.inputs) if s.model is None
            else self._float_step(s, alone)
            for i, s in enumerate(steps)
        ]  # fmt: skip

    def _control(self, index: int) -> ControlStep:
        from quantkit.execute.control import ControlStep
        from quantkit.load.prepared import mark_prepared

        def open_body(key: str, body: ir.Model) -> RunBody:
            mark_prepared(body)
            session = Session(body, self._streams.threads_each, self.isa)
            return lambda feeds: session.run(None, feeds)

        return ControlStep(self._model, self._steps[index].nodes[0], open_body)

    def _region(self, index: int, inputs: list[str]) -> NativeRegion:
        def lower(shapes: Shapes, specs: dict[str, PackedSpec]) -> Plan:
            from quantkit.lower.regions import lower_region

            step = self._steps[index]
            return lower_region(step, dict(zip(step.inputs, shapes, strict=True)), specs)

        stored = None if self._stored is None else self._stored.region(index)
        return NativeRegion(inputs, lower, self.isa, stored, self.threads)

    def _float_step(self, step: StoredStep, alone: bool) -> FloatStep:
        from quantkit.execute.float_steps import FloatStep

        assert step.model is not None
        return FloatStep(step.model, step.name, step.operators, self._streams.threads_each, alone)

    def _one_float_step(self) -> FloatStep | None:
        """The step that is the whole model, if onnxruntime runs all of it for one caller's threads at a time."""
        runner = self._runners[0] if len(self._runners) == 1 and not self._constants else None
        alone = runner is not None and hasattr(runner, "run_whole") and self._streams.count == 1
        return cast("FloatStep", runner) if alone else None

    @cached_property
    def _model(self) -> ir.Model:
        from quantkit.foreign import to_static
        from quantkit.load import artifact_kind, load
        from quantkit.load.prepared import is_prepared

        if is_prepared(self._source):
            return self._source
        model = load(self._source, strict=False)
        if artifact_kind(model) == "foreign-int8":
            to_static(model)
        return model

    @cached_property
    def _steps(self) -> list[Step]:
        from quantkit.lower.regions import partition

        return partition(self._model.graph)

    @property
    def streams(self) -> int:
        """Requests that run side by side on threads of their own."""
        return self._streams.count

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata: preprocessing, source file and hash..."""
        known = self._stored is not None and self._stored.known
        return dict(self._stored.metadata if known else self._model.metadata_props)  # type: ignore[union-attr]

    @property
    def plan(self) -> list[NodePlan]:
        """For every node: where it runs, by which kernel, and why; batch 1 where the batch is dynamic."""
        from quantkit.execute.placement import node_plans

        return node_plans(self._model.graph, self._steps, self._runners, self.isa)

    @property
    def steps(self) -> list[Step]:
        """The native regions and onnxruntime steps in the order in which they run."""
        return list(self._steps)

    @property
    def arena_bytes(self) -> int:
        """Peak bytes of intermediate tensors in one run: the largest arena of the native regions, which take turns.

        Over the shapes run so far; 0 before the first run or look at `plan`.
        """
        return max((r.arena_bytes for r in self._runners if isinstance(r, NativeRegion)), default=0)

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
        source = Path(self._source).name if isinstance(self._source, str | Path) else "model in memory"
        return f"<quantkit.Session {source}: {native} of {total} nodes native, {self.isa}, {self.threads} threads>"

    def get_inputs(self) -> list[Argument]:
        return list(self._inputs)

    def get_outputs(self) -> list[Argument]:
        return list(self._outputs)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[np.ndarray]:
        """Outputs by name (None: all, in the model's order) for inputs {name: array}. run_options: not used.

        Raises DataError for a missing or unknown input, a wrong dtype, rank or fixed dimension, or where all are empty.
        """
        if isinstance(output_names, str):
            raise UsageError(f"outputs {output_names!r} is no list of names; give [{output_names!r}], or None for all")
        if type(input_feed) is not dict and not isinstance(input_feed, Mapping):
            raise DataError(f"{type(input_feed).__name__} is no feed; give a dict of arrays by input name")
        wanted = list(output_names) if output_names else self._output_names
        if self._whole is not None:
            found = self._run_whole(self._whole, wanted, input_feed)
            if found is not None:
                return found
        if wanted is not self._output_names:
            for name in wanted:
                if name not in self._output_names:
                    raise UsageError(f"the model has no output {name!r}; it has {', '.join(self._output_names)}")
        values = self._execute(input_feed)
        return [values[name] for name in wanted]

    def _run_whole(self, step: FloatStep, wanted: list[str], feeds: Mapping[str, Any]) -> list[np.ndarray] | None:
        """The outputs at what onnxruntime costs; None: to be checked, for what is fed is empty or was refused."""
        for array in feeds.values():
            if getattr(array, "size", 1) == 0:
                return None
        if self._unread:  # onnxruntime knows no input that no node reads
            if len(feeds) != len(self._inputs):
                return None
            feeds = {name: array for name, array in feeds.items() if name not in self._unread}
        try:
            return step.run_whole(wanted, feeds)
        except Exception:  # the checks of `run` say what it is about
            return None

    def run_many(self, output_names: Sequence[str] | None, input_feeds: Iterable[Mapping[str, Any]],
                 ) -> list[list[np.ndarray]]:  # fmt: skip
        """`run` for each of several feeds, on all streams at once; results in the order of the feeds.

        Raises what `run` raises for the first feed that fails.
        """
        if self._streams.count == 1:
            return [self.run(output_names, feed) for feed in input_feeds]
        return list(self._streams.callers.map(lambda feed: self.run(output_names, feed), input_feeds))

    def profile(self, input_feed: Mapping[str, Any]) -> list[tuple[str, str, str, float, int]]:
        """(node, op, kernel, microseconds, MACs) of each node of one run; onnxruntime steps count as one row each."""
        from quantkit.execute.float_steps import FloatStep

        times: dict[str, int] = {}
        self._execute(input_feed, times)
        rows = [(p.name, p.op, p.kernel, times[p.name] / 1000, p.macs) for p in self.plan if p.name in times]
        steps = [(n, "", "onnxruntime", t / 1000, 0) for n, t in times.items() if n.startswith(FloatStep.PROFILE_NAME)]
        return rows + steps

    def step_seconds(self, input_feed: Mapping[str, Any], rounds: int, most: float = float("inf")) -> list[float]:
        """The shortest time of each of `steps` over `rounds` runs on the same feed, one after the other; CPU time where
        the session has one thread. After `most` seconds of CPU time ROUNDS_LEAST runs are enough."""
        best, clock = [float("inf")] * len(self._runners), cpu_clock() if self.threads == 1 else time.perf_counter
        deadline = Deadline(most)
        for done in range(rounds):
            if done >= ROUNDS_LEAST and deadline.is_over:
                break
            values = {**self._constants, **self._checked(input_feed)}
            with self._streams.pool() as pool:
                for i, runner in enumerate(self._runners):
                    start = clock()
                    runner.run(values, pool, None)
                    best[i] = min(best[i], clock() - start)
        return best

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
        values = self._checked(feeds)
        if self._constants:
            values.update(self._constants)
        with self._streams.pool() as pool:
            for runner in self._runners:
                runner.run(values, pool, nanoseconds)
        return values


__all__ = ["Argument", "EngineError", "Session", "default_threads"]
