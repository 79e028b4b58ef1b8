"""Shapes computed while the model runs, as PyTorch exports them with dynamic axes, do not break a native region."""

import re

import numpy as np
import pytest

from quantkit import Session, pipeline
from quantkit.errors import DataError
from quantkit.execute.oracle import run_oracle
from quantkit.types import QuantConfig
from tests.graphs import image, model, run_onnxruntime, sqnr_db

FAST = QuantConfig(method="minmax", effort="fast", keep_int8=True)
CONV = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
SIZES = {"zero": 0, "one": 1, "two": 2, "three": 3, "n0": [0], "n1": [1], "n2": [2], "last": [-1]}
FLATTEN = f"""c = Conv<{CONV}>(x, w) s = Shape(c) b = Gather(s, zero) u = Unsqueeze(b, n0) t = Concat<axis = 0>(u, last)
r = Reshape(c, t) y = Gemm<transB = 1>(r, v)"""
TOKENS = f"""c = Conv<{CONV}>(x, w) s = Shape(c) n = Gather(s, zero) h = Gather(s, two) k = Gather(s, three)
hk = Mul(h, k) nu = Unsqueeze(n, n0) hku = Unsqueeze(hk, n0) t = Concat<axis = 0>(nu, channels, hku) r = Reshape(c, t)
p = Transpose<perm = [0, 2, 1]>(r) y = MatMul(p, v)"""
HALVES = f"""c = Conv<{CONV}>(x, w) s = Shape(c) k = Gather(s, one) f = Div(k, two) fu = Unsqueeze(f, n0)
ku = Unsqueeze(k, n0) a = Slice(c, n0, fu, n1) b = Slice(c, fu, ku, n1) g = Sigmoid(b) m = Mul(a, g)
y = Conv<{CONV}>(m, v)"""
TWICE = f"""c = Conv<{CONV}>(x, w) r = Relu(c) s = Shape(r) h = Gather(s, two) k = Gather(s, three) h2 = Mul(h, two)
k2 = Mul(k, two) hu = Unsqueeze(h2, n0) ku = Unsqueeze(k2, n0) nc = Slice(s, n0, n2, n0)
t = Concat<axis = 0>(nc, hu, ku)
u = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(r, , , t)
y = Conv<{CONV}>(u, v)"""
HEADS = """q = MatMul(x, w) s = Shape(x) n = Gather(s, zero) l = Gather(s, one) nu = Unsqueeze(n, n0)
lu = Unsqueeze(l, n0) t = Concat<axis = 0>(nu, lu, heads, each) h = Reshape(q, t) p = Transpose<perm = [0, 2, 1, 3]>(h)
b = Transpose<perm = [0, 2, 1, 3]>(p) t2 = Concat<axis = 0>(nu, lu, all) f = Reshape(b, t2) y = MatMul(f, v)"""
CASES = {
    "a flattening": (FLATTEN, "float[N,3,8,8] x", {"v": (5, 512)}, [(2, 3, 8, 8), (5, 3, 8, 8)]),
    "pixels as tokens": (TOKENS, "float[N,3,H,W] x", {"v": (8, 5), "channels": [8]}, [(2, 3, 8, 8), (1, 3, 6, 10)]),
    "halves of the channels": (HALVES, "float[N,3,H,W] x", {"v": (5, 4, 3, 3)}, [(2, 3, 8, 8), (1, 3, 6, 10)]),
    "a Resize to twice the size": (TWICE, "float[N,3,H,W] x", {"v": (4, 8, 3, 3)}, [(2, 3, 8, 8), (1, 3, 6, 10)]),
    "attention heads": (HEADS, "float[N,L,32] x", {"w": (32, 32), "v": (32, 6), "heads": [4], "each": [8], "all": [32]},
                        [(2, 7, 32), (1, 12, 32)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_shapes_computed_at_run_time_leave_one_native_region_at_every_size(case):
    body, inputs, more, shapes = CASES[case]
    given = {"w": (8, 3, 3, 3)} | {k: np.array(v, np.int64) for k, v in SIZES.items()} | {
        name: np.array(value, np.int64) if isinstance(value, list) else value for name, value in more.items()
    }  # fmt: skip
    read = set(re.findall(r"\w+", body))
    used = {name: value for name, value in given.items() if name in read}
    proto = model(body, used, inputs=inputs, outputs="float y")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    result = pipeline.quantize(proto, [{"x": image(*shape)} for shape in shapes], config=FAST)
    session = Session(result.model, threads=1)
    assert [step.native for step in session.steps] == [True]
    for shape in shapes:
        feeds = {"x": image(*shape, seed=5)}
        assert sqnr_db(run_onnxruntime(proto, feeds)[0], session.run(None, feeds)[0]) > 20


BLOCK = """f = Reshape(x, rows) g = Gemm(f, w, b) s = Shape(x) n = Gather(s, zero) l = Gather(s, one)
nu = Unsqueeze(n, n0) lu = Unsqueeze(l, n0) t = Concat<axis = 0>(nu, lu, all) q = Reshape(g, t)
t2 = Concat<axis = 0>(nu, lu, heads, each) h = Reshape(q, t2) p = Transpose<perm = [0, 2, 1, 3]>(h)
hn = Mul(nu, heads) t3 = Concat<axis = 0>(hn, lu, each) k = Reshape(p, t3) kt = Transpose<perm = [0, 2, 1]>(k)
scores = MatMul(k, kt) softened = Mul(scores, tenth) a = Softmax(softened) o = MatMul(a, k)
t4 = Concat<axis = 0>(nu, heads, lu, each) o4 = Reshape(o, t4) back = Transpose<perm = [0, 2, 1, 3]>(o4)
r = Reshape(back, rows) z = Gemm(r, v, b) y = Reshape(z, t)"""


def transformer_block():
    """Attention as old exporters write it with batch and length open: rows of all tokens, heads beside the batch."""
    numbers = {"zero": 0, "one": 1, "n0": [0], "rows": [-1, 32], "all": [32], "heads": [4], "each": [8]}
    given = {name: np.array(value, np.int64) for name, value in numbers.items()}
    weights = {"w": (32, 32), "v": (32, 32), "b": (32,), "tenth": np.array(0.1, np.float32)}
    return model(BLOCK, {**weights, **given}, inputs="float[N,L,32] x", outputs="float[N,L,32] y")


@pytest.mark.parametrize("from_file", [False, True])
def test_attention_with_batch_and_length_open_is_one_native_region_for_all_sizes(from_file, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTKIT_CACHE", str(tmp_path / "cache"))
    proto = transformer_block()
    shapes = [(2, 7, 32), (7, 2, 32), (1, 14, 32), (1, 1, 32)]
    made = pipeline.quantize(proto, [{"x": image(*shape, seed=5)} for shape in shapes], config=FAST)
    path = tmp_path / "block.onnx"
    made.save(path)
    session = Session(path if from_file else made.model, threads=1)
    assert [step.native for step in session.steps] == [False, True]
    assert {n.op_type for n in session.steps[0].nodes} <= {"Shape", "Gather", "Mul", "Concat"}
    for opened in (session, Session(path, threads=1)):  # the second takes its plans from the cache
        for shape in (*shapes, shapes[0]):
            feeds = {"x": image(*shape, seed=5)}
            got = opened.run(None, feeds)[0]
            assert got.shape == shape
            assert np.array_equal(got, run_oracle(path, feeds)["y"])
            assert sqnr_db(run_onnxruntime(proto, feeds)[0], got) > 20


def test_the_kernels_of_shapes_worked_out_at_run_time_are_named_after_a_run():
    made = pipeline.quantize(transformer_block(), [{"x": image(2, 7, 32)}], config=FAST)
    session = Session(made.model, threads=1)
    before, _, after = session.plan, session.run(None, {"x": image(2, 7, 32)}), session.plan
    assert {node.kernel for node in before if node.runs_on == "native"} == {f"chosen at run time ({session.isa})"}
    assert not any("run time" in node.kernel for node in after)


def test_a_cache_may_be_empty_before_the_first_token_in_calibration_and_when_the_model_runs():
    weights = {"w": (16, 16), "v": (16, 16)}
    body = "k = MatMul(x, w) present = Concat<axis=1>(past, k) y = MatMul(present, v)"
    proto = model(body, weights, inputs="float[1,T,16] x, float[1,P,16] past",
                  outputs="float[1,R,16] y, float[1,R,16] present")  # fmt: skip
    rng = np.random.default_rng(3)

    def sample(length: int) -> dict[str, np.ndarray]:
        shapes = {"x": (1, 2, 16), "past": (1, length, 16)}
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    result = pipeline.quantize(proto, [sample(n) for n in (0, 1, 5, 0)], config=QuantConfig(keep_int8=True))
    assert result.kind == "calibrated"
    session = Session(result.model, threads=1)
    for length in (0, 3):
        feeds = sample(length)
        for wanted, got in zip(run_onnxruntime(proto, feeds), session.run(None, feeds), strict=True):
            assert got.shape == wanted.shape == (1, length + 2, 16)
            assert sqnr_db(wanted, got) > 20.0
    with pytest.raises(DataError, match="is empty"):
        session.run(None, {"x": np.zeros((1, 0, 16), np.float32), "past": np.zeros((1, 0, 16), np.float32)})
    with pytest.raises(DataError, match="every input is empty"):
        pipeline.quantize(proto, [{"x": np.zeros((1, 0, 16), np.float32), "past": np.zeros((1, 0, 16), np.float32)}])
