"""Throughput of several streams at once: one session, each stream with its share of the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from quantkit.execute.session import Session


def stream_throughput(
    model: Any,
    feeds: Mapping[str, np.ndarray],
    batch: int,
    streams: int,
    threads: int,
    seconds: float,
    isa: str | None = None,
) -> dict[str, Any]:
    """Samples a second of `streams` callers, each served by a stream of threads / streams threads (at least 1).

    {"streams", "threads_each", "batch", "samples_per_s", "median_ms"}: median_ms is the latency that a caller sees.
    """
    each = max(1, threads // streams)
    session = Session(model, threads=each * streams, isa=isa, streams=streams)
    times = run_together([lambda: session.run(None, feeds)] * streams, seconds)
    total = sum(len(runs) for runs in times.values())
    longest = max(sum(runs) for runs in times.values())
    return {
        "streams": streams,
        "threads_each": each,
        "batch": batch,
        "samples_per_s": batch * total / longest,
        "median_ms": 1000 * float(np.median([t for runs in times.values() for t in runs])),
    }


def run_together(callers: Sequence[Callable[[], object]], seconds: float) -> dict[int, list[float]]:
    """Run every caller in a thread of its own, over and over for about `seconds`, and at least twice.

    Returns index -> seconds of each run but the first. An exception of a caller is raised here.
    """
    times: dict[int, list[float]] = {i: [] for i in range(len(callers))}
    errors: list[BaseException] = []
    start = threading.Barrier(len(callers))

    def work(index: int) -> None:
        try:
            callers[index]()
            start.wait()
            begin = time.perf_counter()
            while not times[index] or time.perf_counter() - begin < seconds:
                before = time.perf_counter()
                callers[index]()
                times[index].append(time.perf_counter() - before)
        except threading.BrokenBarrierError:
            return
        except BaseException as error:
            errors.append(error)
            start.abort()

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(callers))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return times
