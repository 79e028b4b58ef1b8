"""How much of real graphs the engine runs; there it must equal the oracle. Accuracy is not looked at."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from quantkit import Session
from quantkit.execute.oracle import run_oracle
from quantkit.pipeline import fused_model
from quantkit.quantize.calibration import calibrate_fused
from quantkit.quantize.select import select
from quantkit.types import QuantConfig

TOPOLOGIES = {
    "resnet18": 0.97, "resnet50": 0.97, "resnet101": 0.97, "mobilenet_v2": 0.97, "mobilenet_v3_large": 0.97,
    "efficientnet_b0": 0.97, "densenet121": 0.97, "inception_v3": 0.97, "googlenet": 0.97, "squeezenet1_1": 0.97,
    "shufflenet_v2_x1_0": 0.97, "vgg16": 0.97, "regnet_y_400mf": 0.97, "convnext_tiny": 0.85, "vit_b_16": 0.85,
}  # fmt: skip
"""torchvision graph -> the least share of multiply-adds that must run natively."""
OCR = {
    "ch_PP-OCRv4_det_infer": (1, 3, 96, 128),
    "ch_PP-OCRv4_rec_infer": (1, 3, 48, 160),
    "ch_ppocr_mobile_v2.0_cls_infer": (2, 3, 48, 192),
}
OCR_LEAST = 0.9


def native_share(model: Any, x: np.ndarray) -> float:
    """Quantizes, requires engine == oracle on `x`, and returns the native share of multiply-adds."""
    fused, _ = fused_model(model)
    config = QuantConfig(method="minmax", effort="fast")
    calibrated = ir.to_proto(calibrate_fused(fused, select(fused), x, config).model)
    session = Session(calibrated, threads=2)
    feeds = {session.get_inputs()[0].name: x}
    expected = run_oracle(calibrated, feeds)
    for output, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        softmax_at_the_end = calibrated.graph.node[-1].op_type == "Softmax"
        if softmax_at_the_end:  # in float32, by onnxruntime with other optimizations than in the oracle
            np.testing.assert_allclose(value, expected[output.name], rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(value, expected[output.name])
    native = sum(row.macs for row in session.plan if row.runs_on == "native")
    return native / sum(row.macs for row in session.plan)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_topology_runs_natively(name: str, shared: Callable[[str], Path]) -> None:
    path = shared("models/topologies/materialize.py")
    spec = importlib.util.spec_from_file_location("materialize", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["materialize"] = module
    spec.loader.exec_module(module)
    side = 299 if name == "inception_v3" else 224
    x = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    assert native_share(module.materialize(name), x) >= TOPOLOGIES[name]


@pytest.mark.parametrize("name", OCR)
def test_an_ocr_model_runs_natively(name: str) -> None:
    try:
        package = importlib.metadata.distribution("rapidocr-onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("rapidocr-onnxruntime is not installed (pip install --no-deps rapidocr-onnxruntime==1.4.4)")
    path = Path(str(package.locate_file(f"rapidocr_onnxruntime/models/{name}.onnx")))
    x = np.random.default_rng(0).normal(size=OCR[name]).astype(np.float32)
    assert native_share(path, x) >= OCR_LEAST
