"""Every op name has a valid function, and activations' tables agree with their ONNX bodies."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from quantkit.fuse.activations import ACTIVATIONS, lookup_table
from quantkit.fuse.functions import FIRST_OPSET, function_for
from quantkit.fuse.opnames import OP_NAMES, OpName, parse
from tests.graphs import run_onnxruntime

WITH_FUNCTION = [name for name in OP_NAMES.values() if name.level != "float" and name.count <= 3]
ONE_LSB = 1


def test_no_two_meanings_share_a_name():
    assert len({name.op_type for name in OP_NAMES.values()}) == len(set(OP_NAMES.values()))
    assert parse("Conv2") is None


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_function_passes_the_checker(opset):
    context = onnx.checker.C.CheckerContext()
    context.ir_version = 10
    context.opset_imports = {"": opset}
    for name in (n for n in WITH_FUNCTION if FIRST_OPSET.get(n.base, 0) <= opset):
        proto = ir.to_proto(function_for(name, opset))
        onnx.checker.check_function(proto, context)
        assert proto.name == name.op_type


X_PARAMS = {"one-sided": (0.05, 0), "centred": (0.05, 128), "wide": (0.4, 100)}


@pytest.mark.parametrize("params", X_PARAMS)
@pytest.mark.parametrize("activation", [name for name, row in ACTIVATIONS.items() if not row.by_channel])
def test_the_table_agrees_with_the_function_body_within_one_step(activation, params):
    """The body works in float32, the table in float64: near a tie they may differ by one."""
    scale, zero_point = X_PARAMS[params]
    attributes = {**ACTIVATIONS[activation].attributes, **({"min": -1.0, "max": 6.0} if activation == "Clip" else {})}
    y_scale, y_zero_point = (0.05, 40) if activation != "Exp" else (40.0, 0)
    table = np.frombuffer(lookup_table(activation, attributes, scale, zero_point, y_scale, y_zero_point), np.uint8)
    got = run_unary(activation, attributes, (scale, zero_point), (y_scale, y_zero_point))
    first = zero_point if activation == "Sqrt" else 0  # a negative root is NaN, which has no quantized value
    assert np.abs(table.astype(int) - got.astype(int))[first:].max() <= ONE_LSB


def run_unary(activation, attributes, x, y):
    name = OpName(activation)
    node = helper.make_node(name.op_type, ["x", "xs", "xz", "ys", "yz"], ["y"], domain="quantkit", **attributes)
    values = {"xs": np.float32(x[0]), "xz": np.uint8(x[1]), "ys": np.float32(y[0]), "yz": np.uint8(y[1])}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [256])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [256])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("quantkit", 1)]
    function = ir.to_proto(function_for(name, 17))
    proto = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    return run_onnxruntime(proto, {"x": np.arange(256, dtype=np.uint8)})[0]


def test_a_table_maps_zero_to_zero_for_functions_through_the_origin():
    for activation in ("Relu", "SiLU", "Tanh", "HardSwish", "Gelu", "LeakyRelu"):
        table = lookup_table(activation, ACTIVATIONS[activation].attributes, 0.03, 77, 0.02, 31)
        assert table[77] == 31, activation
