"""Static speed of the VNNI kernels: llvm-mca on their inner loops.

    python benchmarks/mca.py [--markdown]

Needs Debian's llvm-19 and binutils and a C compiler, on x86-64. Exit status 1 if a main tile stays below MAIN_SHARE.
What the numbers mean, and what they do not: docs/kernels.md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.disassembly import KERNEL_FILES, Loop, hot_loops

MODEL = {"avx512vnni": "icelake-server", "avxvnni": "alderlake"}
"""ISA -> the llvm-mca CPU model."""
PEAK = 2.0
"""VPDPBUSD a cycle: two ports."""
MAIN_SHARE = 0.95
MAIN_TILES = {"avx512vnni": ("tile_6x4", "tile_8x3"), "avxvnni": ("tile_6x2",)}
"""The tiles that all but the edges of a layer run in."""
ITERATIONS = 1000


@dataclass(frozen=True)
class Prediction:
    """One loop on one CPU model. cycles: a turn, in the steady state."""

    isa: str
    kernel: str
    loop: Loop
    cycles: float
    busiest: str

    @property
    def dots(self) -> int:
        return self.loop.dots

    @property
    def share(self) -> float:
        return self.dots / self.cycles / PEAK

    @property
    def is_main(self) -> bool:
        return self.loop.function in MAIN_TILES[self.isa]


def analyse(tool: str, loop: Loop, cpu: str) -> tuple[float, str]:
    """(cycles a turn, the busiest port and its cycles a turn). Raises CalledProcessError."""
    command = [tool, "-mtriple=x86_64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}", "-"]
    run = subprocess.run(command, input=loop.assembly, capture_output=True, text=True, check=True)
    total = re.search(r"^Total Cycles:\s+(\d+)", run.stdout, re.M)
    names = dict(re.findall(r"^\[(\d+(?:\.\d+)?)\]\s+-\s+(\S+)", run.stdout, re.M))
    table = re.search(r"^Resource pressure per iteration:\n(.*)\n(.*)\n", run.stdout, re.M)
    if total is None or table is None:
        raise ValueError(f"llvm-mca gave no cycles for {loop.function}:\n{run.stdout[:2000]}")
    ports = re.findall(r"\[(\d+(?:\.\d+)?)\]", table[1])
    pressure = [0.0 if p == "-" else float(p) for p in table[2].split()]
    cycles, port = max(zip(pressure, ports, strict=True))
    return int(total[1]) / ITERATIONS, f"{names[port]} {cycles:.2f}"


def predictions(tool: str) -> list[Prediction]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for isa, cpu in MODEL.items():
            for file in KERNEL_FILES[isa]:
                for loop in hot_loops(isa, file, Path(folder)):
                    found.append(Prediction(isa, Path(file).stem, loop, *analyse(tool, loop, cpu)))
    return found


def row(p: Prediction) -> list[str]:
    tile = re.fullmatch(r"(?:tile|finished)_(\d+)x(\d+)", p.loop.function)
    steps = p.dots / (int(tile[1]) * int(tile[2])) if tile else 1
    share = f"{100 * p.share:.0f} %" + (" (main)" if p.is_main else "")
    return [p.isa, p.kernel, p.loop.function, str(p.dots), f"{p.cycles / steps:.2f}", f"{p.dots / p.cycles:.2f}",
            share, p.busiest]  # fmt: skip


HEAD = ["ISA", "kernel", "loop", "VPDPBUSD", "cycles", "VPDPBUSD a cycle", "of the peak", "busiest resource"]


def table(rows: list[list[str]], markdown: bool, head: list[str] = HEAD) -> str:
    """Rows under their head, aligned, or as a table in Markdown."""
    if markdown:
        return "\n".join(f"| {' | '.join(r)} |" for r in [head, ["---"] * len(head), *rows])
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [head, *rows])


def find_tool() -> str | None:
    """llvm-mca; None if it or objdump is not installed."""
    tool = shutil.which("llvm-mca-19") or shutil.which("llvm-mca")
    return tool if shutil.which("objdump") else None


def main(arguments: list[str]) -> int:
    tool = find_tool()
    if tool is None:
        print("mca: needs llvm-mca and objdump: apt-get install llvm-19 binutils", file=sys.stderr)
        return 2
    found = predictions(tool)
    print(", ".join(f"{isa} on {cpu}" for isa, cpu in MODEL.items()), end="; ")
    print("cycles: a step of 4 k of a tile, a pixel (block of channels) of a depthwise run\n")
    print(table([row(p) for p in found], "--markdown" in arguments))
    missing = {t for isa, tiles in MAIN_TILES.items() for t in tiles} - {p.loop.function for p in found if p.is_main}
    slow = [p for p in found if p.is_main and p.share < MAIN_SHARE]
    for p in slow:
        print(f"FAIL: {p.isa} {p.loop.function}: {100 * p.share:.1f} %, less than {100 * MAIN_SHARE:.0f} %")
    for name in sorted(missing):
        print(f"FAIL: {name} was not found")
    return int(bool(slow or missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
