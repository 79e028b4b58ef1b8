"""One small FP32 model through the whole road: which ops it becomes, engine against oracle, oracle against ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from quantkit.execute import Session
from quantkit.execute.oracle import run_oracle
from tests.graphs import quantized, run_onnxruntime
from tests.kernels.engine import ISAS, isa_name

ONE_STEP = 1
"""A rounding tie between exact integers and onnxruntime's float32."""


def one_node(model: onnx.ModelProto, node: onnx.NodeProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The node alone; `values` are its inputs, the model's initializers the others."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    constants = [t for t in model.graph.initializer if t.name in node.input]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one_node", inputs, outputs, constants)
    return helper.make_model(
        graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version
    )


def assert_ops_agree_with_onnxruntime(model: onnx.ModelProto, x: np.ndarray, most: int = ONE_STEP) -> None:
    """Each quantkit op, on the inputs that the oracle gives it, is within `most` steps of its function body."""
    constants = {t.name for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.domain == "quantkit"]
    tensors = dict.fromkeys(name for n in nodes for name in (*n.input, *n.output) if name not in constants)
    values = run_oracle(model, {model.graph.input[0].name: x}, keep=list(tensors))
    for node in nodes:
        fed = {name: values[name] for name in node.input if name not in constants}
        for name, expected in zip(node.output, run_onnxruntime(one_node(model, node, fed), fed), strict=True):
            difference = np.abs(values[name].astype(np.float64) - expected)
            if expected.dtype == np.uint8:
                assert difference.max() <= most, f"{node.op_type}: {difference.max()} steps"
            else:
                assert difference.max() <= 1e-5 * np.abs(expected).max(), node.op_type


def check_native(proto: onnx.ModelProto, ops: Sequence[str], x: np.ndarray, most: int = ONE_STEP) -> ir.Model:
    """Quantizes `proto`, calibrated on `x`, and requires: the quantkit ops `ops` among its nodes, everything native,
    every op within `most` steps of onnxruntime, and the engine equal to the oracle on every ISA and for any threads."""
    model = quantized(proto, x)
    calibrated = ir.to_proto(model)
    onnx.checker.check_model(calibrated, full_check=True)
    found = [node.op_type for node in calibrated.graph.node]
    assert set(ops) <= set(found), found
    unseen = np.random.default_rng(99).permuted(x, axis=None)
    assert_ops_agree_with_onnxruntime(calibrated, unseen, most)
    name = calibrated.graph.input[0].name
    expected = run_oracle(calibrated, {name: unseen})
    for isa in ISAS:
        session = Session(calibrated, threads=2, isa=isa_name(isa))
        assert {row.runs_on for row in session.plan} == {"native"}, [
            (row.op, row.reason) for row in session.plan if row.runs_on != "native"
        ]
        for output, value in zip(session.get_outputs(), session.run(None, {name: unseen}), strict=True):
            np.testing.assert_array_equal(value, expected[output.name], err_msg=isa_name(isa))
    return model
