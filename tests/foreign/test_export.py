"""Calibrated models in other formats: every op within one step of the engine, in onnxruntime, OpenVINO and here."""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest

from quantkit import Session, pipeline
from quantkit.errors import ModelError, UsageError
from quantkit.fuse.activations import ACTIVATIONS
from quantkit.fuse.graph import quantkit_name
from quantkit.load import to_proto
from quantkit.lower.regions import LOWERINGS
from quantkit.report.export import FORMATS, export, save_export
from tests.every_op import EVERY_OP, calibrated, feeds_of
from tests.graphs import run_onnxruntime

ONE_STEP = 1.001
"""Ties may round the other way: runtimes multiply in another order."""
DOMAINS = {"qdq": {""}, "qoperator": {"", "com.microsoft"}}


@functools.cache
def made(case):
    """(calibrated model, feeds, what the engine computes, the step of its output)."""
    model, feeds = calibrated(EVERY_OP[case]), feeds_of(EVERY_OP[case])
    wanted = Session(model, threads=1).run(None, feeds)[0]
    steps = [node.inputs[1].const_value.numpy() for node in model.graph if node.op_type == "DequantizeLinear"]
    return model, feeds, wanted, float(max(steps, default=np.abs(wanted).max() / 255))


def test_there_is_a_model_for_every_op_that_the_engine_runs():
    names = [quantkit_name(node) for case in EVERY_OP for node in made(case)[0].graph]
    assert set(LOWERINGS) - set(ACTIVATIONS) <= {name.base for name in names if name is not None}


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("case", EVERY_OP)
def test_an_exported_op_is_valid_and_within_a_step_in_onnxruntime(case, format_):
    model, feeds, wanted, step = made(case)
    exported = export(model, format_, exact=False)
    proto = to_proto(exported)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} <= DOMAINS[format_]
    assert not proto.functions
    got = run_onnxruntime(proto, feeds)[0]
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= ONE_STEP * step


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("case", EVERY_OP)
def test_an_exported_op_comes_back_as_an_int8_model_of_another_tool(case, format_):
    model, feeds, wanted, step = made(case)
    got = Session(to_proto(export(model, format_, exact=False)), threads=1).run(None, feeds)[0]
    assert np.abs(got - wanted).max() <= ONE_STEP * step


def in_openvino(proto, feeds):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = openvino.Core()
    read = core.read_model(proto.SerializeToString())
    compiled = core.compile_model(read, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    return compiled({name: feeds[name] for name in feeds})[0]


@pytest.mark.parametrize("case", EVERY_OP)
def test_an_op_exported_as_qdq_is_within_a_step_in_openvino(case):
    model, feeds, wanted, step = made(case)
    got = in_openvino(to_proto(export(model, "qdq", exact=False)), feeds)
    assert np.abs(got - wanted).max() <= ONE_STEP * step


def test_one_scale_for_all_channels_needs_no_opset_13():
    assert export(calibrated(EVERY_OP["Conv Relu"], per_channel=False), exact=False).opset_imports[""] == 10


def test_padding_that_counts_is_a_pad_of_its_own_for_runtimes_that_pad_with_the_byte_0():
    operators = [node.op_type for node in export(made("AveragePool with its padding")[0], exact=False).graph]
    assert operators.index("Pad") < operators.index("AveragePool")


def test_bytes_are_padded_with_the_zero_point_since_openvino_pads_zero_points_of_a_dequantize_linear():
    model = made("Pad")[0]
    zero_point = next(node for node in model.graph if node.op_type == "QPad").inputs[2].const_value.numpy()
    exported = export(model, "qdq", exact=False)
    pad = next(node for node in exported.graph if node.op_type == "Pad")
    assert pad.inputs[0].dtype.name == "UINT8"
    assert pad.inputs[2].const_value.numpy() == zero_point


def test_integer_weights_of_the_qoperator_form_are_unsigned_so_that_no_cpu_saturates():
    exported = export(made("Conv Relu")[0], "qoperator")
    conv = next(node for node in exported.graph if node.op_type == "QLinearConv")
    assert conv.inputs[3].dtype.name == "UINT8"
    assert set(conv.inputs[5].const_value.numpy()) == {128}


def test_a_model_without_quantkit_ops_and_an_unknown_format_are_refused():
    with pytest.raises(ModelError, match="fp32, not a model of quantkit"):
        export(EVERY_OP["Conv"])
    with pytest.raises(ModelError, match="it needs no export"):
        export(export(made("Conv")[0]))
    with pytest.raises(UsageError, match="choose one of qdq, qoperator"):
        export(made("Conv")[0], "tflite")


def test_a_model_that_quantize_kept_in_fp32_is_exported_as_it_is():
    result = pipeline.quantize(EVERY_OP["Softmax"], [feeds_of(EVERY_OP["Softmax"])])
    assert result.kind == "fp32"
    for format_ in FORMATS:
        proto = to_proto(export(result.model, format_))
        onnx.checker.check_model(proto, full_check=True)
        got, wanted = (run_onnxruntime(p, feeds_of(EVERY_OP["Softmax"]))[0] for p in (proto, EVERY_OP["Softmax"]))
        np.testing.assert_array_equal(got, wanted)


def test_weights_that_were_external_stay_external(tmp_path):
    import onnx_ir as ir

    model, feeds, wanted, step = made("Gemm")
    ir.save(model.clone(), tmp_path / "int8.onnx", external_data="int8.data", size_threshold_bytes=64)
    for format_ in FORMATS:
        save_export(export(tmp_path / "int8.onnx", format_, exact=False), tmp_path / f"{format_}.onnx")
        skeleton = onnx.load(tmp_path / f"{format_}.onnx", load_external_data=False)
        assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in skeleton.graph.initializer)
        got = onnxruntime.InferenceSession(tmp_path / f"{format_}.onnx").run(None, feeds)[0]
        assert np.abs(got - wanted).max() <= ONE_STEP * step
