"""Whole calibrated models: every op of the file within 1 LSB of onnxruntime, and the engine equal to the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.execute.oracle import run_oracle
from quantkit.report.assets import asset
from tests.execute.one_op import run_onnxruntime
from tests.kernels.engine import ISAS, isa_name
from tests.native_model import one_node

ONE_STEP = 1
"""A rounding tie between exact integers and onnxruntime's float32 sums."""
MODELS = {"digits_cnn": (1, 32, 32), "efficientnet_lite0": (3, 224, 224), "resnet20": (3, 32, 32)}
SHARED = ("efficientnet_lite0", "resnet20")

Case = tuple[onnx.ModelProto, np.ndarray]


@cache
def calibrated(path: Path, shape: tuple[int, ...]) -> Case:
    """A model calibrated on random input, and input that it has not seen."""
    rng = np.random.default_rng(3)
    data = [{"input": rng.normal(size=(2, *shape)).astype(np.float32)} for _ in range(2)]
    return pipeline.quantize(path, data).proto, rng.normal(size=(2, *shape)).astype(np.float32)


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, shared: Callable[[str], Path]) -> Case:
    name = request.param
    return calibrated(shared(f"models/{name}.onnx") if name in SHARED else asset(f"{name}.onnx"), MODELS[name])


def test_every_op_is_within_one_step_of_its_function_in_onnxruntime(case: Case) -> None:
    model, x = case
    constants = {t.name for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.domain == "quantkit"]
    tensors = dict.fromkeys(name for n in nodes for name in (*n.input, *n.output) if name not in constants)
    values = run_oracle(model, {"input": x}, keep=list(tensors))
    assert nodes
    for node in nodes:
        fed = {name: values[name] for name in node.input if name not in constants}
        for name, expected in run_onnxruntime(one_node(model, node, fed), fed).items():
            difference = np.abs(values[name].astype(np.float64) - expected)
            if expected.dtype == np.uint8:
                assert difference.max() <= ONE_STEP, f"{node.name} ({node.op_type}): {difference.max()} steps"
                assert difference.mean() < 0.01, f"{node.name} ({node.op_type}): more than rare rounding ties"
            else:
                assert difference.max() <= 1e-5 * np.abs(expected).max(), f"{node.name} ({node.op_type})"


@pytest.mark.parametrize("isa", ISAS, ids=isa_name)
def test_the_engine_equals_the_oracle_bit_for_bit(case: Case, isa: int) -> None:
    model, x = case
    session = Session(model, threads=2, isa=isa_name(isa))
    assert {step.runs_on for step in session.plan} == {"native"}
    expected = run_oracle(model, {"input": x})
    for output, value in zip(session.get_outputs(), session.run(None, {"input": x}), strict=True):
        np.testing.assert_array_equal(value, expected[output.name])
