"""Models side by side in several runtimes: interleaved rounds, ratios first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import DataError, UsageError
from quantkit.execute.float_steps import resting_between_runs
from quantkit.execute.session import Session, default_threads
from quantkit.execute.timing import interleave, median_ratio
from quantkit.load.specs import TensorSpec
from quantkit.observe.synthetic import SAMPLE_RATE
from quantkit.quantize.calibration import PREPROCESS_KEY
from quantkit.report import text
from quantkit.report.machine import describe_machine
from quantkit.report.runtimes import RUNTIMES, Run
from quantkit.report.samples import session_inputs
from quantkit.report.speed import batch_size
from quantkit.report.statistics import latency_percentiles
from quantkit.report.streams import stream_throughput

Progress = Callable[[str, int, int | None], None]

OWN = "quantkit"
STREAM_SECONDS = 2.0
"""Most that one number of streams with one batch is measured for."""
TIMES = ("median_ms", "min_ms", "p90_ms", "p99_ms")
"""What the text shows of the times of a run."""
PROFILE_ROUNDS = 11
"""Profiled runs of a model; the median of each op counts."""


@dataclass(frozen=True)
class Bench:
    """The result of `bench`; its JSON is the contract of `quantkit bench`."""

    machine: dict[str, Any]
    isa: str
    threads: int
    batch: int
    rounds: int
    results: list[dict[str, Any]]
    ratios: list[dict[str, Any]]
    layers: list[dict[str, Any]] | None
    streams: list[dict[str, Any]] | None = None
    peak_gmacs_per_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields; `layers` only if they were measured."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, as it is."""
        return text.preformatted(self.to_text())

    def to_text(self) -> str:
        """Ratios of the last model in quantkit to the others (JSON has all pairs), times, layers, the machine."""
        parts = []
        if self.ratios:
            parts.append(text.table(["speed", "of", "compared with"], self._ratio_rows()))
        rows = [
            [r["model"], r["runtime"], *(f"{r[key]:.3f}" for key in TIMES), f"{r['samples_per_s']:.1f}"]
            for r in self.results
        ]
        parts.append(text.table(["model", "runtime", "median ms", "min ms", "90 %", "99 %", "samples/s"], rows))
        if self.streams:
            rows = [
                [s["model"], str(s["streams"]), str(s["threads_each"]), str(s["batch"]), f"{s['samples_per_s']:.1f}",
                 f"{s['median_ms']:.3f}"]
                for s in self.streams
            ]  # fmt: skip
            parts.append(text.table(["model", "streams", "threads each", "batch", "samples/s", "median ms"], rows))
        for model in dict.fromkeys(entry["model"] for entry in self.layers or ()):
            entries = [entry for entry in self.layers or () if entry["model"] == model]
            total = sum(entry["us"] for entry in entries)
            headers = [f"layer of {model}", "op", "kernel", "us", "of all", "GMAC/s", "of peak"]
            rows = [_layer_row(entry, total) for entry in entries]
            parts.append(text.table(headers, [*rows, ["all", "", "", f"{total:.1f}", "100 %", "", ""]]))
        if self.peak_gmacs_per_s:
            parts.append(f"peak: {self.peak_gmacs_per_s:.0f} GMAC/s, what the engine reaches on a 1x1 conv")
        where = (
            f"{self.machine['cpu']}, {self.isa}, {text.threads(self.threads)}, batch {self.batch}, {self.rounds} rounds"
        )
        parts.append(f"measured on: {where}")
        if any(r["runtime"] != OWN for r in self.results):
            parts.append(f"{self.isa} is what {OWN} uses; the other runtimes choose instructions of their own.")
        return "\n\n".join(parts)

    def _ratio_rows(self) -> list[list[str]]:
        """[how many times faster, the last model in quantkit, another], for every other."""
        newest = next(r for r in reversed(self.results) if r["runtime"] == OWN)
        subject = _label(newest["model"], OWN)
        faster = {r["b"]: r["median"] for r in self.ratios if r["a"] == subject}
        faster |= {r["a"]: 1 / r["median"] for r in self.ratios if r["b"] == subject}
        others = [label for r in self.results if (label := _label(r["model"], r["runtime"])) != subject]
        return [[text.times(faster[other]), subject, other] for other in others]


def _label(model: str, runtime: str) -> str:
    return f"{model} in {runtime}"


def _layer_row(entry: dict[str, Any], total: float) -> list[str]:
    speed = entry["gmacs_per_s"]
    return [
        entry["name"],
        entry["op"],
        entry["kernel"] or text.MISSING,
        f"{entry['us']:.1f}",
        f"{100 * entry['us'] / total:.1f} %" if total else text.MISSING,
        text.MISSING if speed is None else f"{speed:.1f}",
        text.MISSING if entry["share_of_peak"] is None else f"{100 * entry['share_of_peak']:.0f} %",
    ]


def bench(
    models: Sequence[Path],
    *,
    against: Sequence[str] = (),
    batch: int = 1,
    batches: Sequence[int] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seconds: float = 10.0,
    per_layer: bool = False,
    streams: Sequence[int] = (),
    peak: tuple[Any, dict[str, np.ndarray]] | None = None,
    threads: int | None = None,
    isa: str | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> Bench:
    """Time every model in quantkit and in each runtime of `against`, on seeded random input.

    streams, batches: also measure the throughput of so many callers at once, with such batches, for `seconds` each and
    at most STREAM_SECONDS.
    peak: a model and its feeds that show the most that the engine can do, for the share of it that each layer reaches.
    shapes: input name -> full shape, for dynamic dimensions other than the batch. A runtime that refuses a model is
    left out with a warning. Raises UsageError if a shape is not known or a runtime is not installed.
    """
    threads = threads or default_threads()
    runs: list[tuple[str, str, Callable[[], object]]] = []
    sessions: list[tuple[Session, dict[str, np.ndarray]]] = []
    names = _labels(models)
    for model, name in zip(models, names, strict=True):
        if progress:
            progress("prepare", len(sessions), len(models))
        with resting_between_runs():
            session = Session(model, threads=threads, isa=isa)
        feeds = running_feeds(session, random_feeds(session_inputs(session), batch, shapes or {}, _image_size(session)))
        rows = batch_size(feeds)
        if batch not in (1, rows):
            raise UsageError(f"--batch {batch}: {name} takes {rows} samples a run, no other number; leave out --batch")
        sessions.append((session, feeds))
        runs.append((name, OWN, _bound(session.run, None, feeds)))
        for runtime in against:
            run = _prepared(runtime, model, threads, warn)
            if run is not None:
                runs.append((name, runtime, _bound(run, feeds)))
    times = interleave([run for _, _, run in runs], seconds=seconds, tick=_ticker("measure", seconds, progress))
    isa_name = sessions[0][0].isa
    most = _peak(*peak, threads, isa) if peak and per_layer else None
    each = partial(stream_throughput, threads=threads, seconds=min(seconds, STREAM_SECONDS), isa=isa)
    streams = streams or (1,) * bool(batches)
    several = _throughputs(models, names, sessions, streams, batches, shapes or {}, each, progress)
    return Bench(
        machine=describe_machine(isa_name, threads),
        isa=isa_name,
        threads=threads,
        batch=rows,
        rounds=len(times),
        results=[_result(m, r, times[:, i], rows) for i, (m, r, _) in enumerate(runs)],
        ratios=_ratios([_label(model, runtime) for model, runtime, _ in runs], times),
        layers=_layers(names, sessions, most) if per_layer else None,
        streams=several or None,
        peak_gmacs_per_s=most,
    )


def _ticker(phase: str, seconds: float, progress: Progress | None) -> Callable[[float], None] | None:
    """Turns seconds spent into progress, counted in whole seconds."""
    if progress is None or seconds < 1:
        return None
    return lambda spent: progress(phase, min(int(spent), round(seconds)), round(seconds))


def _throughputs(
    models: Sequence[Path], names: Sequence[str], sessions: Sequence[tuple[Session, dict[str, np.ndarray]]],
    streams: Sequence[int], batches: Sequence[int], shapes: Mapping[str, tuple[int, ...]],
    measure: Callable[..., dict[str, Any]], progress: Progress | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Samples a second of every model, by number of streams and batch; no batches: that of the sessions' feeds.

    measure: `stream_throughput` of (model, feeds, batch, streams).
    """
    entries: list[dict[str, Any]] = []
    count = len(models) * len(streams) * max(1, len(batches))
    for model, name, (session, first) in zip(models, names, sessions, strict=True):
        for batch in batches or (batch_size(first),):
            feeds = first
            if batches:
                made = random_feeds(session_inputs(session), batch, shapes, _image_size(session))
                feeds = running_feeds(session, made)
            if batch_size(feeds) != batch:
                raise UsageError(f"--batches {batch}: {name} takes {batch_size(feeds)} samples a run, no other number")
            for callers in streams:
                if progress:
                    progress("streams", len(entries), count)
                entries.append({"model": name, **measure(model, feeds, batch, callers)})
    return entries


def _peak(model: Any, feeds: dict[str, np.ndarray], threads: int, isa: str | None) -> float:
    """GMAC/s of the best of PROFILE_ROUNDS runs of the busiest node of `model`."""
    session = Session(model, threads=threads, isa=isa)
    rows = [max(session.profile(feeds), key=lambda row: row[4]) for _ in range(PROFILE_ROUNDS)]
    return max(row[4] / row[3] / 1000 for row in rows)


def _bound(function: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: function(*arguments)


def _prepared(runtime: str, model: Path, threads: int, warn: Callable[[str], None] | None) -> Run | None:
    try:
        return RUNTIMES[runtime](model, threads)
    except UsageError:
        raise
    except Exception as error:  # whatever another runtime raises: its limits are a result, not a failure of ours
        if warn:
            warn(f"{runtime} cannot run {model.name}, it is left out: {' '.join(str(error).split())[:200]}")
        return None


def _labels(models: Sequence[Path]) -> list[str]:
    """File names, or whole paths where two files have the same name."""
    names = [model.name for model in models]
    return names if len(set(names)) == len(names) else [str(model) for model in models]


def _image_size(session: Session) -> tuple[int, int] | None:
    """(height, width) that the model's stored preprocessing makes, for images of dynamic size."""
    if PREPROCESS_KEY not in session.metadata:
        return None
    from quantkit.observe import Preprocess

    recipe = Preprocess.from_json(session.metadata[PREPROCESS_KEY])
    probe = np.zeros((256, 256, 3), np.uint8)
    height, width = recipe.apply(probe).shape[-2:]
    return height, width


def random_feeds(
    inputs: Sequence[TensorSpec],
    batch: int,
    shapes: Mapping[str, tuple[int, ...]],
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Seeded input for every spec: standard normal floats, zeros for other numbers (indices must stay valid),
    empty strings.

    The first dimension, if dynamic, is `batch`; the last two of rank 4 may come from `image_size`.
    Raises UsageError naming the input whose shape is not known, or a name in `shapes` that is no input.
    """
    unknown = set(shapes) - {spec.name for spec in inputs}
    if unknown:
        raise UsageError(f"--shape {min(unknown)}: no such input; there is {', '.join(spec.name for spec in inputs)}")
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        shape = shapes.get(spec.name) or _concrete(spec, batch, image_size)
        if spec.dtype.kind == "f":
            feeds[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
        else:
            feeds[spec.name] = np.full(shape, "", object) if spec.dtype.kind == "O" else np.zeros(shape, spec.dtype)
    return feeds


def running_feeds(session: Session, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The feeds with integers that the model takes: zeros as they are, else ones, or a sampling rate for single ones.

    Raises DataError, with what is said of zeros, where none of them will do.
    """
    refused = None
    for value in (0, 1, SAMPLE_RATE):
        tried = {
            name: np.full_like(array, value if array.size == 1 else min(value, 1))
            if array.dtype.kind in "iu"
            else array
            for name, array in feeds.items()
        }
        try:
            session.run(None, tried)
            return tried
        except DataError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _concrete(spec: TensorSpec, batch: int, image_size: tuple[int, int] | None) -> tuple[int, ...]:
    shape = list(spec.shape)
    if shape and not isinstance(shape[0], int):
        shape[0] = batch
    if len(shape) == 4 and image_size:
        shape[2:] = [d if isinstance(d, int) else size for d, size in zip(shape[2:], image_size, strict=True)]
    if not all(isinstance(d, int) for d in shape):
        shown = text.shape(spec.shape)
        raise UsageError(f"input {spec.name} is {shown}: give the dynamic sizes with --shape {spec.name}=D,D,...")
    return tuple(d for d in shape if isinstance(d, int))


def _result(model: str, runtime: str, seconds: np.ndarray, batch: int) -> dict[str, Any]:
    median = float(np.median(seconds))
    return {
        "model": model,
        "runtime": runtime,
        "median_ms": 1000 * median,
        **latency_percentiles(seconds),
        "samples_per_s": batch / median,
    }


def _ratios(labels: Sequence[str], times: np.ndarray) -> list[dict[str, Any]]:
    """How many times faster a is than b, for every pair: the median over rounds of b's time over a's."""
    return [
        {"a": labels[a], "b": labels[b], "median": median_ratio(times[:, b], times[:, a])}
        for a, b in combinations(range(len(labels)), 2)
    ]


def _layers(
    names: Sequence[str], sessions: Sequence[tuple[Session, dict[str, np.ndarray]]], peak: float | None
) -> list[dict[str, Any]]:
    """Median time of every op over PROFILE_ROUNDS profiled runs of each model."""
    entries = []
    for name, (session, feeds) in zip(names, sessions, strict=True):
        rounds = [session.profile(feeds) for _ in range(PROFILE_ROUNDS)]
        for ops in zip(*rounds, strict=True):
            layer, op, kernel, _, macs = ops[0]
            microseconds = float(np.median([entry[3] for entry in ops]))
            speed = macs / microseconds / 1000 if macs and microseconds > 0 else None
            entry = {"model": name, "name": layer, "op": op, "kernel": kernel, "us": microseconds, "gmacs_per_s": speed}
            entries.append({**entry, "share_of_peak": speed / peak if speed and peak else None})
    return entries
