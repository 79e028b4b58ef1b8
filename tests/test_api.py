"""The Python API in a user's words: three lines, notebooks, and Session where onnxruntime's class stood."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import quantkit
from quantkit.report.assets import asset


@pytest.fixture(scope="module")
def batches():
    """What a DataLoader gives: (images, labels) by the batch, already prepared."""
    generator = np.random.default_rng(0)
    return [(generator.standard_normal((4, 1, 32, 32), np.float32), np.arange(4)) for _ in range(3)]


@pytest.fixture(scope="module")
def result(batches):
    return quantkit.quantize(asset("digits_cnn.onnx"), batches)


def test_a_model_is_quantized_and_run_in_three_lines(result, batches):
    session = quantkit.Session(result)
    outputs = session.run(None, {"input": batches[0][0]})
    assert outputs[0].shape == (4, 10)


def test_what_a_stage_returns_is_taken_by_the_next(batches):
    converted = quantkit.convert(asset("digits_cnn.onnx"))
    calibrated = quantkit.calibrate(converted, batches)
    assert calibrated.kind == "calibrated"
    assert quantkit.compare(asset("digits_cnn.onnx"), calibrated, batches, seconds=0).samples == 12


def test_a_notebook_shows_the_model_and_the_report(result, batches):
    assert "calibrated model" in result._repr_html_()
    assert "decisions" in result._repr_html_()
    comparison = quantkit.compare(asset("digits_cnn.onnx"), result, batches, seconds=0, layers=False)
    shown = comparison._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count('"') == 4  # the page inside is escaped
    assert comparison.to_markdown("a", "b").startswith("# b against a")


def test_session_stands_in_for_onnxruntime_in_the_common_calls(result, batches):
    def use(session):
        name = session.get_inputs()[0].name
        outputs = [output.name for output in session.get_outputs()]
        meta = session.get_modelmeta().custom_metadata_map
        return session.run(outputs, {name: batches[0][0]}, None)[0], session.get_inputs()[0].type, meta

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    settings = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    data = result.proto.SerializeToString()
    own = quantkit.Session(data, **settings)
    theirs = onnxruntime.InferenceSession(data, **settings)
    assert own.threads == 1
    assert own.get_providers() == theirs.get_providers()
    for mine, other in zip(use(own), use(theirs), strict=True):
        if isinstance(mine, np.ndarray):
            assert np.abs(mine - other).max() < 0.5
        else:
            assert mine == other


def test_providers_with_options_are_taken_as_onnxruntime_takes_them(result):
    pairs = quantkit.Session(result.proto, providers=[("CPUExecutionProvider", {"arena": "1"})])
    aside = quantkit.Session(result.proto, providers=["CPUExecutionProvider"], provider_options=[{}])
    assert pairs.get_providers() == aside.get_providers() == ["CPUExecutionProvider"]


def test_a_session_without_the_cpu_among_its_providers_is_refused(result):
    with pytest.raises(quantkit.QuantkitError, match="CPUExecutionProvider"):
        quantkit.Session(result.proto, providers=["CUDAExecutionProvider"])


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(quantkit.QuantkitError, match="no ONNX model"):
        quantkit.Session(b"\x08\x08nonsense")


def test_a_session_says_what_it_is(result):
    assert repr(quantkit.Session(result.proto, threads=2)).endswith("2 threads>")


def test_the_public_names_are_there():
    assert all(hasattr(quantkit, name) for name in quantkit.__all__)
