"""INT8 against FP32 on the same samples: accuracy, fidelity, size, speed, error by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import DataError, ModelError
from quantkit.execute.intermediate import expose
from quantkit.execute.session import Session, default_threads
from quantkit.fuse.judged import judged_tensors
from quantkit.load import artifact_kind, input_specs, load
from quantkit.observe import FloatRunner
from quantkit.report import text
from quantkit.report.accuracy import Tally
from quantkit.report.changes import ChangeLog, class_names
from quantkit.report.explain import LAYER_COLUMNS, Advice, advice, range_cells, worst_layers
from quantkit.report.goal import ATTEMPT_COLUMNS, attempt_rows, goal_record, goal_sentence
from quantkit.report.inspect import coverage, placed_nodes
from quantkit.report.layers import LayerError, layer_errors
from quantkit.report.machine import describe_machine
from quantkit.report.models import model_bytes, model_proto
from quantkit.report.provenance import NOT_A_FILE, provenance
from quantkit.report.runtimes import Run
from quantkit.report.samples import open_samples, session_inputs
from quantkit.report.speed import latency, layer_times, prepare_rivals, same_batch, throughput, throughput_of

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Progress = Callable[[str, int, int | None], None]

LAYER_SAMPLES = 32
"""Samples for the error by layer: enough to rank layers, few enough to take a second."""
THROUGHPUT_SECONDS = 4.0
WORST_LAYERS = 10
"""Layers that the text shows without --verbose."""


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`. Fractions are 0..1, bytes count external data, throughput is in samples a second.

    confidence: 95 % intervals and McNemar's p (statistics.py); latency: see speed.latency; layer_times: see
    speed.layer_times; nodes: where every node runs, and which nodes feed it; changes: sample by sample;
    provenance: hashes and configuration; measured_at: the tensors that fidelity is measured at, where the outputs have
    no distance (quantkit.fuse.judged). goal: what was tried for an accuracy goal (goal.py).
    """

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
    confidence: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    layer_times: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    changes: ChangeLog = field(default_factory=ChangeLog)
    classes: dict[int, str] = field(default_factory=dict)
    provenance: dict[str, Any] | None = None
    measured_at: list[str] = field(default_factory=list)
    goal: dict[str, Any] | None = None

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
            "layers": [self.layer_entry(layer) for layer in self.layers],
            "advice": [vars(entry) for entry in self.advice] or None,
            "confidence": self.confidence,
            "latency": self.latency
            and {
                **self.latency,
                "runs": [{k: v for k, v in run.items() if k != "times_ms"} for run in self.latency["runs"]],
            },
            "changed_samples": [vars(change) for change in self.changes.records if change.kind != "same"],
            "goal": self.goal,
            "provenance": self.provenance,
            "measured_at": self.measured_at or None,
        }
        return {key: value for key, value in values.items() if value is not None or key == "agreement"}

    def layer_entry(self, layer: LayerError) -> dict[str, Any]:
        """Everything about one layer but its histogram: errors, range, clipping, time, kernel, ISA."""
        entry = {key: value for key, value in vars(layer).items() if key != "histogram"}
        time = self.layer_times.get(layer.name, {})
        return {**entry, "us": time.get("us"), "kernel": time.get("kernel"), "isa": self.machine["isa"]}

    @property
    def advice(self) -> list[Advice]:
        """One sentence on each of the layers that add most noise."""
        return advice(self.layers, self.provenance["calibration"]["method"] if self.provenance else None)

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
            ["output SQNR", text.decibel(self.sqnr_db), f"signal to quantization noise, {self.measured_where()}"],
        ]
        if self.flips:
            rows.append(["flips", f"{self.flips['fixed']} / {self.flips['broken']}", "fixed / broken by INT8"])
        native = f"{text.percent(self.coverage['native_nodes'])} of the nodes"
        rows.append(["native", text.percent(self.coverage["native_macs"]), f"of the multiply-accumulates, {native}"])
        return rows

    def measured_where(self) -> str:
        """What the SQNR is over: the outputs, or what comes before a tail such as NonMaxSuppression."""
        count = len(self.measured_at)
        return f"{count} tensors before boxes or classes are picked" if count else "all outputs"

    def layer_rows(self, every_layer: bool = True) -> list[list[str]]:
        """[layer, op, introduced, accumulated, range, clipped, dead]: all in model order, or those that introduce most
        noise first."""
        layers = self.layers if every_layer else worst_layers(self.layers, WORST_LAYERS)
        return [
            [layer.name, layer.op, text.decibel(layer.introduced_db), text.decibel(layer.sqnr_db), *range_cells(layer)]
            for layer in layers
        ]

    def measured_on(self) -> str:
        """Where the speed was measured; no speed is shown without it."""
        batch = f", batch {self.throughput['batch']}" if self.throughput else ""
        return f"{self.machine['cpu']}, {self.machine['isa']}, {text.threads(self.machine['threads'])}{batch}"

    def names(self) -> tuple[str, str]:
        """File names of the FP32 and of the INT8 model, or what stands for models that are not files."""
        models = self.provenance["models"] if self.provenance else {}
        names = [models.get(key, {}).get("file", NOT_A_FILE) for key in ("fp32", "int8")]
        fp32, int8 = (
            short if name == NOT_A_FILE else name for name, short in zip(names, ("FP32", "INT8"), strict=True)
        )
        return fp32, int8

    def to_html(self, fp32: str | None = None, int8: str | None = None) -> str:
        """The whole report as one HTML page; the names are for its title, by default those of the files."""
        from quantkit.report.html import comparison_page

        return comparison_page(self, fp32 or self.names()[0], int8 or self.names()[1])

    def to_markdown(self, fp32: str | None = None, int8: str | None = None) -> str:
        """The report as Markdown; the names are for its title, by default those of the files."""
        from quantkit.report.markdown import comparison_markdown

        return comparison_markdown(self, fp32 or self.names()[0], int8 or self.names()[1])

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own, so that styles and scripts stay inside."""
        return (
            f'<iframe srcdoc="{escape(self.to_html(), quote=True)}" style="width:100%;height:40rem;border:0"></iframe>'
        )

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
            parts.append(text.table([first, *LAYER_COLUMNS], self.layer_rows(every_layer)))
            parts.append("\n".join(entry.sentence for entry in self.advice))
        if self.goal:
            parts += [goal_sentence(self.goal), text.table(list(ATTEMPT_COLUMNS), attempt_rows(self.goal))]
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
    against: Sequence[str] = (),
    float_graph: Callable[[Any], onnx.ModelProto] | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Comparison:
    """Run both models (path, ModelProto, onnx_ir.Model or ModelResult) on `data` and compare their outputs.

    sampling: keywords of `report.samples.open_samples`; the default `preprocess` is in the INT8 metadata.
    layers: measure the error by layer. seconds: time to measure speed for; 0: do not.
    against: runtimes (report.runtimes.RUNTIMES) to time the INT8 model in, too.
    float_graph: the FP32 model rewritten so that its tensors are those of the INT8 model; None: as it is.
    Raises ModelError if the outputs of the two differ in name, DataError if there is no sample.
    """
    fp32, int8, threads = getattr(fp32, "model", fp32), getattr(int8, "model", int8), threads or default_threads()
    session = Session(int8, threads=threads, isa=isa)
    loaded = load(fp32)
    _require_original(loaded, session)
    runner = FloatRunner(fp32, threads)
    rivals = prepare_rivals(int8, against, threads, sampling.get("warn"))
    dataset = open_samples(data, session_inputs(session), session.metadata, **sampling)
    tally, changes = Tally(), ChangeLog(dataset.preprocess)
    names = _shared_outputs(runner.output_names, [output.name for output in session.get_outputs()])
    judges = _judges(loaded, int8, names, threads, isa) or (runner, session, names)
    first = _run_both(*judges, dataset, tally, changes, progress)
    if first is None:
        raise DataError(f"{data}: no sample to compare on; check --data")
    _tell(tally.doubt(), sampling.get("warn"))
    errors = []
    if layers:
        reference = float_graph(fp32) if float_graph else model_proto(fp32)
        few = _first_feeds(dataset, LAYER_SAMPLES)
        errors = layer_errors(reference, int8, few, threads=threads, isa=isa, progress=progress)
    speed = _speed(runner, session, first, seconds, rivals, progress) if seconds > 0 else {}
    return Comparison(
        fp32={**tally.top("fp32"), "bytes": model_bytes(fp32)},
        int8={**tally.top("int8"), "bytes": model_bytes(int8)},
        samples=tally.samples,
        agreement=tally.agreement,
        sqnr_db=tally.power.db,
        flips=tally.flips(),
        coverage=coverage(session.plan),
        machine=describe_machine(session.isa, threads),
        layers=errors,
        confidence=tally.confidence(),
        nodes=placed_nodes(session),
        changes=changes,
        classes=class_names(data, sampling.get("labels")),
        provenance=provenance(fp32, int8, dataset, session.metadata, sampling),
        measured_at=[] if judges[1] is session else judges[2],
        goal=goal_record(session.metadata),
        **{"throughput": None, **speed},
    )


def _tell(doubt: str | None, warn: Callable[[str], None] | None) -> None:
    if doubt is not None and warn is not None:
        warn(doubt)


def _judges(
    fp32: ir.Model, int8: Any, outputs: Sequence[str], threads: int, isa: str | None
) -> tuple[FloatRunner, Session, list[str]] | None:
    """Both models up to the tensors that have a distance, where the outputs have none; None where they have."""
    wanted = judged_tensors(fp32.graph)
    if set(wanted) <= set(outputs):
        return None
    session = Session(expose(load(int8), wanted), threads=threads, isa=isa)
    names = [output.name for output in session.get_outputs()]
    return (FloatRunner(fp32, threads, expose=names), session, names) if names else None


def _run_both(
    runner: FloatRunner,
    session: Session,
    names: list[str],
    dataset: Any,
    tally: Tally,
    changes: ChangeLog,
    progress: Progress | None,
) -> dict[str, np.ndarray] | None:
    """Both models on every batch. Returns the feeds of the first one, None if there was none."""
    first = None
    for batch in dataset:
        first = first or batch.feeds
        reference = dict(zip(names, runner.run(batch.feeds, names), strict=True))
        outputs = dict(zip(names, session.run(names, batch.feeds), strict=True))
        tally.add(reference, outputs, batch.labels, batch.valid)
        changes.add(batch, reference[names[0]], outputs[names[0]])
        if progress:
            progress("compare", tally.samples, dataset.count)
    return first


def _speed(
    runner: FloatRunner,
    session: Session,
    feeds: dict[str, np.ndarray],
    seconds: float,
    rivals: Mapping[str, Run],
    progress: Progress | None,
) -> dict[str, Any]:
    """Throughput and latency, each for half the time, measured once where both are of one batch; the time by layer."""
    if progress:
        progress("speed", 0, None)
    one = same_batch(session, feeds)
    alone = latency(runner, session, feeds, seconds if one else seconds / 2, rivals)
    together = throughput_of(alone) if one else throughput(runner, session, feeds, seconds / 2)
    return {"throughput": together, "latency": alone, "layer_times": layer_times(session, feeds)}


def _require_original(fp32: ir.Model, session: Session) -> None:
    """Raise ModelError if `fp32` is a model of quantkit's own, or takes other inputs than the INT8 model."""
    kind = artifact_kind(fp32)
    if kind in ("converted", "calibrated"):
        raise ModelError(f"the first model is {kind} by quantkit; give the FP32 model first, then the INT8 model")
    wanted = {spec.name: spec.shape for spec in input_specs(fp32)}
    found = {spec.name: spec.shape for spec in session_inputs(session)}
    if wanted.keys() != found.keys() or any(_exclude(wanted[name], found[name]) for name in wanted):
        fp32_inputs, int8_inputs = (
            ", ".join(f"{name} {text.shape(shape)}" for name, shape in inputs.items()) for inputs in (wanted, found)
        )
        raise ModelError(
            f"the inputs differ: FP32 takes {fp32_inputs}; INT8 takes {int8_inputs}. "
            "Compare an INT8 model with the FP32 model that it was made from"
        )


def _exclude(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """No array has both shapes. A dimension that is not an int may be any; () may be a shape that is not known."""
    return bool(a and b) and (
        len(a) != len(b) or any(isinstance(m, int) and isinstance(n, int) and m != n for m, n in zip(a, b, strict=True))
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
