"""Activations on the sums of a conv: their values, and what the engine must refuse."""

from __future__ import annotations

from typing import Any

import pytest
from quantkit.execute._engine import ffi, lib

from tests.kernels.engine import ISAS, aligned, isa_name, pointer
from tests.kernels.oracle_conv import Geometry
from tests.kernels.test_conv import DENSE, Case, Layer, check, isas, kinds

HARD_SWISH = {"activation": lib.QK_HARD_SWISH, "activation_scale": (1.1, 5.3), "activation_shift": (-9.2, 4.1)}
EPILOGUES: dict[str, Case] = {
    "hard swish": {"wide": HARD_SWISH},
    "hard swish of a residual sum": {"wide": HARD_SWISH, "with_residual": True, "gaps": (0, 5, 1)},
    "hard swish without a shift": {"wide": {k: v for k, v in HARD_SWISH.items() if k != "activation_shift"}},
    "hard swish with one number": {"wide": HARD_SWISH | {"activation_scale": (2.7, 2.7), "activation_shift": (3, 3)}},
    "hard swish turned over": {"wide": HARD_SWISH | {"activation_scale": (-3.1, 0.4)}},
    "hard swish that may overflow": {"wide": HARD_SWISH | {"steepest": float("inf")}},
    "leaky relu": {"wide": {"activation": lib.QK_LEAKY_RELU, "falling": 2.3, "rising": 21.7}},
}
REFUSED: dict[str, dict[str, Any]] = {
    "unknown": {"wide": HARD_SWISH | {"activation": 3}},
    "with a table as well": {"wide": HARD_SWISH, "with_table": True},
    "of a float output": {"wide": HARD_SWISH, "to_float": True},
    "without its numbers": {"wide": {"activation": lib.QK_HARD_SWISH}},
}


@isas
@kinds
@pytest.mark.parametrize("epilogue", list(EPILOGUES.values()), ids=list(EPILOGUES))
def test_every_epilogue_with_a_wide_activation_equals_the_oracle(isa: int, geometry: Geometry, epilogue: Case) -> None:
    check(isa, geometry, seed=1, **epilogue)


def status_of(isa: int, layer: Layer) -> int:
    g = layer.geometry
    out = aligned(4 * g.out_size[0] * g.out_size[1] * g.out_c)
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
