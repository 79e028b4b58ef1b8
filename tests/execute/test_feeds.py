"""Inputs that are not plain full tensors: sequences, declared empty shapes."""

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

from quantkit import Session
from quantkit.errors import DataError


def test_a_sequence_goes_in_and_is_described_as_in_onnxruntime():
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    node = helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    session = Session(helper.make_model(helper.make_graph([node], "g", [sequence], [output]),
                                        opset_imports=[helper.make_opsetid("", 17)], ir_version=8))  # fmt: skip
    (argument,) = session.get_inputs()
    assert (argument.type, argument.shape) == ("seq(tensor(float))", [])
    parts = [np.ones((1, 2), np.float32), np.zeros((3, 2), np.float32)]
    np.testing.assert_array_equal(session.run(None, {"s": parts})[0], np.concatenate(parts))


def test_an_empty_input_is_taken_only_where_the_model_declares_it_empty():
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x, float[0,2] e) => (float[M,2] y)'
    session = Session(parser.parse_model(head + " { y = Concat<axis=0>(x, e) }"))
    x, nothing = np.ones((3, 2), np.float32), np.zeros((0, 2), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x, "e": nothing})[0], x)
    with pytest.raises(DataError, match="'x' is empty"):
        session.run(None, {"x": nothing, "e": nothing})
