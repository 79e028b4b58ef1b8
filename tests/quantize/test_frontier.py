"""A model run part by part gives what it gives as a whole, and runs each node once."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.execute import Session
from quantkit.execute.intermediate import expose
from quantkit.fuse.expand import expand
from quantkit.observe import Batch, FloatRunner
from quantkit.quantize import frontier as frontier_module
from quantkit.quantize.apply import quantized_name, set_weights
from quantkit.quantize.frontier import Frontier
from quantkit.quantize.qparams import quantize_weights
from quantkit.quantize.replay import Replay
from tests.graphs import CONV, all_in_int8, fused, image, model

BODY = (
    f"c = Conv<{CONV}>(x, w, b) r = Relu(c) d = Conv<{CONV}>(r, v, b) s = Relu(d) a = Add(s, r) "
    f"e = Conv<{CONV}>(a, v, b) t = Sigmoid(e) m = Mul(t, a) g = GlobalAveragePool(m) h = Flatten(g) "
    "y = Gemm<transB=1>(h, f, k)"
)
WEIGHTS = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "f": (5, 8), "k": (5,)}
SAMPLES = [image(2, 3, 6, 6, seed=seed) for seed in range(3)]
INNER = ["r", "a", "m", "h"]


@pytest.fixture
def replay():
    with Replay([Batch({"x": x}, None, ["a", "b"], 2) for x in SAMPLES]) as made:
        made.fill()
        yield made


class Opener:
    """Opens parts of INT8 models, and keeps the names of the nodes of each."""

    def __init__(self):
        self.parts: list[list[str]] = []

    def __call__(self, part, names):
        self.parts.append([node.name for node in part.graph])
        session = Session(expose(part, names), 1)
        found = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(found, session.run(None, feeds), strict=True))


def open_float(part, names):
    runner = FloatRunner(part, 1, expose=names)
    return lambda feeds: dict(zip(names, runner.run(feeds, names), strict=True))


@pytest.fixture(scope="module")
def int8():
    return all_in_int8(model(BODY, WEIGHTS, inputs="float[N,3,6,6] x", outputs="float[N,5] y"), SAMPLES)


def whole(int8, names):
    run = Opener()(int8, names)
    return [run({"x": x}) for x in SAMPLES]


def assert_equal(found, wanted, names):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == set(names)
        assert all(np.array_equal(ours[name], theirs[name]) for name in names)


@pytest.mark.parametrize("kept", [frontier_module.KEPT_BYTES, 0])
def test_tensors_of_an_int8_model_are_those_of_a_whole_run_bit_for_bit(int8, replay, monkeypatch, kept):
    monkeypatch.setattr(frontier_module, "KEPT_BYTES", kept)
    names = [quantized_name(name) for name in INNER]
    with Frontier(int8, replay, Opener()) as frontier:
        for asked in ([names[0]], names[:2], [names[3]], [names[2], names[3]], [names[3]]):
            assert_equal(list(frontier.values(asked)), whole(int8, asked), asked)


def test_tensors_of_a_float_model_are_those_of_a_whole_run(replay):
    expanded = expand(fused(model(BODY, WEIGHTS, inputs="float[N,3,6,6] x", outputs="float[N,5] y")))
    runner = open_float(expanded, INNER)
    with Frontier(expanded, replay, open_float) as frontier:
        for name in INNER:
            for x, got in zip(SAMPLES, frontier.values([name]), strict=True):
                assert np.allclose(got[name], runner({"x": x})[name], rtol=1e-5, atol=1e-6)


def test_every_node_runs_once_and_none_for_what_is_known(int8, replay):
    opener = Opener()
    with Frontier(int8, replay, opener) as frontier:
        for name in INNER:
            list(frontier.values([quantized_name(name)]))
        parts = len(opener.parts)
        list(frontier.values([quantized_name(INNER[-1])]))
    assert len(opener.parts) == parts == len(INNER)
    run = [name for part in opener.parts for name in part]
    assert len(run) == len(set(run))


def test_what_would_not_fit_is_run_again(int8, replay, monkeypatch):
    monkeypatch.setattr(frontier_module, "KEPT_BYTES", 100)
    opener = Opener()
    with Frontier(int8, replay, opener) as frontier:
        for name in INNER[:2]:
            list(frontier.values([quantized_name(name)]))
    assert set(opener.parts[0]) < set(opener.parts[1])


def test_files_of_tensors_that_nothing_reads_any_more_are_removed(int8, replay):
    with Frontier(int8, replay, Opener()) as frontier:
        for name in INNER:
            list(frontier.values([quantized_name(name)]))
        assert set(frontier._files) == {quantized_name("h")}
        kept = [path for paths in frontier._files.values() for path in paths]
        assert len(kept) == len(SAMPLES) == len(list(kept[0].parent.iterdir()))
        assert np.load(kept[0]).dtype == np.uint8
    assert not kept[0].parent.exists()


def test_weights_that_change_behind_the_frontier_are_used(int8, replay):
    changed = ir.from_proto(ir.to_proto(int8))
    nodes = [node for node in changed.graph if node.op_type.startswith("QConv")]
    before, after = (quantized_name(name) for name in ("r", "a"))
    with Frontier(changed, replay, Opener()) as frontier:
        first = list(frontier.values([before]))
        scale = float(nodes[1].inputs[1].const_value.numpy())
        weights = quantize_weights(image(8, 8, 3, 3, seed=9), np.zeros(8, np.float32), scale, axis=0)
        set_weights(nodes[1], weights, scale)
        got = list(frontier.values([after]))
    assert_equal(first, whole(int8, [before]), [before])
    assert_equal(got, whole(changed, [after]), [after])
    assert any(not np.array_equal(a[after], b[after]) for a, b in zip(got, whole(int8, [after]), strict=True))


def test_a_tensor_without_elements_is_computed_again_by_the_next_part(replay):
    proto = model("r = Relu(x) z = Slice(r, none, none) n = Shape(z) q = Cast<to=1>(n) y = Add(q, r)",
                  {"none": np.zeros(1, np.int64)}, inputs="float[N,3,6,6] x", outputs="float[N,3,6,M] y")  # fmt: skip
    typed = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    with Frontier(typed, replay, open_float) as frontier:
        assert [got["z"].shape for got in frontier.values(["z"])] == [(0, 3, 6, 6)] * len(SAMPLES)
        assert [got["q"].tolist() for got in frontier.values(["q"])] == [[0.0, 3.0, 6.0, 6.0]] * len(SAMPLES)


BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3] x) => (float[2,3] y) {
    s = Exp(x)
    m = ReduceMax<keepdims=0>(x)
    b = Cast<to=9>(m)
    t = If(b) <then_branch = one () => (float[2,3] p) { p = Add(s, s) },
               else_branch = two () => (float[2,3] q) { q = Neg(s) }>
    y = Tanh(t)
}"""


def test_a_body_reads_what_an_earlier_part_made():
    proto = onnx.parser.parse_model(BRANCHES)
    samples = [np.full((2, 3), value, np.float32) for value in (0.0, 0.5)]
    with Replay([Batch({"x": x}, None, ["a", "b"], 2) for x in samples]) as replay:
        replay.fill()
        with Frontier(ir.from_proto(proto), replay, open_float) as frontier:
            exponentials = [found["s"] for found in frontier.values(["s"])]
            results = [found["y"] for found in frontier.values(["y"])]
    np.testing.assert_allclose(exponentials[1], np.exp(samples[1]), rtol=1e-6)
    np.testing.assert_allclose(results[0], np.tanh(-np.exp(samples[0])), rtol=1e-6)
    np.testing.assert_allclose(results[1], np.tanh(2 * np.exp(samples[1])), rtol=1e-6)
