"""Files that other tools really write: onnxruntime's static quantization, NNCF where it is installed."""

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from quantkit import Session, pipeline
from quantkit.errors import ModelError
from quantkit.execute.oracle import run_oracle
from quantkit.foreign import to_static
from quantkit.load import load
from quantkit.report.inspect import inspect_model
from tests.graphs import CONV, image, model, run_onnxruntime, sqnr_db

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
DEPTHWISE = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 8"
BODY = f"""
c = Conv<{CONV}>(x, w, b) r = Relu(c) d = Conv<{DEPTHWISE}>(r, dw, db) s = Sigmoid(d) m = Mul(d, s)
p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(m) q = Conv<{POINT}>(p, v) a = Add(q, p)
l = LeakyRelu<alpha=0.1>(a) k = Concat<axis=1>(l, p)
g = GlobalAveragePool(k) f = Flatten(g) y = Gemm<transB=1>(f, h, hb)
"""
SHAPES = {"w": (8, 3, 3, 3), "b": (8,), "dw": (8, 1, 3, 3), "db": (8,), "v": (8, 8, 1, 1), "h": (10, 16), "hb": (10,)}


@pytest.fixture(scope="module")
def network():
    proto = model(BODY, SHAPES, inputs="float[N,3,16,16] x", outputs="float[N,10] y")
    return onnx.shape_inference.infer_shapes(proto)


class Reader(quantization.CalibrationDataReader):
    def __init__(self):
        self.left = [image(1, 3, 16, 16, seed=i) for i in range(8)]

    def get_next(self):
        return {"x": self.left.pop()} if self.left else None


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_file_of_onnxruntime_runs_natively_and_as_well(network, tmp_path, form, kind, per_channel):
    kinds = {"activation_type": quantization.QuantType[kind], "weight_type": quantization.QuantType.QInt8}
    quantization.quantize_static(network, tmp_path / "q.onnx", Reader(), per_channel=per_channel, reduce_range=True,
                                 quant_format=quantization.QuantFormat[form], **kinds)  # fmt: skip
    found = inspect_model(tmp_path / "q.onnx")
    assert found.coverage == {"native_macs": 1.0, "native_nodes": 1.0}
    feeds = {"x": image(4, 3, 16, 16, seed=99)}
    got = Session(tmp_path / "q.onnx", threads=1).run(None, feeds)[0]
    rewritten = load(tmp_path / "q.onnx")
    to_static(rewritten)
    np.testing.assert_array_equal(got, run_oracle(rewritten, feeds)["y"])
    assert sqnr_db(run_onnxruntime(onnx.load(tmp_path / "q.onnx"), feeds)[0], got) > 25
    assert sqnr_db(run_onnxruntime(network, feeds)[0], got) > 15
    with pytest.raises(ModelError, match="already quantized, by another tool or in an export"):
        pipeline.quantize(tmp_path / "q.onnx", [feeds])


def test_a_file_of_nncf_runs_natively_and_as_well(network):
    nncf = pytest.importorskip("nncf")
    samples = [image(1, 3, 16, 16, seed=i) for i in range(8)]
    quantized = nncf.quantize(network, nncf.Dataset(samples, lambda x: {"x": x}), subset_size=len(samples))
    session, feeds = Session(quantized), {"x": image(4, 3, 16, 16, seed=99)}
    native = sum(row.macs for row in session.plan if row.runs_on == "native")
    assert native == sum(row.macs for row in session.plan)
    assert sqnr_db(run_onnxruntime(quantized, feeds)[0], session.run(None, feeds)[0]) > 25
