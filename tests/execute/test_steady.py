"""A plan that was built runs without allocating and without taking a lock: counted in the process that runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import onnx_ir as ir
import pytest

from tests.graphs import CONV, image, model, quantized

COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static _Thread_local long allocations, locks;
long counted_allocations(void) { return allocations; }
long counted_locks(void) { return locks; }
void *malloc(size_t n) { allocations++; return __libc_malloc(n); }
void *calloc(size_t k, size_t n) { allocations++; return __libc_calloc(k, n); }
void *realloc(void *p, size_t n) { allocations++; return __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { allocations++; return __libc_memalign(a, n); }
int pthread_mutex_lock(pthread_mutex_t *m) {
    static int (*lock)(pthread_mutex_t *);
    if (!lock)
        lock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    locks++;
    return lock(m);
}
"""
SCRIPT = """
import ctypes
import numpy as np
from quantkit import Session
from quantkit.execute._engine import ffi, lib
from quantkit.execute.binding import aligned_bytes

session = Session({path!r}, threads=1)
x = np.ones((2, 3, 32, 32), np.float32)
session.run(None, {{"x": x}})
(runner,) = session._runners
(compiled,) = runner._plans.values()
(out,) = compiled.plan.outputs
memory, y = aligned_bytes(compiled.memory_bytes(1)), np.empty(out.dims, out.dtype)
base, pool = memory.ctypes.data, lib.qk_pool_create(1)
arrays = [memory, x, y, *compiled.plan.constants]
buffers = ffi.new("void *[]", [ffi.cast("void *", a.ctypes.data) for a in arrays])
scratch, failed = ffi.cast("void *", base + compiled.scratch_offset), ffi.new("int32_t *", -1)
run = (compiled.isa, pool, compiled._ops, len(compiled.plan.ops), buffers, scratch, compiled.scratch_per_thread,
       ffi.NULL, failed)
counter = ctypes.CDLL(None)


def counts(call, *arguments):
    call(*arguments)
    before = counter.counted_allocations(), counter.counted_locks()
    for _ in range(200):
        call(*arguments)
    return counter.counted_allocations() - before[0], counter.counted_locks() - before[1]


idle, busy = counts(lib.qk_isa_available, 0), counts(lib.qk_run, *run)
assert failed[0] == -1 and len(compiled.plan.ops) > 5
assert np.array_equal(y, session.run(None, {{"x": x}})[0])
made = counts(lambda: lib.qk_pool_destroy(lib.qk_pool_create(1)))
print(busy[0] - idle[0], busy[1] - idle[1], made[0] >= 200, made[1] >= 200)
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
def test_a_steady_run_allocates_nothing_and_locks_nothing(tmp_path):
    """The interpreter's own lock is taken around every call, so what counts is the difference to an empty call."""
    body = (
        f"c = Conv<{CONV}>(x, w) r = Relu(c) s = Sigmoid(r) l = LRN<size=3>(s) a = Add(l, r) t = Softmax<axis=1>(a) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(t) g = GlobalAveragePool(p) f = Flatten(g) "
        "y = Gemm<transB=1>(f, h)"
    )
    proto = model(body, {"w": (32, 3, 3, 3), "h": (10, 32)}, inputs="float[N,3,H,W] x", outputs="float[N,10] y")
    ir.save(quantized(proto, image(4, 3, 16, 16)), tmp_path / "model.onnx")
    (tmp_path / "counter.c").write_text(COUNTER)
    library = tmp_path / "counter.so"
    command = ["cc", "-shared", "-fPIC", "-O1", str(tmp_path / "counter.c"), "-o", str(library), "-ldl"]
    built = subprocess.run(command, capture_output=True, check=False)
    if built.returncode:
        pytest.skip("the C library is not glibc")
    script = textwrap.dedent(SCRIPT).format(path=str(tmp_path / "model.onnx"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False,
                          env={**os.environ, "LD_PRELOAD": str(library)})  # fmt: skip
    assert (done.stdout, done.stderr) == ("0 0 True True\n", "")
