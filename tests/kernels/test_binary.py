"""Add and multiply against int64 and float32 steps in numpy, bit for bit: broadcasts, strides, tables, in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import THREADS, Array, blank, check, check_dispatch, requantize, with_gaps
from tests.kernels.engine import ISAS, guarded, isa_name, run_op


@dataclass(frozen=True)
class Numbers:
    """The constants of qk_binary_params."""

    multiply: int = 0
    a_zero_point: int = 11
    b_zero_point: int = 240
    a_multiplier: float = 0.7
    b_multiplier: float = 0.31
    zero_point: int = 93
    low: int = 0
    high: int = 255


def combined(a: Array, b: Array, k: Numbers, table: Array | None = None) -> Array:
    """The equations of qk_binary_params on broadcast arrays."""
    a_difference, b_difference = a.astype(np.int64) - k.a_zero_point, b.astype(np.int64) - k.b_zero_point
    a_multiplier, b_multiplier = np.float32(k.a_multiplier), np.float32(k.b_multiplier)
    if k.multiply:
        v = (a_difference * b_difference).astype(np.float32) * a_multiplier
    else:
        v = a_difference.astype(np.float32) * a_multiplier + b_difference.astype(np.float32) * b_multiplier
    y = requantize(v, k.zero_point, k.low, k.high)
    return y if table is None else table[y]


def binary_params(dims: tuple[int, int, int], strides: list[tuple[int, ...]], k: Numbers, table: Array | None) -> Any:
    fields = {"batch": dims[0], "pixels": dims[1], "channels": dims[2], **vars(k)}
    fields |= dict(zip(("a_stride", "b_stride", "out_stride"), map(list, strides), strict=True))
    fields["table"] = ffi.NULL if table is None else ffi.cast("uint8_t *", table.ctypes.data)
    return ffi.new("qk_binary_params *", fields)


def broadcast_case(dims: tuple[int, int, int], b_dims: tuple[int, int, int], k: Numbers, swap: bool = False) -> None:
    """Contiguous operands, b broadcast where b_dims is 1; swap exchanges the operands."""
    rng = np.random.default_rng(dims[1] * 100 + dims[2])
    a = rng.integers(0, 256, dims, dtype=np.uint8)
    b = rng.integers(0, 256, b_dims, dtype=np.uint8)
    a_stride = tuple(a.strides)
    b_stride = tuple(0 if n == 1 else s for n, s in zip(b_dims, b.strides, strict=True))
    if swap:
        a, b, strides = b, a, [b_stride, a_stride, a_stride]
    else:
        strides = [a_stride, b_stride, a_stride]
    check(lib.QK_BINARY, binary_params(dims, strides, k, None), [a, b], combined(a, b, k))


@pytest.mark.parametrize("multiply", [0, 1])
@pytest.mark.parametrize("channels", [*range(1, 36), 63, 64, 65, 70, 127, 128, 129, 5000])
def test_operands_of_equal_shape(channels: int, multiply: int) -> None:
    multiplier = 0.004 if multiply else 0.7
    broadcast_case((1, 1, channels), (1, 1, channels), Numbers(multiply, a_multiplier=multiplier))


@pytest.mark.parametrize("multiply", [0, 1])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 9, 16, 31, 33, 70, 96, 144])
def test_one_operand_is_broadcast_along_some_dims(channels: int, swap: bool, multiply: int) -> None:
    k = Numbers(multiply, a_multiplier=0.004 if multiply else 0.7)
    dims = (2, 37, channels)
    for b_dims in ((2, 1, channels), (1, 1, channels), (2, 37, 1), (1, 37, 1), (1, 1, 1), (2, 1, 1), (1, 37, channels)):
        broadcast_case(dims, b_dims, k, swap)


@pytest.mark.parametrize("multiply", [0, 1])
def test_every_pair_of_bytes_at_every_extreme_of_the_zero_points(multiply: int) -> None:
    a = np.repeat(np.arange(256, dtype=np.uint8), 256)
    b = np.tile(np.arange(256, dtype=np.uint8), 256)
    strides: list[tuple[int, ...]] = [(0, 0, 1)] * 3
    for zero_points in ((0, 0, 0), (255, 255, 255), (128, 0, 255), (0, 255, 128)):
        for multiplier in (0.5, 1e-4, 1000.0, 3e30):
            k = Numbers(multiply, *zero_points[:2], multiplier, 0.25, zero_points[2])
            check(lib.QK_BINARY, binary_params((1, 1, a.size), strides, k, None), [a, b], combined(a, b, k))


def test_bounds_and_then_the_table_are_applied() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 256, (2, 3, 21, 45), dtype=np.uint8)
    table = rng.permutation(256).astype(np.uint8)
    for low, high, use in ((93, 255, None), (100, 140, table), (0, 0, None), (255, 255, table)):
        k = Numbers(low=low, high=high)
        params = binary_params(a.shape, [a.strides] * 3, k, use)
        check(lib.QK_BINARY, params, [a, b], combined(a, b, k, use))


@pytest.mark.parametrize("channels", [1, 5, 32, 70])
def test_channel_slices_of_wider_tensors(channels: int) -> None:
    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 256, (2, 2, 30, channels), dtype=np.uint8)
    k = Numbers()
    table = rng.permutation(256).astype(np.uint8)
    pitches = (channels + 3, channels + 64, channels + 7)
    strides: list[tuple[int, ...]] = [(30 * pitch, pitch, 1) for pitch in pitches]
    expected = with_gaps(combined(a, b, k, table).reshape(60, channels), pitches[2])
    inputs = [with_gaps(x.reshape(60, channels), pitch) for x, pitch in zip((a, b), pitches, strict=False)]
    check(lib.QK_BINARY, binary_params(a.shape, strides, k, table), inputs, expected)


@pytest.mark.parametrize("multiply", [0, 1])
def test_strides_other_than_one_along_the_channels(multiply: int) -> None:
    rng = np.random.default_rng(7)
    a = rng.integers(0, 256, (2, 5, 300 * 2), dtype=np.uint8)
    b = rng.integers(0, 256, (2, 300, 5), dtype=np.uint8)
    k = Numbers(multiply, a_multiplier=0.004)
    strides: list[tuple[int, ...]] = [(3000, 600, 2), (1500, 1, 5), (1500, 300, 1)]
    expected = combined(a[:, :, ::2], b.transpose(0, 2, 1), k)
    check(lib.QK_BINARY, binary_params((2, 5, 300), strides, k, None), [a, b], expected)
    table = rng.permutation(256).astype(np.uint8)
    strides[2] = (3000, 600, 2)
    gapped = np.full((2, 5, 600), 0xA5, np.uint8)
    gapped[:, :, ::2] = table[expected]
    check(lib.QK_BINARY, binary_params((2, 5, 300), strides, k, table), [a, b], gapped.ravel()[:-1])


def test_the_output_may_be_an_operand() -> None:
    rng = np.random.default_rng(8)
    k = Numbers()
    for shape in ((1, 1, 9001), (2, 40, 33)):
        a, b = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
        params = binary_params(shape, [a.strides] * 3, k, None)
        for isa in ISAS:
            for threads in THREADS:
                in_out = guarded(b)
                run_op(isa, lib.QK_BINARY, params, [guarded(a), in_out], in_out, threads)
                np.testing.assert_array_equal(in_out, combined(a, b, k), err_msg=isa_name(isa))


def test_an_empty_tensor_is_no_work() -> None:
    params = binary_params((0, 7, 5), [(35, 5, 1)] * 3, Numbers(), None)
    nothing = np.zeros(1, np.uint8)
    for isa in ISAS:
        output = blank(nothing)
        run_op(isa, lib.QK_BINARY, params, [nothing, nothing], output)
        assert output[0] == 0xA5


def test_every_binary_kernel_is_dispatched() -> None:
    check_dispatch(lib.QK_BINARY, binary_params((1, 1, 64), [(64, 64, 1)] * 3, Numbers(), None))
