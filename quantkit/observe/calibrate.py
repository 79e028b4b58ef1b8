"""The float model over the sample data, its tensors reduced to statistics batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from quantkit.errors import CalibrationError
from quantkit.observe.batches import Batch, common_rows
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
    outputs = [name for name in wanted if name not in inputs]
    runner = FloatRunner(model, threads, expose=outputs, spin=False)
    statistics = {name: TensorStatistics() for name in wanted}
    kernels = backend or NumpyBackend()
    total = getattr(dataset, "count", None)
    done = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="quantkit-observe") as pool:
        for batch in dataset:
            values = dict(zip(outputs, runner.run(batch.feeds, outputs) if outputs else [], strict=True))
            values.update((name, batch.feeds[name]) for name in wanted if name in inputs)
            here, there = (values, {}) if threads == 1 else _halves(values)
            job = pool.submit(_add, statistics, there, batch, kernels) if there else None
            bad = _add(statistics, here, batch, kernels)
            if job is not None:
                bad |= job.result()
            _require_finite(bad, values, batch)
            done += batch.valid
            if progress is not None:
                progress("calibrate", done, total)
    if done == 0:
        raise CalibrationError("the data held no sample; give at least one")
    return statistics


def _graph_inputs(model: Any) -> set[str]:
    import onnx

    if hasattr(model, "graph") and not isinstance(model, onnx.ModelProto):
        return {value.name for value in model.graph.inputs}
    if isinstance(model, bytes):
        model = onnx.load_model_from_string(model)
    elif not isinstance(model, onnx.ModelProto):
        model = onnx.load(str(model), load_external_data=False)
    return {value.name for value in model.graph.input}


def _halves(values: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two parts of about the same size, one for each of two threads; more threads would only wait for memory."""
    by_size = sorted(values.items(), key=lambda entry: -entry[1].size)
    return dict(by_size[::2]), dict(by_size[1::2])


def _add(
    statistics: Mapping[str, TensorStatistics],
    values: Mapping[str, np.ndarray],
    batch: Batch,
    backend: StatisticsBackend,
) -> dict[str, int]:
    """Adds the valid rows of each tensor to its statistics. Returns the number of not-finite values where there are."""
    bad = {}
    for name, value in values.items():
        x = np.ascontiguousarray(_valid_rows(value, batch), dtype=np.float32)
        not_finite = statistics[name].update(x, backend, _part(x, batch.valid))
        if not_finite:
            bad[name] = not_finite
    return bad


def _valid_rows(value: np.ndarray, batch: Batch) -> np.ndarray:
    """Without the rows that only fill up a static batch."""
    rows = common_rows(batch.feeds)
    padded = rows is not None and rows > batch.valid and value.ndim and len(value) == rows
    return value[: batch.valid] if padded else value


def _require_finite(bad: Mapping[str, int], values: Mapping[str, np.ndarray], batch: Batch) -> None:
    """Names the first tensor in the order given, which is where the trouble starts when that is the graph's order."""
    for name, value in values.items():
        if name in bad:
            sample = _culprit(_valid_rows(value, batch), batch)
            raise CalibrationError(
                f"{name}: {bad[name]} values are NaN or infinite for sample {sample}; "
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
