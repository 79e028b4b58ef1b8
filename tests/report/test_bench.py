"""Input for timing, ratios, and runtimes that refuse a model."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from quantkit.errors import UsageError
from quantkit.load.specs import TensorSpec
from quantkit.report import runtimes
from quantkit.report.bench import bench, random_feeds
from quantkit.report.streams import run_together
from quantkit.report.trace import chrome_trace

IMAGE = TensorSpec("x", ("N", 3, "H", "W"), np.dtype(np.float32))
TOKENS = TensorSpec("ids", (2, 16), np.dtype(np.int64))


def test_input_has_the_batch_and_the_shapes_asked_for():
    feeds = random_feeds([IMAGE, TOKENS], 4, {"x": (1, 3, 8, 8)})
    assert feeds["x"].shape == (1, 3, 8, 8)
    assert feeds["ids"].shape == (2, 16)
    assert feeds["ids"].dtype == np.int64
    assert not feeds["ids"].any()


def test_input_is_the_same_every_time():
    first, second = (random_feeds([IMAGE], 1, {"x": (1, 3, 8, 8)})["x"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_image_size_of_the_stored_preprocessing_fills_dynamic_sides():
    assert random_feeds([IMAGE], 5, {}, (24, 32))["x"].shape == (5, 3, 24, 32)


def test_an_unknown_side_is_wrong_usage_that_names_the_option():
    with pytest.raises(UsageError, match="--shape x=D,D"):
        random_feeds([IMAGE], 1, {})


@pytest.fixture
def measured(digits, monkeypatch):
    """Three rounds of four candidates that took these seconds."""
    times = np.array([[1, 2, 3, 4], [10, 20, 30, 80], [1, 3, 3, 4]]) / 1000
    monkeypatch.setattr("quantkit.report.bench.interleave", lambda runs, **options: times[:, : len(runs)])
    return bench([digits.int8, digits.fp32], against=["onnxruntime"], batch=2, threads=1)


def test_ratios_are_medians_over_rounds_for_every_pair(measured):
    medians = {(r["a"], r["b"]): r["median"] for r in measured.ratios}
    assert len(medians) == 6
    assert medians["digits_cnn.int8.onnx in quantkit", "digits_cnn.int8.onnx in onnxruntime"] == pytest.approx(2)
    assert medians["digits_cnn.int8.onnx in quantkit", "digits_cnn.onnx in onnxruntime"] == pytest.approx(4)


def test_times_are_medians_and_minima_and_throughput_counts_the_batch(measured):
    last = measured.results[-1]
    assert (last["model"], last["runtime"]) == ("digits_cnn.onnx", "onnxruntime")
    assert (last["median_ms"], last["min_ms"], last["samples_per_s"]) == pytest.approx((4, 4, 500))


def test_a_runtime_that_cannot_run_a_model_is_left_out_with_a_warning(digits, monkeypatch):
    def refuse(model, threads):
        raise RuntimeError("no kernel\nfor this op")

    monkeypatch.setitem(runtimes.RUNTIMES, "openvino", refuse)
    warnings: list[str] = []
    result = bench([digits.int8], against=["openvino"], seconds=0.0, threads=1, warn=warnings.append)
    assert [entry["runtime"] for entry in result.results] == ["quantkit"]
    assert warnings == ["openvino cannot run digits_cnn.int8.onnx, it is left out: no kernel for this op"]


def test_a_runtime_that_is_not_installed_is_wrong_usage(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match="cannot be imported"):
        bench([digits.int8], against=["openvino"], seconds=0.0, threads=1)


def test_models_of_one_name_in_two_folders_are_told_apart(digits, tmp_path):
    copy = tmp_path / digits.int8.name
    copy.write_bytes(digits.int8.read_bytes())
    result = bench([digits.int8, copy], seconds=0.0, threads=1)
    assert [entry["model"] for entry in result.results] == [str(digits.int8), str(copy)]


def test_per_layer_times_cover_every_native_node(digits):
    result = bench([digits.int8], seconds=0.0, threads=1, per_layer=True)
    assert result.layers is not None
    assert {entry["name"] for entry in result.layers} >= {"/stem/conv/Conv", "/classifier/Gemm"}
    assert all(entry["us"] >= 0 for entry in result.layers)


def test_several_streams_share_the_threads(digits):
    result = bench([digits.int8], seconds=0.0, threads=2, streams=(1, 2))
    shown = [(entry["streams"], entry["threads_each"]) for entry in result.streams]
    assert shown == [(1, 2), (2, 1)]
    assert all(entry["samples_per_s"] > 0 for entry in result.streams)
    assert "streams" in result.to_text()


def test_an_error_in_one_stream_ends_all_of_them():
    def fail():
        raise UsageError("no")

    with pytest.raises(UsageError):
        run_together([lambda: None, fail], seconds=0.0)


def test_every_layer_has_its_share_of_the_peak(digits):
    from quantkit.cli.walkthrough import peak_model

    result = bench([digits.int8], seconds=0.0, threads=1, per_layer=True, peak=peak_model(64, 8))
    shares = [entry["share_of_peak"] for entry in result.layers if entry["gmacs_per_s"]]
    assert len(shares) == 12
    assert all(share > 0 for share in shares)
    assert result.peak_gmacs_per_s > 0


def test_percentiles_are_beside_the_median(digits):
    (entry,) = bench([digits.int8], seconds=0.0, threads=1).results
    assert entry["min_ms"] <= entry["median_ms"] <= entry["p90_ms"] <= entry["p99_ms"]
    assert entry["p50_ms"] == entry["median_ms"]


def test_a_trace_holds_every_layer_one_after_the_other():
    layers = [
        {"model": "m", "name": name, "op": "QConv", "kernel": "k", "us": us, "gmacs_per_s": None}
        for name, us in (("a", 2.0), ("b", 3.0))
    ]
    trace = chrome_trace(layers, {"cpu": "x"})
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"]) for event in complete] == [("a", 0.0, 2.0), ("b", 2.0, 3.0)]
    assert [event["args"] for event in trace["traceEvents"] if event["ph"] == "M"] == [{"name": "m"}]
