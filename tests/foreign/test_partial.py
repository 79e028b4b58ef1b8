"""Models that are quantized in part: the error says so, --partial quantizes the rest and leaves the part alone."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from quantkit import Session, pipeline
from quantkit.cli import main
from quantkit.errors import ModelError
from quantkit.types import QuantConfig
from tests.foreign.build import Builder, reals, weights
from tests.graphs import image, model, run_onnxruntime, sqnr_db

FAST = QuantConfig(method="minmax", effort="fast", keep_int8=True)
WINDOW = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
BODY = f"""a = Conv<{WINDOW}>(x, w, b) r = Relu(a) c = Conv<{WINDOW}>(r, v) s = Relu(c) d = Conv<{WINDOW}>(s, u)
t = Relu(d) g = GlobalAveragePool(t) f = Flatten(g) y = Gemm<transB = 1>(f, h)"""
SHAPES = {"w": (48, 3, 3, 3), "b": (48,), "v": (48, 48, 3, 3), "u": (48, 48, 3, 3), "h": (10, 48)}
FEEDS = {"x": image(4, 3, 24, 24, seed=9)}


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """(FP32 model, path of one whose second convolution onnxruntime has quantized)."""
    proto = onnx.shape_inference.infer_shapes(
        model(BODY, SHAPES, inputs="float[N,3,24,24] x", outputs="float[N,10] y")
    )  # fmt: skip
    for i, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{i}"
    path = tmp_path_factory.mktemp("partly") / "partly.onnx"

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [FEEDS]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantization.quantize_static(copy.deepcopy(proto), path, Reader(), nodes_to_quantize=["Conv_2"], per_channel=True)
    return proto, path


def test_a_partly_quantized_model_is_refused_with_the_option_that_goes_on(partly):
    with pytest.raises(ModelError, match=r"by another tool.*3 of its layers are still FP32: --partial"):
        pipeline.quantize(partly[1], [FEEDS], config=FAST)


def test_the_float_rest_is_quantized_and_the_quantized_part_keeps_its_integers(partly):
    proto, path = partly
    result = pipeline.quantize(path, [FEEDS], config=FAST, partial=True)
    notes = [d.detail for d in result.decisions if d.node == "model"]
    assert "1 layers with weights are quantized already and stay, 3 are FP32" in notes
    assert result.kind == "calibrated"
    before = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    integers = next(array for name, array in before.items() if array.shape == (48, 48, 3, 3) and array.dtype == np.int8)
    node = next(node for node in result.model.graph if node.name == "Conv_2")
    assert np.array_equal(node.inputs[3].const_value.numpy(), integers)
    session = Session(result.model, threads=1)
    kinds = {row.op for row in session.plan if row.runs_on == "native"}
    assert {"QConvRelu", "QGemmFloat"} <= kinds
    assert all(row.runs_on == "native" for row in session.plan)
    assert sqnr_db(run_onnxruntime(proto, FEEDS)[0], session.run(None, FEEDS)[0]) > 15
    got = run_onnxruntime(result.proto, FEEDS)[0]
    assert sqnr_db(got, session.run(None, FEEDS)[0]) > 25


def test_a_model_of_quantkit_with_layers_in_fp32_can_be_finished(partly):
    first = pipeline.quantize(partly[0], [FEEDS], config=replace(FAST, keep_fp32=("_4$",)))
    with pytest.raises(ModelError, match=r"already quantized by quantkit.*1 of its layers"):
        pipeline.quantize(first.model, [FEEDS], config=FAST)
    done = pipeline.quantize(first.model, [FEEDS], config=FAST, partial=True)
    assert "Conv" not in {node.op_type for node in done.model.graph}
    got = Session(done.model, threads=1).run(None, FEEDS)[0]
    assert sqnr_db(run_onnxruntime(partly[0], FEEDS)[0], got) > 15


def test_a_wholly_quantized_model_comes_out_as_it_is_with_a_sentence():
    b = Builder()
    y = b.node("Conv", [b.through("x", 0.02, 120), b.weight(weights(4, 4, 3, 3), 0.01)], kernel_shape=[3, 3])
    proto = b.model({"x": [1, 4, 8, 8]}, {b.through(y, 0.05, 100): onnx.TensorProto.FLOAT})
    result = pipeline.quantize(proto, [{"x": reals(1, 4, 8, 8)}], config=FAST, partial=True)
    assert "constant weights is left in FP32" in result.decisions[-1].detail
    feeds = {"x": reals(1, 4, 8, 8, seed=5)}
    assert np.abs(Session(result.model).run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 0.051


def test_partial_is_an_option_of_the_command_line(partly, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x=FEEDS["x"])
    command = ["quantize", str(partly[1]), "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.onnx"),
               "--effort", "fast", "--method", "minmax", "--keep-int8"]  # fmt: skip
    assert main(command) == 1
    assert "--partial" in capsys.readouterr().err
    assert main([*command, "--partial"]) == 0
    assert "quantized already" in capsys.readouterr().out
    report = pipeline.compare(partly[1], tmp_path / "out.onnx", tmp_path / "data.npz", seconds=0)
    assert {layer.op for layer in report.layers} >= {"QConvRelu"}


def test_a_product_whose_bias_alone_is_quantized_is_spelled_out_twice_under_other_names(tmp_path):
    """The import spells the product out, the FP32 rest is fused and spelled out again, from a node of the same name."""
    proto = onnx.shape_inference.infer_shapes(
        model("m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v)", {"w": (64, 64), "b": (64,), "v": (64, 64)},
              inputs="float[N,8,64] x", outputs="float[N,8,64] y")
    )  # fmt: skip
    for i, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{i}"
    feeds = {"x": image(2, 8, 64, seed=3)}

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [feeds]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = tmp_path / "add.onnx"
    quantization.quantize_static(copy.deepcopy(proto), path, Reader(), op_types_to_quantize=["Add"])
    result = pipeline.quantize(path, [feeds], config=FAST, partial=True)
    assert result.kind == "calibrated"
    got = Session(result.model, threads=1).run(None, feeds)[0]
    assert sqnr_db(run_onnxruntime(proto, feeds)[0], got) > 25


def test_tensors_that_dynamic_quantization_named_like_ours_get_other_names(tmp_path):
    proto = model(BODY, SHAPES, inputs="float[N,3,24,24] x", outputs="float[N,10] y")
    onnx.save(proto, tmp_path / "fp32.onnx")
    quantization.quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "dynamic.onnx", op_types_to_quantize=["MatMul"])
    dynamic = onnx.load(tmp_path / "dynamic.onnx")
    assert "f_quantized" in {name for node in dynamic.graph.node for name in node.output}
    done = pipeline.quantize(tmp_path / "dynamic.onnx", [FEEDS], config=FAST, partial=True)
    onnx.checker.check_model(done.proto)
    outputs = [name for node in done.proto.graph.node for name in node.output]
    assert {"f_quantized", "f_quantized_2"} <= set(outputs)
    expected = run_onnxruntime(proto, FEEDS)[0]
    assert sqnr_db(expected, Session(done.model, threads=1).run(None, FEEDS)[0]) > 20


def test_an_output_that_is_called_like_a_tensor_of_ours_keeps_its_name():
    body = f"c = Conv<{WINDOW}>(x, w, b) r = Relu(c) r_quantized = Conv<{WINDOW}>(r, v)"
    shapes = {name: SHAPES[name] for name in "wbv"}
    proto = model(body, shapes, inputs="float[N,3,24,24] x", outputs="float[N,48,24,24] r_quantized")
    done = pipeline.quantize(proto, [FEEDS], config=FAST)
    onnx.checker.check_model(done.proto)
    (name,) = [output.name for output in done.proto.graph.output]
    assert name == "r_quantized"
    assert sqnr_db(run_onnxruntime(proto, FEEDS)[0], Session(done.model, threads=1).run(None, FEEDS)[0]) > 20
