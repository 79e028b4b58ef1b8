"""A float model of many weights, run part by part, gives what it gives as a whole and holds one part at a time."""

import numpy as np
import onnx_ir as ir
import pytest

from quantkit.errors import CalibrationError, DataError
from quantkit.load import load
from quantkit.observe import runner, streamed
from quantkit.observe.runner import FloatRunner
from tests.graphs import image, model

BODY = """a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w1) c = Add(b, r) d = MatMul(c, w2) s = ReduceSum<keepdims = 0>(d)
zero = Constant<value_float = 0.0>() up = Greater(s, zero) e = If (up) <
then_branch = t () => (float[N,64] p) { p = MatMul(d, w1) }, else_branch = f () => (float[N,64] q) { q = Neg(r) }>
y = MatMul(e, w0)"""


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """The model, its weights in a file; one weight is 16 KiB, a part holds one."""
    monkeypatch.setattr(runner, "STREAM_BYTES", 40_000)
    monkeypatch.setattr(streamed, "LARGE_BYTES", 10_000)
    monkeypatch.setattr(streamed, "PART_BYTES", 20_000)
    proto = model(BODY, dict.fromkeys(("w0", "w1", "w2"), (64, 64)), inputs="float[N,64] x", outputs="float[N,64] y")
    ir.save(load(proto), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=1000)
    return load(tmp_path / "m.onnx")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parts_give_what_the_whole_gives_subgraphs_and_exposed_tensors_too(parts, sign, monkeypatch):
    names, feeds = ["y", "r", "b"], {"x": sign * np.abs(image(3, 64))}
    in_parts = FloatRunner(parts, 1, expose=["r", "b"])
    got = in_parts.run(feeds, names)
    assert len(in_parts._session._parts) >= 3
    assert in_parts.output_names == ["y", "r", "b"]
    monkeypatch.setattr(runner, "STREAM_BYTES", 1 << 30)
    whole = FloatRunner(parts, 1, expose=["r", "b"])
    assert [spec.name for spec in in_parts.inputs] == [spec.name for spec in whole.inputs]
    for a, b in zip(got, whole.run(feeds, names), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert len(in_parts.run(feeds)) == 3


def test_the_weights_of_a_part_are_let_go_before_the_next(parts, monkeypatch):
    most = []

    def mapped():
        tensors = [v.const_value for v in parts.graph.initializers.values()]
        return sum(isinstance(t, ir.ExternalTensor) and t.raw is not None for t in tensors)

    in_parts = FloatRunner(parts, 1)
    monkeypatch.setattr(streamed, "release", lambda tensor: (most.append(mapped()), tensor.release()))
    in_parts.run({"x": image(3, 64)})
    assert most
    assert max(most) <= 2  # the weight of the part and, in the one with the subgraph, the one that this captures
    assert mapped() == 0


def test_feeds_that_do_not_fit_and_tensors_that_are_not_there_are_named(parts):
    with pytest.raises(DataError, match=r"x float32 \[3, 7\]"):
        FloatRunner(parts, 1).run({"x": image(3, 7)})
    with pytest.raises(CalibrationError, match="'nothing' is made by no node"):
        FloatRunner(parts, 1, expose=["nothing"])
