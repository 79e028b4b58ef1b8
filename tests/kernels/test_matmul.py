"""Products of two u8 tensors against int64 sums in numpy, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, requantize, with_gaps


@dataclass(frozen=True)
class Numbers:
    """Zero points and multiplier of qk_matmul_params."""

    a_zero_point: int = 121
    b_zero_point: int = 133
    zero_point: int = 60
    multiplier: float = 0.0007


def product(a: Array, b: Array, k: Numbers) -> Array:
    wide = (a.astype(np.int64) - k.a_zero_point) @ (b.astype(np.int64) - k.b_zero_point)
    return requantize(wide.astype(np.float32) * np.float32(k.multiplier), k.zero_point, 0, 255)


def matmul_params(shape: tuple[int, int, int], k: Numbers, **given: Any) -> Any:
    rows, depth, columns = shape
    fields = {
        "batch": [1, 1], "rows": rows, "columns": columns, "depth": depth, "a_pitch": depth,
        "a_batch_stride": [0, rows * depth], "b_stride": [columns, 1], "b_batch_stride": [0, depth * columns],
        "out_batch_stride": [0, rows * columns], "out_pitch": columns, **vars(k), **given,
    }  # fmt: skip
    return ffi.new("qk_matmul_params *", fields)


def operands(shape: tuple[int, int, int], batch: int = 1, seed: int = 0) -> tuple[Array, Array]:
    rows, depth, columns = shape
    rng = np.random.default_rng([seed, *shape])
    a = rng.integers(0, 256, (batch, rows, depth), dtype=np.uint8)
    return a, rng.integers(0, 256, (batch, depth, columns), dtype=np.uint8)


@pytest.mark.parametrize("columns", [*range(1, 18), 31, 32, 33, 63, 64, 70])
def test_products_of_every_width(columns: int) -> None:
    a, b = operands((5, 37, columns))
    check(lib.QK_MATMUL, matmul_params((5, 37, columns), Numbers()), [a, b], product(a, b, Numbers()))


@pytest.mark.parametrize("depth", [*range(1, 14), 63, 64, 65, 197])
def test_products_of_every_depth(depth: int) -> None:
    a, b = operands((13, depth, 21))
    check(lib.QK_MATMUL, matmul_params((13, depth, 21), Numbers()), [a, b], product(a, b, Numbers()))


@pytest.mark.parametrize("rows", [*range(1, 14), 24, 25, 50])
def test_products_of_every_height(rows: int) -> None:
    a, b = operands((rows, 20, 40))
    check(lib.QK_MATMUL, matmul_params((rows, 20, 40), Numbers()), [a, b], product(a, b, Numbers()))


@pytest.mark.parametrize("depth", [4, 30])
def test_a_second_operand_with_contiguous_depth(depth: int) -> None:
    """As in queries times keys: b is read transposed, rows further apart than they are long."""
    a, b = operands((7, depth, 35), seed=1)
    pitch = depth + 9
    params = matmul_params((7, depth, 35), Numbers(), b_stride=[1, pitch])
    check(lib.QK_MATMUL, params, [a, with_gaps(np.ascontiguousarray(b[0].T), pitch)], product(a, b, Numbers()))


def test_slices_of_wider_tensors_and_two_batch_dimensions() -> None:
    """Heads side by side in one tensor [tokens][heads][depth]; the output keeps its gaps."""
    tokens, heads, depth, columns = 9, 3, 8, 18
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (2, tokens, heads, depth), dtype=np.uint8)
    b = rng.integers(0, 256, (2, depth, heads, columns), dtype=np.uint8)
    k = Numbers()
    expected = np.empty((2, tokens, heads, columns), np.uint8)
    for n in range(2):
        for h in range(heads):
            expected[n, :, h] = product(a[n, :, h], b[n, :, h], k)
    params = matmul_params(
        (tokens, depth, columns), k, batch=[2, heads], a_pitch=heads * depth, b_stride=[heads * columns, 1],
        a_batch_stride=[tokens * heads * depth, depth], b_batch_stride=[depth * heads * columns, columns],
        out_pitch=heads * (columns + 2), out_batch_stride=[tokens * heads * (columns + 2), columns + 2],
    )  # fmt: skip
    check(lib.QK_MATMUL, params, [a, b], with_gaps(expected.reshape(-1, columns), columns + 2))


def test_one_matrix_serves_a_whole_batch() -> None:
    a, b = operands((6, 12, 10), batch=4)
    params = matmul_params((6, 12, 10), Numbers(), batch=[1, 4], b_batch_stride=[0, 0])
    check(lib.QK_MATMUL, params, [a, b[0]], product(a, b[:1], Numbers()))


@pytest.mark.parametrize("fill", [(0, 0), (255, 255), (255, 0), (0, 255)])
def test_products_at_the_extremes(fill: tuple[int, int]) -> None:
    """The longest sums of the largest products, at every extreme of the zero points."""
    shape = (3, 33025, 17)
    a, b = (np.full(x.shape, value, np.uint8) for x, value in zip(operands(shape), fill, strict=True))
    for zero_points in ((0, 0, 0), (255, 255, 255), (0, 255, 128), (255, 0, 5), (128, 128, 77)):
        for multiplier in (1e-7, 0.25, 3e30):
            k = Numbers(*zero_points, multiplier)
            if multiplier == 1e-7 or zero_points[0] == 0:
                check(lib.QK_MATMUL, matmul_params(shape, k), [a, b], product(a, b, k))


def test_random_bytes_at_every_extreme_of_the_zero_points() -> None:
    a, b = operands((14, 45, 34), seed=5)
    for zero_points in ((0, 0, 0), (255, 255, 255), (0, 255, 128), (255, 0, 5), (128, 128, 77)):
        k = Numbers(*zero_points)
        check(lib.QK_MATMUL, matmul_params((14, 45, 34), k), [a, b], product(a, b, k))


def test_every_matmul_kernel_is_dispatched() -> None:
    check_dispatch(lib.QK_MATMUL, matmul_params((4, 16, 16), Numbers()))
