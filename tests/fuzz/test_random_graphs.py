"""Random graphs through the whole pipeline: the engine equals the oracle bit for bit, on every ISA, for any threads.

QUANTKIT_FUZZ_GRAPHS: how many (50). QUANTKIT_FUZZ_SEED: which (0). `make fuzz` runs 500 with a fresh seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import hypothesis
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from onnx import printer

from quantkit.execute import Session
from quantkit.execute.binding import available_isas
from quantkit.execute.oracle import run_oracle
from tests.fuzz.random_graphs import graphs
from tests.graphs import all_in_int8
from tests.graphs import model as small_model

GRAPHS = int(os.environ.get("QUANTKIT_FUZZ_GRAPHS", "50"))
SEED = int(os.environ.get("QUANTKIT_FUZZ_SEED", "0"))
ISAS = [isa for isa, there in available_isas().items() if there]


def data_for(model: onnx.ModelProto, seed: int) -> np.ndarray:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def int8_of(model: onnx.ModelProto) -> ir.Model:
    return all_in_int8(model, [data_for(model, seed) for seed in (1, 2)])


def assert_engine_equals_oracle(model: onnx.ModelProto, int8: ir.Model) -> None:
    """Compares every output, bit for bit, on data that goes beyond the calibrated range too."""
    x = data_for(model, 3) * np.float32(1.5)
    expected = run_oracle(int8, {"x": x})
    for isa in ISAS:
        for threads in (1, 2, 3):
            session = Session(int8, threads=threads, isa=isa)
            names = [out.name for out in session.get_outputs()]
            for name, got in zip(names, session.run(None, {"x": x}), strict=True):
                message = f"{name} on {isa}, {threads} threads"
                assert got.dtype == expected[name].dtype, message
                np.testing.assert_array_equal(got, expected[name], err_msg=message)


@hypothesis.seed(SEED)
@settings(max_examples=GRAPHS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(model=graphs())
def test_a_random_graph_is_the_same_in_engine_and_oracle(model: onnx.ModelProto) -> None:
    note(f"QUANTKIT_FUZZ_SEED={SEED}\n{printer.to_text(model)}")
    int8 = int8_of(model)
    assume(any(node.domain == "quantkit" for node in int8.graph))
    assert_engine_equals_oracle(model, int8)


def test_a_wrong_result_of_the_engine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_conv()
    int8 = int8_of(model)
    assert_engine_equals_oracle(model, int8)
    run: Callable[..., list[np.ndarray]] = Session.run
    monkeypatch.setattr(Session, "run", lambda *a: [np.nextafter(y, np.float32(9)) for y in run(*a)])
    with pytest.raises(AssertionError, match="on scalar, 1 threads"):
        assert_engine_equals_oracle(model, int8)


def one_conv() -> onnx.ModelProto:
    node = (
        "y = Conv <kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1> (x, w)"
    )
    return small_model(node, {"w": (4, 3, 1, 1)}, inputs="float[1,3,4,4] x")


def test_every_kind_of_step_happens() -> None:
    """A step that always gives up would test nothing."""
    seen: set[str] = set()

    @hypothesis.seed(0)
    @settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate])
    @given(model=graphs())
    def collect(model: onnx.ModelProto) -> None:
        seen.update(node.op_type for node in model.graph.node)

    collect()
    assert seen >= {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Split", "Slice", "MaxPool",
                    "AveragePool", "Resize", "Pad", "Transpose", "Softmax", "LayerNormalization", "LRN",
                    "InstanceNormalization", "Sin"}  # fmt: skip
