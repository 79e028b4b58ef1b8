"""1x1 convolution of few input channels against the int64 oracle: every panel, every number of rows, every end of the
sums, and inputs that do not lie one behind the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from quantkit.execute._engine import lib

from tests.kernels.engine import on_avx2, only_avx2, op_kernel_name
from tests.kernels.oracle_conv import Geometry
from tests.kernels.test_conv_winograd import UnsizedLayer, check_layer
from tests.kernels.test_wide_activations import HARD_SWISH

pytestmark = only_avx2

POINTWISE = Geometry(size=(7, 9), in_c=24, out_c=144)
ENDS: dict[str, dict[str, Any]] = {
    "packed": {"zero_point": 0},
    "zero_point_and_bounds": {"zero_point": 90, "bounds": (33, 201)},
    "residual": {"with_residual": True, "gaps": (3, 5, 1)},
    "table": {"with_table": True},
    "float": {"to_float": True, "gaps": (0, 3, 0)},
    "hard_swish": {"wide": HARD_SWISH},
    "hard_swish_of_a_residual_sum": {"wide": HARD_SWISH, "with_residual": True},
}


def check(isa: int, geometry: Geometry, threads: int = 1, **options: Any) -> None:
    layer = UnsizedLayer(geometry, **options)
    packed = layer.pack(isa)
    assert "narrow" in (op_kernel_name(isa, lib.QK_CONV, layer.params(packed)) or "")
    check_layer(isa, layer, threads)


@on_avx2
@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_every_end_of_the_sums_equals_the_oracle_in_panels_of_every_width(isa: int, end: dict[str, Any]) -> None:
    for out_c in (8, 16, 24, 32, 40, 56, 7, 41, 63):
        check(isa, replace(POINTWISE, out_c=out_c), seed=out_c, **end)


@on_avx2
@pytest.mark.parametrize("in_c", [8, 9, 15, 16, 17, 23, 24, 32, 40, 57, 63, 250, 256])
def test_every_number_of_inputs_equals_the_oracle(isa: int, in_c: int) -> None:
    out_c = 40 if in_c < 64 else 41  # of 64 inputs and more, whole vectors of outputs run by vpmaddubsw where they can
    check(isa, replace(POINTWISE, in_c=in_c, out_c=out_c), seed=in_c, gaps=(in_c % 3, 2, 0))
    check(isa, replace(POINTWISE, in_c=in_c, out_c=out_c), extreme=True, in_zero_point=255, to_float=True)


@on_avx2
def test_every_number_of_rows_equals_the_oracle(isa: int) -> None:
    """Blocks that are not full, and tiles."""
    for rows in (*range(1, 18), 31, 32, 33, 63, 65):
        check(isa, replace(POINTWISE, size=(1, rows), out_c=63), seed=rows, with_residual=rows % 2 == 0, threads=2)


@on_avx2
@pytest.mark.parametrize("change", [{"stride": (2, 2)}, {"pads": (1, 0, 2, 1)}, {"pads": (0, 0, 1, 0)}], ids=str)
def test_rows_that_do_not_lie_one_behind_the_other_equal_the_oracle(isa: int, change: dict[str, Any]) -> None:
    for in_zero_point in (0, 9):
        check(isa, replace(POINTWISE, batch=3, **change), in_zero_point=in_zero_point, gaps=(0, 1, 0))


@on_avx2
@pytest.mark.parametrize(
    "change", [{"in_c": 7}, {"in_c": 257, "out_c": 41}, {"kernel": (1, 3)}, {"groups": 2}], ids=str
)
def test_other_layers_do_not_run_by_it(isa: int, change: dict[str, Any]) -> None:
    layer = UnsizedLayer(replace(POINTWISE, **change))
    packed = layer.pack(isa)
    assert "narrow" not in (op_kernel_name(isa, lib.QK_CONV, layer.params(packed)) or "")
