"""Other runtimes, as `bench` compares with them: each takes a model file and gives a function of the feeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import UsageError
from quantkit.load import artifact_kind, load
from quantkit.report.export import export_qdq
from quantkit.report.models import model_proto

if TYPE_CHECKING:
    import onnx

Run = Callable[[dict[str, np.ndarray]], object]


def standard_model(model: Path) -> onnx.ModelProto:
    """What a runtime without local functions is given: FP32 as it is, a quantkit model as QDQ."""
    return export_qdq(model) if artifact_kind(load(model)) in ("converted", "calibrated") else model_proto(model)


def onnxruntime_run(model: Path, threads: int) -> Run:
    """onnxruntime's CPU provider, all graph optimizations, `threads` intra-op threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # others are timed between its runs
    proto = standard_model(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def openvino_run(model: Path, threads: int) -> Run:
    """OpenVINO on the CPU, tuned for latency, one stream, float32 where it is not quantized."""
    openvino = _imported("openvino", "pip install 'quantkit[bench]'")
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(standard_model(model).SerializeToString()), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda feeds: request.infer(feeds, share_inputs=True, share_outputs=True)


def torch_run(model: Path, threads: int) -> Run:
    """PyTorch eager mode on what onnx2torch makes of the model."""
    torch = _imported("torch", "pip install torch torchvision onnx2torch")
    onnx2torch = _imported("onnx2torch", "pip install torch torchvision onnx2torch")
    torch.set_num_threads(threads)
    module = onnx2torch.convert(standard_model(model)).eval()

    def run(feeds: dict[str, np.ndarray]) -> object:
        with torch.inference_mode():
            return module(*(torch.from_numpy(array) for array in feeds.values()))

    return run


def _imported(name: str, remedy: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--against needs {name}, which cannot be imported ({error}): {remedy}") from error


RUNTIMES: dict[str, Callable[[Path, int], Run]] = {
    "onnxruntime": onnxruntime_run,
    "openvino": openvino_run,
    "torch": torch_run,
}
