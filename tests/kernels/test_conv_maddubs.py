"""Convolution by vpmaddubsw against the int64 oracle: sums at both ends of 16 bits, every number of rows, every kind of
lane, and weights that it must leave to others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import lib

from tests.kernels.engine import ISAS, isa_name, kernels, op_kernel_name
from tests.kernels.oracle_conv import Geometry
from tests.kernels.test_conv_winograd import UnsizedLayer, check_layer

MADDUBS_ISAS = [isa for isa, name in kernels(lib.QK_CONV) if "maddubs" in name and isa in ISAS]
pytestmark = pytest.mark.skipif(not MADDUBS_ISAS, reason="no kernel with vpmaddubsw runs on this CPU")
isas = pytest.mark.parametrize("isa", MADDUBS_ISAS, ids=isa_name)

POINTWISE = Geometry(size=(7, 9), in_c=128, out_c=40)
SEVERAL_TAPS = {
    "3x3_stride_2": Geometry(size=(7, 9), in_c=16, out_c=24, kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1)),
    "1x4": Geometry(size=(5, 7), in_c=20, out_c=16, kernel=(1, 4), pads=(0, 3, 0, 2)),
    "3x2_dilated": Geometry(size=(7, 9), in_c=17, out_c=16, kernel=(3, 2), dilation=(2, 1), pads=(2, 0, 1, 1)),
}


def normal_layer(geometry: Geometry, size: float = 127, **options: Any) -> UnsizedLayer:
    """Normally distributed weights, the largest of each output channel +-size; x is 0 and 255 more often than not."""
    layer = UnsizedLayer(geometry, **options)
    rng = np.random.default_rng(geometry.in_c)
    weights = rng.normal(size=(geometry.out_c, layer.w[0].size))
    weights *= size / np.abs(weights).max(axis=1, keepdims=True)
    layer.w = np.rint(weights).astype(np.int8).reshape(layer.w.shape)
    extreme = rng.random(layer.x.shape) < 0.8
    layer.x[extreme] = rng.choice(np.array([0, 255], np.uint8), int(extreme.sum()))
    return layer


def name_of(isa: int, layer: UnsizedLayer) -> str:
    packed = layer.pack(isa)
    return op_kernel_name(isa, lib.QK_CONV, layer.params(packed)) or ""


def check(isa: int, geometry: Geometry, threads: int = 1, **options: Any) -> None:
    layer = normal_layer(geometry, **options)
    assert "maddubs" in name_of(isa, layer)
    check_layer(isa, layer, threads)
    check_layer(lib.QK_SCALAR, layer)


def worst_inputs(layer: UnsizedLayer, channel: int, sign: int) -> None:
    """x = 255 where a weight of the channel has this sign, else 0: its sums come as far as they can."""
    pixel = np.where(np.sign(layer.w[channel, 0, 0]) == sign, 255, 0).astype(np.uint8)
    layer.x[:] = pixel


@isas
@pytest.mark.parametrize("size", [20, 60, 100, 127])
@pytest.mark.parametrize("in_c", [64, 96, 128, 512])
def test_sums_that_reach_as_far_as_weights_let_them_equal_the_oracle(isa: int, in_c: int, size: int) -> None:
    """Small weights leave all lanes plain, large ones have them shifted and split."""
    layer = normal_layer(replace(POINTWISE, size=(2, 4), in_c=in_c, out_c=16), size, to_float=True)
    assert "maddubs" in name_of(isa, layer) or (size == 127 and in_c < 128)
    for channel in range(16):
        for sign in (-1, 1):
            worst_inputs(layer, channel, sign)
            check_layer(isa, layer)


@isas
def test_a_single_lane_at_its_limits_equals_the_oracle(isa: int) -> None:
    """Four weights of one sign that add up to 128, and to 257 in size of both signs."""
    layer = UnsizedLayer(replace(POINTWISE, size=(2, 4), in_c=64, out_c=16), to_float=True)
    layer.w[:] = 0
    layer.w[0, 0, 0, :] = 32
    layer.w[1, 0, 0, :] = -32
    layer.w[2, 0, 0, :] = np.tile([64, 64, -64, -64], 16)
    layer.w[3, 0, 0, :] = np.tile([127, -127, 1, 1], 16)
    layer.w[4, 0, 0, :] = np.tile([-127, 127, -1, -2], 16)
    assert "maddubs" in name_of(isa, layer)
    for channel in range(5):
        for sign in (-1, 1):
            worst_inputs(layer, channel, sign)
            check_layer(isa, layer)


@isas
@pytest.mark.parametrize("weight", [127, -127, 100])
def test_weights_that_no_order_keeps_apart_are_left_to_other_kernels(isa: int, weight: int) -> None:
    layer = UnsizedLayer(POINTWISE)
    layer.w[:] = weight
    assert "maddubs" not in name_of(isa, layer)
    check_layer(isa, layer)


@isas
@pytest.mark.parametrize(
    "change",
    [{"groups": 2}, {"in_c": 48}, {"out_c": 44}, {"kernel": (7, 7), "in_c": 3, "pads": (3, 3, 3, 3)}],
    ids=str,
)
def test_other_layers_are_left_to_other_kernels(isa: int, change: dict[str, Any]) -> None:
    assert "maddubs" not in name_of(isa, normal_layer(replace(POINTWISE, **change)))


@isas
def test_every_number_of_rows_equals_the_oracle(isa: int) -> None:
    for width in (*range(1, 20), 31, 33, 49):
        geometry = replace(POINTWISE, size=(1, width), in_c=128, out_c=24)
        check(isa, geometry, threads=1 + width % 3, with_residual=True, gaps=(3, 5, 1))


@isas
@pytest.mark.parametrize("in_c", [*range(129, 146), 161, 176, 191])
def test_every_number_of_inputs_equals_the_oracle(isa: int, in_c: int) -> None:
    """Lanes and entries that are not full, and the last bytes of a row."""
    check(isa, replace(POINTWISE, size=(3, 3), in_c=in_c, out_c=16))


@isas
@pytest.mark.parametrize("geometry", list(SEVERAL_TAPS.values()), ids=list(SEVERAL_TAPS))
def test_filters_of_several_taps_equal_the_oracle(isa: int, geometry: Geometry) -> None:
    for in_zero_point in (0, 7, 255):
        check(isa, replace(geometry, batch=2), in_zero_point=in_zero_point, threads=2, gaps=(5, 3, 1))


@isas
@pytest.mark.parametrize("change", [{"stride": (2, 2)}, {"stride": (1, 3)}, {"pads": (0, 2, 1, 0)}], ids=str)
def test_every_stride_and_padding_equals_the_oracle(isa: int, change: dict[str, Any]) -> None:
    check(isa, replace(POINTWISE, batch=2, **change), in_zero_point=200)


EPILOGUES: dict[str, dict[str, Any]] = {
    "plain": {"zero_point": 0},
    "narrow": {"bounds": (90, 121)},
    "residual": {"with_residual": True, "zero_point": 0, "residual_zero_point": 0},
    "table": {"with_table": True, "with_residual": True, "bounds": (20, 200)},
    "float": {"to_float": True, "gaps": (1, 3, 0)},
}


@isas
@pytest.mark.parametrize("epilogue", list(EPILOGUES.values()), ids=list(EPILOGUES))
def test_every_epilogue_equals_the_oracle(isa: int, epilogue: dict[str, Any]) -> None:
    check(isa, POINTWISE, threads=3, **epilogue)


@isas
def test_panels_of_several_chunks_equal_the_oracle(isa: int) -> None:
    check(isa, Geometry(size=(3, 7), in_c=640, out_c=1000), threads=3)


@isas
def test_equal_weights_are_packed_equally(isa: int) -> None:
    layer = normal_layer(POINTWISE)
    assert (layer.pack(isa) == layer.pack(isa)).all()
