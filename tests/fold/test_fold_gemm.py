"""Fully connected layers come in one form."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.gemm import normalize_gemm
from tests.fold.fold_cases import array_of, build, folded, node_of, normal, op_types, refusals


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("bias", [None, normal(6), normal(1, 6), normal(1), np.float32(0.3)])
def test_every_gemm_gets_the_one_form(trans_a, trans_b, alpha, beta, bias):
    rows, operand = "5,N" if trans_a else "N,5", "" if bias is None else ", c"
    proto = build(
        f"(float[{rows}] x) => (float[N,6] y)",
        f"y = Gemm<alpha={alpha}, beta={beta}, transA={trans_a}, transB={trans_b}>(x, w{operand})",
        w=normal(6, 5) if trans_b else normal(5, 6),
        **({} if bias is None else {"c": bias}),
    )
    model, _ = folded(proto, normalize_gemm)
    gemm = node_of(model, "Gemm")
    assert op_types(model) == (["Transpose", "Gemm"] if trans_a else ["Gemm"])
    assert gemm.attributes.get_int("transB") == 1
    assert not {"alpha", "beta", "transA"} & set(gemm.attributes) or (alpha, beta, trans_a) == (1.0, 1.0, 0)
    assert array_of(gemm.inputs[1]).shape == (6, 5)
    assert bias is None or array_of(gemm.inputs[2]).shape == (6,)


def test_a_bias_for_every_row_is_refused():
    proto = build("(float[2,5] x) => (float[2,6] y)", "y = Gemm(x, w, c)", w=normal(5, 6), c=normal(2, 6))
    assert "one value per output" in refusals(folded(proto, normalize_gemm)[1])


def test_beta_on_a_computed_bias_is_refused():
    proto = build("(float[N,5] x, float[6] c) => (float[N,6] y)", "y = Gemm<beta=2.0>(x, w, c)", w=normal(5, 6))
    assert "bias that is not constant" in refusals(folded(proto, normalize_gemm)[1])


def test_two_computed_operands_are_left_alone():
    proto = build("(float[N,5] x, float[5,6] w) => (float[N,6] y)", "y = Gemm<alpha=2.0>(x, w)")
    assert folded(proto, normalize_gemm)[1] == []


@pytest.mark.parametrize("bias", [normal(6), normal(1, 6), np.float32(0.3), normal(1)])
@pytest.mark.parametrize("order", ["Add(p, c)", "Add(c, p)"])
def test_matmul_and_add_of_rank_two_become_a_gemm_with_the_name_of_the_matmul(bias, order):
    proto = build("(float[N,5] x) => (float[N,6] y)", f"p = MatMul(x, w)\n y = {order}", w=normal(5, 6), c=bias)
    model, _ = folded(proto, normalize_gemm)
    gemm = node_of(model, "Gemm")
    assert op_types(model) == ["Gemm"]
    assert gemm.name == "MatMul_0"
    assert gemm.outputs[0].name == "y"


def test_matmul_and_add_of_higher_rank_stay():
    proto = build(
        "(float[N,3,5] x) => (float[N,3,6] y)", "p = MatMul(x, w)\n y = Add(p, c)", w=normal(5, 6), c=normal(6)
    )
    assert op_types(folded(proto, normalize_gemm)[0]) == ["MatMul", "Add"]


def test_matmul_with_another_reader_stays():
    proto = build(
        "(float[N,5] x) => (float[N,6] y, float[N,6] z)",
        "p = MatMul(x, w)\n y = Add(p, c)\n z = Relu(p)",
        w=normal(5, 6),
        c=normal(6),
    )
    assert op_types(folded(proto, normalize_gemm)[0]) == ["MatMul", "Add", "Relu"]


def test_an_add_that_differs_from_row_to_row_stays():
    proto = build(
        "(float[2,5] x) => (float[2,6] y)", "p = MatMul(x, w)\n y = Add(p, c)", w=normal(5, 6), c=normal(2, 6)
    )
    assert op_types(folded(proto, normalize_gemm)[0]) == ["MatMul", "Add"]
