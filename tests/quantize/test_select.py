"""Which nodes become u8, and which tensors share parameters."""

import numpy as np
import pytest

from quantkit.quantize.select import select
from tests.graphs import CONV, fused, model

W = {"w": (3, 3, 3, 3), "v": (3, 3, 3, 3)}
POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"


def selection(body, weights=W, **kwargs):
    result = fused(model(body, weights, **kwargs))
    return select(result)


def chosen(found):
    return [form.name.op_type for form in found.forms.values()]


def test_what_stands_before_a_convolution_and_only_moves_values_is_u8_too():
    body = f"p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv<{CONV}>(p, w)"
    assert chosen(selection(body)) == ["QMaxPool", "QConv"]


def test_arithmetic_before_the_first_convolution_stays_in_float():
    body = f"s = Sqrt(x) y = Conv<{CONV}>(s, w)"
    assert chosen(selection(body)) == ["QConv"]


def test_an_op_without_an_int8_form_is_kept_with_the_reason():
    found = selection(f"c = Conv<{CONV}>(x, w) y = LogSoftmax<axis=1>(c)")
    assert chosen(found) == ["QConv"]
    assert any(d.action == "kept" and "LogSoftmax stays FP32: no INT8 form" in d.detail for d in found.decisions)


def test_an_activation_that_only_float_reads_stays_in_float():
    found = selection(f"c = Conv<{CONV}>(x, w) g = Add(c, c) y = Tanh(g)")
    assert "QTanh" not in chosen(found)


def test_pooling_that_selects_shares_its_parameters_and_averaging_does_not():
    body = (f"c = Conv<{CONV}>(x, w) m = MaxPool<kernel_shape=[2,2]>(c) a = AveragePool<kernel_shape=[2,2]>(m) "
            f"y = Conv<{CONV}>(a, v)")  # fmt: skip
    groups = selection(body).group_of
    assert groups["m"] == groups["c"]
    assert groups["a"] == "a"


def test_concat_inputs_share_with_it_unless_somebody_else_reads_them():
    body = (f"c = Conv<{CONV}>(x, w) d = Conv<{CONV}>(x, v) k = Concat<axis=1>(c, d) "
            f"e = Conv<{CONV}>(d, w) f = Conv<{POINT}>(k, u) y = Add(e, f)")  # fmt: skip
    groups = selection(body, {**W, "u": (3, 6, 1, 1)}).group_of
    assert groups["c"] == groups["k"]
    assert groups["d"] != groups["k"]


def test_group_ranges_are_the_union():
    from quantkit.types import Range

    body = f"c = Conv<{CONV}>(x, w) m = MaxPool<kernel_shape=[2,2]>(c) y = Conv<{CONV}>(m, v)"
    found = selection(body)
    ranges = {name: Range(-1.0, 1.0) for name in found.tensors}
    ranges["c"], ranges["m"] = Range(-2.0, 1.0), Range(-1.0, 5.0)
    assert found.group_ranges(ranges)[found.group_of["m"]] == Range(-2.0, 5.0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"p, i = MaxPool<kernel_shape=[2,2]>(x) c = Conv<{CONV}>(p, w) j = Cast<to=1>(i) y = Add(c, j)", "indices"),
        (f'c = Conv<{CONV}>(x, w) y = Pad<mode="reflect">(c, pads)', "mode reflect"),
        (f"c = Conv<{CONV}>(x, w) y = ReduceMean<axes=[1,3]>(c)", "mean over axes [1, 3]"),
    ],
)
def test_a_form_that_the_engine_lacks_is_refused_with_its_reason(body, reason):
    weights = {**W, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)} if "pads)" in body else W
    found = selection(body, weights)
    assert any(reason in d.detail for d in found.decisions), [d.detail for d in found.decisions]


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_layers_stay_fp32_and_say_why(op):
    from onnx import TensorProto, helper, numpy_helper

    from quantkit import Session, pipeline

    gates, rng = {"LSTM": 4, "GRU": 3}[op], np.random.default_rng(0)
    weights = [rng.normal(size=(1, gates * 8, width)).astype(np.float32) for width in (16, 8)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w", "r"], ["y"], name="recurrent", hidden_size=8)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "wr", strict=True)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = pipeline.quantize(proto, [{"x": rng.normal(size=(5, 1, 16)).astype(np.float32)}])
    assert any(d.node == "recurrent" and "feeds back" in d.detail for d in result.decisions)
    assert "feeds back" in Session(result.model).plan[0].reason


def test_a_squeeze_of_whichever_dimensions_are_1_needs_all_of_them_known():
    body = f"c = Conv<{CONV}>(x, w) g = GlobalAveragePool(c) y = Squeeze(g)"
    found = selection(body, inputs="float[N,3,8,8] x")
    assert "QSqueeze" not in chosen(found)
    assert any("not known before it runs" in d.detail for d in found.decisions)


@pytest.mark.parametrize(
    ("body", "weights", "options", "reason"),
    [
        ("y = Sqrt(x)", {}, {}, "no Conv, Gemm or MatMul with constant weights"),
        (f"y = Conv<{CONV}>(x, w)", W, {}, ""),
        ("y = Conv(x, w)", {"w": (2, 1, 3, 3, 3)}, {"inputs": "float[1,1,6,6,6] x", "outputs": "float[1,2,4,4,4] y"},
         "no Conv, Gemm or MatMul with constant weights to quantize (a convolution over 3 axes has no INT8 form, those "
         "over 1 and 2 have)"),
    ],
)  # fmt: skip
def test_where_nothing_is_selected_it_is_said_why(body, weights, options, reason):
    assert selection(body, weights, **options).why_empty == reason


def test_a_file_saved_for_one_kind_of_cpu_says_what_to_give_instead():
    result = fused(model(f"y = Conv<{CONV}>(x, w)", W))
    found = select(result, lambda name: True)
    assert "FP32 as asked" in found.why_empty
    next(iter(result.graph)).domain = "com.microsoft.nchwc"
    assert "give the model from before or one saved at ORT_ENABLE_EXTENDED" in select(result).why_empty
