"""Maximum and average pooling against an int64 oracle that visits every tap of every window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.check import Array, check, check_dispatch, requantize, with_gaps


@dataclass(frozen=True)
class Window:
    """Geometry of a pooling op. pads: top, left, bottom, right."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        def extent(axis: int) -> int:
            room = size[axis] + self.pads[axis] + self.pads[axis + 2]
            room -= self.dilation[axis] * (self.kernel[axis] - 1) + 1
            return (-(-room // self.stride[axis]) if self.ceil else room // self.stride[axis]) + 1

        return extent(0), extent(1)


WINDOWS = [
    Window((3, 3), (2, 2), pads=(1, 1, 1, 1)),
    Window((2, 2), (2, 2)),
    Window((3, 3), pads=(1, 1, 1, 1)),
    Window((3, 3), (2, 2), ceil=True),
    Window((5, 2), (1, 3), pads=(2, 0, 1, 1)),
    Window((3, 2), dilation=(2, 3), pads=(2, 1, 0, 3)),
    Window((1, 1), (2, 1)),
    Window((4, 7), (3, 2), pads=(3, 6, 3, 6)),
]
CHANNELS = [*range(1, 18), 23, 31, 32, 33, 40, 47, 48, 63, 64, 65, 70, 96, 100, 257]


def taps(
    size: int, out: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> tuple[list[int], int]:
    """Input positions of the taps of one output position, and how many lie inside the padded input."""
    positions = [out * stride - before + k * dilation for k in range(kernel)]
    return [i for i in positions if 0 <= i < size], sum(i < size + after for i in positions)


def pooled(x: Array, w: Window, average: dict[str, Any] | None) -> Array:
    """x [batch, h, w, channels] -> maximum, or with the fields of an average the average."""
    batch, height, width, channels = x.shape
    out_h, out_w = w.out_size((height, width))
    y = np.zeros((batch, out_h, out_w, channels), np.uint8)
    for oy in range(out_h):
        rows, rows_counted = taps(height, oy, w.kernel[0], w.stride[0], w.dilation[0], w.pads[0], w.pads[2])
        for ox in range(out_w):
            columns, columns_counted = taps(width, ox, w.kernel[1], w.stride[1], w.dilation[1], w.pads[1], w.pads[3])
            values = x[:, rows][:, :, columns].reshape(batch, -1, channels).astype(np.int64)
            if average is None:
                y[:, oy, ox] = values.max(1, initial=0)
                continue
            count = rows_counted * columns_counted if average["count_padding"] else values.shape[1]
            total = (values - average["in_zero_point"]).sum(1).astype(np.float32)
            y[:, oy, ox] = requantize(total * average["multipliers"][count], average["zero_point"], 0, 255)
    return y


def check_pool(x: Array, w: Window, average: dict[str, Any] | None = None, gaps: tuple[int, int] = (0, 0)) -> None:
    batch, height, width, channels = x.shape
    expected = pooled(x, w, average)
    fields = {"batch": batch, "channels": channels, "in_h": height, "in_w": width, "in_pitch": channels + gaps[0]}
    fields |= {"out_h": expected.shape[1], "out_w": expected.shape[2], "out_pitch": channels + gaps[1]}
    for i, axis in enumerate("hw"):
        fields |= {f"kernel_{axis}": w.kernel[i], f"stride_{axis}": w.stride[i], f"dilation_{axis}": w.dilation[i]}
    fields |= dict(zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), w.pads, strict=True))
    if average is not None:
        numbers = {k: average[k] for k in ("count_padding", "in_zero_point", "zero_point")}
        pointer = ffi.cast("float *", average["multipliers"].ctypes.data)
        fields |= {"average": 1, **numbers, "multiplier_by_count": pointer}
    params = ffi.new("qk_pool_params *", fields)
    flat = with_gaps(x.reshape(-1, channels), channels + gaps[0])
    check(lib.QK_POOL, params, [flat], with_gaps(expected.reshape(-1, channels), channels + gaps[1]))


def average_fields(w: Window, count_padding: int, in_zero_point: int, zero_point: int, ratio: float) -> dict[str, Any]:
    counts = np.arange(w.kernel[0] * w.kernel[1] + 1)
    multipliers = (ratio / np.maximum(counts, 1)).astype(np.float32)
    fields = {"count_padding": count_padding, "in_zero_point": in_zero_point, "zero_point": zero_point}
    return {**fields, "multipliers": multipliers}


def random_image(channels: int, size: tuple[int, int] = (9, 8), batch: int = 2) -> Array:
    return np.random.default_rng(channels).integers(0, 256, (batch, *size, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", CHANNELS)
def test_maximum_over_every_number_of_channels(channels: int) -> None:
    for window in [*WINDOWS[:2], WINDOWS[2 + channels % 6]]:
        check_pool(random_image(channels), window, gaps=(channels % 3, channels % 2 * 5))


@pytest.mark.parametrize("channels", CHANNELS)
def test_average_over_every_number_of_channels(channels: int) -> None:
    window = WINDOWS[channels % len(WINDOWS)]
    for count_padding, in_zero_point, zero_point, ratio in ((0, 128, 77, 1.25), (1, 0, 255, 0.9), (0, 255, 0, 3.0)):
        fields = average_fields(window, count_padding, in_zero_point, zero_point, ratio)
        check_pool(random_image(channels), window, fields, gaps=(channels % 4, channels % 3))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("average", [False, True])
def test_every_window_at_the_extremes(window: Window, average: bool) -> None:
    for x in (np.full((1, 9, 8, 37), 255, np.uint8), np.zeros((1, 9, 8, 37), np.uint8), random_image(37, (13, 11), 1)):
        check_pool(x, window, average_fields(window, 1, 128, 128, 2.0) if average else None)


@pytest.mark.parametrize(
    ("size", "channels"), [((7, 7), 2048), ((7, 7), 1000), ((1, 1), 70), ((17, 33), 33), ((70, 9), 5)]
)
def test_global_average_pooling(size: tuple[int, int], channels: int) -> None:
    window = Window(size)
    check_pool(random_image(channels, size, 2), window, average_fields(window, 0, 3, 3, 1.0))


def test_a_global_average_of_255s_sums_beyond_16_and_24_bits() -> None:
    window = Window((260, 300))
    x = np.full((1, 260, 300, 34), 255, np.uint8)
    x[0, 0, 0, 1] = 0
    check_pool(x, window, average_fields(window, 0, 0, 0, 0.75))


def test_a_window_without_taps_inside_gives_zero_or_the_zero_point() -> None:
    window = Window((1, 1), pads=(2, 2, 2, 2))
    check_pool(random_image(19, (3, 3), 1), window)
    check_pool(random_image(19, (3, 3), 1), window, average_fields(window, 0, 9, 41, 1.0))


def test_every_pool_kernel_is_dispatched() -> None:
    check_dispatch(lib.QK_POOL, ffi.new("qk_pool_params *", {"batch": 1, "channels": 64}))
