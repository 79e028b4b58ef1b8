"""How fast both models are: throughput, the distribution of latency, time by layer; rivals beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError, UsageError
from quantkit.execute.session import Session
from quantkit.execute.timing import interleave, median_ratio
from quantkit.observe import FloatRunner
from quantkit.report.runtimes import RUNTIMES, Run
from quantkit.report.statistics import latency_percentiles

FP32, INT8 = "FP32 onnxruntime", "INT8 quantkit"
"""The first two of `latency`'s runs, in this order."""
PROFILED_RUNS = 11
"""Profiled runs of a model; the median of each op counts."""
TIMES_KEPT = 300
"""Measured times that a report keeps for its chart."""

Feeds = Mapping[str, np.ndarray]


def throughput(runner: FloatRunner, session: Session, feeds: Feeds, seconds: float) -> dict[str, Any]:
    """Samples a second of both, interleaved, on one batch; the speedup is the median over rounds."""
    times = interleave([lambda: runner.run(feeds), lambda: session.run(None, feeds)], seconds=seconds)
    batch = batch_size(feeds)
    fp32, int8 = batch / np.median(times, axis=0)
    return {
        "fp32_onnxruntime": float(fp32),
        "int8_quantkit": float(int8),
        "speedup": median_ratio(times[:, 0], times[:, 1]),
        "batch": batch,
    }


def throughput_of(measured: Mapping[str, Any]) -> dict[str, Any]:
    """`throughput` from a `latency` of the same batch: one report then has one speed."""
    fp32, int8 = measured["runs"][:2]
    return {
        "fp32_onnxruntime": fp32["samples_per_s"],
        "int8_quantkit": int8["samples_per_s"],
        "speedup": int8["speedup"],
        "batch": measured["batch"],
    }


def latency(
    runner: FloatRunner,
    session: Session,
    feeds: Feeds,
    seconds: float,
    rivals: Mapping[str, Run] | None = None,
) -> dict[str, Any]:
    """Latency of one sample, all candidates interleaved, no run repeated inside a measurement.

    {"batch", "runs": [{"name", percentiles..., "samples_per_s", "speedup", "times_ms"}]}; speedup: how many times
    faster than FP32 onnxruntime, the median over rounds. A model of static batch is measured at that batch.
    """
    one = _smallest(session, feeds)
    candidates: dict[str, Callable[[], object]] = {
        FP32: lambda: runner.run(one),
        INT8: lambda: session.run(None, one),
        **{name: _bound(run, one) for name, run in (rivals or {}).items()},
    }
    times = interleave(list(candidates.values()), seconds=seconds, max_rounds=5000, shortest=0.0)
    batch = batch_size(one)
    step = -(-len(times) // TIMES_KEPT)
    runs = [
        {
            "name": name,
            **latency_percentiles(times[:, i]),
            "samples_per_s": batch / float(np.median(times[:, i])),
            "speedup": median_ratio(times[:, 0], times[:, i]),
            "times_ms": [round(1000 * float(t), 4) for t in times[::step, i]],
        }
        for i, name in enumerate(candidates)
    ]
    return {"batch": batch, "rounds": len(times), "runs": runs}


def prepare_rivals(
    model: Any, names: Sequence[str], threads: int, warn: Callable[[str], None] | None
) -> dict[str, Run]:
    """The INT8 model in each runtime of `names`. One that refuses it is left out with a warning.

    Raises UsageError if a runtime is not known or not installed, or the model is not a file.
    """
    rivals = {}
    for name in names:
        if name not in RUNTIMES:
            raise UsageError(f"--against {name}: no such runtime; choose from {', '.join(RUNTIMES)}")
        if not isinstance(model, (str, Path)):
            raise UsageError("--against needs the INT8 model as a file; save it first")
        try:
            rivals[f"INT8 {name}"] = RUNTIMES[name](Path(model), threads)
        except UsageError:
            raise
        except Exception as error:  # whatever another runtime raises: its limits are a result, not a failure of ours
            if warn:
                warn(f"{name} cannot run the INT8 model, it is left out: {' '.join(str(error).split())[:200]}")
    return rivals


def layer_times(session: Session, feeds: Feeds) -> dict[str, dict[str, Any]]:
    """Node name -> {"us", "kernel", "macs"} at one sample: the median over profiled runs; kernel and MACs of the plan.

    Nodes that onnxruntime runs together share one time, which stands under the first of them.
    """
    one = _smallest(session, feeds)
    rounds = [session.profile(one) for _ in range(PROFILED_RUNS)]
    entries = {}
    for rows in zip(*rounds, strict=True):
        name, _, kernel, _, macs = rows[0]
        entries[name] = {"us": float(np.median([row[3] for row in rows])), "kernel": kernel, "macs": macs}
    return entries


def first_sample(feeds: Feeds) -> dict[str, np.ndarray]:
    """The first row of every feed; feeds without a common batch axis as they are."""
    rows = {len(array) if np.ndim(array) else None for array in feeds.values()}
    return {name: array[:1] for name, array in feeds.items()} if len(rows) == 1 and None not in rows else dict(feeds)


def batch_size(feeds: Feeds) -> int:
    """Rows of the first feed that has any."""
    return next((len(array) for array in feeds.values() if np.ndim(array)), 1)


def same_batch(session: Session, feeds: Feeds) -> bool:
    """Whether `latency` measures the same batch as `throughput`."""
    return not _takes_one(session) or batch_size(feeds) == 1


def _takes_one(session: Session) -> bool:
    return all(not value.shape or value.shape[0] == 1 or not isinstance(value.shape[0], int)
               for value in session.get_inputs())  # fmt: skip


def _smallest(session: Session, feeds: Feeds) -> dict[str, np.ndarray]:
    """The first row of the feeds, or all of them where the model cannot run on it alone: axis 0 may be time."""
    if not _takes_one(session):
        return dict(feeds)
    one = first_sample(feeds)
    try:
        session.run(None, one)
    except QuantkitError:
        return dict(feeds)
    return one


def _bound(run: Run, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    return lambda: run(feeds)
