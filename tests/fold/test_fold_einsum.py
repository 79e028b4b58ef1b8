"""Einsum as MatMul: the same values for every order of labels; what is no matrix product stays."""

import numpy as np
import pytest

from quantkit.fold.einsum import matrix_products
from quantkit.fuse.graph import constant
from quantkit.load import load
from tests.fold.fold_cases import FOLDED, build, normal, run

SIZES = dict(zip("bijkdhqn", (2, 3, 4, 5, 6, 2, 3, 4), strict=True))
PRODUCTS = {
    "bik,kj->bij": ["MatMul"],
    "ik,jk->ij": ["MatMul"],
    "ik,kj": ["MatMul"],
    "bid,dhk->bihk": ["MatMul", "Reshape"],
    "bihk,hkd->bid": ["Reshape", "MatMul"],
    "bid,hdk->bhik": ["MatMul", "Reshape", "Transpose"],
    "oi,bqi->bqo": ["MatMul"],
    "io,bqi->bqo": ["MatMul"],
}
"""Equation with constant weights -> the ops it becomes."""
ATTENTION = {
    "bki,bkj->bij": ["Transpose", "MatMul"],
    "bhqd,bhkd->bhqk": ["Transpose", "MatMul"],
    "bqhd,bkhd->bhqk": ["Transpose", "Transpose", "MatMul"],
    "bhqk,bkhd->bqhd": ["Transpose", "MatMul", "Transpose"],
    "bij,bjk->bki": ["MatMul", "Transpose"],
}
"""Equations of two activations."""
REFUSED = {
    "ij,ij->ij": "no matrix product",
    "i,j->ij": "no matrix product",
    "bij,bjk->bk": "no matrix product",
    "...ij,jk->...ik": "ellipsis",
    "ii,ij->ij": "diagonal",
    "bijk,bkd->bijd": "several rows and a batch",
}


def shape(labels):
    return [SIZES.get(label, 7) for label in labels]


def einsum(equation, *, constants=False, symbols="", unknown=""):
    """The model and its feeds; dims in `symbols` are dynamic."""
    operands = equation.split("->")[0].split(",")
    arrays = {
        name: normal(*shape(labels), seed=i) for i, (name, labels) in enumerate(zip("xw", operands, strict=False))
    }
    order = ["x", "w"]
    if constants and "b" in operands[-1] and "b" not in operands[0]:
        order = ["w", "x"]  # the weights come first
        arrays = {"w": normal(*shape(operands[0])), "x": normal(*shape(operands[1]), seed=1)}
    fed = [name for name in order if name in arrays and not (constants and name == "w")]
    labels = dict(zip(order, operands, strict=False))
    dims = {n: ",".join(c if c in symbols else str(SIZES.get(c, 7)) for c in labels[n]) for n in fed}
    inputs = ", ".join(f"float[{dims[name]}] {name}" for name in fed)
    body = f'y = Einsum<equation = "{equation}">({", ".join(n for n in order if n in arrays)})'
    weights = {name: array for name, array in arrays.items() if name not in fed}
    proto = build(f"({inputs}) => (float y)", body, **weights)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto, {name: arrays[name] for name in fed}


def check(proto, feeds, wanted):
    model = load(proto)
    decisions = matrix_products(model)
    assert [node.op_type for node in model.graph] == wanted
    assert [d.action for d in decisions] == ["rewritten"]
    np.testing.assert_allclose(run(model, feeds)[0], run(proto, feeds)[0], **FOLDED)
    assert matrix_products(model) == []
    return model


@pytest.mark.parametrize("symbols", ["", "b", "bi"])
@pytest.mark.parametrize("equation", PRODUCTS)
def test_an_einsum_with_weights_becomes_a_product_with_the_weights_on_the_right(equation, symbols):
    symbols = "".join(label for label in symbols if label in equation.split("->")[-1])
    model = check(*einsum(equation, constants=True, symbols=symbols), PRODUCTS[equation])
    product = next(node for node in model.graph if node.op_type == "MatMul")
    assert constant(product.inputs[1]).ndim == 2


@pytest.mark.parametrize("symbols", ["", "bqk"])
@pytest.mark.parametrize("equation", ATTENTION)
def test_an_einsum_of_two_activations_becomes_a_product(equation, symbols):
    check(*einsum(equation, symbols=symbols), ATTENTION[equation])


def test_an_einsum_of_one_operand_is_a_transpose():
    proto, feeds = einsum("bij->jbi")
    check(proto, feeds, ["Transpose"])


@pytest.mark.parametrize("equation", REFUSED)
def test_an_einsum_that_is_no_matrix_product_stays(equation):
    model = load(einsum(equation)[0])
    decisions = matrix_products(model)
    assert [node.op_type for node in model.graph] == ["Einsum"]
    assert decisions[0].action == "refused"
    assert REFUSED[equation] in decisions[0].detail


def test_an_einsum_that_merges_labels_of_unknown_size_stays():
    model = load(einsum("bihk,hkd->bid", symbols="bihk")[0])
    assert "no known size" in matrix_products(model)[0].detail
