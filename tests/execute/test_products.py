"""Products of two activations, and the ops around them in transformers, in models: native and exact."""

import numpy as np
import pytest

from quantkit.lower.regions import partition
from tests.graphs import CONV, fused, image, model, op_types, quantized
from tests.native_model import check_native

X = image(3, 3, 8, 8) * 2
TOKENS = f"c = Conv<{CONV}>(x, w) f = Reshape(c, s) t = Transpose<perm=[0,2,1]>(f) "
W = {"w": (8, 3, 3, 3), "s": np.array([0, 0, -1], np.int64)}


def test_attention_with_two_heads_is_native():
    body = TOKENS + (
        "p = MatMul(t, qkv) h = Reshape(p, heads) o = Transpose<perm=[2,0,3,1,4]>(h) q = Gather<axis=0>(o, i0) "
        "k = Gather<axis=0>(o, i1) v = Gather<axis=0>(o, i2) kt = Transpose<perm=[0,1,3,2]>(k) qs = Mul(q, half) "
        "a = MatMul(qs, kt) e = Softmax<axis=-1>(a) z = MatMul(e, v) b = Transpose<perm=[0,2,1,3]>(z) "
        "m = Reshape(b, flat) y = MatMul(m, proj)"
    )
    weights = {
        **W, "qkv": (8, 24), "proj": (8, 5), "half": np.array([0.5], np.float32),
        "heads": np.array([0, 64, 3, 2, 4], np.int64), "flat": np.array([0, 64, 8], np.int64),
        **{f"i{i}": np.array(i, np.int64) for i in range(3)},
    }  # fmt: skip
    ops = ["QActivationMatMul", "QSoftmax", "QGather", "QMul", "QMatMulFloat"]
    check_native(model(body, weights, outputs="float[N,64,5] y"), ops, X)


@pytest.mark.parametrize("shape", [(64, 5), (1, 64, 5), (3, 64, 5)])
def test_a_constant_operand_on_the_left_or_of_rank_3_is_an_activation_too(shape):
    body = (
        f"c = Conv<{CONV}>(x, w) f = Reshape(c, s) m = MatMul(f, k) l = MatMul(left, m) o = Flatten(l) "
        "y = Gemm<transB=1>(o, g)"
    )
    left = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    proto = model(body, {**W, "k": shape, "left": left, "g": (3, 20)}, outputs="float[N,3] y")
    found = op_types(check_native(proto, ["QActivationMatMul"], X))
    assert found.count("QActivationMatMul") == (1 if len(shape) == 2 else 2)


@pytest.mark.parametrize("indices", [[0, 1, 2], [5, 4, 4, -1], [7]])
def test_a_list_of_channels_is_gathered(indices):
    body = f"c = Conv<{CONV}>(x, w) r = Relu(c) g = Gather<axis=1>(r, i) y = Conv<{CONV}>(g, v)"
    weights = {"w": (8, 3, 3, 3), "i": np.array(indices, np.int64), "v": (4, len(indices), 3, 3)}
    check_native(model(body, weights), ["QGather"], X)


def test_a_table_of_many_indices_stays_in_float():
    body = f"c = Conv<{CONV}>(x, w) g = Gather<axis=1>(c, i) y = Relu(g)"
    found = quantized(model(body, {"w": (8, 3, 3, 3), "i": np.zeros((2, 2), np.int64)}, outputs="float[N,2,2,8,8] y"))
    assert "Gather" in op_types(found)


def test_the_batch_size_of_an_inner_tensor_is_read_from_the_graphs_input():
    """A class token spread over the batch, as exporters write it, does not tear the u8 region apart."""
    body = TOKENS + (
        "h = Shape(t) n = Gather<axis=0>(h, i0) u = Unsqueeze(n, i00) d = Concat<axis=0>(u, one, eight) "
        "e = Expand(token, d) j = Concat<axis=1>(e, t) g = LayerNormalization<axis=-1>(j, gain) "
        "r = ReduceMean<axes=[1], keepdims=0>(g) y = Gemm<transB=1>(r, head)"
    )
    weights = {
        **W, "i0": np.array(0, np.int64), "i00": np.array([0], np.int64), "one": np.array([1], np.int64),
        "eight": np.array([8], np.int64), "token": (1, 1, 8), "gain": (8,), "head": (5, 8),
    }  # fmt: skip
    proto = model(body, weights, outputs="float[N,5] y")
    shapes = [n for n in fused(proto).graph if n.op_type == "Shape"]
    assert [n.inputs[0].name for n in shapes] == ["x"]
    steps = partition(quantized(proto, X).graph)
    assert [step.native for step in steps] == [False, True]
