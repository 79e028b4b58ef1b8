"""Which threads a request runs on: all of them (latency), or those of one of several streams (throughput)."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

from quantkit.errors import UsageError
from quantkit.execute.binding import Pool


class Streams:
    """`streams` pools that share `threads`, each for one request at a time; None: one pool for all callers.

    Raises UsageError: fewer threads than streams, or fewer CPUs than threads to pin.
    """

    def __init__(self, threads: int, streams: int | None, pin: bool) -> None:
        self.count = 1 if streams is None else streams
        if not 1 <= self.count <= threads:
            raise UsageError(f"streams={streams} is not in 1..{threads}: each stream needs a thread of its own")
        self.threads_each = threads // self.count
        cpus = _cpus(threads) if pin else None
        shares = [range(i * self.threads_each, (i + 1) * self.threads_each) for i in range(self.count)]
        self._pools = [Pool(len(s), [cpus[i] for i in s] if cpus is not None else None) for s in shares]
        self._shared = nullcontext(self._pools[0])
        self._free: queue.SimpleQueue[Pool] | None = None
        if streams is not None:
            self._free = queue.SimpleQueue()
            for pool in self._pools:
                self._free.put(pool)

    def pool(self) -> AbstractContextManager[Pool]:
        """The threads for one request; waits for a free stream."""
        return self._shared if self._free is None else _lent(self._free)

    @cached_property
    def callers(self) -> ThreadPoolExecutor:
        """One Python thread a stream, for requests that come as a list."""
        return ThreadPoolExecutor(self.count, thread_name_prefix="quantkit-stream")


@contextmanager
def _lent(free: queue.SimpleQueue[Pool]) -> Iterator[Pool]:
    pool = free.get()
    try:
        yield pool
    finally:
        free.put(pool)


def _cpus(threads: int) -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        raise UsageError("pin=True needs Linux; leave it out on this system")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < threads:
        raise UsageError(f"pin=True needs a CPU a thread: {threads} threads, but this process may use {len(cpus)} CPUs")
    return cpus
