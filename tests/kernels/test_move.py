"""Copies, lookups, fills and nearest resizing against numpy strides: every byte moved, none other touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, with_gaps
from tests.kernels.engine import ISAS, pointer

RANK = 6


def copy_params(dims: Any, in_stride: Any, out_stride: Any, table: Array | None = None, value: int = 0) -> Any:
    def six(values: Any, fill: int) -> list[int]:
        return [fill] * (RANK - len(values)) + [int(v) for v in values]

    fields = {"dims": six(dims, 1), "in_stride": six(in_stride, 0), "out_stride": six(out_stride, 0), "value": value}
    fields["table"] = ffi.NULL if table is None else ffi.cast("uint8_t *", table.ctypes.data)
    return ffi.new("qk_copy_params *", fields)


def moved(x: Array, dims: Any, in_stride: Any, out_stride: Any, table: Array | None = None) -> Array:
    """The loop of qk_copy_params on flat bytes; bytes that are not written hold the gap value."""
    at = np.indices(dims).reshape(len(dims), -1)
    source, target = (np.asarray(stride) @ at for stride in (in_stride, out_stride))
    y = np.full(int(target.max()) + 1, 0xA5, np.uint8)
    y[target] = x[source] if table is None else table[x[source]]
    return y


def check_copy(dims: Any, in_stride: Any, out_stride: Any, seed: int = 0) -> None:
    """With and without a table; input of exactly the bytes that are read."""
    rng = np.random.default_rng(seed)
    size = 1 + sum((n - 1) * s for n, s in zip(dims, in_stride, strict=True))
    x = rng.integers(0, 256, size, dtype=np.uint8)
    for table in (None, rng.permutation(256).astype(np.uint8)):
        params = copy_params(dims, in_stride, out_stride, table)
        check(lib.QK_COPY, params, [x], moved(x, dims, in_stride, out_stride, table))


def contiguous(dims: Any) -> list[int]:
    return [int(np.prod(dims[i + 1 :])) for i in range(len(dims))]


@pytest.mark.parametrize("channels", [*range(1, 36), 63, 64, 65, 70, 127, 255, 256, 257, 300, 5000])
def test_rows_are_copied_into_a_wider_tensor(channels: int) -> None:
    dims = (2, 3, 5, channels)
    wide = channels + 11
    check_copy(dims, contiguous(dims), (15 * wide, 5 * wide, wide, 1))
    check_copy(dims, (15 * wide, 5 * wide, wide, 1), contiguous(dims))


@pytest.mark.parametrize(
    ("rows", "columns"), [(r, c) for r in (1, 7, 15, 16, 17, 49, 70, 130) for c in (1, 3, 16, 33, 65, 200)]
)
def test_layouts_are_transposed(rows: int, columns: int) -> None:
    check_copy((2, columns, rows), (rows * columns, 1, columns), (rows * columns, rows, 1))
    check_copy((2, columns, rows), (rows * (columns + 5), 1, columns + 5), (columns * (rows + 3), rows + 3, 1))


@pytest.mark.parametrize(
    ("pixels", "channels"), [(p, c) for p in (1, 7, 8, 9, 64, 71, 200) for c in (1, 3, 7, 8, 9, 21, 64)]
)
def test_layouts_of_floats_are_transposed(pixels: int, channels: int) -> None:
    whole, row, gap = 4 * pixels * channels, 4 * channels, 20
    check_copy((2, channels, pixels, 4), (whole, 4, row, 1), (whole, 4 * pixels, 4, 1))
    check_copy((2, channels, pixels, 4), ((row + gap) * pixels, 4, row + gap, 1),
               ((4 * pixels + gap) * channels, 4 * pixels + gap, 4, 1))  # fmt: skip


@pytest.mark.parametrize("groups", [2, 3, 4, 8, 15, 16])
@pytest.mark.parametrize("width", [1, 4, 15, 16, 29, 58, 116])
def test_channels_are_shuffled(groups: int, width: int) -> None:
    channels = groups * width
    check_copy((2, 9, width, groups), (9 * channels, channels, 1, width), (9 * channels, channels, groups, 1))


def test_a_channel_shuffle_goes_into_a_slice_of_a_wider_tensor() -> None:
    for groups in (2, 4):
        check_copy((7, 24, groups), (24 * groups, 1, 24), (24 * groups + 9, groups, 1))


def test_any_permutation_of_six_dims() -> None:
    rng = np.random.default_rng(3)
    dims = np.array((2, 3, 4, 5, 2, 3))
    for seed in range(12):
        order = rng.permutation(6)
        check_copy(dims, contiguous(dims), np.array(contiguous(dims[order]))[np.argsort(order)], seed)


def with_random_gaps(dims: Any, order: Any, rng: np.random.Generator) -> list[int]:
    """Strides of a tensor whose dims lie in memory in `order`, outermost first, with gaps after some of them."""
    strides, step = [0] * len(dims), 1
    for i in reversed(order):
        strides[i] = step
        step = int(step * dims[i] + rng.choice([0, 0, 0, 1, 37]))
    return strides


@pytest.mark.parametrize("seed", range(60))
def test_random_dims_orders_and_gaps(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    rank = int(rng.integers(1, RANK + 1))
    dims = rng.choice([1, 2, 3, 4, 8, 15, 16, 17, 33, 64, 100, 2500], rank)
    while dims.prod() > 60_000:
        dims[dims.argmax()] = rng.integers(1, 5)
    in_order, out_order = rng.permutation(rank), rng.permutation(rank)
    check_copy(dims, with_random_gaps(dims, in_order, rng), with_random_gaps(dims, out_order, rng), seed)


def test_steps_and_broadcasts() -> None:
    check_copy((4, 10, 33), (5000, 200, 3), (330, 33, 1))
    check_copy((4, 10, 33), (330, 33, 1), (5000, 200, 3))
    check_copy((3, 40, 17), (0, 17, 1), (680, 17, 1))
    check_copy((3, 40, 17), (40, 1, 0), (680, 17, 1))
    check_copy((64, 100), (1, 64), (100, 1))
    check_copy((1,), (1,), (1,))


def test_negative_strides_reverse() -> None:
    x = np.random.default_rng(4).integers(0, 256, (5, 37), dtype=np.uint8)
    params = copy_params((5, 37), (37, -1), (37, 1))
    op = ffi.new("qk_op *", {"kind": lib.QK_COPY, "params": ffi.cast("void *", params)})
    getattr(op, "in")[0].offset = 36
    op.out.buffer = 1
    for isa in ISAS:
        output = np.zeros_like(x)
        buffers = ffi.new("void *[2]", [pointer(x), pointer(output)])
        assert lib.qk_run(isa, ffi.NULL, op, 1, buffers, ffi.NULL, 0, ffi.NULL, ffi.NULL) == lib.QK_OK
        np.testing.assert_array_equal(output, x[:, ::-1])


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 127, 256, 4095, 4097, 20000])
def test_lookup_of_every_byte_in_a_run(count: int) -> None:
    rng = np.random.default_rng(count)
    x = np.resize(rng.permutation(256), count).astype(np.uint8)
    for table in (rng.permutation(256), np.arange(256), np.full(256, 255), np.arange(256) ^ 0x80):
        entries = table.astype(np.uint8)
        check(lib.QK_LOOKUP, copy_params((count,), (1,), (1,), entries), [x], entries[x])


@pytest.mark.parametrize("width", [1, 3, 17, 64, 100, 5000])
def test_fill_writes_its_value_and_nothing_else(width: int) -> None:
    for dims, out_stride in (
        ((3, 4, width), (4 * width + 9, width, 1)),
        ((2, width), (width * 3, 3)),
        ((width,), (1,)),
    ):
        expected = moved(np.full(1, 200, np.uint8), dims, [0] * len(dims), out_stride)
        check(lib.QK_FILL, copy_params(dims, [0] * len(dims), out_stride, value=200), [], expected)


@pytest.mark.parametrize("channels", [*range(1, 36), 64, 70, 256, 300])
def test_resize_takes_rows_and_columns_by_the_maps(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (2, 5, 4, channels), dtype=np.uint8)
    rows, columns = (rng.integers(0, n, m, dtype=np.int32) for n, m in ((5, 9), (4, 11)))
    expected = x[:, rows][:, :, columns]
    fields = {"batch": 2, "in_h": 5, "in_w": 4, "out_h": 9, "out_w": 11, "channels": channels}
    fields |= {"in_pitch": channels + 2, "out_pitch": channels + 13}
    fields["rows"], fields["columns"] = (ffi.cast("int32_t *", m.ctypes.data) for m in (rows, columns))
    flat = with_gaps(x.reshape(-1, channels), channels + 2)
    params = ffi.new("qk_resize_params *", fields)
    check(lib.QK_RESIZE, params, [flat], with_gaps(expected.reshape(-1, channels), channels + 13))


def test_every_movement_kernel_is_dispatched() -> None:
    table = np.arange(256, dtype=np.uint8)
    for kind in (lib.QK_LOOKUP, lib.QK_COPY, lib.QK_FILL):
        check_dispatch(kind, copy_params((64,), (1,), (1,), table))
    check_dispatch(lib.QK_RESIZE, ffi.new("qk_resize_params *", {"batch": 1, "channels": 64}))
