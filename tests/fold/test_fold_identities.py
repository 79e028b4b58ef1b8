"""Nodes that change nothing go; those that only look like it stay."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.identities import remove_identities
from quantkit.fold.transposes import merge_transposes
from tests.fold.fold_cases import build, folded, op_types


def ints(*values):
    return np.array(values, np.int64)


SAME = {
    "identity": ("Identity(a)", {}),
    "dropout": ("Dropout(a)", {}),
    "cast": ("Cast<to=1>(a)", {}),
    "reshape": ("Reshape(a, k)", {"k": ints(0, 3, 4, 4)}),
    "transpose": ("Transpose<perm=[0,1,2,3]>(a)", {}),
    "pad": ("Pad(a, k)", {"k": ints(*[0] * 8)}),
    "slice": ("Slice(a, s, e)", {"s": ints(0, 0), "e": ints(2**62, 2**62)}),
    "expand": ("Expand(a, k)", {"k": ints(1, 1, 1, 4)}),
    "concat": ("Concat<axis=1>(a)", {}),
    "sum": ("Sum(a)", {}),
    "resize": ('Resize<mode="nearest">(a, , k)', {"k": np.ones(4, np.float32)}),
    "average pool": ("AveragePool<kernel_shape=[1,1]>(a)", {}),
    "max pool": ("MaxPool<kernel_shape=[1,1], strides=[1,1]>(a)", {}),
    "times one": ("Mul(a, k)", {"k": np.ones((3, 1, 1), np.float32)}),
    "one times": ("Mul(k, a)", {"k": np.float32(1)}),
    "plus zero": ("Add(a, k)", {"k": np.zeros(1, np.float32)}),
    "minus zero": ("Sub(a, k)", {"k": np.zeros(4, np.float32)}),
    "by one": ("Div(a, k)", {"k": np.ones((1, 1, 1, 1), np.float32)}),
    "power one": ("Pow(a, k)", {"k": np.float32(1)}),
    "tile": ("Tile(a, k)", {"k": ints(1, 1, 1, 1)}),
    "split": ("Split<axis=1>(a, k)", {"k": ints(3)}),
}


@pytest.mark.parametrize("case", SAME)
def test_what_changes_nothing_is_removed(case):
    body, weights = SAME[case]
    proto = build("(float[N,3,4,4] x) => (float[N,3,4,4] y)", f"a = Relu(x)\n n = {body}\n y = Sigmoid(n)", **weights)
    model, decisions = folded(proto, remove_identities)
    assert op_types(model) == ["Relu", "Sigmoid"]
    assert decisions[0].action == "removed"


@pytest.mark.parametrize("case", SAME)
def test_a_graph_output_keeps_its_name(case):
    body, weights = SAME[case]
    proto = build("(float[N,3,4,4] x) => (float[N,3,4,4] y)", f"a = Relu(x)\n y = {body}", **weights)
    assert op_types(folded(proto, remove_identities)[0]) == ["Relu"]


DIFFERENT = {
    "reverse": ("(float[3,4] x) => (float[3,4] y)", "n = Slice(a, s, e, ax, t)",
                {"s": ints(-1), "e": ints(-100), "ax": ints(0), "t": ints(-1)}),
    "transpose of a square": ("(float[4,4] x) => (float[4,4] y)", "n = Transpose(a)", {}),
    "transpose of equal sizes": ("(float[1,4,4] x) => (float[1,4,4] y)", "n = Transpose<perm=[0,2,1]>(a)", {}),
    "broadcast by one": ("(float[1,4] x) => (float[3,4] y)", "n = Mul(a, k)", {"k": np.ones((3, 1), np.float32)}),
    "broadcast to a higher rank": ("(float[4] x) => (float[1,4] y)", "n = Add(a, k)",
                                   {"k": np.zeros((1, 1), np.float32)}),
    "one over x": ("(float[N,4] x) => (float[N,4] y)", "n = Div(k, a)", {"k": np.float32(1)}),
    "zero minus x": ("(float[N,4] x) => (float[N,4] y)", "n = Sub(k, a)", {"k": np.float32(0)}),
    "flatten": ("(float[2,3,4] x) => (float[2,12] y)", "n = Flatten(a)", {}),
    "strided pool": ("(float[N,3,4,4] x) => (float[N,3,2,2] y)",
                     "n = MaxPool<kernel_shape=[1,1], strides=[2,2]>(a)", {}),
    "cast to half": ("(float[N,4] x) => (float16[N,4] y)", "n = Cast<to=10>(a)", {}),
    "swap of two symbols": ("(float[N,N] x) => (float[N,N] y)", "n = Transpose(a)", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_only_looks_like_an_identity_stays(case):
    signature, body, weights = DIFFERENT[case]
    proto = build(signature, f"a = Neg(x)\n{body}\ny = Neg(n)", **weights)
    model, decisions = folded(proto, remove_identities)
    assert decisions == []
    assert len(model.graph) == len(proto.graph.node)


def test_an_identity_from_input_to_output_stays():
    proto = build("(float[N,4] x) => (float[N,4] y)", "y = Identity(x)")
    assert op_types(folded(proto, remove_identities)[0]) == ["Identity"]


def test_two_outputs_of_one_value_keep_an_identity():
    proto = build("(float[N,4] x) => (float[N,4] y, float[N,4] z)", "y = Relu(x)\n z = Identity(y)")
    assert op_types(folded(proto, remove_identities)[0]) == ["Relu", "Identity"]


def test_a_dropout_whose_mask_is_read_stays():
    proto = build("(float[N,4] x) => (float[N,4] y, bool[N,4] m)", "y, m = Dropout(x)")
    assert op_types(folded(proto, remove_identities)[0]) == ["Dropout"]


def test_a_reshape_between_unknown_sizes_stays():
    proto = build("(float[A,B] x, int64[2] k) => (float[C,D] y)", "y = Reshape(x, k)")
    model = folded(proto, remove_identities, symbols=[])[0]
    assert op_types(model) == ["Reshape"]


def test_transposes_that_cancel_are_removed():
    proto = build(
        "(float[N,3,4,5] x) => (float[N,3,4,5] y)",
        "a = Relu(x)\n b = Transpose<perm=[0,2,3,1]>(a)\n c = Transpose<perm=[0,3,1,2]>(b)\n y = Relu(c)",
    )
    model, _ = folded(proto, merge_transposes)
    assert "Transpose" not in [n.op_type for n in model.graph if n.outputs[0].uses() or n.outputs[0].is_graph_output()]


def test_transposes_that_do_not_cancel_become_one():
    proto = build(
        "(float[N,3,4,5] x) => (float[4,5,N,3] y)",
        "b = Transpose<perm=[0,2,3,1]>(x)\n y = Transpose<perm=[1,2,0,3]>(b)",
    )
    model, decisions = folded(proto, merge_transposes)
    assert decisions[0].action == "merged"
    assert list(model.graph[-1].attributes.get_ints("perm")) == [2, 3, 0, 1]


def test_the_first_transpose_stays_where_another_node_reads_it():
    proto = build(
        "(float[N,3,4] x) => (float[N,3,4] y, float[N,4,3] z)",
        "b = Transpose<perm=[0,2,1]>(x)\n c = Transpose<perm=[0,2,1]>(b)\n y = Relu(c)\n z = Relu(b)",
    )
    assert op_types(folded(proto)[0]) == ["Transpose", "Relu", "Relu"]


def test_a_value_read_in_a_subgraph_follows_its_replacement():
    body = """
    a = Identity(x)
    c = ReduceMax<keepdims=0>(x)
    zero = Constant<value_float=0.0>()
    p = Greater(c, zero)
    y = If<then_branch = t () => (float[N,4] u) { u = Relu(a) },
           else_branch = e () => (float[N,4] v) { v = Neg(a) }>(p)
    """
    model, _ = folded(build("(float[N,4] x) => (float[N,4] y)", body))
    assert op_types(model) == ["ReduceMax", "Greater", "If"]
