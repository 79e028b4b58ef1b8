"""Strassen's convolution against the int64 oracle: values at the ends of their ranges, every cut into parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import lib

from tests.kernels.engine import ISAS, isa_name, kernels, op_kernel_name
from tests.kernels.oracle_conv import Geometry
from tests.kernels.test_conv_winograd import UnsizedLayer, check, check_layer

STRASSEN_ISAS = [isa for isa, name in kernels(lib.QK_CONV) if "strassen" in name and isa in ISAS]
pytestmark = pytest.mark.skipif(not STRASSEN_ISAS, reason="no Strassen kernel runs on this CPU")
isas = pytest.mark.parametrize("isa", STRASSEN_ISAS, ids=isa_name)

ONE_LEVEL = Geometry(size=(7, 9), in_c=68, out_c=112)
TWO_LEVELS = Geometry(size=(7, 9), in_c=264, out_c=288)
levels = pytest.mark.parametrize("geometry", [ONE_LEVEL, TWO_LEVELS], ids=["one_level", "two_levels"])
SEVERAL_TAPS = {
    "one_level_3x3": Geometry(size=(7, 9), in_c=68, out_c=112, kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1)),
    "two_levels_1x4": Geometry(size=(9, 7), in_c=68, out_c=256, kernel=(1, 4), pads=(0, 3, 0, 2)),
    "two_levels_3x2": Geometry(size=(7, 9), in_c=72, out_c=288, kernel=(3, 2), dilation=(2, 1), pads=(2, 0, 1, 1)),
}
several_taps = pytest.mark.parametrize("geometry", list(SEVERAL_TAPS.values()), ids=list(SEVERAL_TAPS))


def name_of(isa: int, geometry: Geometry) -> str:
    """The kernel that takes weights which are too large for vpmaddubsw."""
    layer = UnsizedLayer(geometry)
    packed = layer.pack(isa)
    return op_kernel_name(isa, lib.QK_CONV, layer.params(packed)) or ""


@isas
@levels
def test_pointwise_layers_run_by_strassen(isa: int, geometry: Geometry) -> None:
    assert "strassen" in name_of(isa, geometry)


@isas
@several_taps
def test_filters_of_several_taps_equal_the_oracle(isa: int, geometry: Geometry) -> None:
    assert "strassen" in name_of(isa, geometry)
    check(isa, geometry, gaps=(5, 3, 1), with_residual=True)
    for in_zero_point in (0, 255):
        check(isa, replace(geometry, batch=2), in_zero_point=in_zero_point, threads=2)
        check(isa, geometry, extreme=True, in_zero_point=in_zero_point, to_float=True)


@isas
@pytest.mark.parametrize(
    "change",
    [
        *({"groups": 2}, {"in_c": 66}, {"out_c": 104}, {"in_c": 16}, {"in_c": 128, "out_c": 64}),
        *({"kernel": (1, 3), "in_c": 48}, {"kernel": (5, 5), "in_c": 256, "out_c": 64}),
        {"kernel": (3, 3), "in_c": 512, "out_c": 512, "stride": (2, 2)},
    ],
    ids=str,
)
def test_other_layers_do_not(isa: int, change: dict[str, object]) -> None:
    assert "strassen" not in name_of(isa, replace(ONE_LEVEL, **change))  # type: ignore[arg-type]


@isas
@levels
def test_every_number_of_pixels_equals_the_oracle(isa: int, geometry: Geometry) -> None:
    """Parts of the rows that are not full, or empty."""
    for width in (*range(1, 20), 47, 48, 49, 52, 53, 99, 201):
        check(isa, replace(geometry, size=(1, width)), seed=width, with_residual=True, gaps=(3, 5, 1))


@isas
@levels
@pytest.mark.parametrize(
    "change",
    [{"stride": (2, 2)}, {"stride": (1, 3)}, {"pads": (1, 1, 1, 1)}, {"pads": (0, 2, 1, 0), "stride": (2, 1)}],
    ids=str,
)
def test_every_stride_and_padding_equals_the_oracle(isa: int, geometry: Geometry, change: dict[str, Any]) -> None:
    for in_zero_point in (0, 7, 255):
        check(isa, replace(geometry, batch=2, **change), in_zero_point=in_zero_point)


@isas
@pytest.mark.parametrize("channels", [(256, 64), (84, 96), (92, 144), (256, 256), (280, 288), (320, 320)], ids=str)
def test_every_width_of_the_last_panel_equals_the_oracle(isa: int, channels: tuple[int, int]) -> None:
    geometry = replace(ONE_LEVEL, batch=3, in_c=channels[0], out_c=channels[1])
    check(isa, geometry, threads=3)
    check(isa, geometry, to_float=True)
    check(isa, geometry, with_table=True, with_residual=True, bounds=(20, 200))


@isas
@levels
def test_inputs_and_weights_of_extremes_only_equal_the_oracle(isa: int, geometry: Geometry) -> None:
    """x in {0, 255} and w = +-127 at random, and all of one sign."""
    rng = np.random.default_rng(5)
    layer = UnsizedLayer(geometry, to_float=True)
    layer.x = rng.choice(np.array([0, 255], np.uint8), layer.x.shape)
    layer.w = rng.choice(np.array([-127, 127], np.int8), layer.w.shape)
    check_layer(isa, layer)
    for in_zero_point in (0, 255):
        check(isa, geometry, extreme=True, in_zero_point=in_zero_point, to_float=True)


@isas
@levels
def test_the_largest_sums_of_inputs_and_weights_equal_the_oracle(isa: int, geometry: Geometry) -> None:
    """Blocks of pixels, inputs and outputs at opposite ends, so that S4 and the weights of P4 are largest."""
    parts = 2 if geometry is ONE_LEVEL else 4
    signs = np.array([[1, 1], [-1, -1]])  # S4 = A11 + A12 - A21 - A22
    pattern = signs if parts == 2 else np.kron(signs, signs)
    layer = UnsizedLayer(replace(geometry, size=(1, 4 * parts), out_c=32 * parts), to_float=True)
    pixel, inputs = (np.arange(n) * parts // n for n in (4 * parts, geometry.in_c))
    layer.x[0, 0] = np.where(pattern[np.ix_(pixel, inputs)] > 0, 255, 0)
    weights = np.array([[-1, 1], [1, -1]])  # B21 - T2 = B21 - B22 + B12 - B11
    pattern = weights if parts == 2 else np.kron(weights, weights)
    outputs = np.arange(32 * parts) * parts // (32 * parts)
    layer.w[:, 0, 0, :] = 127 * pattern[np.ix_(inputs, outputs)].T
    check_layer(isa, layer)
