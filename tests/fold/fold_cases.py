"""Small models for the tests of the folding passes, and the checks every pass must stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper

from quantkit.fold import fold
from quantkit.load import input_specs, load, output_specs
from quantkit.types import Decision

FOLDED = {"rtol": 1e-4, "atol": 1e-5}
"""Float32 weights are rounded once more and sums run in another order; about 1e-6 was seen."""

Pass = Callable[[ir.Model], list[Decision]]


def build(signature: str, body: str, *, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text: signature "(float[N,3] x) => (float[N,3] y)", body "y = Relu(x)", weights by name."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\ngraph {signature} {{\n{body}\n}}'
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return proto


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded float32 standard normal values."""
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def batchnorm_parameters(channels: int, prefix: str = "") -> dict[str, np.ndarray]:
    """scale, bias, mean, variance by name, for "BatchNormalization(x, s, b, m, v)"."""
    rng = np.random.default_rng(channels)
    spread = {"s": (0.5, 1.5), "b": (-1, 1), "m": (-1, 1), "v": (0.5, 2)}
    return {prefix + name: rng.uniform(*ends, channels).astype(np.float32) for name, ends in spread.items()}


def run(model: onnx.ModelProto | ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs in onnxruntime."""
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # its own Pad fusion makes pools that it then rejects; and what is folded here must not depend on what it folds
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feeds_of(model: ir.Model, **symbols: int) -> dict[str, np.ndarray]:
    """Seeded inputs; symbolic and unknown dimensions are 2 unless given."""
    rng = np.random.default_rng(7)
    feeds = {}
    for spec in input_specs(model):
        shape = [d if isinstance(d, int) else symbols.get(str(d), 2) for d in spec.shape]
        feeds[spec.name] = rng.normal(size=shape).astype(spec.dtype)
    return feeds


def folded(
    proto: onnx.ModelProto, one_pass: Pass = fold, *, symbols: Sequence[dict[str, int]] = ({}, {"N": 3})
) -> tuple[ir.Model, list[Decision]]:
    """Load, run the pass and check what must hold always; the model after it and the decisions.

    The checker accepts it; inputs and outputs keep names, shapes and types; values are preserved for every choice of
    symbols; a second run changes nothing.
    """
    model = load(proto)
    before = input_specs(model), output_specs(model)
    decisions = one_pass(model)
    onnx.checker.check_model(ir.to_proto(model))
    assert (input_specs(model), output_specs(model)) == before
    for choice in symbols:
        feeds = feeds_of(model, **choice)
        for expected, got in zip(run(proto, feeds), run(model, feeds), strict=True):
            assert expected.shape == got.shape
            np.testing.assert_allclose(got, expected, **FOLDED)
    again = [decision for decision in one_pass(model) if decision.action != "refused"]
    assert again == [], "a second run must change nothing"
    return model, decisions


def op_types(model: ir.Model) -> list[str]:
    """Op types in graph order."""
    return [node.op_type for node in model.graph]


def node_of(model: ir.Model, op_type: str) -> ir.Node:
    """The only node of this type."""
    (node,) = (node for node in model.graph if node.op_type == op_type)
    return node


def refusals(decisions: list[Decision]) -> str:
    """The reasons of all refusals, one a line."""
    return "\n".join(decision.detail for decision in decisions if decision.action == "refused")


def array_of(value: ir.Value | None) -> np.ndarray:
    """The array of an initializer."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
