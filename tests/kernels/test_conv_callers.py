"""Who may call a kernel, and with what: other ISAs' weights, several threads, forked children, memory with an end."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from quantkit.execute._engine import lib

from tests.kernels.engine import ISAS, guarded, run_in_pool, run_op
from tests.kernels.test_conv import DENSE, Layer


def test_weights_packed_for_another_isa_are_refused() -> None:
    if len(ISAS) < 2:
        pytest.skip("one ISA only")
    layer = Layer(DENSE)
    packed = layer.pack(ISAS[0])
    x, out = guarded(layer.x), guarded(np.zeros((42, 37), np.uint8))
    with pytest.raises(AssertionError, match="status 1"):
        run_op(ISAS[-1], lib.QK_CONV, layer.params(packed), [x], out)


def test_many_callers_of_one_pool_get_their_own_results() -> None:
    pool = lib.qk_pool_create(3)
    wrong: list[int] = []

    def caller(seed: int) -> None:
        layer = Layer(replace(DENSE, size=(30, 30)), seed=seed)
        packed, x, want = layer.pack(ISAS[-1]), guarded(layer.x), layer.expected()
        for _ in range(20):
            out = np.zeros_like(want)
            run_in_pool(ISAS[-1], pool, 3, lib.QK_CONV, layer.params(packed), [x], out)
            if not (out == want).all():
                wrong.append(seed)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    lib.qk_pool_destroy(pool)
    assert not wrong


def test_the_guard_catches_a_read_past_the_end() -> None:
    data = guarded(np.zeros(100, np.uint8))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(data.ctypes.data, 101)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV


def test_a_pool_works_in_a_forked_child() -> None:
    layer = Layer(replace(DENSE, size=(30, 30)))
    packed, x, want = layer.pack(ISAS[-1]), guarded(layer.x), layer.expected()
    pool = lib.qk_pool_create(3)

    def is_right() -> bool:
        out = np.zeros_like(want)
        run_in_pool(ISAS[-1], pool, 3, lib.QK_CONV, layer.params(packed), [x], out)
        return bool((out == want).all())

    assert is_right()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(not all(is_right() for _ in range(5)))
            lib.qk_pool_destroy(pool)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert is_right()
    lib.qk_pool_destroy(pool)
