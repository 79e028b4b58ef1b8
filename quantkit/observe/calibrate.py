"""The float model over the sample data, its tensors reduced to statistics batch by batch."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from quantkit.cores import core_count
from quantkit.errors import CalibrationError, NotFiniteError
from quantkit.observe.batches import Batch, common_rows
from quantkit.observe.channels import ChannelSums, channel_sums
from quantkit.observe.histogram import NumpyBackend, StatisticsBackend, TensorStatistics
from quantkit.observe.parted import PartedRunner, exposing
from quantkit.observe.runner import FloatRunner

HISTOGRAM_VALUES = 16384
"""Values a sample and tensor give to the histogram, evenly spaced; min and max see every value. 100 samples make 1.6
million, 160 of them beyond the 99.99th percentile, and the histograms cost a fraction of the inference."""

MOST_WORKERS = 4
"""Batches in the model at a time. One thread a batch wastes nothing on waiting for the others; each worker holds the
activations of its batch."""
ACTIVATIONS_MOST = 2 << 30
"""Bytes of activations in memory at a time, if one batch has no more: large pictures go through the model singly."""

Progress = Callable[[str, int, "int | None"], None]


def observe(
    model: Any,
    tensors: Sequence[str],
    dataset: Iterable[Batch],
    *,
    channels: Mapping[str, int] | None = None,
    backend: StatisticsBackend | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorStatistics]:
    """Statistics of `tensors` (graph inputs, node outputs) of a float model over the data.

    model: onnx_ir.Model, onnx.ModelProto, bytes or a path; not modified. The activations of a few batches live at a
    time (MOST_WORKERS), so memory does not grow with the data.
    channels: tensor -> axis, for those of which the mean of every channel is wanted as well.
    Raises CalibrationError on NaN or infinity, naming the tensor and the sample, and on data without samples;
    NotFiniteError where the outputs for that sample hold no NaN.
    """
    wanted = list(dict.fromkeys(tensors))
    count = getattr(dataset, "count", None)
    total = count if isinstance(count, int) else None  # a list has a method of that name
    cores = threads or core_count()
    workers = max(1, min(cores, MOST_WORKERS, total or MOST_WORKERS))
    observer = _Observer(model, wanted, channels or {}, backend or NumpyBackend(), cores // workers)
    done = 0
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="quantkit-observe") as pool:
        for seen in _in_order(pool, lambda: observer.ahead(workers), observer.add, dataset):
            observer.collect(seen)
            done += seen.batch.valid
            if progress is not None:
                progress("calibrate", done, total)
    if done == 0:
        raise CalibrationError("the data held no sample; give at least one")
    return observer.merged()


class _Seen(NamedTuple):
    batch: Batch
    channels: dict[str, ChannelSums]


class _Observer:
    """The float model and, for each thread that runs it, statistics of its own: merged, they are the same however the
    batches were shared out. Channel sums are float64, so they are added in the order of the data."""

    def __init__(
        self, model: Any, wanted: Sequence[str], channels: Mapping[str, int], backend: StatisticsBackend, threads: int
    ) -> None:
        inputs = _graph_inputs(model)
        self.wanted = wanted
        self.axes = channels
        self.channels: dict[str, ChannelSums] = {}
        self.outputs = [name for name in wanted if name not in inputs]
        self.results = _graph_outputs(model)
        self.model, self.threads = model, threads
        self._runner: FloatRunner | PartedRunner | None = None
        self._opening = threading.Lock()
        self.backend = backend
        self.own = threading.local()
        self.parts: list[dict[str, TensorStatistics]] = []
        self.largest = ACTIVATIONS_MOST  # until a batch was seen

    def ahead(self, workers: int) -> int:
        """How many batches may run or wait for one of the workers beside the next one."""
        fitting = ACTIVATIONS_MOST // max(1, self.largest)
        return workers if fitting > workers else max(0, fitting - 1)

    def add(self, batch: Batch) -> _Seen:
        """Runs the model on a batch and adds what it sees to the statistics of this thread."""
        if not hasattr(self.own, "statistics"):
            self.own.statistics = {name: TensorStatistics() for name in self.wanted}
            self.parts.append(self.own.statistics)
        bad: dict[str, tuple[int, str]] = {}
        sums: dict[str, ChannelSums] = {}
        largest = 0
        for values in self._passes(batch):
            largest = max(largest, sum(array.nbytes for array in values.values()))
            spoilt, found = _add(self.own.statistics, values, batch, self.backend, self.axes)
            sums |= found
            bad |= {name: (count, _culprit(_valid_rows(values[name], batch), batch)) for name, count in spoilt.items()}
        in_parts = isinstance(self._runner, PartedRunner)
        self.largest = ACTIVATIONS_MOST if in_parts else largest
        if bad:
            bad = {name: bad[name] for name in (*self.outputs, *self.wanted) if name in bad}
            message = _not_finite(bad)
            counts = {name: count for name, (count, _) in bad.items()}
            raise CalibrationError(message) if self._spoils(batch) else NotFiniteError(message, counts)
        return _Seen(batch, sums)

    def _passes(self, batch: Batch) -> Iterator[Mapping[str, np.ndarray]]:
        """What the model makes of a batch, then what it is fed with, of the tensors that are observed."""
        if self.outputs:
            yield from self.runner(batch).passes(batch.feeds, self.outputs)
        given = set(self.outputs)
        yield {name: batch.feeds[name] for name in self.wanted if name not in given}

    def runner(self, batch: Batch) -> FloatRunner | PartedRunner:
        """The float model, opened for the sizes of the first batch."""
        with self._opening:
            if self._runner is None:
                self._runner = exposing(self.model, self.outputs, batch.feeds, self.threads)
            return self._runner

    def _spoils(self, batch: Batch) -> bool:
        """Whether the outputs of the model for a batch hold NaN, or what it is fed does."""
        return holds_nan([*self.runner(batch).run(batch.feeds, self.results), *batch.feeds.values()])

    def collect(self, seen: _Seen) -> None:
        """Adds the channel sums of a batch; called in the order of the data."""
        for name, sums in seen.channels.items():
            if name in self.channels:
                self.channels[name].add(sums)
            else:
                self.channels[name] = sums

    def merged(self) -> dict[str, TensorStatistics]:
        """The statistics of all threads."""
        whole = {name: TensorStatistics() for name in self.wanted}
        for part in self.parts:
            for name, statistics in part.items():
                whole[name].merge(statistics)
        for name, sums in self.channels.items():
            whole[name].channels = sums
        return whole


def _in_order(
    pool: ThreadPoolExecutor, ahead: Callable[[], int], work: Callable[[Batch], _Seen], dataset: Iterable[Batch]
) -> Iterator[_Seen]:
    """work(batch) for each batch, handed on in the order of the data, ahead() of them beside the one waited for.
    The first batch in that order which fails raises; those after it are waited for and dropped."""
    running: deque[Future[_Seen]] = deque()
    for batch in dataset:
        running.append(pool.submit(work, batch))
        while len(running) > ahead():
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def holds_nan(outputs: Iterable[Any]) -> bool:
    """Whether one of the tensors holds NaN; sequences and maps are not looked into."""
    arrays = [array for array in outputs if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return any(bool(np.isnan(array).any()) for array in arrays)


def _graph_inputs(model: Any) -> set[str]:
    graph = _graph_of(model)
    return {value.name for value in (graph.inputs if hasattr(graph, "inputs") else graph.input)}


def _graph_outputs(model: Any) -> list[str]:
    graph = _graph_of(model)
    return [value.name for value in (graph.outputs if hasattr(graph, "outputs") else graph.output)]


def _graph_of(model: Any) -> Any:
    """The graph of an onnx_ir.Model, an onnx.ModelProto, or a serialized one."""
    import onnx

    if isinstance(model, bytes):
        return onnx.load_model_from_string(model).graph
    return model.graph if hasattr(model, "graph") else onnx.load(str(model), load_external_data=False).graph


def _add(
    statistics: Mapping[str, TensorStatistics],
    values: Mapping[str, np.ndarray],
    batch: Batch,
    backend: StatisticsBackend,
    axes: Mapping[str, int],
) -> tuple[dict[str, int], dict[str, ChannelSums]]:
    """Adds the valid rows of each tensor to its statistics.

    Returns the number of not-finite values where there are any, and the channel sums of the tensors in `axes`.
    """
    bad, sums = {}, {}
    for name, value in values.items():
        x = np.ascontiguousarray(_valid_rows(value, batch), dtype=np.float32)
        samples = batch.valid if x.ndim and x.shape[0] == batch.valid else 1
        part, step = _part(x, samples)
        not_finite = statistics[name].update(x, backend, part, samples)
        if not_finite:
            bad[name] = not_finite
        elif name in axes and x.size:
            sums[name] = channel_sums(part, x.shape, axes[name], step)
    return bad, sums


def _valid_rows(value: np.ndarray, batch: Batch) -> np.ndarray:
    """Without the rows that only fill up a static batch."""
    rows = common_rows(batch.feeds)
    padded = rows is not None and rows > batch.valid and value.ndim and len(value) == rows
    return value[: batch.valid] if padded else value


def _not_finite(bad: Mapping[str, tuple[int, str]]) -> str:
    """Names the first tensor in the order given, which is where the trouble starts when that is the graph's order.

    bad: tensor -> (values that are not finite, the sample).
    """
    name = next(iter(bad))
    count, sample = bad[name]
    return (
        f"{name}: {count} values are NaN or infinite for sample {sample}; "
        "check the model and --preprocess, or leave the sample out"
    )


def _part(x: np.ndarray, samples: int) -> tuple[np.ndarray, int]:
    """(every n-th value of each sample [samples, ...], n); n is coprime to the size of a sample, so that all rows,
    columns and channels are met."""
    rows = x.reshape(samples, -1)
    size = rows.shape[1]
    step = max(1, -(-size // HISTOGRAM_VALUES))
    while math.gcd(step, size) > 1:
        step += 1
    return np.ascontiguousarray(rows[:, ::step]), step


def _culprit(x: np.ndarray, batch: Batch) -> str:
    if x.ndim == 0 or x.shape[0] != len(batch.names):
        return ", ".join(batch.names)
    bad = ~np.isfinite(x.reshape(x.shape[0], -1)).all(axis=1)
    return batch.names[int(np.argmax(bad))]
