"""The converted and the calibrated file: valid ONNX, runnable in onnxruntime, true to the FP32 model."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit import pipeline
from quantkit.errors import CalibrationError, ModelError
from quantkit.execute.oracle import run_oracle
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model, op_types, quantized, run_onnxruntime, sqnr_db

W = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "f": (10, 8), "g": (10,)}
NETWORK = (f"c = Conv<{CONV}>(x, w, b) r = Relu(c) d = Conv<{CONV}>(r, v) a = Add(d, r) s = Sigmoid(a) m = Mul(a, s) "
           f"p = GlobalAveragePool(m) h = Flatten(p) y = Gemm<transB=1>(h, f, g)")  # fmt: skip
INT8_DB = 25.0
"""What a small random network keeps with plain min/max ranges; a broken one is below 10."""


def network(**kwargs):
    return model(NETWORK, W, outputs="float[N,10] y", **kwargs)


def test_the_converted_model_is_valid_and_runs_in_onnxruntime():
    proto = network()
    converted = pipeline.convert(proto).proto
    onnx.checker.check_model(converted, full_check=True)
    assert op_types(converted) == ["DynQConvRelu", "DynQConvAddSiLU", "GlobalAveragePool", "Flatten", "DynQGemm"]
    x = image(2, 3, 8, 8)
    assert sqnr_db(run_onnxruntime(proto, {"x": x})[0], run_onnxruntime(converted, {"x": x})[0]) > INT8_DB


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_the_calibrated_model_is_valid_and_runs_in_onnxruntime(opset):
    proto = network(opset=opset)
    calibrated = ir.to_proto(quantized(proto))
    onnx.checker.check_model(calibrated, full_check=True)
    x = image(2, 3, 8, 8)
    reference = run_onnxruntime(proto, {"x": x})[0]
    for optimize in (False, True):
        assert sqnr_db(reference, run_onnxruntime(calibrated, {"x": x}, optimize)[0]) > INT8_DB


def test_names_shapes_and_types_of_inputs_and_outputs_are_preserved():
    proto = network()
    for result in (pipeline.convert(proto).proto, ir.to_proto(quantized(proto))):
        assert [(v.name, v.type) for v in result.graph.input] == [(v.name, v.type) for v in proto.graph.input]
        assert [v.name for v in result.graph.output] == ["y"]
        assert result.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_weights_are_s8_and_biases_s32_in_the_calibrated_file():
    calibrated = quantized(network())
    conv = next(n for n in calibrated.graph if n.op_type == "QConvRelu")
    kinds = [conv.inputs[i].const_value.dtype for i in (3, 6)]
    assert kinds == [ir.DataType.INT8, ir.DataType.INT32]
    assert conv.inputs[4].const_value.shape == ir.Shape([8])


def test_the_last_gemm_ends_in_float():
    assert op_types(quantized(network()))[-1] == "QGemmFloat"


def test_every_fused_op_is_within_one_step_of_onnxruntime():
    """Each op alone, on the u8 input that the oracle gave the op before it."""
    calibrated = quantized(network())
    x = image(2, 3, 8, 8)
    names = [out.name for n in calibrated.graph for out in n.outputs if out.dtype == ir.DataType.UINT8]
    truth = run_oracle(calibrated, {"x": x}, keep=names)
    inner = ir.to_proto(calibrated)
    for node in inner.graph.node:
        outputs = [name for name in node.output if name in names]
        data = list(dict.fromkeys(name for name in node.input if name in names))
        if node.domain != "quantkit" or not outputs:
            continue
        single = onnx.ModelProto()
        single.CopyFrom(inner)
        del single.graph.node[:], single.graph.input[:], single.graph.output[:], single.graph.value_info[:]
        single.graph.node.append(node)
        for target, group in ((single.graph.input, data), (single.graph.output, outputs)):
            target.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, None) for n in group)
        got = run_onnxruntime(single, {name: truth[name] for name in data})[0]
        assert np.abs(got.astype(int) - truth[outputs[0]].astype(int)).max() <= 1, node.op_type


def test_calibrating_the_converted_model_equals_quantizing_at_once(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    data, config = [{"x": image(4, 3, 8, 8)}], QuantConfig(method="minmax", effort="fast")
    pipeline.convert(tmp_path / "m.onnx").save(tmp_path / "m.converted.onnx")
    in_two = pipeline.calibrate(tmp_path / "m.converted.onnx", data, config=config).model
    at_once = pipeline.quantize(tmp_path / "m.onnx", data, config=config).model
    x = image(2, 3, 8, 8)
    np.testing.assert_array_equal(run_oracle(in_two, {"x": x})["y"], run_oracle(at_once, {"x": x})["y"])


def test_without_the_fp32_file_the_converted_weights_are_used(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    pipeline.convert(tmp_path / "m.onnx").save(tmp_path / "m.converted.onnx")
    (tmp_path / "m.onnx").rename(tmp_path / "elsewhere.onnx")
    config = QuantConfig(method="minmax", effort="fast")
    alone = pipeline.calibrate(tmp_path / "m.converted.onnx", [{"x": image(4, 3, 8, 8)}], config=config)
    x = image(2, 3, 8, 8)
    reference = run_onnxruntime(network(), {"x": x})[0]
    assert sqnr_db(reference, run_oracle(alone.model, {"x": x})["y"]) > INT8_DB


def test_a_wrong_reference_is_refused(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    onnx.save(network(seed=5), tmp_path / "other.onnx")
    pipeline.convert(tmp_path / "m.onnx").save(tmp_path / "m.converted.onnx")
    with pytest.raises(ModelError, match="not the FP32 model"):
        pipeline.calibrate(tmp_path / "m.converted.onnx", [image(1, 3, 8, 8)], reference=tmp_path / "other.onnx")


@pytest.mark.parametrize("stage", ["converted", "calibrated"])
def test_a_quantized_model_is_refused(stage):
    proto = network()
    done = pipeline.convert(proto).model if stage == "converted" else quantized(proto)
    with pytest.raises(ModelError, match="already"):
        pipeline.quantize(done, [image(1, 3, 8, 8)])


def test_a_calibration_table_can_be_reused_and_is_refused_for_other_data(tmp_path):
    table, data = tmp_path / "table.json", np.stack([image(3, 8, 8, seed=i) for i in range(4)])
    config = QuantConfig(method="minmax", effort="fast")
    first = pipeline.quantize(network(), data, config=config, table_out=table).model
    second = pipeline.quantize(network(), data, config=config, table_in=table).model
    x = image(2, 3, 8, 8)
    np.testing.assert_array_equal(run_oracle(first, {"x": x})["y"], run_oracle(second, {"x": x})["y"])
    with pytest.raises(CalibrationError, match="data"):
        pipeline.quantize(network(), data + 1, config=config, table_in=table)


def test_a_model_with_nothing_to_quantize_comes_out_fp32():
    proto = model("y = Softmax<axis=1>(x)", {}, outputs="float[N,3,8,8] y")
    result = pipeline.quantize(proto, [image(2, 3, 8, 8)])
    assert result.kind == "fp32"
    x = image(1, 3, 8, 8)
    np.testing.assert_array_equal(run_onnxruntime(result.proto, {"x": x})[0], run_onnxruntime(proto, {"x": x})[0])


def test_a_fused_op_that_stays_fp32_is_written_in_standard_ops():
    proto = model(f"s = Mul(x, x) t = Sqrt(s) c = Conv<{CONV}>(t, w, b) y = Relu(c)", W)
    calibrated = quantized(proto)
    assert op_types(calibrated) == ["Mul", "Sqrt", "QuantizeLinear", "QConvRelu", "DequantizeLinear"]
    x = image(2, 3, 8, 8)
    got = run_onnxruntime(ir.to_proto(calibrated), {"x": x})[0]
    assert sqnr_db(run_onnxruntime(proto, {"x": x})[0], got) > INT8_DB
