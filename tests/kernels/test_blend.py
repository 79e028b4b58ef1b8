"""Linear resizing against integer sums in numpy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, with_gaps

ONE = 2048


def random_map(rng: np.random.Generator, size: int, out: int) -> Array:
    """[out, 2]: index and weight; the last index only without weight; weights 0 and 2048 among them."""
    index = rng.integers(0, size, out)
    weight = rng.choice([0, 1, ONE // 2, ONE, rng.integers(0, ONE + 1)], out)
    weight[index == size - 1] = 0
    return np.stack([index, weight], axis=1).astype(np.int32)


def blended(x: Array, rows: Array, columns: Array) -> Array:
    total = x.astype(np.int64)
    for axis, (index, weight) in ((1, rows.T), (2, columns.T)):
        shape = [-1 if a == axis else 1 for a in range(4)]
        w = weight.astype(np.int64).reshape(shape)
        above = np.minimum(index + 1, x.shape[axis] - 1)
        total = total.take(index, axis=axis) * (ONE - w) + total.take(above, axis=axis) * w
    return ((total + 2**21) // 2**22).astype(np.uint8)


@pytest.mark.parametrize("channels", [*range(1, 19), 24, 31, 64, 100])
def test_linear_resize_by_maps_of_indices_and_weights(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (2, 5, 4, channels), dtype=np.uint8)
    x[0, :2] = 255
    rows, columns = random_map(rng, 5, 9), random_map(rng, 4, 11)
    fields = {"batch": 2, "in_h": 5, "in_w": 4, "out_h": 9, "out_w": 11, "channels": channels}
    fields |= {"in_pitch": channels + 2, "out_pitch": channels + 13}
    fields["rows"], fields["columns"] = (ffi.cast("int32_t *", m.ctypes.data) for m in (rows, columns))
    expected = with_gaps(blended(x, rows, columns).reshape(-1, channels), channels + 13)
    params = ffi.new("qk_resize_params *", fields)
    check(lib.QK_BLEND, params, [with_gaps(x.reshape(-1, channels), channels + 2)], expected)


def test_every_blend_kernel_is_dispatched() -> None:
    check_dispatch(lib.QK_BLEND, ffi.new("qk_resize_params *", {"batch": 1, "channels": 64}))
