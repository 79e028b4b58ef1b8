"""The float model over the sample data, its tensors reduced to statistics batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from quantkit.errors import CalibrationError
from quantkit.observe.batches import Batch
from quantkit.observe.histogram import NumpyBackend, StatisticsBackend, TensorStatistics
from quantkit.observe.runner import FloatRunner

HISTOGRAM_VALUES = 16384
"""Values a sample and tensor give to the histogram, evenly spaced; min and max see every value. 100 samples make 1.6
million, 160 of them beyond the 99.99th percentile, and the histograms cost a fraction of the inference."""

Progress = Callable[[str, int, "int | None"], None]


def observe(
    model: Any,
    tensors: Sequence[str],
    dataset: Iterable[Batch],
    *,
    backend: StatisticsBackend | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorStatistics]:
    """Statistics of `tensors` (graph inputs, node outputs) of a float model over the data.

    model: onnx_ir.Model, onnx.ModelProto, bytes or a path; not modified. Activations live for one batch only.
    Raises CalibrationError on NaN or infinity, naming the tensor and the sample, and on data without samples.
    """
    wanted = list(dict.fromkeys(tensors))
    inputs = _graph_inputs(model)
    runner = FloatRunner(model, threads, expose=[name for name in wanted if name not in inputs])
    outputs = [name for name in wanted if name not in inputs]
    statistics = {name: TensorStatistics() for name in wanted}
    kernels = backend or NumpyBackend()
    total = getattr(dataset, "count", None)
    done = 0
    with ThreadPoolExecutor(max_workers=threads or 2, thread_name_prefix="quantkit-observe") as pool:
        for batch in dataset:
            values = dict(zip(outputs, runner.run(batch.feeds, outputs) if outputs else [], strict=True))
            values.update((name, batch.feeds[name]) for name in wanted if name in inputs)
            jobs = [pool.submit(_add, statistics[name], name, values[name], batch, kernels) for name in wanted]
            for job in jobs:
                job.result()
            done += batch.valid
            if progress is not None:
                progress("calibrate", done, total)
    if done == 0:
        raise CalibrationError("the data held no sample; give at least one")
    return statistics


def _graph_inputs(model: Any) -> set[str]:
    import onnx

    if isinstance(model, onnx.ModelProto):
        return {value.name for value in model.graph.input}
    if hasattr(model, "graph"):
        return {value.name for value in model.graph.inputs}
    return {spec.name for spec in FloatRunner(model, 1).inputs}


def _add(statistics: TensorStatistics, name: str, value: np.ndarray, batch: Batch, backend: StatisticsBackend) -> None:
    x = np.ascontiguousarray(value, dtype=np.float32)
    padded = len(next(iter(batch.feeds.values())))
    if x.ndim and padded > batch.valid and x.shape[0] == padded:
        x = x[: batch.valid]
    bad = statistics.update(x, backend, _part(x, batch.valid))
    if bad:
        raise CalibrationError(
            f"{name}: {bad} values are NaN or infinite for sample {_culprit(x, batch)}; "
            "check the model and --preprocess, or leave the sample out"
        )


def _part(x: np.ndarray, samples: int) -> np.ndarray | None:
    """Every n-th value, with n coprime to the size of a sample so that all rows, columns and channels are met."""
    rows = x.reshape(samples, -1) if x.ndim and x.shape[0] == samples else x.reshape(1, -1)
    size = rows.shape[1]
    step = -(-size // HISTOGRAM_VALUES)
    if step <= 1:
        return None
    while math.gcd(step, size) > 1:
        step += 1
    return rows[:, ::step]


def _culprit(x: np.ndarray, batch: Batch) -> str:
    if x.ndim == 0 or x.shape[0] != len(batch.names):
        return ", ".join(batch.names)
    bad = ~np.isfinite(x.reshape(x.shape[0], -1)).all(axis=1)
    return batch.names[int(np.argmax(bad))]
