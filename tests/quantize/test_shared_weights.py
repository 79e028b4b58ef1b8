"""Weights that several layers share stay one tensor in INT8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit import Session, pipeline
from quantkit.types import QuantConfig
from tests.graphs import run_onnxruntime, sqnr_db


def unrolled(steps: int) -> onnx.ModelProto:
    """h = tanh(h W + b), `steps` times with the same W [32, 32]: what an exporter makes of a recurrent layer."""
    rng = np.random.default_rng(0)
    nodes, last = [], "x"
    for i in range(steps):
        nodes.append(helper.make_node("Gemm", [last, "w", "b"], [f"g{i}"], name=f"step{i}"))
        nodes.append(helper.make_node("Tanh", [f"g{i}"], [f"h{i}"]))
        last = f"h{i}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in ("x", last))
    weights = [numpy_helper.from_array(rng.normal(size=(32, 32)).astype(np.float32) * 0.2, "w"),
               numpy_helper.from_array(rng.normal(size=32).astype(np.float32), "b")]  # fmt: skip
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rows(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(8, 32)).astype(np.float32)}


def weight_count(model: onnx.ModelProto) -> int:
    return sum(list(t.dims) == [32, 32] for t in model.graph.initializer)


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_every_step_of_an_unrolled_recurrence_has_the_same_int8_weights(effort):
    model = unrolled(12)
    config = QuantConfig(effort=effort, keep_int8=True)
    made = pipeline.quantize(model, [rows(seed) for seed in range(8)], config=config).proto
    assert sum(node.domain == "quantkit" for node in made.graph.node) == 12
    assert weight_count(made) == 1
    assert sqnr_db(run_onnxruntime(model, rows(9))[0], Session(made, threads=1).run(None, rows(9))[0]) > 20


def test_a_network_of_shared_weights_alone_does_not_grow_by_being_tuned():
    config = QuantConfig(effort="balanced", keep_int8=True)
    made = pipeline.quantize(unrolled(3), [rows(seed) for seed in range(8)], config=config).proto
    assert weight_count(made) == 1
    onnx.checker.check_model(made)
    assert sqnr_db(run_onnxruntime(unrolled(3), rows(9))[0], Session(made, threads=1).run(None, rows(9))[0]) > 20
