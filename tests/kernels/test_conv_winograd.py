"""Winograd convolution against the int64 oracle: values at the ends of their ranges, every cut of an image in tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.engine import ISAS, aligned, isa_name, kernels, op_kernel_name, pointer
from tests.kernels.oracle_conv import Array, Geometry
from tests.kernels.test_conv import Layer

WINOGRAD_ISAS = [isa for isa, name in kernels(lib.QK_CONV) if "winograd" in name and isa in ISAS]
pytestmark = pytest.mark.skipif(not WINOGRAD_ISAS, reason="no Winograd kernel runs on this CPU")
isas = pytest.mark.parametrize("isa", WINOGRAD_ISAS, ids=isa_name)

IMAGE = Geometry(size=(9, 10), in_c=40, out_c=36, kernel=(3, 3), pads=(1, 1, 1, 1))
SUM_LIMIT = 2**25
"""Largest sum of products that the output transform has room for: 64 times it is 2^31."""
FULL_CHANNELS = SUM_LIMIT // (255 * 127 * 9)
"""Input channels whose products of 255 and 127 just stay below it."""


class UnsizedLayer(Layer):
    """Packed before the size of its images is known, so that small ones run by Winograd too."""

    def params(self, packed: Array | None) -> Any:
        params = super().params(packed)
        if packed is None:
            params.batch = 0
        return params


def check_layer(isa: int, layer: Layer, threads: int = 1) -> None:
    got, want = layer.run(isa, threads), layer.expected()
    assert (got == want).all(), f"{(got != want).sum()} of {got.size} differ"


def check(isa: int, geometry: Geometry, threads: int = 1, **options: Any) -> None:
    check_layer(isa, UnsizedLayer(geometry, **options), threads)


@isas
def test_3x3_layers_run_by_winograd(isa: int) -> None:
    assert "winograd" in (op_kernel_name(isa, lib.QK_CONV, UnsizedLayer(IMAGE).params(None)) or "")


@isas
def test_the_size_of_images_may_change_after_packing(isa: int) -> None:
    """Weights packed for a large image keep its kernel for a small one."""
    large, small = Layer(replace(IMAGE, size=(40, 40))), Layer(replace(IMAGE, size=(3, 2)))
    packed = large.pack(isa)
    assert op_kernel_name(isa, lib.QK_CONV, small.params(packed)) == op_kernel_name(
        isa, lib.QK_CONV, large.params(None)
    )


@isas
@pytest.mark.parametrize(
    "change", [{"stride": (2, 2)}, {"dilation": (2, 2)}, {"kernel": (5, 5)}, {"groups": 2}, {"in_c": 8}], ids=str
)
def test_other_layers_do_not(isa: int, change: dict[str, object]) -> None:
    geometry = replace(IMAGE, **change)  # type: ignore[arg-type]
    assert "winograd" not in (op_kernel_name(isa, lib.QK_CONV, UnsizedLayer(geometry).params(None)) or "")


@isas
@pytest.mark.parametrize("width", range(1, 10))
def test_every_size_of_image_equals_the_oracle(isa: int, width: int) -> None:
    for height in range(1, 10):
        check(isa, replace(IMAGE, size=(height, width), in_c=37), seed=width, with_residual=True, gaps=(3, 5, 1))


@isas
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 2, 2, 2), (0, 1, 2, 0), (2, 0, 0, 1)], ids=str)
def test_every_padding_equals_the_oracle(isa: int, pads: tuple[int, int, int, int]) -> None:
    for in_zero_point in (0, 7, 255):
        check(isa, replace(IMAGE, pads=pads), in_zero_point=in_zero_point)


@isas
@pytest.mark.parametrize("out_c", [32, 33, 40, 41, 48, 56, 65])
def test_every_width_of_the_last_panel_equals_the_oracle(isa: int, out_c: int) -> None:
    check(isa, replace(IMAGE, batch=3, out_c=out_c), seed=out_c)
    check(isa, replace(IMAGE, batch=3, out_c=out_c), seed=out_c, to_float=True)


@isas
@pytest.mark.parametrize("channels", [FULL_CHANNELS, FULL_CHANNELS + 1])
@pytest.mark.parametrize("in_zero_point", [0, 128, 255])
def test_sums_up_to_the_limit_and_beyond_equal_the_oracle(isa: int, channels: int, in_zero_point: int) -> None:
    """Below the limit the sums are transformed; above it the layer takes the direct path."""
    layer = replace(IMAGE, in_c=channels)
    check(isa, layer, extreme=True, in_zero_point=in_zero_point, to_float=True)


@isas
def test_inputs_and_weights_of_extremes_only_equal_the_oracle(isa: int) -> None:
    """x in {0, 255} and w = +-127, so that every coefficient of the transforms meets a largest value of its sign."""
    rng = np.random.default_rng(5)
    for in_c in (32, 64, 200):
        layer = UnsizedLayer(replace(IMAGE, size=(8, 8), in_c=in_c, out_c=32), to_float=True)
        layer.x = rng.choice(np.array([0, 255], np.uint8), layer.x.shape)
        layer.w = rng.choice(np.array([-127, 127], np.int8), layer.w.shape)
        check_layer(isa, layer)


def worst_window(row: np.ndarray, low: int, high: int) -> np.ndarray:
    """Values that make the transform by `row` in both dimensions largest: int [len(row), len(row)]."""
    return np.where(np.outer(row, row) > 0, high, low)


@isas
def test_the_largest_transformed_values_equal_the_oracle(isa: int) -> None:
    """Windows and filters chosen so that one product of the transform domain has both factors at their bounds."""
    b = np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]])
    g = np.array([[1, 2, 4], [1, -2, 4]])
    for input_row in b:
        for weight_row in g:
            layer = UnsizedLayer(replace(IMAGE, size=(6, 6), pads=(0, 0, 0, 0), in_c=64, out_c=32), to_float=True)
            layer.x[...] = worst_window(input_row, 0, 255)[None, :, :, None]
            layer.w[...] = worst_window(weight_row, -127, 127)[None, :, :, None]
            check_layer(isa, layer)


@isas
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_blocks_of_tiles_equal_the_oracle(isa: int, threads: int) -> None:
    check(isa, replace(IMAGE, batch=3, size=(30, 33), out_c=40), threads)
    check(isa, replace(IMAGE, batch=2, size=(14, 14), in_c=300, out_c=40), threads)


@isas
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "geometry", [replace(IMAGE, size=(16, 16)), Geometry(size=(10, 10), in_c=40, out_c=100)], ids=str
)
def test_what_one_op_keeps_in_scratch_is_not_taken_for_the_next(isa: int, geometry: Geometry, threads: int) -> None:
    """Two ops of one plan that differ in their input alone, each one block of rows or tiles."""
    layers = [Layer(geometry, seed=7), Layer(geometry, seed=7)]
    layers[1].x = 255 - layers[0].x
    params = layers[0].params(packed := layers[0].pack(isa))
    tensors = [layer.x for layer in layers] + [np.zeros_like(layer.expected()) for layer in layers]
    ops = ffi.new("qk_op[2]")
    for i, op in enumerate(ops):
        op.kind, op.params = lib.QK_CONV, ffi.cast("void *", params)
        inputs = getattr(op, "in")
        inputs[0].buffer, inputs[1].buffer, op.out.buffer = i, -1, 2 + i
    per_thread = lib.qk_op_scratch_bytes(isa, ops)
    scratch, pool = aligned(per_thread * threads), lib.qk_pool_create(threads)
    buffers = ffi.new("void *[4]", [pointer(t) for t in tensors])
    failed = ffi.new("int32_t *")
    status = lib.qk_run(isa, pool, ops, 2, buffers, pointer(scratch), per_thread, ffi.NULL, failed)
    lib.qk_pool_destroy(pool)
    assert status == lib.QK_OK
    assert packed.size
    for layer, out in zip(layers, tensors[2:], strict=True):
        assert (out == layer.expected()).all()
