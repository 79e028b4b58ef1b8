"""Runs one op of the compiled engine on memory that ends at an unmapped page, so a stray read or write crashes."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

ISAS = [isa for isa in range(lib.QK_ISA_COUNT) if lib.qk_isa_available(isa)]
"""The ISAs that this build has and this CPU runs."""
PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def isa_name(isa: int) -> str:
    return str(ffi.string(lib.qk_isa_name(isa)).decode())


def kernels(op: int) -> list[tuple[int, str]]:
    """(isa, name) of every row of kernels.inc for an op kind."""
    rows = range(lib.qk_kernel_count())
    return [
        (lib.qk_kernel_isa(i), ffi.string(lib.qk_kernel_name(i)).decode()) for i in rows if lib.qk_kernel_op(i) == op
    ]


only_avx2 = pytest.mark.skipif(lib.QK_AVX2 not in ISAS, reason="this CPU has no AVX2")
"""For kernels of AVX2 alone. What runs them asserts their names: a kernel that is never chosen must fail, not skip."""
on_avx2 = pytest.mark.parametrize("isa", [lib.QK_AVX2], ids=isa_name)


def guarded(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of data, flat or not, that ends where an unmapped page begins."""
    data = np.ascontiguousarray(data)
    inside = -(-max(data.nbytes, 1) // PAGE) * PAGE
    area = mmap.mmap(-1, inside + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for guard in (base, base + PAGE + inside):
        if _libc.mprotect(guard, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + inside - data.nbytes
    copy = np.frombuffer(area, data.dtype, data.size, offset).reshape(data.shape)
    copy[...] = data
    return copy


def aligned(count: int) -> np.ndarray[Any, Any]:
    """`count` bytes on a 64-byte boundary, filled with a pattern that is no sensible value."""
    raw = np.full(count + 64, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count]


def pointer(array: np.ndarray[Any, Any] | None, kind: str = "void *") -> Any:
    return ffi.NULL if array is None else ffi.cast(kind, array.ctypes.data)


def run_in_pool(
    isa: int,
    pool: Any,
    threads: int,
    kind: int,
    params: Any,
    inputs: Sequence[np.ndarray[Any, Any] | None],
    output: np.ndarray[Any, Any],
) -> None:
    """run_op on a pool of `threads` threads that the caller owns."""
    tensors = [*inputs, *[None] * (2 - len(inputs)), output]
    op = ffi.new("qk_op *", {"kind": kind, "params": ffi.cast("void *", params)})
    for i, tensor in enumerate(tensors):
        ref = op.out if i == 2 else getattr(op, "in")[i]
        ref.buffer, ref.offset = (-1 if tensor is None else i), 0
    buffers = ffi.new("void *[3]", [pointer(t) for t in tensors])
    per_thread = lib.qk_op_scratch_bytes(isa, op)
    scratch = aligned(max(per_thread * threads, 64))
    failed = ffi.new("int32_t *", -1)
    status = lib.qk_run(isa, pool, op, 1, buffers, pointer(scratch), per_thread, ffi.NULL, failed)
    assert status == lib.QK_OK, f"qk_run: status {status}, op {failed[0]}"


def run_op(
    isa: int,
    kind: int,
    params: Any,
    inputs: Sequence[np.ndarray[Any, Any] | None],
    output: np.ndarray[Any, Any],
    threads: int = 1,
) -> None:
    """One op through qk_run, written into `output`. params: the struct that the kind wants. Up to two inputs."""
    pool = lib.qk_pool_create(threads)
    try:
        run_in_pool(isa, pool, threads, kind, params, inputs, output)
    finally:
        lib.qk_pool_destroy(pool)


def op_kernel_name(isa: int, kind: int, params: Any) -> str | None:
    """The kernel that would run the op, or None."""
    op = ffi.new("qk_op *", {"kind": kind, "params": ffi.cast("void *", params)})
    name = lib.qk_op_kernel_name(isa, op)
    return None if name == ffi.NULL else str(ffi.string(name).decode())


SWISH_NUMBERS = ("activation_scale", "activation_shift")


def swish_numbers(wide: Mapping[str, Any], rng: np.random.Generator, channels: int) -> dict[str, Any]:
    """Fields of qk_epilogue, those of SWISH_NUMBERS drawn for each channel between the two ends that `wide` gives.

    They stand before an unmapped page."""
    drawn = {k: guarded(rng.uniform(*wide[k], channels).astype(np.float32)) for k in SWISH_NUMBERS if k in wide}
    steepest = {"steepest": 6 * float(np.abs(drawn[SWISH_NUMBERS[0]]).max())} if drawn else {}
    return {**steepest, **wide, **drawn}
