"""Calibrated models in the exact form: the engine's bits in onnxruntime and OpenVINO, whatever they optimize."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from quantkit import Session
from quantkit.errors import UsageError
from quantkit.load import to_proto
from quantkit.report.export import export
from tests.every_op import EVERY_OP, I64, calibrated, conv, feeds_of, one
from tests.foreign.test_export import in_openvino, made

LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
FLOAT_NOISE = 1e-3
"""Of a step: OpenVINO computes a last DequantizeLinear as q * s - zero_point * s."""
QDQ_ONLY = {"LRN": "LRN", "AveragePool rounded up": "AveragePool"}
"""Cases without an exact form -> the float operator that is left in them."""


def in_onnxruntime(proto, feeds, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds)[0]


@pytest.mark.parametrize("case", EVERY_OP)
def test_an_op_exported_exactly_gives_the_bits_of_the_engine_in_every_runtime(case):
    model, feeds, wanted, step = made(case)
    proto = to_proto(export(model))
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    if case in QDQ_ONLY:
        assert QDQ_ONLY[case] in {node.op_type for node in proto.graph.node}
        assert np.abs(in_onnxruntime(proto, feeds, "off") - wanted).max() <= 1.001 * step
        return
    for level in LEVELS:
        np.testing.assert_array_equal(in_onnxruntime(proto, feeds, level), wanted)
    np.testing.assert_array_equal(Session(proto, threads=1).run(None, feeds)[0], wanted)
    assert np.abs(in_openvino(proto, feeds) - wanted).max() <= FLOAT_NOISE * step


WIDE_LAYERS = {
    "Conv": one("t = Conv<kernel_shape = [3, 3]>(x, w, b) y = Relu(t)", x="float[1,512,6,6] x",
                w=(4, 512, 3, 3), b=(4,)),
    "ConvTranspose": one("t = ConvTranspose<kernel_shape = [3, 3]>(x, w, b) y = Relu(t)", x="float[1,512,6,6] x",
                         w=(512, 4, 3, 3), b=(4,)),
    "Gemm": one("t = Gemm<transB = 1>(x, w, b) y = Relu(t)", x="float[3,6144] x", w=(4, 6144), b=(4,)),
    "MatMul": one("t = MatMul(x, w) s = Add(t, b) y = Relu(s)", x="float[2,3,6144] x", w=(6144, 4), b=(4,)),
}  # fmt: skip


@pytest.mark.parametrize("base", WIDE_LAYERS)
def test_sums_that_may_leave_what_float32_holds_are_made_of_parts(base):
    proto = WIDE_LAYERS[base]
    model = calibrated(proto)
    feeds = {"x": np.abs(feeds_of(proto)["x"]) * 4}  # beyond the ranges: bytes of 255
    exported = export(model)
    operators = [node.op_type for node in exported.graph]
    assert operators.count(base) == operators.count("Slice") >= 2
    wanted = Session(model, threads=1).run(None, feeds)[0]
    np.testing.assert_array_equal(in_onnxruntime(to_proto(exported), feeds, "off"), wanted)


def test_a_grouped_convolution_of_such_sums_uses_integer_operators():
    proto = one("t = Conv<kernel_shape = [3, 3], group = 2>(x, w, b) y = Relu(t)", x="float[1,1024,4,4] x",
                w=(4, 512, 3, 3), b=(4,))  # fmt: skip
    model, feeds = calibrated(proto), feeds_of(proto)
    exported = export(model)
    assert "ConvInteger" in {node.op_type for node in exported.graph}
    wanted = Session(model, threads=1).run(None, feeds)[0]
    np.testing.assert_array_equal(in_onnxruntime(to_proto(exported), feeds, "off"), wanted)


def test_a_mean_over_open_sizes_divides_by_the_count_of_each_run():
    proto = one("y = GlobalAveragePool(x)", x="float[N,4,H,W] x")
    exported = to_proto(export(calibrated(proto)))
    model = Session(calibrated(proto), threads=1)
    for size in (3, 7):
        feeds = {"x": feeds_of(proto, batch=size)["x"]}
        wanted = model.run(None, feeds)[0]
        np.testing.assert_array_equal(in_onnxruntime(exported, feeds, "off"), wanted)
        assert np.abs(in_openvino(exported, feeds) - wanted).max() <= FLOAT_NOISE * np.abs(wanted).max() / 255


def test_the_exact_form_of_a_deep_network_has_no_rounding_that_grows():
    block = (
        "a{0} = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r{0}, w) s{0} = Add(a{0}, r{0}) r{1} = HardSwish(s{0})"
    )
    layers = " ".join(block.format(i, i + 1) for i in range(12))
    proto = one(f"r0 = Relu(x) {layers} g = GlobalAveragePool(r12) y = Softmax<axis = 1>(g)", w=(4, 4, 3, 3))
    model, feeds = calibrated(proto), feeds_of(proto)
    inner = [v for node in model.graph for v in node.outputs if v.dtype == ir.DataType.UINT8 and node.domain]
    model.graph.outputs.extend(inner)
    names = [v.name for v in model.graph.outputs]
    wanted = Session(model, threads=1).run(names, feeds)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS["off"]
    exported = to_proto(export(model)).SerializeToString()
    got = onnxruntime.InferenceSession(exported, options).run(names, feeds)
    for name, ours, theirs in zip(names, wanted, got, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_channels_next_to_0_whose_biases_are_beyond_float32_are_constants():
    """Their scale is raised until the bias fits 30 bits; what they give does not depend on x."""
    weights = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    weights[2] *= 1e-12
    proto = one("t = Conv<kernel_shape = [1, 1]>(x, w, b) y = Relu(t)", w=weights, b=np.float32([0, 0.1, 0.7, 0.2]))
    model, feeds = calibrated(proto), feeds_of(proto)
    assert np.abs(next(n for n in model.graph if n.op_type == "QConvRelu").inputs[6].const_value.numpy()).max() > 2**24
    exported = export(model)
    assert [node.op_type for node in exported.graph].count("Add") == 1  # that of the QuantizeLinear
    assert 0 in next(v for v in exported.graph.initializers.values() if v.dtype == ir.DataType.INT8).const_value.numpy()
    wanted = Session(model, threads=1).run(None, feeds)[0]
    for level in LEVELS:
        np.testing.assert_array_equal(in_onnxruntime(to_proto(exported), feeds, level), wanted)


@pytest.mark.parametrize("case", ["PRelu", "Concat"])
def test_maps_of_bytes_are_arithmetic_where_that_gives_all_256_results(case, monkeypatch):
    model, feeds, wanted, _ = made(case)
    plain = to_proto(export(model))
    monkeypatch.setattr("quantkit.foreign.exact.sloped", lambda *given: None)
    monkeypatch.setattr("quantkit.foreign.exact_rows.sloped", lambda *given: None)
    tables = to_proto(export(model))
    gathers = [[node.op_type for node in proto.graph.node].count("Gather") for proto in (plain, tables)]
    assert gathers[0] < gathers[1]
    for proto in (plain, tables):
        np.testing.assert_array_equal(in_onnxruntime(proto, feeds, "off"), wanted)


def test_numbers_and_shared_weights_are_held_once():
    model = calibrated(one("t = MatMul(x, w) s = MatMul(t, w) r = MatMul(s, w) y = MatMul(r, w)", w=(8, 8)))
    held = [value.const_value for value in export(model).graph.initializers.values()]
    contents = [(tensor.dtype, *tensor.shape, tensor.tobytes()) for tensor in held]
    assert len(contents) == len(set(contents))


def test_one_scale_of_1_needs_no_opset_13_and_indices_stay_valid_before_it():
    assert export(made("Conv Relu")[0]).opset_imports[""] == 11
    picked = calibrated(one("y = Gather<axis = 1>(x, k)", k=np.array([3, 0], I64)))
    assert export(picked).opset_imports[""] == 10


def test_integer_operators_have_no_exact_form():
    with pytest.raises(UsageError, match="no exact form; choose qdq"):
        export(calibrated(conv("y = Relu(t)")), "qoperator", exact=True)
