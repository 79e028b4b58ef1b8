"""fold on whole models: values preserved, shape arithmetic gone, a second run does nothing."""

from __future__ import annotations

import runpy
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.fold import fold
from quantkit.load import input_specs, load, output_specs
from tests.fold.fold_cases import run

WHOLE_MODEL = 1e-4
"""Largest difference relative to the largest output: 1e-6 was seen over 200 layers."""

SHAPE_OPS = {"Shape", "Gather", "Unsqueeze", "Squeeze", "Cast", "Constant", "Identity", "Dropout", "BatchNormalization"}

SMALL = {
    "models/resnet20.onnx": {"Conv": 19, "Relu": 19, "Add": 9, "Slice": 4, "Pad": 2, "GlobalAveragePool": 1,
                             "Flatten": 1, "Gemm": 1},
    "models/efficientnet_lite0.onnx": {"Conv": 49, "Clip": 33, "Add": 9, "GlobalAveragePool": 1, "Flatten": 1,
                                       "Gemm": 1},
}  # fmt: skip

TOPOLOGIES = {
    "shufflenet_v2_x1_0": {"Conv": 56, "Relu": 37, "Reshape": 32, "Slice": 26, "Transpose": 16, "Concat": 16},
    "densenet121": {"Conv": 120 + 62, "Relu": 121, "Concat": 58, "AveragePool": 3},
    "googlenet": {"Conv": 57, "MaxPool": 13, "Concat": 9},
    "mobilenet_v2": {"Conv": 52, "Clip": 35, "Add": 10},
    "mobilenet_v3_large": {"Conv": 62, "HardSwish": 21, "HardSigmoid": 8},
    "efficientnet_b0": {"Conv": 81, "Sigmoid": 65, "Mul": 65},
    "regnet_y_400mf": {"Conv": 85, "Relu": 65, "Add": 16},
    "resnet18": {"Conv": 20, "Add": 8},
    "resnet50": {"Conv": 53, "Relu": 49, "Add": 16},
    "resnet101": {"Conv": 104, "Relu": 100, "Add": 33},
    "inception_v3": {"Conv": 94, "AveragePool": 9, "Concat": 11},
    "squeezenet1_1": {"Conv": 26, "Concat": 8},
    "vgg16": {"Conv": 13, "Gemm": 3},
    "convnext_tiny": {"Conv": 22, "MatMul": 36, "LayerNormalization": 23},
    "vit_b_16": {"MatMul": 60, "LayerNormalization": 25, "Softmax": 12},
}
"""What must be left of the ops named; other ops are not counted."""
WITH_GATHER = {"vit_b_16"}
"""Attention takes q, k and v apart with Gather, and its class token needs the batch size at run time."""
EVERYDAY = {"shufflenet_v2_x1_0", "mobilenet_v3_large", "squeezenet1_1", "densenet121"}


def check(proto: onnx.ModelProto, left: dict[str, int], *, batch: int = 2) -> ir.Model:
    model = load(proto)
    before = input_specs(model), output_specs(model)
    fold(model)
    onnx.checker.check_model(ir.to_proto(model))
    assert (input_specs(model), output_specs(model)) == before
    counts = Counter(node.op_type for node in model.graph)
    assert {op: counts[op] for op in left} == left
    assert [decision for decision in fold(model) if decision.action != "refused"] == []
    (spec,) = input_specs(model)
    x = np.random.default_rng(0).normal(size=(batch, *spec.shape[1:])).astype(np.float32)
    for expected, got in zip(run(proto, {spec.name: x}), run(model, {spec.name: x}), strict=True):
        assert expected.shape == got.shape
        assert np.abs(got - expected).max() <= WHOLE_MODEL * np.abs(expected).max()
    return model


def known_dims(model: ir.Model) -> bool:
    """Every dimension of every value is a number or a symbol of the input."""
    values = [value for node in model.graph for value in node.outputs]
    return all(v.shape is not None and all(isinstance(d, int) or d.value for d in v.shape) for v in values)


@pytest.mark.parametrize("path", SMALL)
def test_a_shared_model_folds_to_the_expected_ops(shared, path):
    model = check(onnx.load(shared(path)), SMALL[path])
    assert len(model.graph) == sum(SMALL[path].values())
    assert known_dims(model)


def topologies():
    return [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in TOPOLOGIES]


@pytest.mark.parametrize("name", topologies())
def test_a_topology_folds_to_the_expected_ops(shared, name):
    materialize = runpy.run_path(str(shared("models/topologies/materialize.py")))["materialize"]
    model = check(materialize(name), TOPOLOGIES[name], batch=1)
    if name not in WITH_GATHER:
        assert not SHAPE_OPS & {node.op_type for node in model.graph}
    assert known_dims(model)
