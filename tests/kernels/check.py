"""Runs one op on every ISA and number of threads, and compares every byte of the output, gaps included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.kernels.engine import ISAS, guarded, isa_name, kernels, op_kernel_name, run_op

Array = np.ndarray[Any, Any]
GAP = 0xA5
"""What an output holds where no kernel may write."""
THREADS = (1, 2, 3)


def with_gaps(rows: Array, pitch: int) -> Array:
    """[pixels, channels] laid out with `pitch` bytes a pixel, as long as the last pixel needs; gaps hold GAP."""
    pixels, channels = rows.shape
    flat = np.full(max((pixels - 1) * pitch + channels, 0), GAP, rows.dtype)
    for i in range(pixels):
        flat[i * pitch : i * pitch + channels] = rows[i]
    return flat


def blank(like: Array) -> Array:
    """Guarded memory of the shape and type of `like`, every byte GAP."""
    return guarded(np.full(like.nbytes, GAP, np.uint8)).view(like.dtype).reshape(like.shape)


def results(kind: int, params: Any, inputs: Sequence[Array], expected: Array) -> Iterator[tuple[str, Array]]:
    """(ISA and threads, output) of every way to run the op."""
    tensors = [guarded(x) for x in inputs]
    for isa in ISAS:
        for threads in THREADS:
            output = blank(expected)
            run_op(isa, kind, params, tensors, output, threads)
            yield f"{isa_name(isa)}, {threads} threads", output


def check(kind: int, params: Any, inputs: Sequence[Array], expected: Array) -> None:
    """Every byte of the output equals `expected` on every ISA for every number of threads."""
    for where, output in results(kind, params, inputs, expected):
        np.testing.assert_array_equal(output.view(np.uint8), expected.view(np.uint8), err_msg=where)


def check_dispatch(kind: int, params: Any) -> None:
    """On each ISA that has a kernel for the op kind, and that this CPU has, that kernel runs it."""
    for isa, name in kernels(kind):
        if isa in ISAS:
            assert op_kernel_name(isa, kind, params) == name


def requantize(v: Array, zero_point: int, low: int, high: int) -> Array:
    """clamp(rne(v) + zero_point, low, high) of float32 values, in exact steps; NaN gives high."""
    rounded = np.rint(v.astype(np.float64)) + zero_point
    return np.where(np.isnan(rounded), high, np.clip(rounded, low, high)).astype(np.uint8)
