"""An If with a constant condition is replaced by its branch."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.branches import take_known_branches
from tests.fold.fold_cases import build, folded, normal, op_types

BRANCHES = """{out} = If<
  then_branch = t () => (float[N,4] r) {{ c = Add(a, w)  r = Relu(c) }},
  else_branch = e () => (float[N,4] q) {{ c = Mul(a, w)  q = Neg(c) }}>({condition})
"""


@pytest.mark.parametrize(
    ("condition", "expected"), [(True, ["Sigmoid", "Add", "Relu"]), (False, ["Sigmoid", "Mul", "Neg"])]
)
def test_the_branch_that_runs_is_moved_out(condition, expected):
    body = "a = Sigmoid(x)\n" + BRANCHES.format(out="y", condition="k")
    model, decisions = folded(build("(float[N,4] x) => (float[N,4] y)", body, k=np.array(condition), w=normal(4)))
    assert op_types(model) == expected
    assert decisions[0].action == "replaced"


def test_two_with_the_same_inner_names_are_both_moved():
    body = "a = Sigmoid(x)\n" + BRANCHES.format(out="y", condition="k") + BRANCHES.format(out="z", condition="n")
    weights = {"k": np.array(True), "n": np.array([True]), "w": normal(4)}
    proto = build("(float[N,4] x) => (float[N,4] y, float[N,4] z)", body, **weights)
    assert op_types(folded(proto)[0]) == ["Sigmoid", "Add", "Relu", "Add", "Relu"]


def test_one_that_the_shape_decides_goes_too():
    body = """
    a = Sigmoid(x)
    s = Shape(x)
    last = Gather(s, one)
    four = Equal(last, size)
    """ + BRANCHES.format(out="y", condition="four")
    weights = {"one": np.array(1), "size": np.array(4), "w": normal(4)}
    assert op_types(folded(build("(float[N,4] x) => (float[N,4] y)", body, **weights))[0]) == ["Sigmoid", "Add", "Relu"]


def test_a_computed_condition_stays():
    body = "a = Sigmoid(x)\nm = ReduceMax<keepdims=0>(x)\np = Greater(m, zero)\n" + BRANCHES.format(
        out="y", condition="p"
    )
    proto = build("(float[N,4] x) => (float[N,4] y)", body, zero=np.float32(0), w=normal(4))
    model, decisions = folded(proto, take_known_branches)
    assert op_types(model)[-1] == "If"
    assert decisions == []


def test_what_only_the_dropped_branch_read_goes_as_well():
    body = """
    a = Sigmoid(x)
    t = Transpose<perm = [1, 0]>(x)
    y = If<then_branch = p () => (float[N,4] r) { r = Relu(a) },
           else_branch = e () => (float[N,4] q) { s = Shape(t) m = Sum(a, a) u = Transpose<perm = [1, 0]>(t)
             n = If<then_branch = f () => (float[N,4] v) { v = Neg(u) },
                    else_branch = g () => (float[N,4] w) { w = Identity(t) }>(k) q = Add(m, n) }>(k)
    """
    model, _ = folded(build("(float[N,4] x) => (float[N,4] y)", body, k=np.array(True)))
    assert op_types(model) == ["Sigmoid", "Relu"]
