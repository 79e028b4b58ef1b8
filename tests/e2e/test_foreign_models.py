"""EfficientNet-Lite0 quantized by onnxruntime's defaults, run natively. Skipped where the shared folder is absent."""

import numpy as np
import pytest
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from quantkit import Session, pipeline
from quantkit.load import input_specs, load
from quantkit.observe import load_preprocess, open_data


@pytest.fixture(scope="module")
def lite0_by_onnxruntime(request, tmp_path_factory):
    """A QDQ file: per channel, minmax of the 100 calibration images."""
    shared = request.getfixturevalue("shared_root")
    fp32, folder = shared("models/efficientnet_lite0.onnx"), tmp_path_factory.mktemp("lite0")
    data = open_data(shared("data/imagenet/calib"), input_specs(load(fp32)), batch_size=1,
                     preprocess=load_preprocess("efficientnet-lite"))  # fmt: skip
    quant_pre_process(str(fp32), str(folder / "folded.onnx"))

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(data)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else batch.feeds

    quantization.quantize_static(folder / "folded.onnx", folder / "qdq.onnx", Reader(), per_channel=True)
    return folder / "qdq.onnx"


def test_a_qdq_file_of_onnxruntime_reaches_its_exact_accuracy(lite0_by_onnxruntime, shared):
    """Exact arithmetic: 88.6 % or better. onnxruntime itself gets 83.4 % where the CPU has no VNNI: it saturates."""
    found = pipeline.compare(shared("models/efficientnet_lite0.onnx"), lite0_by_onnxruntime,
                             shared("data/imagenet/val"), preprocess="efficientnet-lite", layers=False, seconds=0,
                             labels=shared("data/imagenet/labels.csv"))  # fmt: skip
    assert found.coverage["native_macs"] == 1.0
    assert found.int8["top1"] >= 0.884
    assert found.agreement >= 0.975


def test_a_qdq_file_gives_the_same_bits_on_every_isa(lite0_by_onnxruntime):
    x = np.random.default_rng(3).normal(size=(1, 3, 224, 224)).astype(np.float32)
    results = [Session(lite0_by_onnxruntime, isa=isa).run(None, {"input": x})[0] for isa in (None, "scalar")]
    np.testing.assert_array_equal(*results)
