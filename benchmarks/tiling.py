"""How the engine cuts a convolution without groups into register tiles: the arithmetic of native/conv_gemm.inc,
conv_rows.inc and conv_winograd.inc in Python, with the numbers that those files name.

tests/benchmarks compares what it says of the sizes of scratch and packed weights with what the engine says.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.kernels import Conv

NATIVE = Path(__file__).resolve().parent.parent / "native"
STEP = 4
"""Bytes of a row that one multiplication of u8 by s8 takes."""
OUT_SIDE, POSITIONS = 4, 36
"""Winograd: the outputs of a tile in a line; the products of a tile."""


@cache
def number(file: str, name: str) -> int:
    """The value of `name = NUMBER` or `#define name NUMBER` in a file of native/. Raises LookupError."""
    found = re.search(rf"\b{name}\s+=?\s*(\d+(?: << \d+)?)", (NATIVE / file).read_text())
    if found is None:
        raise LookupError(f"native/{file} names no {name}")
    value, _, shift = found[1].partition(" << ")
    return int(value) << int(shift or 0)


@cache
def tallest() -> tuple[int, ...]:
    """Rows of the tallest tile by its width - 1, where there are 32 registers."""
    text = (NATIVE / "conv_tiles.inc").read_text()
    return tuple(int(n) for n in re.findall(r"tallest\[GEMM_WIDTH\] = \{([^}]*)\}", text)[1].split(","))


def up(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def parts_of(rows: int, most: int) -> list[int]:
    """Heights of the tiles that `rows` rows are cut into: nearly equal, none above `most`."""
    parts, left, heights = up(rows, most), rows, []
    for remaining in range(parts, 0, -1):
        heights.append(up(left, remaining))
        left -= heights[-1]
    return heights


@dataclass(frozen=True)
class Tiling:
    """One convolution on vectors of `lanes` int32. calls: (rows, vectors) of a tile -> how often it runs.

    segments, steps: turns of a tile's two loops. pointers: rows prepared, times segments. copied: bytes of input
    that are copied before they are multiplied. windows: 6x6 windows that are transformed (Winograd, else 0).
    blocks: how often all the weights are read. packed, scratch: bytes, without the headers that dispatch.c adds.
    """

    winograd: bool
    calls: Counter[tuple[int, int]]
    segments: int
    steps: int
    pointers: int
    copied: int
    windows: int
    blocks: int
    packed: int
    scratch: int


def gemm_tiling(c: Conv, batch: int, lanes: int) -> Tiling:
    """conv_gemm.inc: blocks of output lines, panels of up to four vectors of channels."""
    file = "conv_gemm.inc"
    taps, copied = c.kernel**2, c.kernel > 1 and c.in_c < number(file, "COPY_BELOW_CHANNELS")
    copied |= c.in_c % STEP > 0 and c.in_c < number(file, "PAD_FROM_CHANNELS")
    joined = c.kernel if copied else 1
    segments, steps = taps // joined, up(c.in_c * joined, STEP)
    vectors = up(c.out_c, lanes)
    panels = up(vectors, len(tallest()))
    widths = [(i + 1) * vectors // panels - i * vectors // panels for i in range(panels)]
    column_step = c.stride if c.kernel == 1 else 1
    stride = c.stride // column_step
    fitting = number(file, "BLOCK_BYTES") // (c.in_c * stride)
    tile_rows = number("conv_tiles.inc", "MOST_ROWS")
    most = max(tile_rows, min(number(file, "BLOCK_ROWS_MAX"), fitting))
    width, lines = c.out_size, batch * c.out_size
    parts = up(width, most)
    part_columns = width if parts == 1 else up(up(width, parts), tile_rows) * tile_rows
    parts = up(width, part_columns)
    block_lines = up(lines, max(1, up(lines, most // width if parts == 1 else 1)))
    calls: Counter[tuple[int, int]] = Counter()
    for first_line in range(0, lines, block_lines):
        for part in range(parts):
            rows = min(block_lines, lines - first_line) * min(part_columns, width - part * part_columns)
            for w in widths:
                calls.update((height, w) for height in parts_of(rows, tallest()[w - 1]))
    columns = (part_columns - 1) * stride + c.kernel
    line_bytes = columns * c.in_c
    images = min(block_lines, (block_lines - 1) // c.out_size + 2)
    copied_lines = block_lines * stride + images * (c.kernel - 1)
    blocks = up(lines, block_lines) * parts
    pointers_bytes = up(8 * segments * part_columns * block_lines, 64) * 64
    tail = up(3, c.in_c) * c.in_c + c.in_c + 3
    vector_bytes = lanes * 4 * (2 + segments * steps)
    return Tiling(
        winograd=False, calls=calls, segments=segments, steps=steps, pointers=batch * c.out_size**2 * segments,
        copied=blocks * copied_lines * line_bytes if copied else 0, windows=0, blocks=blocks,
        packed=vectors * vector_bytes + c.in_c + 3,
        scratch=pointers_bytes + (copied_lines * line_bytes + 64 if copied else tail),
    )  # fmt: skip


def winograd_tiling(c: Conv, batch: int, lanes: int) -> Tiling:
    """conv_winograd.inc: every position of the windows is a matrix product of its own, on pairs of s16."""
    file = "conv_winograd.inc"
    steps, vectors, side = up(c.in_c, 2), up(c.out_c, lanes), up(c.out_size, OUT_SIDE)
    row_bytes = 2 * up(c.in_c, 2 * lanes) * 2 * lanes + 64
    windows = batch * side**2
    panels = up(vectors, len(tallest()))
    widths = [(i + 1) * vectors // panels - i * vectors // panels for i in range(panels)]
    fitting = max(tallest()[-1], number(file, "BLOCK_BYTES") // (POSITIONS * row_bytes))
    blocks = up(windows, min(number(file, "BLOCK_TILES_MAX"), fitting))
    blocks = up(blocks, 2) * 2 if blocks > 1 else blocks
    block_windows = up(windows, blocks)
    calls: Counter[tuple[int, int]] = Counter()
    for first in range(0, windows, block_windows):
        for w in widths:
            for height in parts_of(min(block_windows, windows - first), tallest()[w - 1]):
                calls[height, w] += POSITIONS
    weights = vectors * lanes * 4 * (2 + POSITIONS * steps)
    direct = gemm_tiling(c, batch, lanes)
    inputs = up(POSITIONS * block_windows * row_bytes, 64) * 64
    tail = up(2 * lanes, c.in_c) * c.in_c + c.in_c + 2 * lanes
    scratch = inputs + block_windows * (POSITIONS * len(tallest()) * lanes * 4 + 8) + tail
    return Tiling(
        winograd=True, calls=calls, segments=1, steps=steps, pointers=0, copied=0, windows=windows, blocks=blocks,
        packed=up(max(weights + c.in_c + 2 * lanes, direct.packed), 64) * 64 + 64, scratch=max(scratch, direct.scratch),
    )  # fmt: skip


def uses_winograd(c: Conv, batch: int, isa: str) -> bool:
    """winograd_accepts in conv_winograd.inc."""
    file = f"{isa}/conv_winograd.c"
    least, pixels = (number(file, f"WINOGRAD_{name}_MIN") for name in ("CHANNELS", "PIXELS"))
    fits = c.in_c * c.out_c <= number("conv_winograd.inc", "CHANNELS_PRODUCT_MAX") and min(c.in_c, c.out_c) >= least
    return c.kernel == 3 and c.stride == c.groups == 1 and fits and batch * c.out_size**2 >= pixels


def tiling(c: Conv, batch: int, isa: str) -> Tiling:
    """The tiling of a convolution without groups on an ISA with VPDPBUSD ("avx512vnni" | "avxvnni")."""
    lanes = 16 if isa == "avx512vnni" else 8
    return (winograd_tiling if uses_winograd(c, batch, isa) else gemm_tiling)(c, batch, lanes)
