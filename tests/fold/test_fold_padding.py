"""Zero Pads go into Conv and pooling; auto_pad and defaults are written out."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.explicit import write_out_attributes
from quantkit.fold.padding import fold_pads
from tests.fold.fold_cases import build, folded, node_of, normal, op_types, refusals

PADS = np.array([0, 0, 0, 1, 0, 0, 2, 1], np.int64)  # top 0, left 1, bottom 2, right 1


def pads_of(model, op_type):
    return list(node_of(model, op_type).attributes.get_ints("pads"))


def after_cleanup(model):
    return [node.op_type for node in model.graph if any(o.uses() or o.is_graph_output() for o in node.outputs)]


def test_an_asymmetric_pad_goes_into_the_conv():
    proto = build(
        "(float[N,3,7,7] x) => (float[N,4,H,W] y)",
        "p = Pad(x, k)\n y = Conv<pads=[1,0,0,1], strides=[2,2]>(p, w)",
        w=normal(4, 3, 3, 3),
        k=PADS,
    )
    model, _ = folded(proto, fold_pads)
    assert after_cleanup(model) == ["Conv"]
    assert pads_of(model, "Conv") == [1, 1, 2, 2]


def test_a_pad_with_axes_goes_into_the_conv():
    proto = build(
        "(float[N,3,7,7] x) => (float[N,4,7,5] y)",
        "p = Pad(x, k, , a)\n y = Conv(p, w)",
        opset=18,
        w=normal(4, 3, 3, 3),
        k=np.array([1, 1], np.int64),
        a=np.array([-2], np.int64),
    )
    assert pads_of(folded(proto, fold_pads)[0], "Conv") == [1, 0, 1, 0]


def test_both_readers_take_the_pad_of_a_shared_pad():
    proto = build(
        "(float[N,3,7,7] x) => (float[N,4,7,7] y, float[N,4,7,7] z)",
        "p = Pad(x, k)\n y = Conv(p, w)\n z = Conv(p, u)",
        w=normal(4, 3, 3, 3),
        u=normal(4, 3, 3, 3, seed=1),
        k=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    )
    assert op_types(folded(proto)[0]) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("attributes", "extra", "reason"),
    [('<mode="reflect">', "", "reflect"), ("", ", f", "not pad with zero")],
)
def test_a_pad_that_is_not_zero_is_refused(attributes, extra, reason):
    proto = build(
        "(float[N,3,7,7] x) => (float[N,4,7,7] y)",
        f"p = Pad{attributes}(x, k{extra})\n y = Conv(p, w)",
        w=normal(4, 3, 3, 3),
        k=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        f=np.float32(1.5),
    )
    model, decisions = folded(proto, fold_pads)
    assert op_types(model) == ["Pad", "Conv"]
    assert reason in refusals(decisions)


def test_a_crop_is_refused():
    proto = build(
        "(float[N,3,7,7] x) => (float[N,4,3,3] y)",
        "p = Pad(x, k)\n y = Conv(p, w)",
        w=normal(4, 3, 3, 3),
        k=np.array([0, 0, -1, -1, 0, 0, -1, -1], np.int64),
    )
    assert "crops" in refusals(folded(proto, fold_pads)[1])


def test_a_pad_of_channels_stays():
    proto = build(
        "(float[N,3,7,7] x) => (float[N,4,5,5] y)",
        "p = Pad(x, k)\n y = Conv(p, w)",
        w=normal(4, 5, 3, 3),
        k=np.array([0, 1, 0, 0, 0, 1, 0, 0], np.int64),
    )
    model, decisions = folded(proto, fold_pads)
    assert (op_types(model), decisions) == (["Pad", "Conv"], [])


@pytest.mark.parametrize("own", ["", ", pads=[1,1,0,0], count_include_pad=1"])
def test_a_pad_goes_into_an_average_pool_that_counts_padding(own):
    proto = build(
        "(float[N,3,7,7] x) => (float[N,3,H,W] y)",
        f"p = Pad(x, k)\n y = AveragePool<kernel_shape=[4,4], strides=[2,2]{own}>(p)",
        k=PADS,
    )
    model, _ = folded(proto, fold_pads)
    assert after_cleanup(model) == ["AveragePool"]
    assert node_of(model, "AveragePool").attributes.get_int("count_include_pad") == 1


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ("AveragePool<kernel_shape=[4,4], pads=[1,1,0,0]>", "does not count its own padding"),
        ("AveragePool<kernel_shape=[4,4], ceil_mode=1>", "ceil_mode"),
        ("AveragePool<kernel_shape=[2,2]>", "only padding"),
        ("MaxPool<kernel_shape=[4,4]>", "may be negative"),
        ("MaxPool<kernel_shape=[4,4], dilations=[2,2]>", "dilations"),
    ],
)
def test_a_pad_before_a_pool_is_refused_where_it_would_change_values(pool, reason):
    proto = build("(float[N,3,9,9] x) => (float[N,3,H,W] y)", f"p = Pad(x, k)\n y = {pool}(p)", k=PADS)
    model, decisions = folded(proto, fold_pads)
    assert after_cleanup(model)[0] == "Pad"
    assert reason in refusals(decisions)


@pytest.mark.parametrize("before", ["Relu(x)", "Clip(x, z, six)", "MaxPool<kernel_shape=[1,1]>(r)"])
def test_a_pad_goes_into_a_max_pool_of_values_that_are_not_negative(before):
    proto = build(
        "(float[N,3,7,7] x) => (float[N,3,H,W] y)",
        f"r = Relu(x)\n a = {before}\n p = Pad(a, k)\n y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)",
        k=PADS,
        z=np.float32(0),
        six=np.float32(6),
    )
    assert after_cleanup(folded(proto, fold_pads)[0])[-2:] != ["Pad", "MaxPool"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("op", ["Conv<kernel_shape=[3,4], {}>(x, w)", "MaxPool<kernel_shape=[3,4], {}>(x)",
                                "AveragePool<kernel_shape=[3,4], {}>(x)"])  # fmt: skip
def test_auto_pad_becomes_the_same_explicit_pads(mode, stride, op):
    attributes = f'auto_pad="{mode}", strides=[{stride},{stride}]'
    proto = build("(float[N,3,8,7] x) => (float[N,C,H,W] y)", f"y = {op.format(attributes)}", w=normal(4, 3, 3, 4))
    model, _ = folded(proto, write_out_attributes)
    assert "auto_pad" not in model.graph[0].attributes
    assert len(model.graph[0].attributes.get_ints("pads")) == 4


def test_auto_pad_of_stride_1_needs_no_size():
    proto = build(
        "(float[N,3,H,W] x) => (float[N,4,H,W] y)", 'y = Conv<auto_pad="SAME_UPPER">(x, w)', w=normal(4, 3, 3, 3)
    )
    model, _ = folded(proto, write_out_attributes, symbols=[{"H": 5, "W": 6}])
    assert pads_of(model, "Conv") == [1, 1, 1, 1]


def test_auto_pad_with_a_stride_and_an_unknown_size_is_refused():
    proto = build(
        "(float[N,3,H,W] x) => (float[N,4,U,V] y)",
        'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
        w=normal(4, 3, 3, 3),
    )
    model, decisions = folded(proto, write_out_attributes, symbols=[{"H": 5, "W": 6}])
    assert "known only at run time" in refusals(decisions)
    assert model.graph[0].attributes.get_string("auto_pad") == "SAME_UPPER"


@pytest.mark.parametrize("size", [(5, 6), (6, 5), (1, 1), (2, 3), (8, 9)])
def test_a_max_pool_that_halves_unknown_sizes_gets_ceil_mode(size):
    body = 'y = MaxPool<auto_pad="SAME_UPPER", kernel_shape=[2,2], strides=[2,2]>(x)'
    proto = build("(float[N,3,H,W] x) => (float[N,3,U,V] y)", body)
    model, decisions = folded(proto, write_out_attributes, symbols=[dict(zip("HW", size, strict=True))])
    assert any("to ceil_mode" in decision.detail for decision in decisions)
    assert (model.graph[0].attributes.get_int("ceil_mode"), pads_of(model, "MaxPool")) == (1, [0, 0, 0, 0])


@pytest.mark.parametrize(
    "attributes",
    ['auto_pad="SAME_LOWER", kernel_shape=[2,2], strides=[2,2]',
     'auto_pad="SAME_UPPER", kernel_shape=[3,3], strides=[2,2]',
     'auto_pad="SAME_UPPER", kernel_shape=[2,2], strides=[2,2], dilations=[2,2]'],
)  # fmt: skip
def test_a_max_pool_whose_pads_hang_on_the_size_stays(attributes):
    proto = build("(float[N,3,H,W] x) => (float[N,3,U,V] y)", f"y = MaxPool<{attributes}>(x)")
    model, decisions = folded(proto, write_out_attributes, symbols=[{"H": 5, "W": 6}])
    assert "known only at run time" in refusals(decisions)
    assert "auto_pad" in model.graph[0].attributes


def test_defaults_are_written_out_in_one_decision():
    proto = build(
        "(float[N,3,8,8] x) => (float[N,3,4,4] y)",
        "a = Conv(x, w)\n b = MaxPool<kernel_shape=[2,2]>(a)\n y = AveragePool<kernel_shape=[2,2]>(b)",
        w=normal(3, 3, 3, 3),
    )
    model, decisions = folded(proto, write_out_attributes)
    names = [sorted(node.attributes) for node in model.graph]
    assert names[0] == ["dilations", "group", "kernel_shape", "pads", "strides"]
    assert names[1] == ["dilations", "kernel_shape", "pads", "strides"]
    assert names[2] == ["kernel_shape", "pads", "strides"]
    assert [decision.detail for decision in decisions] == ["default attributes of 3 convolutions and poolings"]
