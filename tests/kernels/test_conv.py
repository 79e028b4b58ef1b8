"""Every conv kernel against the int64 oracle, bit for bit, on memory that ends at an unmapped page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.engine import (  # fmt: skip
    ISAS,
    aligned,
    guarded,
    isa_name,
    kernels,
    op_kernel_name,
    pointer,
    run_op,
    swish_numbers,
)
from tests.kernels.oracle_conv import Array, Geometry, accumulate, requantize

Case = dict[str, Any]


def strided(array: Array, pitch: int, fill: int) -> Array:
    """[pixels, channels] laid out with `pitch` elements a pixel, exactly as long as the last pixel needs."""
    pixels, channels = array.shape
    flat = np.full((pixels - 1) * pitch + channels, fill, array.dtype)
    for i in range(pixels):
        flat[i * pitch : i * pitch + channels] = array[i]
    return flat


class Layer:
    """Random operands of one conv, and what the oracle says about it."""

    def __init__(
        self,
        geometry: Geometry,
        seed: int = 0,
        extreme: bool = False,
        in_zero_point: int = 128,
        zero_point: int = 100,
        bounds: tuple[int, int] = (0, 255),
        gaps: tuple[int, int, int] = (0, 0, 0),
        with_residual: bool = False,
        residual_zero_point: int = 77,
        with_table: bool = False,
        to_float: bool = False,
        wide: Case | None = None,
    ) -> None:
        g = self.geometry = geometry
        rng = np.random.default_rng(seed)
        depth = g.kernel[0] * g.kernel[1] * g.in_c // g.groups
        x_shape = (g.batch, *g.size, g.in_c)
        w_shape = (g.out_c, *g.kernel, g.in_c // g.groups)
        if extreme:
            self.x = np.full(x_shape, 255, np.uint8)
            self.w = np.where(np.arange(g.out_c) % 2, 127, -127).astype(np.int8).reshape(-1, 1, 1, 1) + np.zeros(
                w_shape, np.int8
            )
        else:
            self.x = rng.integers(0, 256, x_shape, dtype=np.uint8)
            self.w = rng.integers(-127, 128, w_shape, dtype=np.int8)
        self.bias = rng.integers(-5000, 5000, g.out_c, dtype=np.int32)
        self.multiplier = (rng.uniform(0.5, 1.5, g.out_c) * 60 / (74 * 74 * np.sqrt(depth))).astype(np.float32)
        self.in_zero_point, self.zero_point, self.bounds, self.gaps = in_zero_point, zero_point, bounds, gaps
        self.to_float, self.wide = to_float, swish_numbers(wide or {}, rng, g.out_c)
        self.multiplier *= np.float32(0.1 if wide else 1.0)  # v in about -10..10
        self.table = rng.permutation(256).astype(np.uint8) if with_table else None
        out_shape = (g.batch, *g.out_size, g.out_c)
        self.residual = rng.integers(0, 256, out_shape, dtype=np.uint8) if with_residual else None
        self.residual_zero_point, self.residual_multiplier = residual_zero_point, float(np.float32(0.37))

    def params(self, packed: Array | None) -> Any:
        g = self.geometry
        names = "in_h in_w in_c in_pitch out_h out_w out_c out_pitch residual_pitch kernel_h kernel_w stride_h stride_w"
        values = (
            *(*g.size, g.in_c, g.in_c + self.gaps[0], *g.out_size, g.out_c, g.out_c + self.gaps[1]),
            *(g.out_c + self.gaps[2], *g.kernel, *g.stride),
        )
        epilogue = {
            "zero_point": self.zero_point,
            "low": self.bounds[0],
            "high": self.bounds[1],
            "table": pointer(self.table, "uint8_t *"),
            "residual_multiplier": self.residual_multiplier,
            "residual_zero_point": self.residual_zero_point,
            "to_float": int(self.to_float),
            **{key: pointer(v, "float *") if isinstance(v, np.ndarray) else v for key, v in self.wide.items()},
        }
        fields = dict(zip(names.split(), values, strict=True)) | {"dilation_h": g.dilation[0]}
        fields |= {"dilation_w": g.dilation[1], "pad_top": g.pads[0], "pad_left": g.pads[1], "groups": g.groups}
        fields |= {"batch": g.batch, "in_zero_point": self.in_zero_point, "packed": pointer(packed)}
        return ffi.new("qk_conv_params *", fields | {"epilogue": epilogue})

    def pack(self, isa: int) -> Array:
        params = self.params(None)
        packed = aligned(lib.qk_conv_packed_bytes(isa, params))
        assert packed.size > 0
        operands = {"int8_t *": guarded(self.w), "int32_t *": guarded(self.bias), "float *": guarded(self.multiplier)}
        pointers = [pointer(array, kind) for kind, array in operands.items()]
        assert lib.qk_conv_pack(isa, params, *pointers, pointer(packed)) == lib.QK_OK
        return packed

    def run(self, isa: int, threads: int = 1) -> Array:
        """What the engine computes: [pixels, out_c]. Gaps between pixels must come back as they were."""
        g = self.geometry
        packed = self.pack(isa)
        pixels = g.batch * g.out_size[0] * g.out_size[1]
        x = guarded(strided(self.x.reshape(-1, g.in_c), g.in_c + self.gaps[0], 255))
        residual = None
        if self.residual is not None:
            residual = guarded(strided(self.residual.reshape(-1, g.out_c), g.out_c + self.gaps[2], 255))
        blank = np.full((pixels, g.out_c), 0xA5, np.float32 if self.to_float else np.uint8)
        out = guarded(strided(blank, g.out_c + self.gaps[1], 0x5A))
        run_op(isa, lib.QK_CONV, self.params(packed), [x, residual], out, threads)
        pitch = g.out_c + self.gaps[1]
        tail = np.full(self.gaps[1], 0x5A, out.dtype)
        table = np.concatenate([out, tail]).reshape(pixels, pitch)
        assert (table[:, g.out_c :] == 0x5A).all(), "written between the pixels"
        return table[:, : g.out_c]

    def expected(self) -> Array:
        g = self.geometry
        acc = accumulate(g, self.x, self.w, self.bias, self.in_zero_point).reshape(-1, g.out_c)
        assert np.abs(acc).max(initial=0) < 2**31
        if self.to_float:
            return acc.astype(np.float32) * self.multiplier
        residual = None if self.residual is None else self.residual.reshape(-1, g.out_c)
        return requantize(
            acc,
            self.multiplier,
            self.zero_point,
            *self.bounds,
            residual=residual,
            residual_zero_point=self.residual_zero_point,
            residual_multiplier=self.residual_multiplier,
            table=self.table,
            wide=self.wide,
        )


def check(isa: int, geometry: Geometry, threads: int = 1, **options: Any) -> None:
    layer = Layer(geometry, **options)
    got, want = layer.run(isa, threads), layer.expected()
    wrong = np.argwhere(got != want)
    first = tuple(wrong[0]) if len(wrong) else ()
    assert not len(wrong), f"{len(wrong)} of {got.size} differ; first {first}: {got[first]} != {want[first]}"


isas = pytest.mark.parametrize("isa", ISAS, ids=isa_name)
CHANNELS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100)
SHAPES = {
    "1x1": Geometry(),
    "1x1 stride 2": Geometry(stride=(2, 2)),
    "3x3": Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)),
    "3x3 stride 2 pads as TF": Geometry(size=(6, 6), kernel=(3, 3), stride=(2, 2), pads=(0, 0, 1, 1)),
    "3x3 dilation 2": Geometry(size=(7, 6), kernel=(3, 3), dilation=(2, 2), pads=(2, 2, 2, 2)),
    "5x5": Geometry(size=(6, 7), kernel=(5, 5), pads=(2, 2, 2, 2)),
    "5x5 stride 2": Geometry(size=(9, 8), kernel=(5, 5), stride=(2, 2), pads=(1, 2, 2, 1)),
    "7x7 stride 2": Geometry(size=(12, 11), kernel=(7, 7), stride=(2, 2), pads=(3, 3, 3, 3)),
    "1x7": Geometry(size=(4, 9), kernel=(1, 7), pads=(0, 3, 0, 3)),
    "7x1": Geometry(size=(9, 4), kernel=(7, 1), pads=(3, 0, 3, 0)),
    "2x3 stride 3x1 dilation 1x2": Geometry(size=(8, 9), kernel=(2, 3), stride=(3, 1), dilation=(1, 2)),
    "kernel larger than the image": Geometry(size=(2, 2), kernel=(5, 5), pads=(2, 2, 2, 2)),
    "padding on all sides of one pixel": Geometry(size=(1, 1), kernel=(3, 3), pads=(2, 2, 2, 2)),
}
shapes = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


@isas
@pytest.mark.parametrize("channels", CHANNELS)
def test_1x1_equals_the_oracle_for_every_channel_count(isa: int, channels: int) -> None:
    for in_c, out_c in ((channels, 20), (20, channels), (channels, channels)):
        check(isa, Geometry(size=(3, 5), in_c=in_c, out_c=out_c), seed=channels)


@isas
@pytest.mark.parametrize("rows", range(1, 26))
def test_a_matrix_product_equals_the_oracle_for_every_row_count(isa: int, rows: int) -> None:
    for in_c, out_c in ((9, 17), (64, 33), (36, 64), (20, 150), (5, 80)):
        check(isa, Geometry(size=(rows, 1), in_c=in_c, out_c=out_c), seed=rows)
    for out_c in (8, 40):
        shape = Geometry(size=(rows, 1), in_c=6, out_c=out_c)
        check(isa, shape, seed=rows, with_residual=True, gaps=(1, 2, 3), bounds=(3, 250))


@isas
@shapes
@pytest.mark.parametrize("channels", [(3, 32), (4, 5), (16, 17), (33, 16), (24, 100), (67, 18), (64, 33)], ids=str)
def test_dense_conv_equals_the_oracle(isa: int, shape: Geometry, channels: tuple[int, int]) -> None:
    check(isa, replace(shape, batch=2, in_c=channels[0], out_c=channels[1]), gaps=(3, 5, 2), with_residual=True)


@isas
@shapes
@pytest.mark.parametrize("channels", [1, 3, 8, 15, 16, 17, 32, 40, 63, 64, 65, 100, 144])
def test_depthwise_conv_equals_the_oracle(isa: int, shape: Geometry, channels: int) -> None:
    check(isa, replace(shape, in_c=channels, out_c=channels, groups=channels), seed=channels)


@isas
@shapes
@pytest.mark.parametrize(
    "channels", [(6, 6, 2), (8, 16, 8), (9, 18, 9), (12, 24, 3), (64, 64, 4), (32, 64, 16), (40, 60, 20)], ids=str
)
def test_grouped_conv_equals_the_oracle(isa: int, shape: Geometry, channels: tuple[int, int, int]) -> None:
    in_c, out_c, groups = channels
    check(isa, replace(shape, in_c=in_c, out_c=out_c, groups=groups), gaps=(1, 0, 0))


@isas
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3), (3, 1)], ids=str)
def test_lines_longer_than_a_block_equal_the_oracle(isa: int, kernel: tuple[int, int], stride: int) -> None:
    pads = (kernel[0] // 2, kernel[1] // 2) * 2
    wide = Geometry(size=(3, 300), in_c=3, out_c=18, kernel=kernel, stride=(1, stride), pads=pads)
    for in_c in (3, 20):
        check(isa, replace(wide, in_c=in_c))
    check(isa, replace(wide, in_c=12, out_c=12, groups=12))


@isas
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7)], ids=str)
def test_blocks_that_span_images_equal_the_oracle(isa: int, size: tuple[int, int]) -> None:
    for in_c in (5, 36):
        check(isa, Geometry(batch=9, size=size, in_c=in_c, out_c=17, kernel=(3, 3), pads=(1, 1, 1, 1)), threads=2)
        check(isa, Geometry(batch=40, size=size, in_c=in_c, out_c=9))


@isas
def test_many_input_channels_equal_the_oracle(isa: int) -> None:
    for in_c in (512, 1030):
        check(isa, Geometry(size=(9, 9), in_c=in_c, out_c=17))
        check(isa, Geometry(size=(9, 9), in_c=in_c, out_c=17, stride=(2, 2)))


DENSE = Geometry(size=(6, 7), in_c=20, out_c=37, kernel=(3, 3), pads=(1, 1, 1, 1))
DEPTHWISE = Geometry(size=(6, 7), in_c=29, out_c=29, kernel=(3, 3), pads=(1, 1, 1, 1), groups=29)
WIDE_DEPTHWISE = replace(DEPTHWISE, in_c=90, out_c=90, groups=90)
GROUPED = Geometry(size=(6, 7), in_c=20, out_c=40, kernel=(3, 3), pads=(1, 1, 1, 1), groups=5)
KINDS = {
    "dense": DENSE,
    "dense, enough pixels for Winograd": replace(DENSE, size=(16, 17), in_c=33, out_c=36),
    "depthwise": DEPTHWISE,
    "wide depthwise": WIDE_DEPTHWISE,
    "depthwise, few channels": replace(DEPTHWISE, in_c=13, out_c=13, groups=13),
    "depthwise 5x5": replace(DEPTHWISE, kernel=(5, 5), pads=(2, 2, 2, 2)),
    "grouped": GROUPED,
    "1x1": Geometry(in_c=100, out_c=100),
    "1x1, enough pixels for Strassen": Geometry(size=(6, 7), in_c=100, out_c=112),
    "one row, large": Geometry(size=(1, 1), in_c=500, out_c=300),
}
kinds = pytest.mark.parametrize("geometry", list(KINDS.values()), ids=list(KINDS))

EPILOGUES: dict[str, Case] = {
    "plain": {},
    "relu": {"bounds": (100, 255)},
    "narrow clamp": {"bounds": (90, 121)},
    "residual": {"with_residual": True},
    "table": {"with_table": True},
    "residual and table": {"with_residual": True, "with_table": True, "bounds": (3, 250)},
    "float output": {"to_float": True},
    "pitches": {"gaps": (7, 9, 11), "with_residual": True},
    "float output with a pitch": {"gaps": (1, 3, 0), "to_float": True},
}


@isas
@kinds
@pytest.mark.parametrize("epilogue", list(EPILOGUES.values()), ids=list(EPILOGUES))
def test_every_epilogue_equals_the_oracle(isa: int, geometry: Geometry, epilogue: Case) -> None:
    check(isa, geometry, seed=1, **epilogue)


@isas
@kinds
@pytest.mark.parametrize("in_zero_point", [0, 1, 128, 255])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_every_zero_point_equals_the_oracle(isa: int, geometry: Geometry, in_zero_point: int, zero_point: int) -> None:
    check(isa, geometry, seed=2, in_zero_point=in_zero_point, zero_point=zero_point)


@isas
@kinds
@pytest.mark.parametrize("in_zero_point", [0, 255])
def test_nothing_saturates_at_the_extremes(isa: int, geometry: Geometry, in_zero_point: int) -> None:
    check(isa, geometry, extreme=True, in_zero_point=in_zero_point)
    check(isa, geometry, extreme=True, in_zero_point=in_zero_point, to_float=True)


@isas
def test_the_longest_sums_are_exact(isa: int) -> None:
    check(
        isa, Geometry(size=(3, 3), in_c=2048, out_c=18, kernel=(3, 3), pads=(1, 1, 1, 1)), extreme=True, to_float=True
    )
    check(isa, Geometry(size=(1, 7), in_c=25088, out_c=6), extreme=True, in_zero_point=0, to_float=True)


@isas
@kinds
@pytest.mark.parametrize("threads", [2, 3])
def test_results_do_not_depend_on_threads(isa: int, geometry: Geometry, threads: int) -> None:
    check(isa, replace(geometry, batch=3, size=(19, 23)), threads)


@isas
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("zero_points", [(0, 0), (0, 77), (5, 0)])
@pytest.mark.parametrize("size", [(1, 7), (16, 17)])
def test_rows_of_whole_panels_without_zero_points_equal_the_oracle(
    isa: int, zero_points: tuple[int, int], with_residual: bool, size: tuple[int, int]
) -> None:
    shape = Geometry(size=size, in_c=36, out_c=128, kernel=(3, 3), pads=(1, 1, 1, 1))
    zero_point, residual_zero_point = zero_points
    case: Case = {"zero_point": zero_point, "residual_zero_point": residual_zero_point, "with_residual": with_residual}
    check(isa, shape, gaps=(2, 3, 1), **case)
    check(isa, shape, bounds=(0, 200), **case)
    check(isa, replace(shape, kernel=(1, 1), pads=(0, 0, 0, 0)), **case)


@isas
def test_a_wide_layer_with_few_rows_is_split_over_threads(isa: int) -> None:
    check(isa, Geometry(size=(7, 7), in_c=96, out_c=300, kernel=(3, 3), pads=(1, 1, 1, 1)), threads=3)


def test_every_conv_kernel_of_the_build_is_chosen_by_some_case() -> None:
    chosen = set()
    for isa in ISAS:
        for geometry in (*KINDS.values(), *SHAPES.values(), replace(DENSE, in_c=3), WIDE_DEPTHWISE):
            layer = Layer(geometry)
            chosen |= {op_kernel_name(isa, lib.QK_CONV, layer.params(packed)) for packed in (None, layer.pack(isa))}
    assert chosen == {name for isa, name in kernels(lib.QK_CONV) if isa in ISAS}
