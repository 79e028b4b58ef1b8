"""Small INT8 models as other tools write them, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantkit import Session
from quantkit.execute.oracle import run_oracle
from quantkit.foreign import to_static
from quantkit.load import load
from tests.graphs import run_onnxruntime

OPSET, IR_VERSION = 17, 8
MICROSOFT = "com.microsoft"


class Builder:
    """Collects nodes and initializers; every method returns the name of what it made."""

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def constant(self, array: Any, dtype: Any = None) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers[name] = np.asarray(array, dtype)
        return name

    def node(self, op_type: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name, domain=domain, **attributes))
        return f"{name}_out"

    def pair(self, scale: Any, zero_point: Any, dtype: Any = np.uint8) -> list[str]:
        return [self.constant(scale, np.float32), self.constant(zero_point, dtype)]

    def quantize(self, x: str, scale: Any, zero_point: Any, dtype: Any = np.uint8, **attributes: Any) -> str:
        return self.node("QuantizeLinear", [x, *self.pair(scale, zero_point, dtype)], **attributes)

    def dequantize(self, q: str, scale: Any, zero_point: Any, dtype: Any = np.uint8, **attributes: Any) -> str:
        return self.node("DequantizeLinear", [q, *self.pair(scale, zero_point, dtype)], **attributes)

    def through(self, x: str, scale: float, zero_point: int, dtype: Any = np.uint8) -> str:
        """Quantized and dequantized again, as a QDQ file has every activation."""
        return self.dequantize(self.quantize(x, scale, zero_point, dtype), scale, zero_point, dtype)

    def weight(self, q: np.ndarray, scale: Any, zero_point: Any = None, **attributes: Any) -> str:
        """DequantizeLinear of a constant; zero points default to 0."""
        zero_point = np.zeros(np.shape(scale), q.dtype) if zero_point is None else zero_point
        return self.dequantize(self.constant(q), scale, zero_point, q.dtype, **attributes)

    def model(self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, int],
              input_type: int = TensorProto.FLOAT) -> onnx.ModelProto:  # fmt: skip
        """inputs: name -> dims; outputs: name -> element type."""
        graph = helper.make_graph(
            self.nodes, "foreign",
            [helper.make_tensor_value_info(name, input_type, dims) for name, dims in inputs.items()],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.initializers.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def feeds_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Seeded images [2, 4, 8, 8] for every input."""
    return {value.name: reals(2, 4, 8, 8, seed=k) for k, value in enumerate(proto.graph.input)}


def check_native(proto: onnx.ModelProto, step: float) -> None:
    """Every node runs natively, bit for bit what the oracle gives, and at most a step from onnxruntime."""
    feeds, session = feeds_of(proto), Session(proto, threads=1)
    assert {row.name: row.reason for row in session.plan if row.runs_on != "native"} == {}
    got = session.run(None, feeds)[0]
    rewritten = load(proto)
    to_static(rewritten)
    np.testing.assert_array_equal(got, *run_oracle(rewritten, feeds).values())
    expected = run_onnxruntime(proto, feeds)[0]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1.001 * step
    assert np.abs(got).max() > 10 * step


def weights(*shape: int, limit: int = 63, seed: int = 0, dtype: Any = np.int8) -> np.ndarray:
    """Random integers. Up to 63 onnxruntime's u8 x s8 kernels for CPUs without VNNI do not saturate either."""
    return np.random.default_rng(seed).integers(-limit, limit + 1, shape).astype(dtype)


def reals(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
