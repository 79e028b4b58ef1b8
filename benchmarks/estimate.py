"""ResNet-50 on an Ice Lake server core, from llvm-mca and arithmetic alone: cycles of each layer, and of FP32.

    python -m benchmarks.estimate [--batch N] [--markdown]

The method, and what it leaves out: docs/kernels.md. Needs what benchmarks/mca.py needs, and no CPU with VNNI. Exit
status 1 if the network stays below GOAL times the FP32 peak.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.disassembly import (
    Code,
    Loop,
    Span,
    compile_kernel,
    disassemble,
    loop_spans,
    shortest_way,
    smallest_loops,
)
from benchmarks.kernels import RESNET50, Conv
from benchmarks.mca import MODEL, analyse, find_tool, table
from benchmarks.tiling import OUT_SIDE, Tiling, tiling, up

ISA = "avx512vnni"
LANES = 16
GOAL = 3.9
FP32_MACS = 32
"""Multiply-adds a cycle of two 512-bit FMA ports."""
L2_BYTES, L2_SPEED, L3_SPEED = 1_280_000, 48, 10
"""Ice Lake server: bytes of the L2 cache; bytes a cycle from L2 and from L3, as sustained by one core."""
TRACED_STEPS = 16
"""Turns of a tile's inner loop that are given to llvm-mca together with what surrounds them."""
COPY_ROW = ("vmovdqu64 (%rax),%zmm0", "vmovdqu64 %zmm0,(%rdx)", "add %rcx,%rax", "add %rsi,%rdx", "sub $1,%edi")
"""What moving one row of a finished tile compiles to."""
TWO_PORTS = re.compile(r"^(?!vmov|prefetch|vpbroadcastd .*\()v?\w+ .*%zmm")
"""Instructions that take port 0 or 5 for their 512 bits; vpmulld takes two turns."""
CYCLES_A_POINTER, COPIED_BYTES_A_CYCLE = 1.0, 8.0
"""Preparing rows: 16 pointers are made in about 8 cycles, 16 bytes copied in 1.25; less, for the ends of lines."""


@dataclass(frozen=True)
class Layer:
    """Cycles of one layer. compute: all instructions, data in L1. l2, l3: bytes that come from there."""

    name: str
    count: int
    macs: int
    kernel: str
    compute: float
    l2: float = 0.0
    l3: float = 0.0

    @property
    def cycles(self) -> float:
        """Loads run ahead of the arithmetic (prefetch, and 512 entries to reorder), so the slowest of the three."""
        return max(self.compute, self.l2 / L2_SPEED, self.l3 / L3_SPEED)

    @property
    def cycles_in_turn(self) -> float:
        """If nothing ran ahead: the sum of the three. A bound, not an expectation."""
        return self.compute + self.l2 / L2_SPEED + self.l3 / L3_SPEED

    @property
    def against_fp32(self) -> float:
        return self.macs / FP32_MACS / self.cycles


def totals(layers: list[Layer]) -> tuple[float, float, float]:
    """(FP32 peak cycles, modelled cycles, modelled cycles if nothing overlaps) of the whole network."""
    fp32 = sum(layer.macs * layer.count for layer in layers) / FP32_MACS
    return fp32, *(sum(getattr(la, k) * la.count for la in layers) for k in ("cycles", "cycles_in_turn"))


@dataclass
class Model:
    """Cycles of pieces of the engine, each asked of llvm-mca once."""

    tool: str
    folder: Path
    known: dict[object, float] = field(default_factory=dict)

    def code(self, isa: str, file: str) -> dict[str, Code]:
        key = (isa, file)
        if key not in self._files:
            self._files[key] = disassemble(compile_kernel(isa, file, self.folder))
        return self._files[key]

    @cached_property
    def _files(self) -> dict[tuple[str, str], dict[str, Code]]:
        return {}

    def cycles(self, name: str, lines: tuple[str, ...]) -> float:
        """A turn of these instructions in the steady state."""
        if lines not in self.known:
            modelled = analyse(self.tool, Loop(name, lines), MODEL[ISA])[0]
            self.known[lines] = max(modelled, port_turns(lines) / 2)
        return self.known[lines]

    def ways(self, isa: str, file: str, function: str, instruction: str) -> list[Loop]:
        """One turn of each of the smallest loops around an instruction, in the function of that name."""
        code = next(c for name, c in self.code(isa, file).items() if name.split(".")[0] == function)
        return [Loop(function, one_turn(code, span, instruction)) for span in smallest_loops(code, instruction)]

    def longest_way(self, file: str, function: str, instruction: str) -> tuple[str, ...]:
        return max((loop.code for loop in self.ways(ISA, file, function, instruction)), key=len)

    def tile(self, file: str, dot: str, rows: int, width: int, turns: int, segments: int, after: tuple[str, ...]
             ) -> float:  # fmt: skip
        """A call of a register tile followed by `after`. turns: of its inner loop, in each of `segments`."""
        key = (file, rows, width, turns, segments, after)
        if key not in self.known:
            code = self.code(ISA, file)[f"tile_{rows}x{width}"]
            before, head, loop, tail, end = pieces(code, dot)
            traced = min(turns, TRACED_STEPS)
            whole = (*before, *head, *loop * traced, *tail, *end, *after)
            cycles = self.cycles("tile", whole) + (turns * segments - traced) * self.cycles("loop", loop)
            self.known[key] = cycles + (segments - 1) * self.cycles("segment", (*head, *tail))
        return self.known[key]


def one_turn(code: Code, span: Span, instruction: str) -> tuple[str, ...]:
    """All instructions of a loop without branches inside, else the shortest way through it."""
    inside = tuple(text for address, text in code if span[0] <= address <= span[1])
    branches = any(text.startswith("j") for text in inside[:-1])
    return shortest_way(code, span, instruction) if branches else inside


def port_turns(lines: tuple[str, ...]) -> int:
    """Turns of ports 0 and 5 that 512-bit arithmetic needs: llvm-mca gives some of it port 1, which is closed then."""
    return sum(1 + line.startswith("vpmulld") for line in lines if TWO_PORTS.match(line))


def pieces(code: Code, dot: str) -> tuple[tuple[str, ...], ...]:
    """A tile's instructions: before its loop over segments; that loop's before and after the loop over steps, which
    stands between them; after both."""
    inner = smallest_loops(code, dot)[0]
    around = [s for s in loop_spans(code) if s[0] <= inner[0] and s[1] >= inner[1] and s != inner]
    outer = min(around, key=lambda s: s[1] - s[0])
    last = next(address for address, text in code if text == "ret")
    bounds = [(code[0][0], outer[0]), (outer[0], inner[0]), (inner[0], inner[1] + 1), (inner[1] + 1, outer[1] + 1)]
    return tuple(
        tuple(text for address, text in code if a <= address < b and not text.startswith("nop"))
        for a, b in [*bounds, (outer[1] + 1, last + 1)]
    )


def finish_way(model: Model, file: str, residual: bool, plain: bool) -> tuple[str, ...]:
    """The loop of finish_u8 that makes rows of 64 bytes. plain: zero points are 0 and bounds 0 and 255."""
    kind = "vpmovzxbd" if residual else "vcvtps2dq"
    found = [w for w in model.ways(ISA, file, "finish_u8", kind) if not w.on_stack]
    found = [w for w in found if bool(w.count("vpmovzxbd")) == residual and bool(w.count("vpmaxub")) != plain]
    return min((w.code for w in found), key=len)  # the longer ones are of layers with activations


def general_share(c: Conv) -> float:
    """Of the layers of this shape, those whose zero points are not 0: a stage's shortcut, and what adds it."""
    shortcut = c.kernel == 1 and (c.stride == 2 or c.out_c == 4 * c.in_c)
    return 1 / c.count if c.residual else float(shortcut)


def finish_ways(model: Model, file: str, c: Conv) -> list[tuple[float, tuple[str, ...]]]:
    """(share of the layers of this shape, the loop that makes their bytes)."""
    general = general_share(c)
    ways = [(1 - general, True), (general, False)]
    return [(share, finish_way(model, file, c.residual, plain)) for share, plain in ways if share]


def gemm_cycles(model: Model, c: Conv, t: Tiling) -> float:
    ways = finish_ways(model, "conv.c", c)
    tiles = sum(
        share * calls * model.tile("conv.c", "vpdpbusd", rows, width, t.steps, t.segments, way * rows)
        for (rows, width), calls in t.calls.items() for share, way in ways
    )  # fmt: skip
    return tiles + t.pointers * CYCLES_A_POINTER + t.copied / COPIED_BYTES_A_CYCLE


def winograd_cycles(model: Model, c: Conv, t: Tiling) -> float:
    file, vectors = "conv_winograd.c", up(c.out_c, LANES)
    tiles = sum(
        calls * model.tile(file, "vpdpwssd", rows, width, t.steps, 1, ()) for (rows, width), calls in t.calls.items()
    )
    into = model.cycles("window", model.longest_way(file, "transform_block", "vpmovzxbw")) * up(c.in_c, 2 * LANES)
    back = model.cycles("sums", model.longest_way(file, "finish_block", "vpmulld")) * vectors
    way = finish_way(model, file, c.residual, plain=True)
    out = model.cycles("bytes", way * OUT_SIDE) * OUT_SIDE * vectors / 4
    return tiles + t.windows * (into + back + out)


def conv_layer(model: Model, c: Conv, batch: int) -> Layer:
    t = tiling(c, batch, ISA)
    weights, pixels = t.packed, batch * c.out_size**2
    activations = batch * c.size**2 * c.in_c + pixels * c.out_c * (2 if c.residual else 1)
    inside = weights + activations <= L2_BYTES
    return Layer(
        name=f"{c.size} x {c.size}, {c.in_c} -> {c.out_c}, {c.kernel} x {c.kernel}" + f" / {c.stride}" * (c.stride > 1),
        count=c.count, macs=c.macs(batch), kernel="winograd" if t.winograd else "gemm",
        compute=(winograd_cycles if t.winograd else gemm_cycles)(model, c, t),
        l2=weights * t.blocks + activations,
        l3=weights * (1 if weights <= L2_BYTES else t.blocks) + (0 if inside else activations),
    )  # fmt: skip


def other_layers(model: Model, batch: int) -> list[Layer]:
    """Quantizing the image, the max pool and the average pool: their loops' turns."""
    image, pooled = 3 * 224 * 224 * batch, 56 * 56 * 64 * batch
    quantize = model.cycles("quantize", ("vdivps %zmm1,%zmm0,%zmm2", "vcvtps2dq %zmm2,%zmm2", *COPY_ROW))
    window = ("vpmaxub (%rax),%ymm0,%ymm0", "add $64,%rax", "sub $1,%edi")
    sums = ("vpmovzxbw (%rax),%ymm0", "vpaddw %ymm0,%ymm1,%ymm1", "add $64,%rax", "sub $1,%edi")
    return [
        Layer("image to u8", 1, 0, "quantize", image / LANES * quantize, l3=4 * image),
        Layer("112 x 112 x 64, max of 3 x 3 / 2", 1, 0, "pool", 9 * pooled / 32 * model.cycles("max", window),
              l2=5 * pooled),
        Layer("7 x 7 x 2048, average", 1, 0, "pool", 49 * 2048 * batch / 16 * model.cycles("mean", sums)),
    ]  # fmt: skip


def layers_of(model: Model, batch: int) -> list[Layer]:
    """ResNet-50 at 224 x 224."""
    return [*other_layers(model, batch), *(conv_layer(model, c, batch) for c in RESNET50)]


HEAD = ["layer", "count", "kernel", "cycles", "share", "times FP32"]


def rows_of(layers: list[Layer]) -> list[list[str]]:
    _, total, _ = totals(layers)
    return [
        [la.name, str(la.count), la.kernel, f"{la.cycles:,.0f}", f"{100 * la.cycles * la.count / total:.1f} %",
         f"{la.against_fp32:.2f}" if la.macs else ""]
        for la in layers
    ]  # fmt: skip


def summary(layers: list[Layer], batch: int) -> Mapping[str, str]:
    fp32, total, in_turn = totals(layers)
    return {
        "batch": str(batch),
        f"FP32 at the peak of {FP32_MACS} multiply-adds a cycle": f"{fp32:,.0f} cycles",
        "INT8 as modelled": f"{total:,.0f} cycles, {fp32 / total:.2f} times FP32",
        "if no load ran ahead of the arithmetic": f"{in_turn:,.0f} cycles, {fp32 / in_turn:.2f} times FP32",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="default: 8")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    tool = find_tool()
    if tool is None:
        print("estimate: needs llvm-mca and objdump: apt-get install llvm-19 binutils", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        layers = layers_of(Model(tool, Path(folder)), args.batch)
    print(table(rows_of(layers), args.markdown, HEAD), "\n")
    for key, value in summary(layers, args.batch).items():
        print(f"{key}: {value}")
    fp32, total, _ = totals(layers)
    return int(fp32 / total < GOAL)


if __name__ == "__main__":
    sys.exit(main())
