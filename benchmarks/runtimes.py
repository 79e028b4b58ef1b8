"""The runtimes that are compared: how each makes its INT8 file, and how each is opened at its best."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo import BenchModel

Run = Callable[[np.ndarray], np.ndarray]
"""float32 [batch, C, H, W] -> float32 output. The memory of the output may be used again by the next call."""


@dataclass(frozen=True)
class Setting:
    """How a candidate is opened. isa: of quantkit; None is the best there is."""

    batch: int
    threads: int
    isa: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A runtime at a precision. build(model, fp32 file, target) writes what open(file, model, setting) reads.

    needs: modules that must be installed. suffix: of the file it makes; "" if it takes the FP32 file itself.
    """

    name: str
    int8: bool
    needs: tuple[str, ...]
    suffix: str
    build: Callable[[BenchModel, Path, Path], None]
    open: Callable[[Path, BenchModel, Setting], Run]

    @property
    def missing(self) -> str | None:
        """The module that is not installed, if any."""
        return next((n for n in self.needs if importlib.util.find_spec(n) is None), None)

    def file(self, model: BenchModel, folder: Path, fresh: bool = False) -> Path:
        """Its file, made now if it is not there or `fresh`."""
        fp32 = folder / f"{model.name}.onnx"
        if not fp32.is_file():
            model.write(fp32)
        target = folder / f"{model.name}{self.suffix}" if self.suffix else fp32
        if not target.is_file() or (fresh and target != fp32):
            self.build(model, fp32, target)
        return target


def limit_to_avx2() -> None:
    """Keep OpenVINO to AVX2; to be called before it is imported. onnxruntime has no such switch."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"


def _no_build(model: BenchModel, fp32: Path, target: Path) -> None:
    """The FP32 file is used as it is."""


# ---- quantkit ----


def _quantkit_build(model: BenchModel, fp32: Path, target: Path) -> None:
    from quantkit import pipeline

    calibration, _ = model.samples()
    feeds = [{model.input: calibration[i : i + 1]} for i in range(len(calibration))]
    pipeline.quantize(fp32, feeds).save(target, force=True)


def _quantkit_open(path: Path, model: BenchModel, setting: Setting) -> Run:
    import quantkit

    session = quantkit.Session(path, threads=setting.threads, isa=setting.isa)
    return lambda x: session.run(None, {model.input: x})[0]


# ---- onnxruntime ----


def _onnxruntime_build(model: BenchModel, fp32: Path, target: Path) -> None:
    """Static QDQ, u8 activations, s8 weights per channel, minmax: what its documentation advises for x86."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    calibration, _ = model.samples()

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(range(len(calibration)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            i = next(self._left, None)
            return None if i is None else {model.input: calibration[i : i + 1]}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


def _onnxruntime_open(path: Path, model: BenchModel, setting: Setting) -> Run:
    """All graph optimizations. Its threads stop spinning between runs: they would take the others' cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {model.input: x})[0]


# ---- OpenVINO ----


def _openvino_build(model: BenchModel, fp32: Path, target: Path) -> None:
    """NNCF's post-training quantization with its defaults (bias correction included)."""
    import nncf
    import openvino

    calibration, _ = model.samples()
    samples: Iterable[Any] = [calibration[i : i + 1] for i in range(len(calibration))]
    quantized = nncf.quantize(openvino.Core().read_model(fp32), nncf.Dataset(samples), subset_size=len(calibration))
    openvino.save_model(quantized, target, compress_to_fp16=False)


def _openvino_from_qdq(model: BenchModel, fp32: Path, target: Path) -> None:
    """quantkit's INT8 model in plain QDQ, where NNCF is not installed."""
    from quantkit.report.export import export_qdq

    target.write_bytes(export_qdq(QUANTKIT.file(model, target.parent)).SerializeToString())


def _openvino_open(path: Path, model: BenchModel, setting: Setting) -> Run:
    """Latency hint, one stream, fixed input shape, float32 where a layer is not quantized."""
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape([setting.batch, *model.samples()[0].shape[1:]])
    settings = {
        "INFERENCE_NUM_THREADS": setting.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda x: next(iter(request.infer([x], share_inputs=True, share_outputs=True).values()))


# ---- torch ----


def _torch_open(path: Path, model: BenchModel, setting: Setting) -> Run:
    """Eager mode on what onnx2torch makes of the model."""
    import onnx2torch
    import torch

    torch.set_num_threads(setting.threads)
    module = onnx2torch.convert(str(path)).eval()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


QUANTKIT = Candidate("quantkit INT8", True, (), ".quantkit.onnx", _quantkit_build, _quantkit_open)
REFERENCE = Candidate("onnxruntime FP32", False, (), "", _no_build, _onnxruntime_open)
_NNCF = Candidate(
    "OpenVINO INT8 (NNCF)", True, ("openvino", "nncf"), ".nncf.xml", _openvino_build, _openvino_open
)  # fmt: skip
_FROM_QDQ = Candidate(
    "OpenVINO INT8 (quantkit QDQ)", True, ("openvino",), ".qdq.onnx", _openvino_from_qdq, _openvino_open
)  # fmt: skip
CANDIDATES: dict[str, Candidate] = {
    "quantkit": QUANTKIT,
    "onnxruntime-fp32": REFERENCE,
    "onnxruntime-int8": Candidate(
        "onnxruntime INT8", True, (), ".onnxruntime.onnx", _onnxruntime_build, _onnxruntime_open
    ),
    "openvino-fp32": Candidate("OpenVINO FP32", False, ("openvino",), "", _no_build, _openvino_open),
    "openvino-int8": _NNCF if _NNCF.missing is None else _FROM_QDQ,
    "torch-fp32": Candidate("torch FP32", False, ("torch", "onnx2torch"), "", _no_build, _torch_open),
}
"""By the name that --against takes; quantkit is always measured."""
