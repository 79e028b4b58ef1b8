"""Whole inferences, op by op on guarded memory, against the oracle of the model.

The recorder of tests/emulator sees these ops too: so an emulated CPU runs whole networks, each op on what the one
before it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantkit.execute import Session
from quantkit.execute.binding import PARAMS, CompiledPlan
from quantkit.execute.oracle import run_oracle
from quantkit.report.assets import asset
from tests.graphs import all_in_int8
from tests.kernels.engine import ISAS, ffi, isa_name, run_op

Array = np.ndarray[Any, Any]


def run_op_by_op(self: CompiledPlan, pool: Any, memory: Array, externals: Sequence[Array], *unused: Any) -> None:
    """CompiledPlan.run, with a call for each op. A tensor is given as what its buffer holds from its offset on."""
    arrays = [*externals, *self.plan.constants]
    buffers = [memory, *(array.reshape(-1).view(np.uint8) for array in arrays)]
    for c_op, op in zip(self._ops, self.plan.ops, strict=False):
        refs = [*zip(getattr(c_op, "in"), op.inputs, strict=False), (c_op.out, op.output)]
        *inputs, output = [
            None
            if c_ref.buffer < 0
            else buffers[c_ref.buffer][c_ref.offset :][: ref.buffer.size - ref.offset if c_ref.buffer == 0 else None]
            for c_ref, ref in refs
        ]
        params = ffi.cast(f"{PARAMS[op.kind]} *", c_op.params)
        run_op(self.isa, c_op.kind, params, inputs, output)


@pytest.mark.parametrize(
    ("model", "shape"),
    [("digits_cnn.onnx", (1, 1, 32, 32)), ("models/resnet20.onnx", (1, 3, 32, 32))],
    ids=["digits", "resnet20"],
)
def test_every_op_of_an_inference_is_right_on_every_isa(
    model: str, shape: tuple[int, ...], shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared(model) if "/" in model else asset(model)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *shape)).astype(np.float32)
    int8 = all_in_int8(path, images[:2])
    feeds = {int8.graph.inputs[0].name or "": images[2]}
    expected = run_oracle(int8, feeds)
    monkeypatch.setattr(CompiledPlan, "run", run_op_by_op)
    for isa in ISAS:
        session = Session(int8, threads=1, isa=isa_name(isa))
        for out, got in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            np.testing.assert_array_equal(got, expected[out.name], err_msg=isa_name(isa))
