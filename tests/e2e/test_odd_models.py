"""Nothing that onnxruntime runs is refused: every odd model comes out right, quantized as far as it goes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from quantkit import Session, pipeline
from quantkit.execute.verify import sqnr_db
from quantkit.report.export import export_qdq
from quantkit.types import QuantConfig
from tests.e2e.odd_models import ODD_MODELS, text

FAST = QuantConfig(method="minmax", effort="fast")
LEAST_DB = 20.0
"""One or two layers with random weights: 8 bits give 30 dB and more."""


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, feeds)  # fmt: skip


def distance(wanted, got) -> float:
    """SQNR in dB of float tensors, inside sequences and maps too; 0 for anything else that differs."""
    if isinstance(wanted, dict):
        return distance(list(wanted.values()), list(got.values()))
    if isinstance(wanted, list):
        return min((distance(a, b) for a, b in zip(wanted, got, strict=True)), default=np.inf)
    y = np.asarray(wanted)
    if y.dtype.kind == "f":
        return sqnr_db(y, np.asarray(got)) if np.asarray(got).shape == y.shape else 0.0
    if y.dtype.kind in "iu":
        return np.inf if np.mean(y == np.asarray(got)) > 0.9 else 0.0
    return np.inf if np.array_equal(y, np.asarray(got)) else 0.0


@pytest.mark.parametrize("build", ODD_MODELS, ids=lambda build: build.__name__)
def test_an_odd_model_is_quantized_or_kept_and_gives_the_right_outputs(build):
    model, feeds = build()
    wanted = run(model, feeds)
    result = pipeline.quantize(model, [feeds], config=FAST)
    session = Session(result.model, threads=1)
    assert [o.name for o in session.get_outputs()] == [o.name for o in model.graph.output]
    assert distance(wanted, session.run(None, feeds)) > LEAST_DB
    plain = result.proto if result.kind == "fp32" else export_qdq(result.proto)
    assert distance(wanted, run(plain, feeds)) > LEAST_DB


@pytest.mark.parametrize("build", ODD_MODELS, ids=lambda build: build.__name__)
def test_an_odd_model_converts_and_runs(build):
    model, feeds = build()
    converted = pipeline.convert(model)
    assert distance(run(model, feeds), Session(converted.model, threads=1).run(None, feeds)) > LEAST_DB


def test_reading_a_classifier_leaves_its_proto_alone_and_its_result_keeps_the_type_of_its_maps():
    model, feeds = next(build for build in ODD_MODELS if "map" in build.__name__)()
    before = model.SerializeToString()
    result = pipeline.quantize(model, [feeds], config=FAST)
    assert model.SerializeToString() == before
    assert result.proto.graph.output[0].type == model.graph.output[0].type


@pytest.mark.parametrize("name", ["branches", "loop"])
def test_layers_inside_control_flow_stay_fp32_with_a_sentence(name):
    model, feeds = next(build for build in ODD_MODELS if build.__name__ == name)()
    result = pipeline.quantize(model, [feeds], config=FAST)
    kept = [d.detail for d in result.decisions if d.action == "kept" and "layers in its bodies" in d.detail]
    assert len(set(kept)) == 1
    rows = [row for row in Session(result.model, threads=1).plan if row.op in ("If", "Loop")]
    assert "the layers in its bodies (1)" in rows[0].reason


def test_a_model_in_which_convert_finds_nothing_is_calibrated_to_itself_with_a_sentence():
    proto = text("(float[N,8] x) => (float[N,8] y)", "a = Sin(x) y = Exp(a)")
    x = np.linspace(-1, 1, 8, dtype=np.float32)[None]
    done = pipeline.calibrate(pipeline.convert(proto).model, [{"x": x}])
    assert done.kind == "fp32"
    assert "INT8 would gain nothing" in str(done.decisions[-1].detail)
    np.testing.assert_allclose(Session(done.model, threads=1).run(None, {"x": x})[0], np.exp(np.sin(x)), rtol=1e-6)
