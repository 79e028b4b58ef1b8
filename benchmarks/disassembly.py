"""The hot loops of the compiled conv kernels, found in their disassembly.

A loop is what lies between a jump and the earlier address it jumps to; hot is the smallest around a multiplication.
Needs a C compiler and GNU objdump, on x86-64.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_VNNI = {"conv.c": "vpdpbusd", "conv_depthwise.c": "vpdpbusd", "matmul.c": "vpdpbusd", "conv_winograd.c": "vpdpwssd"}
KERNEL_FILES = {
    "avx512vnni": {**_VNNI, "conv_depthwise32.c": "vpdpbusd"},
    "avxvnni": _VNNI,
    "avx2": dict.fromkeys([*_VNNI, "conv_maddubs.c", "conv_narrow.c", "conv_strassen.c", "conv_vector.c"], "vpmaddwd"),
}
"""ISA -> the files under native/ISA whose loops multiply, and the instruction that does it."""

Code = list[tuple[int, str]]
"""(address, instruction) in the order of the addresses."""
Span = tuple[int, int]
"""First and last address."""

FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>[^>]+)>:$")
INSTRUCTION = re.compile(r"^\s*(?P<address>[0-9a-f]+):\s+(?P<text>\S.*?)\s*$")
JUMP = re.compile(r"^j\w+\s+(?P<target>[0-9a-f]+) <")
LEAVES = ("jmp", "ret")
"""Instructions that the next one does not follow."""
INNER_TURNS = 100
MAKES_BYTES = "vpackuswb"
ON_STACK = re.compile(r"^(?:\{\w+\} )?v\w+.*\(%r[sb]p")


@dataclass(frozen=True)
class Loop:
    """One turn of a loop. code: its instructions in AT&T syntax, the closing jump included; dot: what multiplies."""

    function: str
    code: tuple[str, ...]
    dot: str = "vpdpbusd"

    @property
    def dots(self) -> int:
        return self.count(self.dot)

    def count(self, name: str) -> int:
        return sum(mnemonic(line) == name for line in self.code)

    @cached_property
    def on_stack(self) -> list[str]:
        """Vector instructions that read or write the stack."""
        return [line for line in self.code if ON_STACK.match(line)]

    @property
    def spilled(self) -> list[str]:
        """Instructions that write a whole vector to the stack; a pair of pointers (xmm) or a constant read is none."""
        return [line for line in self.on_stack if re.search(r"%[yz]mm\d+,[^%]*\(%r[sb]p[^)]*\)$", line)]

    @property
    def registers(self) -> set[str]:
        """The kinds of registers, "zmm" or "ymm", in which the loop multiplies."""
        lines = (line for line in self.code if mnemonic(line) == self.dot)
        return {kind for line in lines for kind in re.findall(r"%([xyz]mm)\d", line)}

    @property
    def assembly(self) -> str:
        """The loop as an assembler takes it."""
        body = (re.sub(r"^(j\w+)\s+.*", r"\1 .Lloop", line) for line in self.code)
        return "\n".join([".Lloop:", *body, ""])


def mnemonic(line: str) -> str:
    """The name of an instruction, without an encoding prefix such as {vex}."""
    return re.sub(r"^\{\w+\} ", "", line).partition(" ")[0]


def jump_target(line: str) -> int | None:
    """The address that the instruction jumps to, None if it is no direct jump."""
    found = JUMP.match(line)
    return int(found["target"], 16) if found else None


def compile_kernel(isa: str, file: str, folder: Path) -> Path:
    """The object file of native/ISA/FILE, with the flags of the extension. Raises CalledProcessError."""
    sys.path.insert(0, str(ROOT / "native"))
    import build_engine

    target = folder / f"{isa}_{Path(file).stem}.o"
    flags = [*(sysconfig.get_config_var("CFLAGS") or "").split(), "-fPIC", *build_engine.COMPILE_ARGS, "-Inative"]
    command = [*os.environ.get("CC", "cc").split(), *flags, "-c", f"native/{isa}/{file}", "-o", str(target)]
    subprocess.run(command, cwd=ROOT, check=True)
    return target


def disassemble(path: Path) -> dict[str, Code]:
    """Function -> (address, instruction) of each, comments and alignment removed. Raises CalledProcessError."""
    command = ["objdump", "-d", "--no-show-raw-insn", "-w", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    functions: dict[str, Code] = {}
    code: Code = []
    for line in text.splitlines():
        start, found = FUNCTION.match(line), INSTRUCTION.match(line)
        if start:
            code = functions.setdefault(start["name"], [])
        elif found:
            code.append((int(found["address"], 16), re.sub(r"\s+#.*", "", found["text"])))
    return functions


def loop_spans(code: Code) -> list[Span]:
    """From each jump's target to the last jump back to it."""
    spans: dict[int, int] = {}
    for address, text in code:
        target = jump_target(text)
        if target is not None and target <= address:
            spans[target] = address
    return list(spans.items())


def smallest_loops(code: Code, dot: str) -> list[Span]:
    """The smallest of loop_spans that hold the instruction `dot`."""
    spans = loop_spans(code)
    dots = [address for address, text in code if mnemonic(text) == dot]
    around = ([(b - a, a, b) for a, b in spans if a <= address <= b] for address in dots)
    return list(dict.fromkeys(min(found)[1:] for found in around if found))


def shortest_way(code: Code, span: Span, dot: str) -> tuple[str, ...]:
    """The instructions of one turn of the loop: of the ways that multiply and make bytes most, the shortest.

    So a branch to what only some layers need (a residual, a table, float output) is not taken. An instruction in a
    loop of its own counts as INNER_TURNS. A way may leave the span: compilers move rare code to a function's end.
    """
    inner = [(a, b) for a, b in loop_spans(code) if span[0] < a and b <= span[1]]
    at = {address: i for i, (address, _) in enumerate(code)}
    first, most = at[span[0]], 1 + sum(mnemonic(t) == dot for a, t in code if span[0] <= a <= span[1])
    came_from: dict[tuple[int, int], tuple[int, int] | None] = {}
    turns: dict[tuple[int, int], int] = {}  # the states from which a jump closes the loop, and their costs
    heap: list[tuple[int, tuple[int, int], tuple[int, int] | None]] = [(0, (first, 0), None)]
    while heap:
        cost, state, before = heappop(heap)  # state: index of an instruction, how many before it count
        if state in came_from:
            continue
        came_from[state] = before
        address, text = code[state[0]]
        target, counted = jump_target(text), min(state[1] + (mnemonic(text) in (dot, MAKES_BYTES)), most)
        if target == span[0]:
            turns[state] = cost
        following = [] if mnemonic(text) in LEAVES or state[0] + 1 == len(code) else [state[0] + 1]
        following += [at[target]] if target in at else []
        cost += INNER_TURNS if any(a <= address <= b for a, b in inner) else 1
        for i in following:
            if i != first:
                heappush(heap, (cost, (i, counted), state))
    state_of: tuple[int, int] | None = max(turns, key=lambda state: (state[1], -turns[state]))
    way = []
    while state_of is not None:
        way.append(code[state_of[0]][1])
        state_of = came_from[state_of]
    return tuple(reversed(way))


def hot_loops(isa: str, file: str, folder: Path) -> list[Loop]:
    """The loops of native/ISA/FILE around its multiplication, in the order of the code."""
    functions, dot = disassemble(compile_kernel(isa, file, folder)), KERNEL_FILES[isa][file]
    return [
        Loop(name, shortest_way(code, span, dot), dot)
        for name, code in functions.items()
        for span in smallest_loops(code, dot)
    ]
