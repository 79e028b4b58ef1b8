"""Mul, Add, Sub and Div by constants: into the weighted op before or behind them."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.scale_shift import fold_scale_shift
from tests.fold.fold_cases import array_of, build, folded, normal, op_types, refusals

CHANNELS = normal(8, 1, 1) + 3
FORMS = {
    "mul": "Mul(c, k)",
    "mul left": "Mul(k, c)",
    "add": "Add(c, k)",
    "add left": "Add(k, c)",
    "sub": "Sub(c, k)",
    "sub from": "Sub(k, c)",
    "div": "Div(c, k)",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [CHANNELS, CHANNELS[None], np.float32(0.7), np.full((1, 1, 1, 1), 2, np.float32)])
@pytest.mark.parametrize("bias", ["", ", cb"])
def test_a_constant_behind_a_conv_is_folded(form, k, bias):
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        f"c = Conv<pads=[1,1,1,1], group=2>(x, w{bias})\n y = {FORMS[form]}",
        w=normal(8, 2, 3, 3),
        cb=normal(8),
        k=k,
    )
    model, decisions = folded(proto, fold_scale_shift)
    assert op_types(model) == ["Conv"]
    assert decisions[0].action == "folded"


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_behind_a_transposed_conv_is_folded(form):
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,8,8] y)",
        f"c = ConvTranspose<group=2>(x, w)\n y = {FORMS[form]}",
        w=normal(4, 4, 3, 3),
        k=CHANNELS,
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["ConvTranspose"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trans", [0, 1])
def test_a_constant_behind_a_gemm_is_folded(form, trans):
    proto = build(
        "(float[N,5] x) => (float[N,8] y)",
        f"c = Gemm<transB={trans}>(x, w)\n y = {FORMS[form]}",
        w=normal(8, 5) if trans else normal(5, 8),
        k=CHANNELS.reshape(8),
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["Gemm"]


def test_a_scale_behind_a_matmul_is_folded_at_any_rank():
    proto = build(
        "(float[N,7,5] x) => (float[N,7,8] y)",
        "c = MatMul(x, w)\n y = Mul(c, k)",
        w=normal(5, 8),
        k=CHANNELS.reshape(8),
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["MatMul"]


@pytest.mark.parametrize("form", ["Mul(b, k)", "Mul(k, b)", "Div(b, k)", "Sub(k, b)"])
@pytest.mark.parametrize("bias", ["Add(c, cb)", "Add(cb, c)"])
@pytest.mark.parametrize("k", [CHANNELS.reshape(8), CHANNELS.reshape(1, 1, 8), np.float32(0.7)])
def test_a_scale_behind_the_bias_of_a_matmul_goes_into_both(form, bias, k):
    proto = build(
        "(float[N,7,5] x) => (float[N,7,8] y)",
        f"c = MatMul(x, w)\n b = {bias}\n y = {form}",
        w=normal(5, 8),
        cb=normal(8),
        k=k,
    )
    model, decisions = folded(proto, fold_scale_shift)
    assert op_types(model) == ["MatMul", "Add"]
    assert decisions[0].action == "folded"


def test_a_scale_behind_a_bias_that_others_read_too_stays():
    proto = build(
        "(float[N,7,5] x) => (float[N,7,8] y, float[N,7,8] z)",
        "c = MatMul(x, w)\n b = Add(c, cb)\n y = Mul(b, k)\n z = Relu(b)",
        w=normal(5, 8),
        cb=normal(8),
        k=CHANNELS.reshape(8),
    )
    assert folded(proto, fold_scale_shift)[1] == []


@pytest.mark.parametrize("cb", [normal(7, 8), normal(7, 1)])
def test_a_scale_behind_a_sum_with_rows_of_its_own_stays(cb):
    proto = build(
        "(float[N,7,5] x) => (float[N,7,8] y)",
        "c = MatMul(x, w)\n b = Add(c, cb)\n y = Mul(b, k)",
        w=normal(5, 8),
        cb=cb,
        k=CHANNELS.reshape(8),
    )
    assert folded(proto, fold_scale_shift)[1] == []


def test_a_bias_that_two_layers_share_keeps_its_values():
    proto = build(
        "(float[N,7,5] x) => (float[N,7,8] y, float[N,7,8] z)",
        "c = MatMul(x, w)\n b = Add(c, cb)\n y = Mul(b, k)\n d = MatMul(x, w)\n z = Add(d, cb)",
        w=normal(5, 8),
        cb=normal(8),
        k=CHANNELS.reshape(8),
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["MatMul", "Add", "MatMul", "Add"]


def test_the_bias_of_a_matmul_stays_an_add():
    proto = build(
        "(float[N,7,5] x) => (float[N,7,8] y)",
        "c = MatMul(x, w)\n y = Add(c, k)",
        w=normal(5, 8),
        k=CHANNELS.reshape(8),
    )
    model, decisions = folded(proto, fold_scale_shift)
    assert op_types(model) == ["MatMul", "Add"]
    assert decisions == []


@pytest.mark.parametrize("form", FORMS)
def test_the_normalisation_of_an_image_goes_into_the_unpadded_conv(form):
    proto = build(
        "(float[N,8,6,6] c) => (float[N,4,4,4] y)",
        f"n = {FORMS[form]}\n y = Conv(n, w)",
        w=normal(4, 8, 3, 3),
        k=CHANNELS,
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["Conv"]


def test_mean_and_deviation_go_into_the_unpadded_conv_together():
    proto = build(
        "(float[N,3,6,6] x) => (float[N,4,4,4] y)",
        "a = Sub(x, mean)\n b = Div(a, deviation)\n y = Conv(b, w)",
        w=normal(4, 3, 3, 3),
        mean=np.float32(0.45),
        deviation=np.array([0.2, 0.3, 0.4], np.float32).reshape(3, 1, 1),
    )
    assert op_types(folded(proto)[0]) == ["Conv"]


def test_a_shift_is_refused_past_padding_and_a_scale_is_not():
    signature = "(float[N,8,6,6] x) => (float[N,4,6,6] y)"
    weights = {"w": normal(4, 8, 3, 3), "k": CHANNELS}
    body = "n = {}(x, k)\n y = Conv<pads=[1,1,1,1]>(n, w)"
    scaled, _ = folded(build(signature, body.format("Mul"), **weights), fold_scale_shift)
    shifted, decisions = folded(build(signature, body.format("Add"), **weights), fold_scale_shift)
    assert op_types(scaled) == ["Conv"]
    assert op_types(shifted) == ["Add", "Conv"]
    assert "zero padding" in refusals(decisions)


def test_a_lone_scalar_behind_an_activation_stays_for_the_fusion_of_gelu():
    body = "e = Erf(x)\n p = Add(e, one)\n m = Mul(x, p)\n n = Mul(m, half)\n y = MatMul(n, w)"
    proto = build("(float[N,5] x) => (float[N,4] y)", body, w=normal(5, 4), one=np.float32(1), half=np.float32(0.5))
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["Erf", "Add", "Mul", "Mul", "MatMul"]


@pytest.mark.parametrize("k", [normal(6), normal(6, 6), normal(2, 1, 1, 1), normal(8, 6, 1)])
def test_a_constant_that_is_not_per_channel_stays(k):
    n = "2" if k.ndim == 4 else "N"
    proto = build(
        f"(float[{n},4,6,6] x) => (float[{n},8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Mul(c, k)",
        w=normal(8, 4, 3, 3),
        k=k,
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["Conv", "Mul"]


def test_a_constant_that_enlarges_the_tensor_stays():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Mul(c, k)",
        w=normal(1, 4, 3, 3),
        k=CHANNELS,
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["Conv", "Mul"]


def test_a_conv_with_another_reader_is_left_alone():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n a = Mul(c, k)\n y = Add(a, c)",
        w=normal(8, 4, 3, 3),
        k=CHANNELS,
    )
    assert op_types(folded(proto, fold_scale_shift)[0]) == ["Conv", "Mul", "Add"]


def test_a_conv_that_is_a_graph_output_is_refused():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] c, float[N,8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Mul(c, k)",
        w=normal(8, 4, 3, 3),
        k=CHANNELS,
    )
    assert "graph output" in refusals(folded(proto, fold_scale_shift)[1])


def test_division_by_zero_is_refused():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Div(c, k)",
        w=normal(8, 4, 3, 3),
        k=np.zeros((8, 1, 1), np.float32),
    )
    assert "holds 0" in refusals(folded(proto, fold_scale_shift, symbols=[])[1])


def test_one_over_a_conv_stays():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Div(k, c)",
        w=np.abs(normal(8, 4, 3, 3)),
        k=CHANNELS,
    )
    assert op_types(folded(proto, fold_scale_shift, symbols=[])[0]) == ["Conv", "Div"]


def test_a_weight_shared_by_two_convs_keeps_its_values():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y, float[N,8,6,6] z)",
        "c = Conv<pads=[1,1,1,1]>(x, w, k1)\n y = Mul(c, k)\n z = Conv<pads=[1,1,1,1]>(x, w, k1)",
        w=normal(8, 4, 3, 3),
        k=CHANNELS,
        k1=normal(8),
    )
    model, _ = folded(proto, fold_scale_shift)
    np.testing.assert_array_equal(array_of(model.graph.initializers["w"]), normal(8, 4, 3, 3))
    np.testing.assert_array_equal(array_of(model.graph.initializers["k1"]), normal(8))


def test_scales_that_overflow_float32_are_refused():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Mul(c, k)",
        w=normal(8, 4, 3, 3) * np.float32(1e30),
        k=np.full((8, 1, 1), 1e30, np.float32),
    )
    assert "not be finite" in refusals(folded(proto, fold_scale_shift, symbols=[])[1])
