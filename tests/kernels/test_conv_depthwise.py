"""Depthwise convs that go through whole lines (AVX2) against the oracle: ends of lines, blocks, weights and sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quantkit.execute._engine import lib

from tests.kernels.engine import on_avx2, only_avx2, op_kernel_name
from tests.kernels.oracle_conv import Geometry
from tests.kernels.test_conv import Case, Layer, check

pytestmark = only_avx2
sides = pytest.mark.parametrize("side", [3, 5])
RELU: Case = {"zero_point": 0, "bounds": (0, 255)}
ENDS = {
    "packing alone": RELU,
    "a zero point and a clamp": {"zero_point": 31, "bounds": (31, 200)},
    "a residual": {"with_residual": True, "gaps": (0, 1, 2)},
}


def depthwise(side: int, channels: int, size: tuple[int, int] = (4, 9), stride: int = 1) -> Geometry:
    pads = (side // 2,) * 4
    shape = Geometry(size=size, in_c=channels, out_c=channels, groups=channels, kernel=(side, side), pads=pads)
    return replace(shape, stride=(stride, stride))


@on_avx2
@pytest.mark.parametrize(
    ("side", "stride", "channels", "name"),
    [
        (3, 1, 16, "conv_depthwise3x3_avx2"),
        (3, 2, 50, "conv_depthwise3x3_avx2"),
        (5, 1, 16, "conv_depthwise5x5_avx2"),
        (5, 2, 50, "conv_depthwise_avx2"),
        (3, 1, 15, "conv_depthwise_avx2"),
        (7, 1, 32, "conv_depthwise_avx2"),
    ],
)
def test_the_sides_and_strides_decide_what_goes_through_lines(
    isa: int, side: int, stride: int, channels: int, name: str
) -> None:
    layer = Layer(depthwise(side, channels, stride=stride), **RELU)
    assert op_kernel_name(isa, lib.QK_CONV, layer.params(layer.pack(isa))) == name


@on_avx2
@sides
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_lines_of_every_width_equal_the_oracle(isa: int, side: int, stride: int, end: Case) -> None:
    for width in (*range(1, 11), 16, 17):
        for channels in (16, 50):
            check(isa, depthwise(side, channels, (3, width), stride), seed=width, **end)


@on_avx2
@sides
@pytest.mark.parametrize("channels", [*range(15, 35), 47, 48, 49, 63, 65, 80, 96, 112, 120])
def test_blocks_of_every_number_of_channels_equal_the_oracle(isa: int, side: int, channels: int) -> None:
    for end in ENDS.values():
        check(isa, depthwise(side, channels), seed=channels, **end)


@on_avx2
@sides
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 0, 1, 3), (0, 3, 2, 0), (3, 3, 3, 3)], ids=str)
def test_padding_of_any_width_equals_the_oracle(isa: int, side: int, pads: tuple[int, int, int, int]) -> None:
    for stride in (1, 2):
        for channels in (32, 48):
            shape = replace(depthwise(side, channels, (6, 7), stride), pads=pads, dilation=(2 if side == 3 else 1, 1))
            check(isa, shape, seed=sum(pads), **RELU)


@on_avx2
@sides
@pytest.mark.parametrize("stride", [1, 2])
def test_every_sign_of_large_weights_keeps_its_sums(isa: int, side: int, stride: int) -> None:
    """The largest sums of both signs of all parts of the weights: inputs are 255 where weights of one sign are."""
    for seed in range(6):
        layer = Layer(depthwise(side, 48, (side, side), stride), seed=seed, **RELU)
        rng = np.random.default_rng(seed)
        size = (127, 120, 113, 9, 8, 15)[seed]
        layer.w = rng.choice([-size, size], layer.w.shape).astype(np.int8)
        layer.x[...] = np.where(rng.random(layer.x.shape) < 0.5, 0, 255)
        layer.x[0] = np.where(layer.w[:, :, :, 0].transpose(1, 2, 0) > 0, 255, 0)
        if seed % 2:
            layer.x[0] = 255 - layer.x[0]
        assert (layer.run(isa) == layer.expected()).all(), seed


@on_avx2
@sides
@pytest.mark.parametrize("weight", [7, 8, 9, 15, 100, 127, -7, -8, -9, -120])
def test_weights_of_one_size_and_sign_keep_their_sums(isa: int, side: int, weight: int) -> None:
    layer = Layer(depthwise(side, 48, (side, side + 1)), **RELU)
    layer.w[...] = weight
    layer.w[1::3, side - 1, 0] = -weight
    layer.x[...] = 255
    layer.bias[...] = -layer.w.sum(axis=(1, 2, 3), dtype=np.int32) * 100
    assert (layer.run(isa) == layer.expected()).all()


@on_avx2
@sides
@pytest.mark.parametrize("bias", [2**23 - 1, 2**23, 2**26, 2**29, -(2**29)])
def test_sums_that_no_float_holds_exactly_equal_the_oracle(isa: int, side: int, bias: int) -> None:
    layer = Layer(depthwise(side, 48, (5, 6)), **RELU)
    layer.bias[::3] = bias
    layer.multiplier[::3] = np.float32(100 / abs(bias))
    assert (layer.run(isa) == layer.expected()).all()


@on_avx2
def test_multipliers_that_may_overflow_equal_the_oracle(isa: int) -> None:
    layer = Layer(depthwise(3, 48, (5, 6)), **RELU)
    layer.multiplier[::5] *= np.float32(2.0**20)
    assert (layer.run(isa) == layer.expected()).all()
