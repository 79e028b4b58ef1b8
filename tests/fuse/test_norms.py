"""Group and RMS normalization as exporters spell them out: one op, the same values, quantized as one."""

import numpy as np
import pytest

from quantkit.fuse.expand import expand
from quantkit.load import to_proto
from tests.every_op import calibrated, feeds_of
from tests.graphs import fused, model, op_types, run_onnxruntime, sqnr_db

GROUP = """r = Reshape(x, k) i = InstanceNormalization<epsilon = 0.001>(r, one, zero) s = Shape(x) b = Reshape(i, s)
m = Mul(b, gamma) y = Add(m, beta)"""
RMS_MEAN = {13: "v = ReduceMean<axes = [-1]>(q)", 18: "v = ReduceMean(q, axes)"}
RMS_SQUARE = {"Pow": "two = Constant<value_float = 2.0>() q = Pow(x, two)", "Mul": "q = Mul(x, x)"}
RMS_INVERSE = {
    "Reciprocal": "i = Reciprocal(d) n = Mul(x, i)",
    "Div by one": "one = Constant<value_float = 1.0>() i = Div(one, d) n = Mul(i, x)",
    "Div": "n = Div(x, d)",
}


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(1, 0.5, shape).astype(np.float32)


def group(opset=17, groups=4, *, one=None, gamma=(8, 1, 1), inputs="float[N,8,6,5] x", body=GROUP):
    weights = {"k": np.array([0, groups, -1], np.int64), "one": np.ones(groups, np.float32) if one is None else one,
               "zero": np.zeros(groups, np.float32), "gamma": normal(*gamma), "beta": normal(8, 1, 1)}  # fmt: skip
    return model(body, weights, inputs=inputs, outputs="float[N,8,6,5] y", opset=opset)


def rms(opset=13, square="Pow", inverse="Div", gamma=16):
    body = f"{RMS_SQUARE[square]} {RMS_MEAN[opset]} e = Constant<value_float = 0.001>() s = Add(v, e) d = Sqrt(s) "
    body += f"{RMS_INVERSE[inverse]} y = Mul(gamma, n)"
    weights = {"gamma": normal(gamma)} | ({"axes": np.array([-1], np.int64)} if opset == 18 else {})
    return model(body, weights, inputs="float[N,5,16] x", outputs="float[N,5,16] y", opset=opset)


def check(proto, op_type):
    found = fused(proto)
    assert op_types(found) == [op_type]
    feeds = feeds_of(proto)
    wanted = run_onnxruntime(proto, feeds)[0]
    np.testing.assert_allclose(run_onnxruntime(to_proto(expand(found)), feeds)[0], wanted, atol=1e-5)
    int8 = calibrated(proto)
    assert f"Q{op_type}" in op_types(int8)
    assert sqnr_db(wanted, run_onnxruntime(to_proto(int8), feeds)[0]) > 30


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_group_norm_as_torch_exports_it_becomes_one_op(groups, opset):
    check(group(opset, groups), "GroupNormalization")


@pytest.mark.parametrize("opset", RMS_MEAN)
@pytest.mark.parametrize("inverse", RMS_INVERSE)
@pytest.mark.parametrize("square", RMS_SQUARE)
def test_an_rms_norm_becomes_one_op(square, inverse, opset):
    check(rms(opset, square, inverse), "RMSNormalization")


REFUSED = {
    "a scale inside the groups": group(one=np.full(4, 2.0, np.float32)),
    "a scale by position": group(gamma=(1, 6, 5)),
    "a value that is read elsewhere": group(body=GROUP.replace("y = Add(m, beta)", "a = Add(m, beta) y = Add(a, b)")),
    "an RMS norm with one scale for all": rms(gamma=1),
    "an RMS norm of the squares of another tensor": model(
        "o = Neg(x) q = Mul(o, o) v = ReduceMean<axes = [-1]>(q) e = Constant<value_float = 0.001>() s = Add(v, e) "
        "d = Sqrt(s) n = Div(x, d) y = Mul(n, gamma)",
        {"gamma": normal(16)}, inputs="float[N,5,16] x", outputs="float[N,5,16] y"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_only_looks_like_a_norm_stays_spelled_out(case):
    assert not {"GroupNormalization", "RMSNormalization"} & set(op_types(fused(REFUSED[case])))
