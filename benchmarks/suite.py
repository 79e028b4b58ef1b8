"""Measures models in several runtimes: interleaved rounds, medians of ratios, fidelity beside speed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runtimes import QUANTKIT, REFERENCE, Candidate, Run, Setting
from benchmarks.zoo import BenchModel
from quantkit.execute.timing import interleave, median_ratio
from quantkit.report import text
from quantkit.report.accuracy import PowerRatio


@dataclass(frozen=True)
class Cell:
    """One runtime on one model. speedup: how many times faster quantkit is, the median of the rounds' ratios.

    sqnr_db: of its output against onnxruntime's FP32 output, at this batch; None for FP32.
    """

    model: str
    batch: int
    threads: int
    runtime: str
    int8: bool
    median_ms: float
    min_ms: float
    speedup: float
    sqnr_db: float | None


@dataclass(frozen=True)
class Summary:
    """Geometric mean and least of the speedup against a runtime, or the fastest of several, over the models."""

    batch: int
    threads: int
    against: str
    models: int
    geometric_mean: float
    least: float
    least_model: str


def measure(model: BenchModel, candidates: Sequence[Candidate], setting: Setting, folder: Path, seconds: float,
            warn: Callable[[str], None]) -> list[Cell]:  # fmt: skip
    """All candidates on one model; the first is what the others are compared with. One that fails is left out."""
    judged = model.samples()[1]
    runs: list[tuple[Candidate, Run]] = []
    for candidate in candidates:
        try:
            run = candidate.open(candidate.file(model, folder), model, setting)
            run(judged[: setting.batch])
        except Exception as error:  # whatever a runtime raises: its limits are a result
            warn(f"{candidate.name} cannot run {model.name}: {' '.join(str(error).split())[:200]}")
            continue
        runs.append((candidate, run))
    if not runs or runs[0][0] is not candidates[0]:
        return []
    x = np.ascontiguousarray(judged[: setting.batch])
    times = interleave([_bound(run, x) for _, run in runs], seconds=seconds)
    fidelity = _fidelity(runs, judged, setting.batch)
    return [
        Cell(model.name, setting.batch, setting.threads, candidate.name, candidate.int8,
             1000 * float(np.median(times[:, i])), 1000 * float(times[:, i].min()),
             median_ratio(times[:, i], times[:, 0]), fidelity.get(candidate.name))
        for i, (candidate, _) in enumerate(runs)
    ]  # fmt: skip


def _bound(run: Run, x: np.ndarray) -> Callable[[], object]:
    return lambda: run(x)


def _fidelity(runs: Sequence[tuple[Candidate, Run]], judged: np.ndarray, batch: int) -> dict[str, float]:
    """SQNR in dB of every INT8 candidate against the reference, over all whole batches of the judged samples."""
    reference = next((run for candidate, run in runs if candidate is REFERENCE), None)
    int8 = [(candidate, run, PowerRatio()) for candidate, run in runs if candidate.int8]
    for start in range(0, len(judged) - batch + 1, batch) if reference is not None else ():
        x = np.ascontiguousarray(judged[start : start + batch])
        expected = np.array(reference(x))  # type: ignore[misc]
        for _, run, power in int8:
            power.add(expected, run(x))
    return {candidate.name: power.db for candidate, _, power in int8} if reference is not None else {}


def summarize(cells: Iterable[Cell]) -> list[Summary]:
    """Against each runtime, and against the fastest INT8 and FP32 rival of each model, for each batch and threads."""
    groups: dict[tuple[int, int, str], dict[str, float]] = {}
    for cell in cells:
        if cell.runtime == QUANTKIT.name:
            continue
        key = (cell.batch, cell.threads)
        groups.setdefault((*key, cell.runtime), {})[cell.model] = cell.speedup
        fastest = groups.setdefault((*key, f"fastest {'INT8' if cell.int8 else 'FP32'} rival"), {})
        fastest[cell.model] = min(cell.speedup, fastest.get(cell.model, math.inf))
    return [_summary(key, speedups) for key, speedups in sorted(groups.items())]


def _summary(key: tuple[int, int, str], speedups: dict[str, float]) -> Summary:
    least = min(speedups, key=lambda model: speedups[model])
    return Summary(*key, len(speedups), geometric_mean(speedups.values()), speedups[least], least)


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log v)) of positive values."""
    return math.exp(float(np.mean(np.log(list(values)))))


def to_text(header: dict[str, Any], cells: Sequence[Cell]) -> str:
    """Geometric means first, then one row a model and runtime, then what it was measured on."""
    means = [
        [s.against, str(s.batch), str(s.threads), text.times(s.geometric_mean), text.times(s.least), s.least_model,
         str(s.models)] for s in summarize(cells)
    ]  # fmt: skip
    rows = [
        [c.model, str(c.batch), str(c.threads), c.runtime, f"{c.median_ms:.2f}", f"{c.min_ms:.2f}",
         text.MISSING if c.runtime == QUANTKIT.name else text.times(c.speedup), text.decibel(c.sqnr_db)] for c in cells
    ]  # fmt: skip
    columns = ["quantkit compared with", "batch", "threads", "geometric mean", "least", "at", "models"]
    parts = [text.table(columns, means)] if means else []
    parts.append(
        text.table(["model", "batch", "threads", "runtime", "median ms", "min ms", "quantkit is", "SQNR"], rows)
    )
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    parts.append(f"{header['cpu']}, {header['cores']} cores; quantkit {header['isa']}, rivals {header['rivals_isa']}; "
                 f"{header['date']}\n{versions}")  # fmt: skip
    return "\n\n".join(parts)


def to_json(header: dict[str, Any], cells: Sequence[Cell]) -> dict[str, Any]:
    """{machine, summary, results}: the same as to_text, unrounded."""
    return {"machine": header, "summary": [asdict(s) for s in summarize(cells)], "results": [asdict(c) for c in cells]}


def known_cells(path: Path, header: dict[str, Any]) -> list[Cell]:
    """What a run with the same header, but for date and commit, left in `path`; nothing if there was no such run."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    any_time = {"date": "", "commit": ""}
    same = {**stored["machine"], **any_time} == json.loads(json.dumps({**header, **any_time}))
    return [Cell(**fields) for fields in stored["results"]] if same else []
