"""Large matrices times one or two rows against the int64 oracle: every end of the sums, every number of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from quantkit.execute._engine import lib

from tests.kernels.engine import on_avx2, only_avx2, op_kernel_name
from tests.kernels.oracle_conv import Geometry
from tests.kernels.test_conv import Layer
from tests.kernels.test_conv_narrow import ENDS
from tests.kernels.test_conv_winograd import UnsizedLayer, check_layer

pytestmark = only_avx2

MATRIX = Geometry(size=(1, 1), in_c=512, out_c=300)


class GrowingLayer(Layer):
    """Packed for one row, whatever it runs on."""

    def params(self, packed: Any) -> Any:
        params = super().params(packed)
        if packed is None:
            params.batch = params.in_h = params.in_w = params.out_h = params.out_w = 1
        return params


def check(isa: int, layer: Layer, threads: int = 1) -> None:
    packed = layer.pack(isa)
    assert "vector" in (op_kernel_name(isa, lib.QK_CONV, layer.params(packed)) or "")
    check_layer(isa, layer, threads)


@on_avx2
@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_every_end_of_the_sums_equals_the_oracle(isa: int, end: dict[str, Any]) -> None:
    for rows in (1, 2):
        check(isa, Layer(replace(MATRIX, size=(1, rows)), seed=rows, **end))


@on_avx2
@pytest.mark.parametrize("change", [{"out_c": n} for n in (256, 257, 288, 319)] + [{"in_c": 513}], ids=str)
def test_every_size_of_the_last_panel_equals_the_oracle(isa: int, change: dict[str, int]) -> None:
    check(isa, Layer(replace(MATRIX, **change), with_residual=True), threads=2)


@on_avx2
@pytest.mark.parametrize("in_zero_point", [0, 255])
def test_nothing_saturates_at_the_extremes_of_a_long_row(isa: int, in_zero_point: int) -> None:
    layer = replace(MATRIX, in_c=5000, out_c=40)
    check(isa, Layer(layer, extreme=True, in_zero_point=in_zero_point, to_float=True))


@on_avx2
@pytest.mark.parametrize("rows", [2, 3, 5, 9])
def test_the_number_of_rows_may_grow_after_packing(isa: int, rows: int) -> None:
    check(isa, GrowingLayer(replace(MATRIX, size=(1, rows)), seed=rows, with_residual=True), threads=2)


@on_avx2
def test_a_row_in_the_padding_equals_the_oracle(isa: int) -> None:
    check(isa, Layer(replace(MATRIX, pads=(0, 1, 0, 0))))


@on_avx2
@pytest.mark.parametrize("change", [{"in_c": 64}, {"size": (1, 3)}, {"kernel": (1, 3)}, {"groups": 2}], ids=str)
def test_other_layers_do_not_run_by_it(isa: int, change: dict[str, Any]) -> None:
    layers = [Layer(replace(MATRIX, **change)), UnsizedLayer(MATRIX)]
    for layer in layers:
        assert "vector" not in (op_kernel_name(isa, lib.QK_CONV, layer.params(layer.pack(isa))) or "")
