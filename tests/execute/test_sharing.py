"""Sessions side by side: shared weights, many threads on one session, fork, the interpreter's exit, memory."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from quantkit import Session
from quantkit.execute import packing, region
from quantkit.execute.binding import ALIGNMENT
from quantkit.lower.arena import aligned
from tests.graphs import CONV, image, model, quantized

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
BODY = (
    f"c = Conv<{CONV}>(x, w, b) r = Relu(c) q = Conv<{POINT}>(r, v) a = Add(q, r) s = Relu(a) t = Conv<{POINT}>(s, u) \
m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(t) y = Conv<{POINT}>(m, v)"
)
SHAPES = {"w": (32, 3, 3, 3), "b": (32,), "v": (32, 32, 1, 1), "u": (32, 32, 1, 1)}


@pytest.fixture(scope="module")
def calibrated():
    return quantized(model(BODY, SHAPES, inputs="float[N,3,H,W] x"), image(4, 3, 16, 16))


def packed_of(session):
    return {name: array for runner in session._runners for name, array in runner._packed.items()}


def test_layers_are_packed_on_the_threads_of_the_session_where_they_are_worth_it(calibrated, monkeypatch):
    monkeypatch.setenv("QUANTKIT_CACHE", "off")
    x, where = image(1, 3, 8, 8), []

    def pack(isa, spec):
        where.append(threading.current_thread().name)
        return packing.pack(isa, spec)

    monkeypatch.setattr(region, "shared_pack", pack)
    expected = Session(calibrated, threads=2).run(None, {"x": x})
    assert set(where) == {threading.current_thread().name}
    where.clear()
    monkeypatch.setattr(region, "BYTES_A_THREAD", 1)
    got = Session(calibrated, threads=2).run(None, {"x": x})
    assert len(where) == 4
    assert all(name.startswith("quantkit-pack") for name in where)
    np.testing.assert_array_equal(got[0], expected[0])


def test_weights_stay_packed_between_sessions_while_that_is_asked_for_up_to_a_bound(calibrated, monkeypatch):
    monkeypatch.setenv("QUANTKIT_CACHE", "off")
    gc.collect()
    x, packs = image(1, 3, 8, 8), []
    pack = packing.pack
    monkeypatch.setattr(packing, "pack", lambda isa, spec: packs.append(spec) or pack(isa, spec))
    with packing.keeping_packed():
        for _ in range(2):
            Session(calibrated, threads=1).run(None, {"x": x})
        assert len(packs) == 4
        monkeypatch.setattr(packing, "KEPT_BYTES", 1)
        Session(calibrated, threads=1).run(None, {"x": x})
        assert packing._STORE._size <= 1
    gc.collect()
    assert not packing._STORE._shared
    Session(calibrated, threads=1).run(None, {"x": x})
    assert len(packs) == 8


def test_sessions_of_one_model_share_their_packed_weights_and_let_go_of_them(calibrated):
    gc.collect()
    before, x = len(packing._STORE._shared), image(1, 3, 8, 8)
    sessions = [Session(calibrated, threads=t) for t in (1, 2)]
    for session in sessions:
        session.run(None, {"x": x})
    first, second = (packed_of(session) for session in sessions)
    assert len(first) == 4
    assert all(first[name] is second[name] for name in first)
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in first.values())
    other = Session(calibrated, isa="scalar")
    other.run(None, {"x": x})
    assert not any(packed_of(other)[name] is first[name] for name in first)
    del sessions, session, first, second, other
    gc.collect()
    assert len(packing._STORE._shared) == before


def test_different_weights_or_geometry_are_not_shared(calibrated):
    session = Session(calibrated, threads=1)
    session.run(None, {"x": image(1, 3, 8, 8)})
    specs = [spec for runner in session._runners for spec in runner._specs.values()]
    keys = {packing.packing_key("scalar", spec) for spec in specs}
    assert len(keys) == len(specs)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hammer(session, seconds):
    """8 threads run the session with 8 inputs. Returns (wrong results, runs, growth once all have run)."""
    inputs = [image(1 + i % 3, 3, 16 + 4 * (i % 2), 16, seed=i) for i in range(8)]
    expected = [session.run(None, {"x": x})[0] for x in inputs]
    wrong, runs, end = [], [0] * 8, time.monotonic() + seconds

    def work(i):
        while time.monotonic() < end:
            if not np.array_equal(session.run(None, {"x": inputs[i]})[0], expected[i]):
                wrong.append(i)
            runs[i] += 1

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    time.sleep(seconds / 4)
    while min(runs) < 10 and time.monotonic() < end:
        time.sleep(0.01)
    start = resident_bytes()
    for worker in workers:
        worker.join()
    return wrong, runs, resident_bytes() - start


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
@pytest.mark.parametrize("seconds", [4, pytest.param(120, marks=pytest.mark.slow)])
def test_8_threads_sharing_a_session_get_the_same_results_in_flat_memory(calibrated, seconds):
    session, growths = Session(calibrated, threads=2), []
    for _ in range(4):  # threads' heaps may fill in one round or two; a leak grows in each
        wrong, runs, growth = hammer(session, seconds)
        assert wrong == []
        assert min(runs) >= 10
        growths.append(growth)
        if growth < 4 << 20:
            break
    assert min(growths) < 4 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_may_run_the_session_and_exit(calibrated):
    session, x = Session(calibrated, threads=2), image(4, 3, 32, 32)
    expected = session.run(None, {"x": x})[0]
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(session.run(None, {"x": x})[0], expected) for _ in range(5))
        os._exit(0 if same else 3)
    deadline = time.monotonic() + 30
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


@pytest.mark.parametrize("at_exit", ["pass", "threading.Thread(target=forever, daemon=True).start(); time.sleep(0.2)"])
def test_the_interpreter_exits_cleanly_with_a_live_session(calibrated, tmp_path, at_exit):
    import onnx_ir as ir

    ir.save(calibrated, tmp_path / "m.onnx")
    script = textwrap.dedent(f"""
        import threading, time
        import numpy as np
        from quantkit import Session
        session = Session({str(tmp_path / "m.onnx")!r}, threads=2)
        x = np.ones((2, 3, 32, 32), np.float32)
        session.run(None, {{"x": x}})
        def forever():
            while True:
                session.run(None, {{"x": x}})
        {at_exit}
        print("end")
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_the_arena_is_reported_and_near_what_lives_at_once(calibrated):
    session = Session(calibrated, threads=1)
    assert session.arena_bytes == 0
    session.run(None, {"x": image(1, 3, 64, 64)})
    plans = [compiled.plan for runner in session._runners for compiled in runner._plans.values()]
    assert session.arena_bytes == max(plan.arena_bytes for plan in plans)
    assert all(plan.live_bytes <= plan.arena_bytes <= 1.3 * plan.live_bytes for plan in plans)
    assert session.arena_bytes >= 2 * aligned(32 * 64 * 64)
