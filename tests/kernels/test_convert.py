"""Quantize and dequantize with a change of layout, against float32 steps in numpy, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, requantize, with_gaps

SHAPES = [(1, 1), (1, 15), (1, 16), (1, 17), (2, 49), (3, 1), (1, 130), (1, 257), (2, 64 + 63), (3, 7), (1, 225)]
"""(batch, pixels)."""


def convert_params(batch: int, channels: int, pixels: int, pitch: int, scale: float, zero_point: int) -> Any:
    values = {"batch": batch, "channels": channels, "pixels": pixels, "pitch": pitch}
    return ffi.new("qk_convert_params *", {**values, "scale": scale, "zero_point": zero_point})


def quantized(x: Array, scale: float, zero_point: int, pitch: int) -> Array:
    """x [batch, channels, pixels] float32 -> what QK_QUANTIZE must leave in memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        v = x / np.float32(scale)
    q = requantize(v, zero_point, 0, 255).transpose(0, 2, 1)
    return with_gaps(q.reshape(-1, x.shape[1]), pitch)


def dequantized(q: Array, scale: float, zero_point: int) -> Array:
    """q [batch, pixels, channels] -> float32 [batch, channels, pixels]."""
    y = (q.astype(np.int64) - zero_point).astype(np.float32) * np.float32(scale)
    return np.ascontiguousarray(y.transpose(0, 2, 1))


@pytest.mark.parametrize("channels", [*range(1, 20), 23, 31, 32, 33, 47, 48, 49, 64, 70])
def test_quantize_equals_a_true_division_rounded_to_even(channels: int) -> None:
    rng = np.random.default_rng(channels)
    batch, pixels = SHAPES[channels % len(SHAPES)]
    for zero_point, gap in ((0, 0), (128, 0), (255, 3), (77, 29)):
        scale = float(np.float32(rng.uniform(0.003, 0.2)))
        x = (rng.integers(-700, 700, (batch, channels, pixels)) * np.float32(scale / 2)).astype(np.float32)
        x += rng.choice(np.array([0, 0, 1e-6, -1e-6], np.float32), x.shape)
        pitch = channels + gap
        params = convert_params(batch, channels, pixels, pitch, scale, zero_point)
        check(lib.QK_QUANTIZE, params, [x], quantized(x, scale, zero_point, pitch))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3, 4, 17])
def test_quantize_handles_every_number_of_pixels(shape: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, (shape[0], channels, shape[1])).astype(np.float32)
    params = convert_params(shape[0], channels, shape[1], channels, 0.03125, 100)
    check(lib.QK_QUANTIZE, params, [x], quantized(x, 0.03125, 100, channels))


@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize("channels", [1, 3, 5, 16])
def test_quantize_takes_nan_and_infinities_and_huge_values(zero_point: int, channels: int) -> None:
    special = np.array(
        [np.nan, -np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-45, -1e-45, 2**31, -(2**31)], np.float32
    )
    x = np.resize(special, (2, channels, 37)).astype(np.float32)
    for scale in (1.0, 1e-30, 1e30):
        params = convert_params(2, channels, 37, channels, scale, zero_point)
        check(lib.QK_QUANTIZE, params, [x], quantized(x, float(np.float32(scale)), zero_point, channels))


def test_quantize_divides_where_the_product_with_the_reciprocal_would_differ() -> None:
    scale = np.float32(0.1)
    ties = (np.arange(-256, 256, dtype=np.float32) + np.float32(0.5)) * scale
    x = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    x = np.ascontiguousarray(x[None, None])
    product = requantize(x * (np.float32(1) / scale), 128, 0, 255)
    expected = quantized(x, float(scale), 128, 1)
    assert (product.ravel() != expected).any(), "the inputs must tell the two apart"
    check(lib.QK_QUANTIZE, convert_params(1, 1, x.shape[2], 1, float(scale), 128), [x], expected)


@pytest.mark.parametrize("channels", [*range(1, 20), 31, 32, 33, 48, 49, 70])
def test_dequantize_is_the_exact_difference_times_scale(channels: int) -> None:
    rng = np.random.default_rng(channels)
    for (batch, pixels), zero_point, gap in zip(SHAPES, (0, 128, 255, 5) * 3, (0, 5, 0) * 4, strict=False):
        q = rng.integers(0, 256, (batch, pixels, channels), dtype=np.uint8)
        scale = float(np.float32(rng.uniform(0.001, 10)))
        flat = with_gaps(q.reshape(-1, channels), channels + gap)
        params = convert_params(batch, channels, pixels, channels + gap, scale, zero_point)
        check(lib.QK_DEQUANTIZE, params, [flat], dequantized(q, scale, zero_point))


def test_every_convert_kernel_is_dispatched() -> None:
    params = convert_params(1, 3, 64, 3, 0.5, 0)
    check_dispatch(lib.QK_QUANTIZE, params)
    check_dispatch(lib.QK_DEQUANTIZE, params)
