"""Inputs that are not plain full tensors: sequences, declared empty shapes."""

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

from quantkit import Session
from quantkit.errors import DataError
from quantkit.execute.arguments import Argument, FeedCheck
from quantkit.execute.float_steps import direct_call


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


def test_a_scalar_may_come_in_an_array_of_one_element_as_in_onnxruntime():
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x, float s) => (float[N,2] y)'
    session = Session(parser.parse_model(head + " { y = Mul(x, s) }"), threads=1)
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x, "s": np.array([3], np.float32)})[0], 3 * x)
    assert session.profile({"x": x, "s": np.array([3], np.float32)})
    with pytest.raises(DataError, match=r"'s' has shape \[2\]"):
        session.profile({"x": x, "s": np.ones(2, np.float32)})


def test_an_input_that_no_node_reads_costs_no_detour(monkeypatch):
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x, int64[N] length) => (float[N,2] y)'
    session = Session(parser.parse_model(head + " { y = Neg(x) }"), threads=1)
    x, length = np.ones((3, 2), np.float32), np.zeros(3, np.int64)
    monkeypatch.setattr(session, "_execute", None)  # the way of models that are not one onnxruntime session
    np.testing.assert_array_equal(session.run(None, {"x": x, "length": length})[0], -x)
    monkeypatch.undo()
    with pytest.raises(DataError, match="'length' is missing"):
        session.run(None, {"x": x})


def test_feeds_like_the_last_pass_without_being_looked_at_again_and_others_do_not(monkeypatch):
    check = FeedCheck([Argument("x", ["N", 2], "tensor(float)"), Argument("s", [], "tensor(float)")])
    x, s = np.ones((3, 2), np.float32), np.array(2, np.float32)
    given = {"x": x, "s": s}
    assert check(given) == given
    looked = []
    monkeypatch.setattr(check, "_check", lambda feeds: looked.append(feeds) or dict(feeds))
    again = check(given)
    assert looked == []
    assert again == given
    assert again is not given
    others = [
        {"x": x[:2], "s": s},
        {"x": x.astype(np.float64), "s": s},
        {"x": x, "z": s},
        {"x": x},
        {"x": [[1.0]], "s": s},
    ]
    for other in others:
        check(given)
        check(other)
    assert [set(feeds) for feeds in looked if feeds is not given] == [set(feeds) for feeds in others]


def test_a_scalar_that_came_in_an_array_is_reshaped_each_time():
    check = FeedCheck([Argument("s", [], "tensor(float)")])
    for _ in range(3):
        assert check({"s": np.array([2], np.float32)})["s"].shape == ()


def test_onnxruntime_is_called_directly_where_its_session_has_something_inside_and_as_it_is_where_not():
    inner = SimpleNamespace(run=lambda names, feeds, options: "inner")
    assert direct_call(SimpleNamespace(run=None, _sess=inner))(None, {}, None) == "inner"
    assert direct_call(inner)(None, {}, None) == "inner"
