"""quantkit as a backend of ONNX's own tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.backend.base import Backend, BackendRep

from quantkit import Session


class QuantkitRep(BackendRep):
    """A session with the calling convention of onnx.backend: inputs in the model's order."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        names = [argument.name for argument in self.session.get_inputs()]
        return tuple(self.session.run(None, dict(zip(names, inputs, strict=False))))


class QuantkitBackend(Backend):
    """Every model runs: natively where it is quantized, else in onnxruntime."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> QuantkitRep:
        return QuantkitRep(Session(model, threads=1))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class OnnxruntimeBackend(QuantkitBackend):
    """What the cases are judged by: those that it passes, quantkit must pass."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> QuantkitRep:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        content = model.SerializeToString()
        return QuantkitRep(onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]))


def passes(backend: type[Backend], case: Any) -> str:
    """Runs a case; "" if every output agrees within its tolerance, else what went wrong."""
    try:
        rep = backend.prepare(case.model)
        for inputs, outputs in case.data_sets:
            got = rep.run(inputs)
            assert len(got) == len(outputs), f"{len(got)} outputs, not {len(outputs)}"
            for have, want in zip(got, outputs, strict=True):
                _compare(have, want, case)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip()[:300]}"
    return ""


def _compare(have: Any, want: Any, case: Any) -> None:
    if isinstance(want, list):
        assert len(have) == len(want), f"{len(have)} elements, not {len(want)}"
        for inner_have, inner_want in zip(have, want, strict=True):
            _compare(inner_have, inner_want, case)
        return
    if want is None or have is None:
        assert have is want, f"{have}, not {want}"
        return
    have, want = np.asarray(have), np.asarray(want)
    assert have.dtype == want.dtype or want.dtype.kind in "OUS", f"{have.dtype}, not {want.dtype}"
    if want.dtype.kind in "OUS":
        np.testing.assert_array_equal(have.astype(str), want.astype(str))
    else:
        np.testing.assert_allclose(have, want, rtol=case.rtol, atol=case.atol)
