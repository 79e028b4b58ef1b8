"""Spelled-out hard activations get their name back; look-alikes do not."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.activations import name_activations
from tests.fold.fold_cases import build, folded, normal, op_types

CONSTANTS = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": np.float32(1 / 6)}
HARD = "a = Add(x, three)\n c = Clip(a, zero, six)\n"
SIGNATURE = "(float[N,5] x) => (float[N,5] y)"

SWISH = {
    "product then division": HARD + "m = Mul(x, c)\n y = Div(m, six)",
    "product then sixth": HARD + "m = Mul(c, x)\n y = Mul(sixth, m)",
    "division then product": HARD + "d = Div(c, six)\n y = Mul(x, d)",
    "three first": "a = Add(three, x)\n c = Clip(a, zero, six)\n m = Mul(x, c)\n y = Div(m, six)",
    "hard sigmoid": "h = HardSigmoid<alpha=0.16666667, beta=0.5>(x)\n y = Mul(h, x)",
}


@pytest.mark.parametrize("form", SWISH)
def test_every_spelling_becomes_hard_swish(form):
    assert op_types(folded(build(SIGNATURE, SWISH[form], **CONSTANTS))[0]) == ["HardSwish"]


def test_before_opset_14_it_stays_a_product_with_a_hard_sigmoid():
    proto = build(SIGNATURE, SWISH["division then product"], opset=13, **CONSTANTS)
    assert op_types(folded(proto)[0]) == ["HardSigmoid", "Mul"]


def test_hard_sigmoid_gets_its_name():
    assert op_types(folded(build(SIGNATURE, HARD + "y = Div(c, six)", **CONSTANTS))[0]) == ["HardSigmoid"]


def test_it_is_named_before_its_constants_go_into_the_convs_around_it():
    body = """
    k = Conv(x, w)
    a = Add(k, three)
    c = Clip(a, zero, six)
    m = Mul(k, c)
    d = Div(m, six)
    y = Conv(d, u)
    """
    proto = build(
        "(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, w=normal(4, 3, 1, 1), u=normal(2, 4, 1, 1), **CONSTANTS
    )
    assert op_types(folded(proto)[0]) == ["Conv", "HardSwish", "Conv"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, three)\n c = Clip(a, zero, three)\n y = Div(c, six)",
        "a = Add(x, six)\n c = Clip(a, zero, six)\n y = Div(c, six)",
        HARD + "y = Div(c, three)",
        HARD + "y = Div(six, c)",
        "h = HardSigmoid<alpha=0.2, beta=0.5>(x)\n y = Mul(h, x)",
    ],
)
def test_look_alikes_stay(body):
    proto = build(SIGNATURE, body, **CONSTANTS)
    model, decisions = folded(proto, name_activations, symbols=[])
    assert decisions == []
    assert len(model.graph) == len(proto.graph.node)


def test_a_clip_that_is_read_elsewhere_stays():
    body = HARD + "d = Div(c, six)\n y = Add(c, d)"
    assert "HardSigmoid" not in op_types(folded(build(SIGNATURE, body, **CONSTANTS))[0])


def test_a_product_that_is_read_elsewhere_stays():
    body = HARD + "m = Mul(x, c)\n d = Div(m, six)\n y = Add(m, d)"
    assert "HardSwish" not in op_types(folded(build(SIGNATURE, body, **CONSTANTS))[0])
