"""Activations on the sums of a conv: what the engine must refuse. Their values are tested with the other epilogues."""

from __future__ import annotations

from typing import Any

import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.engine import ISAS, aligned, isa_name, pointer
from tests.kernels.test_conv import DENSE, HARD_SWISH, Layer

REFUSED: dict[str, dict[str, Any]] = {
    "unknown": {"wide": HARD_SWISH | {"activation": 3}},
    "with a table as well": {"wide": HARD_SWISH, "with_table": True},
    "of a float output": {"wide": HARD_SWISH, "to_float": True},
}


def status_of(isa: int, layer: Layer) -> int:
    out = aligned(4 * layer.expected().size)
    packed, x = layer.pack(isa), aligned(layer.x.size)
    refs = [{"buffer": 0, "offset": 0}, {"buffer": -1, "offset": 0}]
    params = layer.params(packed)
    op = {"kind": lib.QK_CONV, "in": refs, "out": {"buffer": 1, "offset": 0}, "params": ffi.cast("void *", params)}
    ops = ffi.new("qk_op[1]", [op])
    size = int(lib.qk_op_scratch_bytes(isa, ops)) + 64
    scratch = aligned(size // 64 * 64)
    buffers = ffi.new("void *[2]", [pointer(x), pointer(out)])
    return int(lib.qk_run(isa, ffi.NULL, ops, 1, buffers, pointer(scratch), len(scratch), ffi.NULL, ffi.NULL))


@pytest.mark.parametrize("isa", ISAS, ids=isa_name)
def test_a_wide_activation_alone_is_run(isa: int) -> None:
    assert status_of(isa, Layer(DENSE, wide=HARD_SWISH)) == lib.QK_OK


@pytest.mark.parametrize("isa", ISAS, ids=isa_name)
@pytest.mark.parametrize("case", REFUSED)
def test_a_wide_activation_that_cannot_be_is_refused(isa: int, case: str) -> None:
    assert status_of(isa, Layer(DENSE, **REFUSED[case])) == lib.QK_BAD_ARGUMENT
