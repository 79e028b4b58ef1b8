"""INT8 against FP32 on the same samples: accuracy, fidelity, size, speed, error by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import DataError, ModelError
from quantkit.execute.session import Session, default_threads
from quantkit.load import load
from quantkit.observe import FloatRunner
from quantkit.report import text
from quantkit.report.accuracy import Tally
from quantkit.report.inspect import coverage
from quantkit.report.layers import LayerError, layer_errors
from quantkit.report.machine import describe_machine
from quantkit.report.models import model_bytes, model_proto
from quantkit.report.samples import open_samples, session_inputs
from quantkit.report.timing import interleave, median_ratio

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, int, int | None], None]

LAYER_SAMPLES = 32
"""Samples for the error by layer: enough to rank layers, few enough to take a second."""
THROUGHPUT_SECONDS = 4.0
WORST_LAYERS = 10
"""Layers that the text shows without --verbose."""


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`. Fractions are 0..1, bytes count external data, throughput is in samples a second."""

    fp32: dict[str, Any]
    int8: dict[str, Any]
    samples: int
    agreement: float | None
    sqnr_db: float
    flips: dict[str, int] | None
    throughput: dict[str, Any] | None
    coverage: dict[str, float]
    machine: dict[str, Any]
    layers: list[LayerError]

    def to_json(self) -> dict[str, Any]:
        """The JSON of `quantkit compare`; `flips` is absent without labels, `throughput` if it was not measured."""
        values: dict[str, Any] = {
            "fp32": self.fp32,
            "int8": self.int8,
            "samples": self.samples,
            "agreement": self.agreement,
            "sqnr_db": self.sqnr_db,
            "flips": self.flips,
            "throughput": self.throughput,
            "coverage": self.coverage,
            "machine": self.machine,
            "layers": [vars(layer) for layer in self.layers],
        }
        return {key: value for key, value in values.items() if value is not None or key == "agreement"}

    def summary_rows(self) -> list[list[str]]:
        """[what, FP32, INT8, difference] for the table at the top of every form of the report."""
        rows = []
        for key, name in (("top1", "top-1"), ("top5", "top-5")):
            if self.fp32[key] is not None:
                drop = f"{100 * (self.int8[key] - self.fp32[key]):+.2f} points"
                rows.append([name, text.percent(self.fp32[key]), text.percent(self.int8[key]), drop])
        smaller = f"{text.times(self.fp32['bytes'] / self.int8['bytes'])} smaller"
        rows.append(["size", text.size(self.fp32["bytes"]), text.size(self.int8["bytes"]), smaller])
        if self.throughput:
            fp32, int8 = (f"{self.throughput[key]:.1f}/s" for key in ("fp32_onnxruntime", "int8_quantkit"))
            rows.append(["throughput", fp32, int8, f"{text.times(self.throughput['speedup'])} as fast"])
        return rows

    def fact_rows(self) -> list[list[str]]:
        """[what, value, what it means] for the second table."""
        rows = [
            ["same class as FP32", text.percent(self.agreement), f"on {self.samples} samples"],
            ["output SQNR", text.decibel(self.sqnr_db), "signal to quantization noise, all outputs"],
        ]
        if self.flips:
            rows.append(["flips", f"{self.flips['fixed']} / {self.flips['broken']}", "fixed / broken by INT8"])
        native = f"{text.percent(self.coverage['native_nodes'])} of the nodes"
        rows.append(["native", text.percent(self.coverage["native_macs"]), f"of the multiply-accumulates, {native}"])
        return rows

    def layer_rows(self, every_layer: bool = True) -> list[list[str]]:
        """[layer, op, SQNR]: all in model order, or the worst first."""
        layers = self.layers if every_layer else sorted(self.layers, key=lambda layer: layer.sqnr_db)[:WORST_LAYERS]
        return [[layer.name, layer.op, text.decibel(layer.sqnr_db)] for layer in layers]

    def measured_on(self) -> str:
        """Where the speed was measured; no speed is shown without it."""
        batch = f", batch {self.throughput['batch']}" if self.throughput else ""
        return f"{self.machine['cpu']}, {self.machine['isa']}, {self.machine['threads']} threads{batch}"

    def to_text(self, every_layer: bool = False) -> str:
        """Tables for the terminal."""
        parts = [
            text.table(["", "FP32", "INT8", "INT8 vs FP32"], self.summary_rows()),
            text.table(["", "value", ""], self.fact_rows()),
        ]
        if self.layers:
            first = (
                "layer" if every_layer or len(self.layers) <= WORST_LAYERS else f"worst of {len(self.layers)} layers"
            )
            parts.append(text.table([first, "op", "SQNR"], self.layer_rows(every_layer)))
        return "\n\n".join([*parts, f"measured on: {self.measured_on()}"])


def compare(
    fp32: Path | str | Any,
    int8: Path | str | Any,
    data: Any,
    *,
    threads: int | None = None,
    isa: str | None = None,
    layers: bool = True,
    seconds: float = THROUGHPUT_SECONDS,
    float_graph: Callable[[Any], onnx.ModelProto] | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Comparison:
    """Run both models (path, ModelProto, onnx_ir.Model or ModelResult) on `data` and compare their outputs.

    sampling: keywords of `report.samples.open_samples`; the default `preprocess` is in the INT8 metadata.
    layers: measure the error by layer. seconds: time to measure throughput for; 0: do not.
    float_graph: the FP32 model rewritten so that its tensors are those of the INT8 model; None: as it is.
    Raises ModelError if the outputs of the two differ in name, DataError if there is no sample.
    """
    fp32, int8 = (getattr(model, "model", model) for model in (fp32, int8))
    threads = threads or default_threads()
    session = Session(int8, threads=threads, isa=isa)
    load(fp32)  # its errors say what is wrong with a file, onnxruntime's do not
    runner = FloatRunner(fp32, threads)
    names = _shared_outputs(runner.output_names, [output.name for output in session.get_outputs()])
    dataset = open_samples(data, session_inputs(session), session.metadata, **sampling)
    tally, first = Tally(), None
    for batch in dataset:
        first = first or batch
        reference = dict(zip(names, runner.run(batch.feeds, names), strict=True))
        outputs = dict(zip(names, session.run(names, batch.feeds), strict=True))
        tally.add(reference, outputs, batch.labels, batch.valid)
        if progress:
            progress("compare", tally.samples, dataset.count)
    if first is None:
        raise DataError(f"{data}: no sample to compare on; check --data")
    errors = []
    if layers:
        reference = float_graph(fp32) if float_graph else model_proto(fp32)
        few = _first_feeds(dataset, LAYER_SAMPLES)
        errors = layer_errors(reference, int8, few, threads=threads, isa=isa, progress=progress)
    return Comparison(
        fp32={**tally.top("fp32"), "bytes": model_bytes(fp32)},
        int8={**tally.top("int8"), "bytes": model_bytes(int8)},
        samples=tally.samples,
        agreement=tally.agreement,
        sqnr_db=tally.power.db,
        flips=tally.flips(),
        throughput=_throughput(runner, session, first.feeds, seconds, progress) if seconds > 0 else None,
        coverage=coverage(session.plan),
        machine=describe_machine(session.isa, threads),
        layers=errors,
    )


def _shared_outputs(fp32: list[str], int8: list[str]) -> list[str]:
    if set(fp32) != set(int8):
        raise ModelError(
            f"the outputs differ: FP32 has {', '.join(fp32)}; INT8 has {', '.join(int8)}. "
            "Compare an INT8 model with the FP32 model that it was made from"
        )
    return fp32


def _first_feeds(dataset: Any, samples: int) -> Iterator[dict[str, np.ndarray]]:
    """Whole batches until they hold `samples` samples."""
    seen = 0
    for batch in dataset:
        yield batch.feeds
        seen += batch.valid
        if seen >= samples:
            return


def _throughput(
    runner: FloatRunner, session: Session, feeds: dict[str, np.ndarray], seconds: float, progress: Progress | None
) -> dict[str, Any]:
    """Samples a second of both, interleaved, on one batch; the speedup is the median over rounds."""
    if progress:
        progress("throughput", 0, None)
    times = interleave([lambda: runner.run(feeds), lambda: session.run(None, feeds)], seconds=seconds)
    arrays = [array for array in feeds.values() if np.ndim(array)]
    batch = len(arrays[0]) if arrays else 1
    fp32, int8 = batch / np.median(times, axis=0)
    return {
        "fp32_onnxruntime": float(fp32),
        "int8_quantkit": float(int8),
        "speedup": median_ratio(times[:, 0], times[:, 1]),
        "batch": batch,
    }
