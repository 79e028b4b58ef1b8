"""What holds for fold as a whole: order, robustness, decisions, and random graphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.fold import fold
from quantkit.fold.editing import add_constant, decide, rewrite_nodes
from quantkit.load import load
from quantkit.types import Decision
from tests.fold.fold_cases import batchnorm_parameters, build, folded, normal, op_types


def test_a_whole_block_becomes_three_nodes():
    body = """
    p = Pad(x, k)
    c = Conv<strides=[2,2]>(p, w)
    i = Identity(c)
    n = BatchNormalization(i, s, b, m, v)
    g = Mul(n, gain)
    r = Relu(g)
    d = Dropout(r)
    f = GlobalAveragePool(d)
    q = Shape(f)
    bs = Slice(q, zero, one)
    to = Concat<axis=0>(bs, minus)
    h = Reshape(f, to)
    u = MatMul(h, fc)
    y = Add(u, bias)
    """
    proto = build(
        "(float[N,3,9,9] x) => (float[N,5] y)",
        body,
        k=np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
        w=normal(8, 3, 3, 3),
        gain=normal(8, 1, 1),
        zero=np.array([0]),
        one=np.array([1]),
        minus=np.array([-1]),
        fc=normal(8, 5),
        bias=normal(5),
        **batchnorm_parameters(8),
    )
    model, decisions = folded(proto)
    assert op_types(model) == ["Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    assert {d.stage for d in decisions} == {"fold"}
    assert model.graph[0].outputs[0].name == "g"


def test_an_exception_in_one_rewrite_is_a_refusal_and_the_others_go_on():
    model = load(build("(float[N,4] x) => (float[N,4] y)", "a = Relu(x)\n y = Relu(a)"))

    def rewrite(node: ir.Node) -> Decision:
        if node.outputs[0].name == "a":
            raise KeyError("lost")
        return decide(node, "seen", "")

    decisions = rewrite_nodes(model, ("Relu",), rewrite)
    assert [d.action for d in decisions] == ["refused", "seen"]
    assert "KeyError" in decisions[0].detail


def test_new_initializers_never_take_a_name_in_use():
    proto = build("(float[N,4] x) => (float[N,4] y)", "w_folded = Relu(x)\n y = Mul(w_folded, w)", w=normal(4))
    graph = load(proto).graph
    names = [add_constant(graph, "w", normal(4)).name for _ in range(3)]
    assert names == ["w_folded_2", "w_folded_3", "w_folded_4"]


def test_refusals_are_told_once_and_last():
    body = "c = Conv(x, w)\n y = BatchNormalization(c, s, b, m, v)\n z = Relu(c)\n i = Identity(z)\n u = Neg(i)"
    signature = "(float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,3,4,4] z, float[N,3,4,4] u)"
    proto = build(signature, body, w=normal(3, 3, 1, 1), **batchnorm_parameters(3))
    model = load(proto)
    first, second = fold(model), fold(model)
    actions = [decision.action for decision in first]
    assert actions == sorted(actions, key=lambda action: action == "refused")
    assert len(set(first)) == len(first)
    assert all(decision.action == "refused" for decision in second)


def test_dead_nodes_and_weights_go():
    proto = build("(float[N,4] x) => (float[N,4] y)", "d = Mul(x, w)\n y = Relu(x)", w=normal(4))
    model, _ = folded(proto)
    assert op_types(model) == ["Relu"]
    assert not model.graph.initializers


def test_an_input_that_nobody_reads_stays():
    model, _ = folded(build("(float[N,4] x, float[M] unused) => (float[N,4] y)", "y = Relu(x)"))
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]


def test_half_precision_weights_are_left_alone():
    proto = build(
        "(float16[N,3,4,4] x) => (float16[N,3,4,4] y)",
        "c = Conv(x, w)\n y = Mul(c, k)",
        w=normal(3, 3, 1, 1).astype(np.float16),
        k=normal(3, 1, 1).astype(np.float16),
    )
    model = load(proto)
    fold(model)
    assert op_types(model) == ["Conv", "Mul"]


STEPS = {
    "conv": "{o} = Conv<pads=[1,1,1,1]>({i}, w)",
    "conv bias": "{o} = Conv({i}, w1, cb)",
    "depthwise": "{o} = Conv<group=4, pads=[1,1,1,1]>({i}, wd)",
    "transposed": "{o} = ConvTranspose<pads=[1,1,1,1]>({i}, w)",
    "batchnorm": "{o} = BatchNormalization({i}, s, b, m, v)",
    "mul": "{o} = Mul({i}, k)",
    "add": "{o} = Add(k, {i})",
    "sub": "{o} = Sub(k, {i})",
    "div": "{o} = Div({i}, half)",
    "relu": "{o} = Relu({i})",
    "identity": "{o} = Identity({i})",
    "pad": "{o}p = Pad({i}, pads)\n {o} = Conv({o}p, w)",
    "max pool": "{o}p = Pad({i}, pads)\n {o} = MaxPool<kernel_shape=[3,3]>({o}p)",
    "average pool": "{o}p = Pad({i}, pads)\n {o} = AveragePool<kernel_shape=[3,3]>({o}p)",
    "transposes": "{o}t = Transpose<perm=[0,2,3,1]>({i})\n {o} = Transpose<perm=[0,3,1,2]>({o}t)",
    "residual": "{o}r = Relu({i})\n {o} = Add({i}, {o}r)",
    "shape": "{o}s = Shape({i})\n {o} = Reshape({i}, {o}s)",
}


@pytest.mark.parametrize("seed", range(3))
def test_every_step_folds_behind_every_other(seed):
    """Every ordered pair of steps, in chains of 17 pairs: neighbours are what the passes look at."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation([[first, second] for first in STEPS for second in STEPS])
    for chain in np.array_split(pairs, len(STEPS)):
        check_chain(chain.reshape(-1).tolist())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7))
def test_random_chains_keep_their_values(steps):
    check_chain(steps)


def check_chain(steps: list[str]) -> None:
    lines = [STEPS[step].format(i="x" if i == 0 else f"t{i}", o=f"t{i + 1}") for i, step in enumerate(steps)]
    body = "\n".join([*lines, f"y = Sigmoid(t{len(steps)})"])
    folded(
        build(
            "(float[N,4,5,5] x) => (float[N,4,5,5] y)",
            body,
            w=normal(4, 4, 3, 3) / 6,
            w1=normal(4, 4, 1, 1) / 2,
            wd=normal(4, 1, 3, 3) / 3,
            cb=normal(4),
            k=normal(4, 1, 1) + 2,
            half=np.float32(0.5),
            pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            **batchnorm_parameters(4),
        ),
        symbols=[{}],
    )
