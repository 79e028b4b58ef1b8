"""BatchNormalization: where it is folded, where not and why."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.batchnorm import batchnorm_to_conv, fold_batchnorm
from tests.fold.fold_cases import array_of, batchnorm_parameters, build, folded, node_of, normal, op_types, refusals

BN = "BatchNormalization"


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", ["", ", cb"])
def test_it_folds_into_the_conv_before_it(groups, bias):
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        f"c = Conv<group={groups}, pads=[1,1,1,1]>(x, w{bias})\n y = {BN}(c, s, b, m, v)",
        w=normal(8, 4 // groups, 3, 3),
        cb=normal(8),
        **batchnorm_parameters(8),
    )
    model, decisions = folded(proto, fold_batchnorm)
    assert op_types(model) == ["Conv"]
    assert decisions[0].detail == "into Conv Conv_0"
    assert model.graph[0].outputs[0].name == "y"


@pytest.mark.parametrize("groups", [1, 2])
def test_it_folds_into_the_transposed_conv_before_it(groups):
    proto = build(
        "(float[N,4,5,5] x) => (float[N,6,11,11] y)",
        f"c = ConvTranspose<group={groups}, strides=[2,2]>(x, w)\n y = {BN}(c, s, b, m, v)",
        w=normal(4, 6 // groups, 3, 3),
        **batchnorm_parameters(6),
    )
    assert op_types(folded(proto, fold_batchnorm)[0]) == ["ConvTranspose"]


def test_it_folds_into_a_one_dimensional_conv():
    proto = build(
        "(float[N,4,9] x) => (float[N,6,7] y)",
        f"c = Conv(x, w)\n y = {BN}(c, s, b, m, v)",
        w=normal(6, 4, 3),
        **batchnorm_parameters(6),
    )
    assert op_types(folded(proto, fold_batchnorm)[0]) == ["Conv"]


@pytest.mark.parametrize("body", ["g = Gemm<transB=1>(x, w, c)", "g = Gemm<transB=1>(x, w)"])
def test_it_folds_into_the_gemm_before_it(body):
    proto = build(
        "(float[N,5] x) => (float[N,6] y)",
        f"{body}\n y = {BN}(g, s, b, m, v)",
        w=normal(6, 5),
        c=normal(6),
        **batchnorm_parameters(6),
    )
    assert op_types(folded(proto, fold_batchnorm)[0]) == ["Gemm"]


def test_it_folds_into_the_unpadded_conv_behind_it():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,4,4] y)",
        f"r = Relu(x)\n n = {BN}(r, s, b, m, v)\n y = Conv<group=2>(n, w, cb)",
        w=normal(8, 2, 3, 3),
        cb=normal(8),
        **batchnorm_parameters(4),
    )
    assert op_types(folded(proto, fold_batchnorm)[0]) == ["Relu", "Conv"]


def test_it_folds_into_the_gemm_behind_it():
    proto = build(
        "(float[N,5] x) => (float[N,6] y)",
        f"n = {BN}(x, s, b, m, v)\n y = Gemm<transB=1>(n, w)",
        w=normal(6, 5),
        **batchnorm_parameters(5),
    )
    assert op_types(folded(proto, fold_batchnorm)[0]) == ["Gemm"]


def test_its_shift_is_refused_past_the_padding_of_the_conv_behind_it():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        f"n = {BN}(x, s, b, m, v)\n y = Conv<pads=[1,1,1,1]>(n, w)",
        w=normal(8, 4, 3, 3),
        **batchnorm_parameters(4),
    )
    model, decisions = folded(proto, fold_batchnorm)
    assert op_types(model) == [BN, "Conv"]
    assert "zero padding" in refusals(decisions)


def test_without_a_shift_it_moves_past_the_padding():
    parameters = batchnorm_parameters(4) | {"b": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] y)",
        f"n = {BN}(x, s, b, m, v)\n y = Conv<pads=[1,1,1,1]>(n, w)",
        w=normal(8, 4, 3, 3),
        **parameters,
    )
    assert op_types(folded(proto, fold_batchnorm)[0]) == ["Conv"]


def test_it_is_refused_when_the_conv_output_is_a_graph_output():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] c, float[N,8,6,6] y)",
        f"c = Conv<pads=[1,1,1,1]>(x, w)\n y = {BN}(c, s, b, m, v)",
        w=normal(8, 4, 3, 3),
        **batchnorm_parameters(8),
    )
    model, decisions = folded(proto, fold_batchnorm)
    assert op_types(model) == ["Conv", BN]
    assert "graph output" in refusals(decisions)


def test_it_is_refused_when_the_conv_output_has_another_reader():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,8,6,6] z)",
        f"c = Conv<pads=[1,1,1,1]>(x, w)\n y = {BN}(c, s, b, m, v)\n z = Add(c, y)",
        w=normal(8, 4, 3, 3),
        **batchnorm_parameters(8),
    )
    model, decisions = folded(proto, fold_batchnorm)
    assert op_types(model) == ["Conv", BN, "Add"]
    assert "other consumers" in refusals(decisions)


def test_a_shared_weight_is_not_changed_in_place():
    proto = build(
        "(float[N,4,6,6] x) => (float[N,4,6,6] y, float[N,4,6,6] z)",
        f"c = Conv<pads=[1,1,1,1]>(x, w)\n y = {BN}(c, s, b, m, v)\n z = Conv<pads=[1,1,1,1]>(x, w)",
        w=normal(4, 4, 3, 3),
        **batchnorm_parameters(4),
    )
    model, _ = folded(proto, fold_batchnorm)
    assert op_types(model) == ["Conv", "Conv"]
    assert [node.inputs[1].name for node in model.graph] == ["w_folded", "w"]
    np.testing.assert_array_equal(array_of(model.graph.initializers["w"]), normal(4, 4, 3, 3))


def test_parameters_that_are_inputs_are_refused():
    proto = build(
        "(float[N,4,6,6] x, float[4] s) => (float[N,4,6,6] y)",
        f"c = Conv<pads=[1,1,1,1]>(x, w)\n y = {BN}(c, s, b, m, v)",
        w=normal(4, 4, 3, 3),
        **{k: v for k, v in batchnorm_parameters(4).items() if k != "s"},
    )
    assert "not float32 constants" in refusals(folded(proto, fold_batchnorm)[1])


def test_a_variance_that_is_not_positive_is_refused():
    parameters = batchnorm_parameters(4) | {"v": np.array([1, 1, -1, 1], np.float32)}
    proto = build(
        "(float[N,4,6,6] x) => (float[N,4,6,6] y)",
        f"c = Conv<pads=[1,1,1,1]>(x, w)\n y = {BN}(c, s, b, m, v)",
        w=normal(4, 4, 3, 3),
        **parameters,
    )
    assert "variance" in refusals(folded(proto, fold_batchnorm)[1])


def test_one_that_stands_alone_becomes_a_depthwise_conv():
    proto = build(
        "(float[N,5,6,6] x) => (float[N,5,6,6] y)",
        f"r = Relu(x)\n n = {BN}(r, s, b, m, v)\n y = Relu(n)",
        **batchnorm_parameters(5),
    )
    model, _ = folded(proto, batchnorm_to_conv)
    conv = node_of(model, "Conv")
    assert op_types(model) == ["Relu", "Conv", "Relu"]
    assert conv.name == "BatchNormalization_1"
    assert conv.attributes.get_int("group") == 5
    assert conv.outputs[0].name == "n"


def test_fold_prefers_the_producer_and_makes_the_rest_depthwise():
    proto = build(
        "(float[N,3,6,6] x) => (float[N,8,6,6] c, float[N,8,6,6] y)",
        f"c = Conv<pads=[1,1,1,1]>(x, w)\n y = {BN}(c, s, b, m, v)",
        w=normal(8, 3, 3, 3),
        **batchnorm_parameters(8),
    )
    model, decisions = folded(proto)
    assert op_types(model) == ["Conv", "Conv"]
    assert any(decision.action == "rewritten" for decision in decisions)
