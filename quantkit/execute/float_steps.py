"""The nodes that the engine does not run: one onnxruntime session for each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.errors import DataError, ModelError, first_line
from quantkit.load.parts import submodel
from quantkit.lower.regions import Step
from quantkit.observe.runner import described

EXTERNAL_DATA_LIMIT = 1 << 30
"""Bytes of weights above which a step's model goes to onnxruntime through a file instead of protobuf's 2 GB."""


_RESTING: ContextVar[bool] = ContextVar("resting", default=False)


@contextmanager
def resting_between_runs() -> Iterator[None]:
    """Sessions opened inside leave the cores to others as soon as a run ends, as what is timed in turns must."""
    token = _RESTING.set(True)
    try:
        yield
    finally:
        _RESTING.reset(token)


class FloatStep:
    """A step of a session that onnxruntime runs. alone: it is the session's only step. inputs: what its nodes read.

    Beside native regions onnxruntime's threads rest as soon as the step ends: spinning on, they would hold the cores
    that the next region runs on.
    """

    PROFILE_NAME = "onnxruntime step"

    def __init__(self, model: ir.Model | bytes, name: str, operators: str, threads: int, alone: bool = False) -> None:
        """model: of the step alone. name: of its first node. operators: of all of them. Raises ModelError."""
        import onnxruntime as ort

        self._name = name
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors come as exceptions
        options.enable_mem_pattern = True
        if not alone or _RESTING.get():
            options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = _open(model, options)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run {operators}: {str(error).splitlines()[0]}") from error
        self._call = direct_call(self._session)
        self.inputs = [i.name for i in self._session.get_inputs()]
        self._outputs = [o.name for o in self._session.get_outputs()]

    def run_whole(self, names: list[str], feeds: Mapping[str, object]) -> list[np.ndarray]:
        """The outputs `names` for a model's feeds, if the step is the whole model; onnxruntime's own exceptions."""
        return self._call(names, feeds, None)

    def run(self, values: dict[str, np.ndarray], pool: object, nanoseconds: dict[str, int] | None = None) -> None:
        """Reads the step's inputs from `values` and adds its outputs. pool: not used, onnxruntime has its own."""
        start = time.perf_counter_ns() if nanoseconds is not None else 0
        feeds = {name: values[name] for name in self.inputs}
        try:
            found = self._call(self._outputs, feeds, None)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise DataError(f"onnxruntime cannot run the model on {described(feeds)}: {first_line(error)}") from error
        values.update(zip(self._outputs, found, strict=True))
        if nanoseconds is not None:
            nanoseconds[f"{self.PROFILE_NAME} {self._name}"] = time.perf_counter_ns() - start


def direct_call(session: Any) -> Callable[..., list[np.ndarray]]:
    """`session.run` with all three arguments, without its Python part where there is one to leave out: 1 us of 4, for
    checks of names that Session makes itself and a retry on another provider than the CPU."""
    return getattr(session, "_sess", session).run


def step_model(model: ir.Model, step: Step) -> ir.Model | bytes:
    """A step as a model of its own; serialized unless it is too large for that."""
    inner = submodel(model, step.nodes, step.inputs, step.outputs)
    initializers = inner.graph.initializers.values()
    if sum(v.const_value.nbytes for v in initializers if v.const_value is not None) >= EXTERNAL_DATA_LIMIT:
        return inner
    for value in initializers:
        if isinstance(value.const_value, ir.ExternalTensor):  # bytes have no folder to look for the file in
            value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    return ir.to_proto(inner).SerializeToString()


def _open(model: ir.Model | bytes, options):  # type: ignore[no-untyped-def]
    import tempfile
    from pathlib import Path

    import onnxruntime as ort

    if isinstance(model, bytes):
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        ir.save(model, path, external_data="step.data")
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
