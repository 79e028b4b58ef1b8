"""The modelled speed of ResNet-50: its arithmetic, and that its tiles are those of the engine."""

import shutil
from pathlib import Path

import pytest
from quantkit.execute._engine import ffi, lib

from benchmarks import estimate, kernels, mca, tiling
from benchmarks.estimate import Layer

AVX512VNNI = lib.QK_AVX512VNNI
EVERY = [(conv, batch) for conv in kernels.RESNET50 for batch in (1, 8)]
ENGINE_HAS_IT = any(lib.qk_kernel_isa(i) == AVX512VNNI for i in range(lib.qk_kernel_count()))


@pytest.mark.skipif(not ENGINE_HAS_IT, reason="this build has no AVX512-VNNI kernels")
@pytest.mark.parametrize(("conv", "batch"), EVERY)
def test_the_tiling_has_the_packed_size_and_the_scratch_of_the_engine(conv: kernels.Conv, batch: int) -> None:
    modelled = tiling.tiling(conv, batch, "avx512vnni")
    params = kernels.conv_params(conv, batch)
    op = ffi.new("qk_op *", {"kind": lib.QK_CONV, "params": params})
    kernel = ffi.string(lib.qk_op_kernel_name(AVX512VNNI, op)).decode()
    assert modelled.winograd == ("winograd" in kernel)
    headers = (lib.qk_conv_packed_bytes(AVX512VNNI, params), lib.qk_op_scratch_bytes(AVX512VNNI, op))
    assert headers == tuple(64 + 64 * tiling.up(size, 64) for size in (modelled.packed, modelled.scratch))


@pytest.mark.parametrize(("conv", "batch"), EVERY)
def test_the_tiles_cover_every_product_once(conv: kernels.Conv, batch: int) -> None:
    t = tiling.tiling(conv, batch, "avx512vnni")
    covered = sum(rows * width * calls for (rows, width), calls in t.calls.items())
    rows = t.windows * tiling.POSITIONS if t.winograd else batch * conv.out_size**2
    assert covered == rows * tiling.up(conv.out_c, 16)
    products = t.segments * t.steps * (2 if t.winograd else tiling.STEP)
    depth = conv.in_c if t.winograd else conv.in_c * conv.kernel**2
    assert depth <= products < 1.2 * depth


def test_resnet50_is_complete() -> None:
    assert sum(conv.count for conv in kernels.RESNET50) == 54
    assert sum(conv.macs(1) * conv.count for conv in kernels.RESNET50) == 4_089_184_256


def test_a_layer_takes_as_long_as_the_slowest_of_arithmetic_and_memory() -> None:
    bound = [Layer("", 1, 6400, "", 100.0, l2=48.0, l3=10.0), Layer("", 1, 6400, "", 1.0, l2=9600.0, l3=10.0),
             Layer("", 1, 6400, "", 1.0, l2=48.0, l3=4000.0)]  # fmt: skip
    assert [layer.cycles for layer in bound] == [100.0, 200.0, 400.0]
    assert [layer.cycles_in_turn for layer in bound] == [102.0, 202.0, 402.0]
    assert [layer.against_fp32 for layer in bound] == [2.0, 1.0, 0.5]


def test_totals_count_every_repetition_of_a_layer() -> None:
    layers = [Layer("", 3, 3200, "", 25.0), Layer("", 1, 0, "", 5.0, l3=100.0)]
    assert estimate.totals(layers) == (300.0, 85.0, 90.0)


def test_only_512_bit_arithmetic_takes_the_two_vector_ports() -> None:
    free = ("vmovdqu64 (%rax),%zmm0", "vpbroadcastd (%rax,%rcx,1),%zmm4", "prefetcht1 (%rax)", "add $4,%rcx",
            "vpaddd %ymm0,%ymm1,%ymm2")  # fmt: skip
    assert estimate.port_turns(free) == 0
    assert (
        estimate.port_turns(("vpdpbusd %zmm3,%zmm4,%zmm8", "vcvtdq2ps (%rdi),%zmm0", "vpmulld %zmm0,%zmm1,%zmm2")) == 4
    )


def test_heights_of_tiles_are_nearly_equal() -> None:
    assert tiling.parts_of(49, 6) == [6, 6, 6, 6, 5, 5, 5, 5, 5]
    assert tiling.parts_of(1, 6) == [1]


@pytest.mark.skipif(
    not ENGINE_HAS_IT or shutil.which("objdump") is None, reason="no AVX512-VNNI kernels, or no objdump"
)
@pytest.mark.parametrize(
    ("residual", "plain", "most"), [(False, True, 24), (False, False, 28), (True, True, 43), (True, False, 52)]
)
def test_rows_without_an_activation_do_not_pay_for_one(residual: bool, plain: bool, most: int, tmp_path: Path) -> None:
    way = estimate.finish_way(estimate.Model("", tmp_path), "conv.c", residual, plain)
    assert len(way) <= most
    assert not any(text.startswith(("j", "cmp", "test")) for text in way[:-2])


@pytest.mark.slow
def test_resnet50_is_modelled_at_3_9_times_the_fp32_peak_on_a_vnni_core(tmp_path: Path) -> None:
    tool = mca.find_tool()
    if tool is None or not ENGINE_HAS_IT:
        pytest.skip("llvm-mca and objdump are not installed, or this is not an x86")
    fp32, total, in_turn = estimate.totals(estimate.layers_of(estimate.Model(tool, tmp_path), 8))
    assert total < in_turn
    assert fp32 / total >= estimate.GOAL
