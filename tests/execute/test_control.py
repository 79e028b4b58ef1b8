"""Layers in the bodies of If, Loop and Scan in INT8: the same control flow, bodies in the engine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from quantkit import Session, pipeline
from quantkit.execute.oracle import run_oracle
from quantkit.load import to_proto
from quantkit.report.export import export
from quantkit.types import QuantConfig
from tests.graphs import run_onnxruntime, sqnr_db

INT8 = QuantConfig(effort="fast", keep_int8=True)
CONV = "Conv<pads=[1,1,1,1], kernel_shape=[3,3]>"
SIZE = (1, 8, 12, 12)


def text(inputs: str, outputs: str, body: str, weights: str = "wvu") -> onnx.ModelProto:
    """A model with seeded weights [8, 8, 3, 3] of one letter each."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> net ({inputs}) => ({outputs}) {{ {body} }}')
    rng = np.random.default_rng(3)
    model.graph.initializer.extend(
        numpy_helper.from_array((rng.normal(size=(8, 8, 3, 3)) * 0.15).astype(np.float32), name) for name in weights
    )
    return model


def loop(condition: str = "Identity(go)", first: str = "") -> onnx.ModelProto:
    """Up to n steps of a recurrent layer that also reads the main graph, with the mean of every step."""
    body = f"""a = {CONV}(x, w)
      y, m = Loop (n, , a) <body = steps (int64 i, bool go, float[1,8,12,12] h)
        => (bool again, float[1,8,12,12] o, float[1,8] mean)
        {{ {first} b = {CONV}(h, v) r = Relu(b) c = {CONV}(r, u) s = Add(c, a) o = Tanh(s)
           mean = ReduceMean<axes=[2,3], keepdims=0>(o) top = ReduceMax<keepdims=0>(o) again = {condition} }}>"""
    return text("float[1,8,12,12] x, int64 n", "float[1,8,12,12] y, float[k,1,8] m", body)


def branches() -> onnx.ModelProto:
    body = f"""s = ReduceSum<keepdims=0>(x) zero = Constant<value_float=0.0>() up = Greater(s, zero)
      y = If (up) <then_branch = a () => (float[1,8,12,12] p) {{ p = {CONV}(x, v) }},
                   else_branch = b () => (float[1,8,12,12] q) {{ o = {CONV}(x, w) q = Relu(o) }}>"""
    return text("float[1,8,12,12] x", "float[1,8,12,12] y", body, "wv")


def scan(attributes: str = "") -> onnx.ModelProto:
    body = f"""h0 = ReduceMean<axes=[0], keepdims=0>(x)
      h, y = Scan <num_scan_inputs=1 {attributes}, body = steps (float[1,8,12,12] s, float[1,8,12,12] t)
        => (float[1,8,12,12] z, float[1,8] m)
        {{ a = {CONV}(s, w) b = {CONV}(t, v) c = Add(a, b) z = Tanh(c)
           m = ReduceMean<axes=[2,3], keepdims=0>(z) }}> (h0, x)"""
    return text("float[T,1,8,12,12] x", "float[1,8,12,12] h, float[a,b,c] y", body, "wv")


def image(seed: int, shift: float = 0.0, steps: int = 0) -> np.ndarray:
    shape = (steps, *SIZE) if steps else SIZE
    return (np.random.default_rng(seed).normal(size=shape) + shift).astype(np.float32)


def loop_feeds(seed: int, steps: int = 4) -> dict[str, np.ndarray]:
    return {"x": image(seed), "n": np.array(steps, np.int64)}


def bodies_in_int8(model: onnx.ModelProto) -> int:
    """quantkit nodes inside bodies."""
    graphs = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return sum(node.domain == "quantkit" for graph in graphs for node in graph.node)


CASES = {
    "loop": (loop(), [loop_feeds(seed) for seed in range(6)]),
    "branches": (branches(), [{"x": image(seed, 0.2 if seed % 2 else -0.2)} for seed in range(6)]),
    "scan": (scan(), [{"x": image(seed, steps=5)} for seed in range(6)]),
    "scan backwards": (
        scan(", scan_input_directions=[1], scan_output_directions=[1], scan_output_axes=[1]"),
        [{"x": image(seed, steps=5)} for seed in range(6)],
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, dict[str, np.ndarray], onnx.ModelProto]:
    model, samples = CASES[request.param]
    return model, samples[-1], pipeline.quantize(model, samples[:-1], config=INT8).proto


def test_bodies_are_int8_near_fp32_and_run_in_the_engine(case):
    model, feeds, made = case
    assert bodies_in_int8(made) >= 2
    session = Session(made, threads=1)
    wanted, got = run_onnxruntime(model, feeds), session.run(None, feeds)
    for y, ours in zip(wanted, got, strict=True):
        assert ours.shape == y.shape
        assert sqnr_db(y, ours) > 20
    rows = [row for row in session.plan if row.op in ("If", "Loop", "Scan")]
    assert [row.runs_on for row in rows] == ["native"]


def test_the_file_with_int8_bodies_is_valid_and_onnxruntime_gives_the_same_within_a_step(case):
    _, feeds, made = case
    onnx.checker.check_model(made)
    got = Session(made, threads=1).run(None, feeds)
    exported = to_proto(export(made))
    onnx.checker.check_model(exported)
    assert not exported.functions
    for other in (run_onnxruntime(made, feeds), run_onnxruntime(exported, feeds), run_oracle(made, feeds).values()):
        for ours, theirs in zip(got, other, strict=True):  # one step of u8 goes on through the iterations
            assert sqnr_db(theirs, ours) > 30


def test_a_file_with_int8_bodies_gives_the_same_bits_at_any_isa_and_number_of_threads(case, tmp_path):
    _, feeds, made = case
    onnx.save(made, tmp_path / "made.onnx")
    first = Session(tmp_path / "made.onnx", threads=2).run(None, feeds)
    second = Session(made, threads=1, isa="scalar").run(None, feeds)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loop_ends_by_its_condition_by_its_count_or_before_it_begins():
    model = loop("Less(top, most)", "most = Constant<value_float=0.9>()")
    samples = [{"x": image(seed) * 0.3, "n": np.array(5, np.int64)} for seed in range(5)]
    made = pipeline.quantize(model, samples, config=INT8).proto
    assert bodies_in_int8(made) >= 2
    session = Session(made, threads=1)
    for feeds in ({"x": image(9) * 3, "n": np.array(4, np.int64)}, {"x": image(9) * 0.1, "n": np.array(3, np.int64)},
                  {"x": image(9), "n": np.array(0, np.int64)}):  # fmt: skip
        wanted, got = run_onnxruntime(model, feeds), session.run(None, feeds)
        assert [a.shape for a in got] == [a.shape for a in wanted]
    assert got[1].shape == (0, 1, 8)


def test_a_branch_that_no_sample_takes_stays_fp32_and_says_so():
    result = pipeline.quantize(branches(), [{"x": image(seed, 0.5)} for seed in range(4)], config=INT8)
    kept = [d for d in result.decisions if d.node.endswith("/else_branch")]
    assert "no sample ran it" in kept[0].detail
    nodes = {a.name: [n.op_type for n in a.g.node] for n in result.proto.graph.node for a in n.attribute}
    assert nodes["else_branch"] == ["Conv", "Relu"]
    feeds = {"x": image(9, -0.5)}
    np.testing.assert_allclose(
        Session(result.proto, threads=1).run(None, feeds)[0], run_onnxruntime(branches(), feeds)[0], atol=1e-5
    )


def test_a_body_that_is_to_stay_fp32_stays_so():
    config = QuantConfig(effort="fast", keep_int8=True, keep_fp32=("^If",))
    model = branches()
    model.graph.node[-1].name = "If_1"
    result = pipeline.quantize(model, [{"x": image(seed)} for seed in range(3)], config=config)
    assert result.kind == "fp32"


def test_an_if_inside_a_loop_is_int8_too():
    body = f"""y = Loop (n, , x) <body = steps (int64 i, bool go, float[1,8,12,12] h) => (bool again,
        float[1,8,12,12] o) {{ again = Identity(go) one = Constant<value_int=1>() first = Less(i, one)
           o = If (first) <then_branch = a () => (float[1,8,12,12] p) {{ c = {CONV}(h, w) p = Tanh(c) }},
                           else_branch = b () => (float[1,8,12,12] q) {{ d = {CONV}(h, v) q = Tanh(d) }}> }}>"""
    model = text("float[1,8,12,12] x, int64 n", "float[1,8,12,12] y", body, "wv")
    made = pipeline.quantize(model, [loop_feeds(seed) for seed in range(5)], config=INT8).proto
    assert "quantkit" in {node.domain for node in _all_nodes(made.graph)}
    feeds = loop_feeds(9)
    assert sqnr_db(run_onnxruntime(model, feeds)[0], Session(made, threads=1).run(None, feeds)[0]) > 15


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [n for node in graph.node for a in node.attribute if a.HasField("g") for n in _all_nodes(a.g)]
    return [*graph.node, *inner]


def test_a_body_that_cannot_be_quantized_leaves_the_model_in_fp32(monkeypatch):
    from quantkit.execute import bodies

    def broken(*args):
        raise ValueError("no such body")

    monkeypatch.setattr(bodies, "_int8_bodies", broken)
    result = pipeline.quantize(branches(), [{"x": image(seed)} for seed in range(3)], config=INT8)
    assert result.kind == "fp32"
    assert any("no such body" in d.detail for d in result.decisions)


def test_a_loop_of_too_many_rounds_keeps_its_body_in_fp32(monkeypatch):
    from quantkit.execute import bodies

    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.0)
    result = pipeline.quantize(loop(), [loop_feeds(seed) for seed in range(3)], config=INT8)
    assert bodies_in_int8(result.proto) == 0
    assert any("its rounds on the samples take more than 0 s" in d.detail for d in result.decisions)
