"""One table of accuracy after quantization: quantkit beside onnxruntime's calibrators and NNCF, on the same samples.

    python -m benchmarks.accuracy MODEL.onnx --calib DATA --data DATA [--labels FILE] [--preprocess NAME] [--json OUT]

onnxruntime's QDQ files run in onnxruntime, whose u8 x s8 kernels saturate on CPUs without VNNI: its rows depend on the
machine, quantkit's do not. Its percentile and entropy calibrators keep every activation of every sample, so they get
fewer samples (--histogram-samples).
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.machine import header
from quantkit import Session, pipeline
from quantkit.load import input_specs, load
from quantkit.observe import load_preprocess, open_data
from quantkit.report.accuracy import Tally
from quantkit.report.files import write_json
from quantkit.report.text import table
from quantkit.types import EFFORTS, QuantConfig

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
ORT_ROWS = {
    "onnxruntime minmax": ("MinMax", False),
    "onnxruntime minmax, reduce_range": ("MinMax", True),
    "onnxruntime percentile": ("Percentile", False),
    "onnxruntime entropy": ("Entropy", False),
}

ITSELF = {"agreement": None, "sqnr_db": None, "seconds": None}
"""FP32 compared with itself says nothing."""
QUANTKIT_ROWS: tuple[tuple[str, QuantConfig, int | None], ...] = (
    *((f"quantkit {effort}", QuantConfig(effort=effort), None) for effort in EFFORTS),
    ("quantkit balanced, 16 samples", QuantConfig(), 16),
    ("quantkit balanced, one weight scale a layer", QuantConfig(per_channel=False), None),
)


class Samples:
    """The calibration samples for onnxruntime's calibrators and for NNCF."""

    def __init__(self, data: Any) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = (batch.feeds for batch in data)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """What onnxruntime's CalibrationDataReader gives: feeds, then None."""
        return next(self._feeds, None)


def by_onnxruntime(model: Path, calib: Any, method: str, reduce_range: bool, folder: Path) -> Run:
    """quantize_static in QDQ form, u8 activations, s8 weights per channel; the rest are its defaults."""
    from onnxruntime import quantization as ort

    prepared, made = folder / "prepared.onnx", folder / "int8.onnx"
    ort.shape_inference.quant_pre_process(str(model), str(prepared))
    ort.quantize_static(
        str(prepared), str(made), Samples(calib), quant_format=ort.QuantFormat.QDQ, per_channel=True,
        activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8, reduce_range=reduce_range,
        calibrate_method=ort.CalibrationMethod[method],
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(made), providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def by_nncf(model: Path, calib: Any) -> Run:
    """nncf.quantize with its defaults (bias correction included) on the OpenVINO form of the model, run by OpenVINO."""
    import nncf
    import openvino

    feeds = [batch.feeds for batch in calib]
    quantized = nncf.quantize(openvino.convert_model(str(model)), nncf.Dataset(feeds), subset_size=len(feeds))
    compiled = openvino.compile_model(quantized, "CPU")
    return lambda values: list(compiled(values).values())


def by_quantkit(model: Path, calib: str, preprocess: str | None, config: QuantConfig, threads: int | None,
                samples: int | None = None) -> Run:  # fmt: skip
    """pipeline.quantize by a configuration, on all samples or on some, run by the engine."""
    made = pipeline.quantize(model, calib, preprocess=preprocess, config=config, threads=threads, samples=samples)
    session = Session(made.model)
    return lambda feeds: session.run(None, feeds)


def measured(make: Callable[[], Run], reference: Run, names: list[str], data: Any) -> dict[str, Any]:
    """{"top1", "agreement", "sqnr_db", "seconds"} of what `make` makes: fractions, dB, seconds to quantize.

    {"failed": what was raised} if it cannot; None for what does not apply.
    """
    start = time.perf_counter()
    try:
        run = make()
        seconds = time.perf_counter() - start
        tally = Tally()
        for batch in data:
            wanted, got = (dict(zip(names, r(batch.feeds), strict=True)) for r in (reference, run))
            tally.add(wanted, got, batch.labels, batch.valid)
    except Exception as error:  # one toolchain that fails does not end the table
        return {"failed": type(error).__name__}
    return {
        "top1": tally.top("int8")["top1"], "agreement": tally.agreement, "sqnr_db": tally.power.db, "seconds": seconds,
    }  # fmt: skip


def line(row: Mapping[str, Any]) -> list[str]:
    """A row of the table that is printed."""
    if "failed" in row:
        return [row["name"], f"failed: {row['failed']}", "", "", ""]
    columns = (("top1", 100, ".2f"), ("agreement", 100, ".2f"), ("sqnr_db", 1, ".2f"), ("seconds", 1, ".0f"))
    return [row["name"], *("" if row[k] is None else format(factor * row[k], form) for k, factor, form in columns)]


def main() -> None:
    """Parses the arguments, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for name in ("calib", "data"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("labels", "preprocess"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--histogram-samples", type=int, default=16,
                        help="samples for onnxruntime's percentile and entropy, which keep them all")  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the table there, for benchmarks.publish")
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    options = parser.parse_args()
    recipe = load_preprocess(options.preprocess) if options.preprocess else None
    specs = input_specs(load(options.model))
    calib = open_data(options.calib, specs, preprocess=recipe)
    data = open_data(options.data, specs, preprocess=recipe, labels=options.labels)
    session = onnxruntime.InferenceSession(str(options.model), providers=["CPUExecutionProvider"])
    names = [output.name for output in onnx.load(options.model, load_external_data=False).graph.output]

    def reference(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return session.run(None, feeds)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: dict[str, Callable[[], Run]] = {"FP32": lambda: reference}
        for label, (method, reduce_range) in ORT_ROWS.items():
            few = open_data(options.calib, specs, preprocess=recipe, samples=options.histogram_samples)
            used, note = (calib, "") if method == "MinMax" else (few, f", {options.histogram_samples} samples")
            rows[label + note] = lambda m=method, r=reduce_range, u=used: by_onnxruntime(options.model, u, m, r, folder)  # type: ignore[misc]
        if importlib.util.find_spec("nncf") and importlib.util.find_spec("openvino"):
            rows["NNCF"] = lambda: by_nncf(options.model, calib)
        for label, config, samples in QUANTKIT_ROWS:
            rows[label] = lambda c=config, n=samples: by_quantkit(  # type: ignore[misc]
                options.model, options.calib, options.preprocess, c, options.threads, n
            )
        chosen = {label: make for label, make in rows.items() if options.only in label}
        found = [{"name": label, **measured(make, reference, names, data)} for label, make in chosen.items()]
        found = [row | ITSELF if row["name"] == "FP32" else row for row in found]
    print(table(["", "top-1 %", "agreement %", "SQNR dB", "seconds"], [line(row) for row in found]))
    machine = header(None)
    print(f"\nmeasured on: {machine['cpu']}, onnxruntime {onnxruntime.__version__}")
    if options.json:
        counts = {"calibration_samples": len(calib), "samples": len(data)}
        write_json(options.json, {"machine": machine, "model": options.model.name, **counts, "rows": found})


if __name__ == "__main__":
    main()
