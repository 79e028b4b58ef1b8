"""Streams: requests side by side, on threads of their own, with the results of one at a time."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from quantkit import Session
from quantkit.errors import DataError, UsageError
from quantkit.execute.binding import GUARD
from quantkit.execute.region import NativeRegion
from quantkit.execute.streams import Streams
from tests.graphs import CONV, image, model, quantized

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
pins = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="CPU affinity is tested on Linux")


@pytest.fixture(scope="module")
def calibrated():
    body = f"c = Conv<{CONV}>(x, w, b) t = Tanh(c) q = Conv<{POINT}>(t, v) y = Add(q, t)"
    return quantized(model(body, {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 1, 1)}))


@pytest.mark.parametrize(("threads", "streams"), [(1, None), (1, 1), (2, 2), (4, 2), (5, 2), (3, 3)])
def test_many_requests_give_what_single_ones_give_in_their_order(calibrated, threads, streams):
    feeds = [{"x": image(1, 3, 8, 8) * i} for i in range(20)]
    session = Session(calibrated, threads=threads, streams=streams)
    expected = Session(calibrated, threads=1)
    for got, feed in zip(session.run_many(["y"], feeds), feeds, strict=True):
        np.testing.assert_array_equal(got[0], expected.run(["y"], feed)[0])


def test_threads_are_shared_out_evenly():
    streams = Streams(5, 2, pin=False)
    assert (streams.count, streams.threads_each) == (2, 2)
    with streams.pool() as first, streams.pool() as second:
        assert first is not second
        assert (first.threads, second.threads) == (2, 2)


def test_a_request_waits_until_a_stream_is_free():
    streams = Streams(2, 2, pin=False)
    got = threading.Event()

    def third():
        with streams.pool():
            got.set()

    with streams.pool():
        with streams.pool():
            caller = threading.Thread(target=third)
            caller.start()
            assert not got.wait(0.05)
        assert got.wait(5)
    caller.join()


def test_a_request_that_fails_gives_its_stream_back(calibrated):
    session = Session(calibrated, threads=1, streams=1)
    for _ in range(3):
        with pytest.raises(DataError):
            session.run(None, {"x": np.zeros((1, 4, 8, 8), np.float32)})
    feeds = [{"x": image(1, 3, 8, 8)}, {"z": image(1, 3, 8, 8)}]
    with pytest.raises(DataError, match="'x' is missing"):
        session.run_many(None, feeds)
    assert len(session.run(None, feeds[0])) == 1


@pytest.mark.parametrize("streams", [0, 3])
def test_a_stream_without_a_thread_is_wrong_usage(calibrated, streams):
    with pytest.raises(UsageError, match=f"streams={streams}"):
        Session(calibrated, threads=2, streams=streams)


@pins
def test_a_pinned_caller_gets_its_cpus_back(calibrated):
    before = os.sched_getaffinity(0)
    session = Session(calibrated, threads=1, streams=1, pin=True)
    for _ in range(3):
        session.run(None, {"x": image(1, 3, 8, 8)})
    assert os.sched_getaffinity(0) == before


@pins
def test_pinned_streams_compute_the_same(calibrated):
    count = len(os.sched_getaffinity(0))
    x = image(2, 3, 8, 8)
    expected = Session(calibrated, threads=1).run(None, {"x": x})[0]
    for streams in {None, 1, count}:
        session = Session(calibrated, threads=count, streams=streams, pin=True)
        for got in session.run_many(None, [{"x": x}] * 6):
            np.testing.assert_array_equal(got[0], expected)


@pins
def test_workers_of_a_pinned_pool_keep_to_their_cpus(calibrated):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    before = set(os.listdir("/proc/self/task"))
    session = Session(calibrated, threads=2, pin=True)
    session.run(None, {"x": image(64, 3, 8, 8)})
    new = set(os.listdir("/proc/self/task")) - before
    deadline, found = time.monotonic() + 20, set()
    while found != {(cpus[1],)} and time.monotonic() < deadline:  # a worker pins itself when it first gets a CPU
        found = {tuple(os.sched_getaffinity(int(task))) for task in new}
    assert found == {(cpus[1],)}


@pins
def test_pinning_more_threads_than_cpus_is_wrong_usage(calibrated):
    with pytest.raises(UsageError, match="a CPU a thread"):
        Session(calibrated, threads=len(os.sched_getaffinity(0)) + 1, pin=True)


def test_bytes_that_nobody_touches_lie_between_the_scratch_of_two_threads(calibrated):
    regions = [r for r in Session(calibrated, threads=2)._runners if isinstance(r, NativeRegion)]
    compiled = regions[0].plan_for(((1, 3, 8, 8),))
    assert any("QK_CONV" in op.kind for op in compiled.plan.ops)
    assert compiled.scratch_per_thread > GUARD
    assert compiled.scratch_offset >= compiled.plan.arena_bytes + GUARD
    assert compiled.memory_bytes(2) - compiled.memory_bytes(1) == compiled.scratch_per_thread
