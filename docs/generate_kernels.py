"""Writes the table of kernels in docs/kernels.md from what kernel_test printed.

    tests/emulator/run.sh | tee log; python docs/generate_kernels.py log

Rows and columns come from the engine itself (qk_kernel_*), so a kernel that no case ran is seen.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from quantkit.execute._engine import ffi, lib

PAGE = Path(__file__).resolve().parent / "kernels.md"
BEGIN, END = "<!-- kernels: docs/generate_kernels.py -->", "<!-- end of kernels -->"
OPS = {
    lib.QK_CONV: ("Conv, ConvTranspose, Gemm, MatMul with constant weights", "conv"),
    lib.QK_MATMUL: ("MatMul of two activations", "matmul"),
    lib.QK_BINARY: ("Add, Sub, Mul", "binary"),
    lib.QK_POOL: ("MaxPool, AveragePool, GlobalAveragePool, GlobalMaxPool, ReduceMean", "pool"),
    lib.QK_SOFTMAX: ("Softmax", "rows"),
    lib.QK_NORMALIZE: ("LayerNormalization, RMSNormalization", "normalize"),
    lib.QK_GROUP_NORMALIZE: ("GroupNormalization, InstanceNormalization", "normalize"),
    lib.QK_LRN: ("LRN", "normalize"),
    lib.QK_ADD_FLOAT: ("Add of float32 sums", "stream"),
    lib.QK_NORMALIZE_FLOAT: ("LayerNormalization, RMSNormalization of float32 sums", "stream"),
    lib.QK_LOOKUP: ("activations by table, PRelu, Concat with other parameters", "move"),
    lib.QK_COPY: ("Concat, Transpose, Reshape, Split, Gather... where bytes must move", "move"),
    lib.QK_FILL: ("Pad", "move"),
    lib.QK_RESIZE: ("Resize, nearest", "move"),
    lib.QK_BLEND: ("Resize, linear", "blend"),
    lib.QK_QUANTIZE: ("QuantizeLinear", "convert"),
    lib.QK_DEQUANTIZE: ("DequantizeLinear", "convert"),
}
"""Op kind -> (the ONNX ops that become it, its file in tests/kernels)."""
LINE = re.compile(r"^(\w+) +(\d+) cases")


def isa_name(isa: int) -> str:
    return str(ffi.string(lib.qk_isa_name(isa)).decode())


def table(cases: dict[str, int]) -> str:
    """One row an op kind, one column an ISA; cases: kernel name -> how many ran it."""
    isas = range(lib.QK_ISA_COUNT)
    cells: dict[tuple[int, int], list[str]] = {}
    for i in range(lib.qk_kernel_count()):
        name = ffi.string(lib.qk_kernel_name(i)).decode()
        text = f"`{name.removesuffix('_' + isa_name(lib.qk_kernel_isa(i)))}` {cases.get(name, 0)}"
        cells.setdefault((lib.qk_kernel_op(i), lib.qk_kernel_isa(i)), []).append(text)
    rows = [f"| ops | {' | '.join(isa_name(isa) for isa in isas)} | tests |", "|---" * (lib.QK_ISA_COUNT + 2) + "|"]
    for op, (what, test) in OPS.items():
        columns = " | ".join("<br>".join(cells.get((op, isa), [])) for isa in isas)
        rows.append(f"| {what} | {columns} | `test_{test}.py` |")
    return "\n".join(rows)


def write(log: str) -> None:
    """Puts the table in its place. Raises SystemExit if the log does not end in a verdict, or if that is a failure."""
    if not re.search(r"^PASS: \d+ cases", log, re.MULTILINE) or "FAIL" in log:
        raise SystemExit("the log of kernel_test has no PASS, or a FAIL")
    cases: dict[str, int] = {}
    for name, count in (found.groups() for found in map(LINE.match, log.splitlines()) if found):
        cases[name] = max(cases.get(name, 0), int(count))
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{table(cases)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    write("\n".join(Path(path).read_text() for path in sys.argv[1:]))
