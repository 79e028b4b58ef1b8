"""What the compiler made of the hot loops: the multiplication they are written for, no spilled registers."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.disassembly import (
    KERNEL_FILES,
    Loop,
    compile_kernel,
    disassemble,
    hot_loops,
    loop_spans,
    shortest_way,
    smallest_loops,
)

X86 = platform.machine() in ("x86_64", "AMD64")
pytestmark = pytest.mark.skipif(not X86, reason="the kernels in question are for x86-64")

REGISTER = {"avx512vnni": "zmm", "avxvnni": "ymm", "avx2": "ymm"}
WIDEST = {"avx512vnni": 4, "avxvnni": 2, "avx2": 2}
"""Vectors of channels of the widest tile."""
TILE = re.compile(r"(tile|finished)_\d+x\d+")


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Loop]]:
    """The hot loops by ISA and file."""
    for tool, package in (("objdump", "binutils"), ("cc", "gcc")):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} (Debian package {package})")
    folder = tmp_path_factory.mktemp("objects")
    return {(isa, file): hot_loops(isa, file, folder) for isa, files in KERNEL_FILES.items() for file in files}


OTHER_TILES = re.compile("depthwise|maddubs|narrow|vector")


@pytest.mark.parametrize(
    ("isa", "file"),
    [(isa, file) for isa, files in KERNEL_FILES.items() for file in files if not OTHER_TILES.search(file)],
)
def test_every_tile_is_a_loop_of_its_own_with_one_multiplication_for_each_sum(
    loops: dict[tuple[str, str], list[Loop]], isa: str, file: str
) -> None:
    tiles = {loop.function: loop for loop in loops[isa, file] if TILE.fullmatch(loop.function)}
    assert {int(name.rpartition("x")[2]) for name in tiles} == set(range(1, WIDEST[isa] + 1))
    for name, loop in tiles.items():
        rows, width = (int(n) for n in name.rpartition("_")[2].split("x"))
        assert loop.dots == rows * width, name
        assert loop.registers == {REGISTER[isa]}, name
        assert loop.on_stack == [], name


def test_the_loops_of_maddubs_multiply_twice_as_often_by_bytes_and_touch_no_stack(
    loops: dict[tuple[str, str], list[Loop]],
) -> None:
    found = loops["avx2", "conv_maddubs.c"]
    assert {loop.function for loop in found} == {f"tile_{rows}" for rows in range(1, 9)}
    for loop in found:
        rows = int(loop.function.rpartition("_")[2])
        assert loop.dots in (rows, 2 * rows), loop.function
        assert loop.count("vpmaddubsw") == 2 * loop.dots, loop.function
        assert loop.on_stack == [], loop.function


def test_the_loops_of_few_inputs_are_four_steps_long_and_touch_no_stack(
    loops: dict[tuple[str, str], list[Loop]],
) -> None:
    found = loops["avx2", "conv_narrow.c"]
    assert {loop.function for loop in found} == {"tile_2x4", "tile_2x3", "tile_4x2", "tile_8x1"}
    for loop in found:
        rows, width = (int(n) for n in loop.function.rpartition("_")[2].split("x"))
        assert loop.dots == loop.count("vpaddd") == 4 * rows * width, loop.function
        assert loop.count("vpbroadcastd") == 4 * rows, loop.function
        assert loop.on_stack == [], loop.function


@pytest.mark.parametrize(
    ("file", "passes", "dots"),
    [("conv_depthwise3x3.c", 24, 18), ("conv_depthwise5x5.c", 12, 52)],
)
def test_passes_over_lines_multiply_two_pixels_by_bytes_and_keep_their_sums_in_registers(
    loops: dict[tuple[str, str], list[Loop]], tmp_path: Path, file: str, passes: int, dots: int
) -> None:
    assert loops, "without a compiler the fixture skips"
    functions = disassemble(compile_kernel("avx2", file, tmp_path))
    found = {name: code for name, code in functions.items() if name.startswith("pass_")}
    assert len(found) == passes
    for name, code in found.items():
        spans = [[text for address, text in code if a <= address <= b] for a, b in loop_spans(code)]
        turns = [Loop(name, tuple(turn), "vpmaddubsw") for turn in sorted(spans, key=len)]
        inside = next(turn for turn in turns if turn.dots == dots)  # without the ends of the line
        assert inside.spilled == [], name


def test_the_loops_of_one_and_two_rows_widen_each_weight_once_and_touch_no_stack(
    loops: dict[tuple[str, str], list[Loop]],
) -> None:
    found = sorted(loops["avx2", "conv_vector.c"], key=lambda loop: loop.dots)
    assert [loop.dots for loop in found] == [4, 8]
    assert [loop.count("vpmovsxbw") for loop in found] == [4, 4]
    assert [loop.on_stack for loop in found] == [[], []]


@pytest.mark.parametrize("isa", ["avx512vnni", "avxvnni"])
def test_no_loop_of_a_vnni_kernel_spills_a_vector(loops: dict[tuple[str, str], list[Loop]], isa: str) -> None:
    found = {(file, loop.function): loop.spilled for file in KERNEL_FILES[isa] for loop in loops[isa, file]}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("isa", "file", "register"),
    [
        ("avx512vnni", "conv_depthwise.c", "zmm"),
        ("avx512vnni", "conv_depthwise32.c", "ymm"),
        ("avxvnni", "conv_depthwise.c", "ymm"),
        ("avx2", "conv_depthwise.c", "ymm"),
    ],
)
def test_depthwise_loops_multiply_whole_registers(
    loops: dict[tuple[str, str], list[Loop]], isa: str, file: str, register: str
) -> None:
    found = loops[isa, file]
    assert {"run_any", "run_3x3", "run_5x5"} <= {loop.function for loop in found}
    assert {kind for loop in found for kind in loop.registers} == {register}


CODE = [
    (0, "xor    %eax,%eax"),
    (2, "vmovdqa 0x40(%rsp),%ymm0"),
    (8, "{vex} vpdpbusd %ymm1,%ymm0,%ymm2"),
    (14, "test   %edx,%edx"),
    (16, "je     1c <f+0x1c>"),
    (18, "vpaddd %ymm3,%ymm2,%ymm2"),
    (22, "vpaddd %ymm3,%ymm2,%ymm2"),
    (28, "add    $0x4,%rax"),
    (32, "js     2 <f+0x2>"),
    (34, "jne    0 <f>"),
    (36, "ret"),
]


def test_the_smallest_loop_around_a_multiplication_is_found() -> None:
    assert sorted(loop_spans(CODE)) == [(0, 34), (2, 32)]
    assert smallest_loops(CODE, "vpdpbusd") == [(2, 32)]
    assert smallest_loops(CODE, "vpmaddwd") == []


def test_a_loop_turns_without_what_only_some_layers_need() -> None:
    loop = Loop("f", shortest_way(CODE, (2, 32), "vpdpbusd"))
    assert [line.split()[0] for line in loop.code] == ["vmovdqa", "{vex}", "test", "je", "add", "js"]
    assert loop.dots == 1
    assert loop.registers == {"ymm"}


def test_a_vector_on_the_stack_is_seen() -> None:
    read = Loop("f", shortest_way(CODE, (2, 32), "vpdpbusd"))
    assert read.on_stack == ["vmovdqa 0x40(%rsp),%ymm0"]
    assert read.spilled == []
    pointers, sums = "vmovdqa %xmm9,0xa0(%rsp)", "vmovdqa32 %zmm3,-0xf0(%rbp)"
    assert Loop("f", (pointers, sums)).spilled == [sums]
