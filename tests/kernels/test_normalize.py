"""Normalizations against integer sums and float steps in numpy, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, requantize, with_gaps
from tests.kernels.test_rows import COUNTS, bytes_of


def normalized(x: Array, k: dict[str, Any], gain: Array, shift: Array) -> Array:
    """x: [runs, values]; gain and shift: of every value."""
    wide = x.astype(np.int64)
    count = x.shape[1]
    if k.get("origin", -1) < 0:
        total = wide.sum(1, keepdims=True)
        spread = count * (wide * wide).sum(1, keepdims=True) - total * total
    else:
        total = np.full((len(x), 1), count * k["origin"])
        spread = count * ((wide - k["origin"]) ** 2).sum(1, keepdims=True)
    variance = spread.astype(np.float64) / (float(count) * float(count)) * (k["in_scale"] * k["in_scale"])
    with np.errstate(all="ignore"):
        factor = (k["in_scale"] / np.sqrt(variance + k["epsilon"]) / float(count)).astype(np.float32)
        v = (count * wide - total).astype(np.float32) * factor * gain + shift
    return requantize(v, k["zero_point"], 0, 255)


def constants(given: dict[str, Any]) -> dict[str, Any]:
    return {"in_scale": float(np.float32(0.037)), "epsilon": 1e-6, "zero_point": 121, **given}


def gains(count: int, gain_size: float, seed: int = 3) -> tuple[Array, Array, dict[str, Any]]:
    """Random gain and shift, and the fields that point to them."""
    gain, shift = (np.random.default_rng(seed).normal(size=(2, count)) * [[gain_size], [9.0]]).astype(np.float32)
    fields = {"gain": ffi.cast("float *", gain.ctypes.data), "shift": ffi.cast("float *", shift.ctypes.data)}
    return gain, shift, fields


# ---- layer and RMS normalization ----


def check_normalize(x: Array, pitches: tuple[int, int], gain_size: float = 30.0, **given: Any) -> None:
    k = constants({"origin": -1, **given})
    rows, count = x.shape
    gain, shift, pointers = gains(count, gain_size)
    sizes = {"rows": rows, "count": count, "in_pitch": pitches[0], "out_pitch": pitches[1]}
    params = ffi.new("qk_normalize_params *", {**sizes, **k, **pointers})
    expected = with_gaps(normalized(x, k, gain, shift), pitches[1])
    check(lib.QK_NORMALIZE, params, [with_gaps(x, pitches[0])], expected)


@pytest.mark.parametrize("count", COUNTS)
def test_normalization_of_runs_of_every_length(count: int) -> None:
    check_normalize(bytes_of(5, count, count), (count, count))


@pytest.mark.parametrize("origin", [0, 1, 77, 128, 255])
def test_normalization_by_the_distance_to_any_byte(origin: int) -> None:
    for count in (1, 2, 7, 8, 9, 16, 33, 96, 100, 768):
        check_normalize(bytes_of(5, count, count), (count, count), origin=origin)


@pytest.mark.parametrize("origin", [-1, 3])
@pytest.mark.parametrize("count", [1, 9, 96, 768])
def test_normalization_at_the_extremes(count: int, origin: int) -> None:
    x = bytes_of(6, count, 4)
    check_normalize(x, (count, count), zero_point=0, in_scale=1e-20, origin=origin)
    check_normalize(x, (count, count), zero_point=255, in_scale=1e20, gain_size=1e30, origin=origin)
    check_normalize(x, (count, count), epsilon=0.0, origin=origin)  # a constant run is 0 times infinity
    check_normalize(np.full_like(x, 255), (count, count), origin=origin)


@pytest.mark.parametrize("count", [65793, 65794, 70001])
def test_runs_so_long_that_float32_sums_would_be_inexact(count: int) -> None:
    check_normalize(bytes_of(3, count, 5), (count, count))
    check_normalize(np.full((1, count), 255, np.uint8), (count, count))
    check_normalize(np.full((1, count), 255, np.uint8), (count, count), origin=0)


def test_normalization_leaves_gaps_between_runs_alone() -> None:
    for count in (7, 33, 96):
        check_normalize(bytes_of(4, count, 6), (count + 5, count + 11))


# ---- group and instance normalization ----


def check_groups(x: Array, groups: int, pitches: tuple[int, int] | None = None, gain_size: float = 30.0,
                 **given: Any) -> None:  # fmt: skip
    """x: [batch, pixels, channels]."""
    k = constants(given)
    batch, pixels, channels = x.shape
    in_pitch, out_pitch = pitches or (channels, channels)
    gain, shift, pointers = gains(channels, gain_size)
    sizes = {"batch": batch, "pixels": pixels, "channels": channels, "groups": groups}
    pitch = {"in_pitch": in_pitch, "out_pitch": out_pitch}
    params = ffi.new("qk_group_normalize_params *", {**sizes, **pitch, **k, **pointers})
    each = channels // groups
    runs = x.reshape(batch, pixels, groups, each).transpose(0, 2, 1, 3).reshape(batch * groups, pixels * each)
    whole = [np.broadcast_to(v.reshape(1, groups, 1, each), (batch, groups, pixels, each)) for v in (gain, shift)]
    y = normalized(runs, k, *(v.reshape(runs.shape) for v in whole))
    back = y.reshape(batch, groups, pixels, each).transpose(0, 2, 1, 3).reshape(batch * pixels, channels)
    check(lib.QK_GROUP_NORMALIZE, params, [with_gaps(x.reshape(-1, channels), in_pitch)], with_gaps(back, out_pitch))


def images(batch: int, pixels: int, channels: int, seed: int) -> Array:
    """Random; a channel constant, a channel 0 and 255, a wide range beside a narrow one."""
    x = bytes_of(channels, batch * pixels, seed).reshape(channels, batch, pixels)
    x[-1] = 100 + x[-1] // 64
    return np.ascontiguousarray(x.transpose(1, 2, 0))


@pytest.mark.parametrize("each", [1, 2, 3, 4, 7, 8, 16, 17, 40, 64, 65, 130])
def test_groups_of_every_width(each: int) -> None:
    for groups in (1, 2, 5, 32):
        check_groups(images(2, 7, each * groups, each), groups)


@pytest.mark.parametrize("pixels", [1, 2, 5, 49, 1000])
def test_groups_over_every_number_of_pixels(pixels: int) -> None:
    for channels, groups in ((6, 6), (24, 3), (70, 70), (72, 1)):
        check_groups(images(2, pixels, channels, pixels), groups)


def test_groups_at_the_extremes() -> None:
    x = images(2, 9, 24, 8)
    check_groups(x, 4, zero_point=0, in_scale=1e-20)
    check_groups(x, 4, zero_point=255, in_scale=1e20, gain_size=1e30)
    check_groups(x, 24, epsilon=0.0)  # a constant channel is 0 times infinity
    check_groups(np.full_like(x, 255), 3)


def test_groups_of_so_many_pixels_that_lanes_would_overflow() -> None:
    for pixels in (65536, 65537, 140000):
        check_groups(np.full((1, pixels, 2), 255, np.uint8), 2)
        check_groups(images(1, pixels, 3, 9), 1)


def test_groups_leave_gaps_between_pixels_alone() -> None:
    for channels, groups in ((6, 3), (40, 8), (96, 96)):
        check_groups(images(2, 9, channels, 3), groups, (channels + 5, channels + 11))


# ---- local response normalization ----

LRN = {"size": 5, "scale": 0.5, "out_scale": 0.01, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}


def segments(k: dict[str, float], window: int, in_zero_point: int) -> Array:
    """[segments, 2]: the factor at the begin of each, and its rise over 1 / 65,536 of it."""
    largest = np.float32(window * max(in_zero_point, 255 - in_zero_point) ** 2)
    count = (int(largest.view(np.int32)) >> 16) - (127 << 7) + 1
    begins = 2.0 ** (np.arange(count + 1) // 128) * (1 + np.arange(count + 1) % 128 / 128)
    base = k["bias"] + k["alpha"] / k["size"] * k["scale"] ** 2 * begins
    factor = (k["scale"] / k["out_scale"] * base ** -k["beta"]).astype(np.float32).astype(np.float64)
    return np.stack([factor[:-1], np.diff(factor) / 65536], axis=1).astype(np.float32)


def lrn(x: Array, window: tuple[int, int], table: Array, in_zero_point: int, zero_point: int) -> Array:
    d = x.astype(np.int64) - in_zero_point
    padded = np.pad(d * d, ((0, 0), window))
    sums = sum(padded[:, i : i + x.shape[1]] for i in range(sum(window) + 1))
    bits = np.maximum(sums, 1).astype(np.float32).view(np.int32)
    begin, slope = (table[(bits >> 16) - (127 << 7), i] for i in (0, 1))
    factor = begin + (bits & 0xFFFF).astype(np.float32) * slope
    return requantize(d.astype(np.float32) * factor, zero_point, 0, 255)


def check_lrn(x: Array, window: tuple[int, int] = (2, 2), pitches: tuple[int, int] | None = None,
              zero_points: tuple[int, int] = (110, 120), **given: float) -> None:  # fmt: skip
    rows, count = x.shape
    in_pitch, out_pitch = pitches or (count, count)
    table = segments({**LRN, **given}, sum(window) + 1, zero_points[0])
    params = ffi.new("qk_lrn_params *", {
        "rows": rows, "count": count, "in_pitch": in_pitch, "out_pitch": out_pitch, "before": window[0],
        "after": window[1], "in_zero_point": zero_points[0], "zero_point": zero_points[1],
        "segments": ffi.cast("float *", table.ctypes.data), "segment_count": len(table),
    })  # fmt: skip
    expected = with_gaps(lrn(x, window, table, *zero_points), out_pitch)
    check(lib.QK_LRN, params, [with_gaps(x, in_pitch)], expected)


@pytest.mark.parametrize("count", [c for c in COUNTS if c < 1000])
def test_lrn_of_every_number_of_channels(count: int) -> None:
    check_lrn(bytes_of(5, count, count))


@pytest.mark.parametrize("window", [(0, 0), (0, 1), (1, 1), (1, 2), (3, 3), (7, 8), (40, 2), (128, 128)])
def test_lrn_over_windows_of_every_size(window: tuple[int, int]) -> None:
    for count in (3, 16, 70, 300):
        check_lrn(bytes_of(4, count, 1), window)


def test_lrn_at_the_extremes() -> None:
    x = bytes_of(6, 96, 4)
    for zero_points in ((0, 0), (255, 0), (0, 255), (128, 128)):
        check_lrn(x, zero_points=zero_points)
        check_lrn(np.full_like(x, 255), zero_points=zero_points, alpha=50.0)
        check_lrn(x, zero_points=zero_points, beta=3.0, bias=1e-6, scale=30.0)
        check_lrn(x, zero_points=zero_points, beta=-1.0, out_scale=1e-30)


def test_lrn_leaves_gaps_between_pixels_alone() -> None:
    for count in (7, 33, 96):
        check_lrn(bytes_of(4, count, 6), (2, 2), (count + 5, count + 11))


def test_the_normalization_kernels_are_dispatched() -> None:
    check_dispatch(lib.QK_NORMALIZE, ffi.new("qk_normalize_params *", {"rows": 1, "count": 64}))
    check_dispatch(lib.QK_GROUP_NORMALIZE, ffi.new("qk_group_normalize_params *", {"channels": 64, "groups": 1}))
    check_dispatch(lib.QK_LRN, ffi.new("qk_lrn_params *", {"rows": 1, "count": 64}))
