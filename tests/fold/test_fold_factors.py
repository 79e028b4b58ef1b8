"""Factors behind moves and products of activations: into the layer that they stem from, or nowhere."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.factors import carry_factors
from tests.fold.fold_cases import build, folded, normal, op_types

FACTOR = np.float32(5.656854)
ATTENTION = """
    a = MatMul(x, wq)
    q = {biased}
    q4 = Reshape(q, heads)
    qt = Transpose<perm=[0,2,1,3]>(q4)
    k = MatMul(x, wk)
    k4 = Reshape(k, heads)
    kt = Transpose<perm=[0,2,3,1]>(k4)
    s = MatMul(qt, kt)
    d = {scaled}
    y = Softmax(d)"""
WEIGHTS = {"wq": normal(16, 16), "wk": normal(16, 16), "b": normal(16), "heads": np.array([0, 0, 2, 8]), "c": FACTOR}
SIGNATURE = "(float[N,T,16] x) => (float[N,2,T,T] y)"


@pytest.mark.parametrize("biased", ["Add(a, b)", "Add(b, a)", "Identity(a)"])
@pytest.mark.parametrize("scaled", ["Div(s, c)", "Mul(s, c)", "Mul(c, s)"])
def test_the_divisor_of_attention_scores_goes_into_the_queries(biased, scaled):
    proto = build(SIGNATURE, ATTENTION.format(biased=biased, scaled=scaled), **WEIGHTS)
    model, decisions = folded(proto, carry_factors)
    assert not {"Div", "Mul"} & set(op_types(model))
    assert [d.action for d in decisions] == ["folded"]


def test_a_factor_on_the_queries_themselves_goes_into_their_layer():
    text = "a = MatMul(x, w)\n r = Reshape(a, heads)\n t = Transpose<perm=[0,2,1,3]>(r)\n y = Mul(t, c)"
    proto = build("(float[N,T,16] x) => (float[N,2,T,8] y)", text, w=WEIGHTS["wq"], heads=WEIGHTS["heads"], c=FACTOR)
    assert "Mul" not in op_types(folded(proto, carry_factors)[0])


MOVED = "a = MatMul(x, w)\n t = Transpose<perm=[0,2,1]>(a)"


@pytest.mark.parametrize(
    ("others", "text"),
    [
        (", float[N,16,4] t", MOVED),
        (", float[N,4,16] a", MOVED),
        ("", "a = Relu(x)\n t = Transpose<perm=[0,2,1]>(a)"),
        ("", "t = Transpose<perm=[0,2,1]>(x)"),
    ],
    ids=["another reader", "an output on the way", "no layer", "an input"],
)
def test_a_factor_stays_where_no_layer_may_take_it(others, text):
    weights = {"w": WEIGHTS["wq"]} if "w)" in text else {}
    proto = build(f"(float[N,4,16] x) => (float[N,16,4] y{others})", f"{text}\n y = Mul(t, c)", c=FACTOR, **weights)
    assert "Mul" in op_types(folded(proto, carry_factors)[0])


@pytest.mark.parametrize("c", [np.float32(0), normal(4), np.ones((1, 1, 1, 1), np.float32)])
def test_only_one_factor_that_keeps_the_rank_is_carried(c):
    dims = "float[1,N,16,4]" if c.ndim == 4 else "float[N,16,4]"
    proto = build(f"(float[N,4,16] x) => ({dims} y)", f"{MOVED}\n y = Mul(t, c)", w=WEIGHTS["wq"], c=c)
    model, _ = folded(proto, carry_factors)
    assert "Mul" in op_types(model)
