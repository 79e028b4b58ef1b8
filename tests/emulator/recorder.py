"""A pytest plugin that writes down every op the kernel tests run, as vectors for kernel_test.c.

    python -m pytest tests/kernels -p tests.emulator.recorder --record-vectors FILE

Recorded is the scalar run: the test itself has compared it with its numpy oracle, and the file is only written if
every test passed. So whatever the kernel tests cover is covered on an emulated CPU too.

The file, little-endian: "QKVECTOR", uint32 cases, uint32 0; then for each case uint32 op kind, uint32 alias (0, or 1 or
2: the output is input 0 or 1), and the blobs of BLOBS, each as int64 length (-1: there is none) and its bytes, padded
to 8. Structs are as in qk.h under the x86-64 ABI; kernel_test.c puts the pointers in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantkit.execute import _engine

MAGIC = b"QKVECTOR"
BLOBS = ("name", "params", "in0", "in1", "before", "after", "table", "weights", "bias", "multiplier", "ints0", "ints1")
"""before, after: the output's memory. ints0, ints1: the arrays of 4-byte numbers that the params point to, in the
order of their fields."""
TABLE_BYTES = 256
SOFTMAX_ENTRIES = 511
LARGEST_CASE = 1 << 18
"""Bytes of operands: an emulated CPU runs some 60 million instructions a second."""

Blobs = dict[str, bytes]


class RecordingLibrary:
    """The engine's functions; remembers which weights a packed form was made of."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.operands: dict[int, Blobs] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    def qk_conv_pack(self, isa: int, conv: Any, weights: Any, bias: Any, multiplier: Any, packed: Any) -> int:
        taps = conv.kernel_h * conv.kernel_w * (conv.in_c // conv.groups)
        self.operands[int(_engine.ffi.cast("intptr_t", packed))] = {
            "weights": memory(weights, conv.out_c * taps),
            "bias": memory(bias, 4 * conv.out_c),
            "multiplier": memory(multiplier, 4 * conv.out_c),
        }
        return int(self._lib.qk_conv_pack(isa, conv, weights, bias, multiplier, packed))


def memory(pointer: Any, count: int) -> bytes:
    return bytes(_engine.ffi.buffer(_engine.ffi.cast("char *", pointer), count))


def pointed_to(library: RecordingLibrary, kind: int, params: Any) -> Blobs:
    """What the pointers inside a parameter struct point to."""
    found: Blobs = {}
    table = params.epilogue.table if kind == library.QK_CONV else getattr(params, "table", _engine.ffi.NULL)
    if table != _engine.ffi.NULL:
        found["table"] = memory(table, TABLE_BYTES)
    if kind == library.QK_CONV:
        found |= library.operands[int(_engine.ffi.cast("intptr_t", params.packed))]
        numbers = {"ints0": params.epilogue.activation_scale, "ints1": params.epilogue.activation_shift}
        found |= {key: memory(p, 4 * params.out_c) for key, p in numbers.items() if p != _engine.ffi.NULL}
    elif kind == library.QK_POOL and params.average:
        found["ints0"] = memory(params.multiplier_by_count, 4 * (params.kernel_h * params.kernel_w + 1))
    elif kind == library.QK_RESIZE:
        found |= {"ints0": memory(params.rows, 4 * params.out_h), "ints1": memory(params.columns, 4 * params.out_w)}
    elif kind == library.QK_BLEND:
        found |= {"ints0": memory(params.rows, 8 * params.out_h), "ints1": memory(params.columns, 8 * params.out_w)}
    elif kind == library.QK_SOFTMAX:
        found["ints0"] = memory(params.exponentials, 4 * SOFTMAX_ENTRIES)
    elif kind == library.QK_LRN:
        found["ints0"] = memory(params.segments, 8 * params.segment_count)
    elif kind in (library.QK_NORMALIZE, library.QK_GROUP_NORMALIZE, library.QK_NORMALIZE_FLOAT):
        size = 4 * (params.channels if kind == library.QK_GROUP_NORMALIZE else params.count)
        found |= {"ints0": memory(params.gain, size), "ints1": memory(params.shift, size)}
    return found


class Recorder:
    """Stands in for tests.kernels.engine.run_op."""

    def __init__(self, library: RecordingLibrary, run_op: Callable[..., None]) -> None:
        self.library, self.run_op = library, run_op
        self.cases: dict[bytes, None] = {}

    def __call__(
        self,
        isa: int,
        kind: int,
        params: Any,
        inputs: Sequence[np.ndarray[Any, Any] | None],
        output: np.ndarray[Any, Any],
        threads: int = 1,
    ) -> None:
        wanted = isa == self.library.QK_SCALAR and threads == 1 and output.nbytes > 0
        before = output.tobytes()
        given = {f"in{i}": x.tobytes() for i, x in enumerate(inputs) if x is not None}
        alias = [i + 1 for i, x in enumerate(inputs) if x is not None and x.ctypes.data == output.ctypes.data]
        self.run_op(isa, kind, params, inputs, output, threads)
        if not wanted:
            return
        name = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)").split("::", 1)[1].encode() + b"\0"
        blobs = {"name": name, "params": memory(params, _engine.ffi.sizeof(params[0])), **given}
        blobs |= {"before": before, "after": output.tobytes(), **pointed_to(self.library, kind, params)}
        if sum(map(len, blobs.values())) <= LARGEST_CASE:
            self.cases[packed_case(kind, alias[0] if alias else 0, blobs)] = None

    def file(self) -> bytes:
        return b"".join([MAGIC, struct.pack("<II", len(self.cases), 0), *self.cases])


def packed_case(kind: int, alias: int, blobs: Blobs) -> bytes:
    parts = [struct.pack("<II", kind, alias)]
    for name in BLOBS:
        content = blobs.get(name)
        parts.append(struct.pack("<q", -1 if content is None else len(content)))
        parts.append(b"" if content is None else content + bytes(-len(content) % 8))
    return b"".join(parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-vectors", type=Path, help="write the ops that the kernel tests run to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Before the test modules take `lib` and `run_op` by name."""
    library = RecordingLibrary(_engine.lib)
    _engine.lib = library
    from tests.kernels import engine

    recorder = Recorder(library, engine.run_op)
    engine.run_op = recorder
    config.pluginmanager.register(recorder, "vector-recorder")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--record-vectors")
    recorder = session.config.pluginmanager.get_plugin("vector-recorder")
    if path is not None and isinstance(recorder, Recorder) and exitstatus == pytest.ExitCode.OK:
        path.write_bytes(recorder.file())
