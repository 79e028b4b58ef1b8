"""Input for timing, ratios, and runtimes that refuse a model."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest

from quantkit.errors import DataError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.report import runtimes
from quantkit.report.bench import bench, random_feeds, running_feeds
from quantkit.report.streams import run_together
from quantkit.report.trace import chrome_trace
from tests.graphs import model

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
    def refuse(path, threads):
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


def test_throughput_is_measured_by_streams_and_batch(digits):
    result = bench([digits.int8], seconds=0.0, threads=2, streams=(1, 2), batches=(1, 4))
    assert [(entry["streams"], entry["batch"]) for entry in result.streams] == [(1, 1), (2, 1), (1, 4), (2, 4)]
    (alone,) = bench([digits.int8], seconds=0.0, threads=1, batches=(3,)).streams
    assert (alone["streams"], alone["batch"]) == (1, 3)


def test_a_model_of_fixed_batch_counts_that_batch_and_refuses_others(tmp_path):
    fixed = tmp_path / "fixed.onnx"
    onnx.save(model("y = Relu(x)", {}, inputs="float[4,3,8,8] x", outputs="float[4,3,8,8] y"), fixed)
    result = bench([fixed], seconds=0.0, threads=1)
    (entry,) = result.results
    assert result.batch == 4
    assert entry["samples_per_s"] == pytest.approx(4000 / entry["median_ms"])
    with pytest.raises(UsageError, match=r"--batch 8: fixed\.onnx takes 4 samples a run"):
        bench([fixed], batch=8, seconds=0.0, threads=1)
    with pytest.raises(UsageError, match=r"--batches 2: fixed\.onnx takes 4"):
        bench([fixed], batches=(2,), seconds=0.0, threads=1)


def test_the_text_says_how_much_faster_the_last_model_is(measured):
    lines = measured.to_text().splitlines()[2:5]
    assert [line.split()[0] for line in lines] == ["0.33x", "0.67x", "1.33x"]
    assert all("x  digits_cnn.onnx in quantkit  digits" in line for line in lines)


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


@pytest.fixture(scope="module")
def trace(digits):
    result = bench([digits.int8, digits.fp32], seconds=0.0, threads=1, per_layer=True)
    return json.loads(json.dumps(chrome_trace(result.layers, result.machine), allow_nan=False)), result.layers


METADATA = {"process_name": "name", "thread_name": "name"}


def test_a_trace_keeps_to_the_trace_event_format(trace):
    """Rules of "Trace Event Format" (the Chromium project): JSON object form, complete and metadata events."""
    document, _ = trace
    assert document["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(document["otherData"], dict)
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert isinstance(event["args"][METADATA[event["name"]]], str)
        else:
            assert isinstance(event["cat"], str)
            assert event["ts"] >= 0
            assert event["dur"] >= 0


def test_a_trace_holds_every_layer_one_after_the_other_in_a_named_process_a_model(trace):
    document, layers = trace
    complete = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["dur"]) for event in complete] == [(layer["name"], layer["us"]) for layer in layers]
    for before, after in pairwise(complete):
        same = before["pid"] == after["pid"]
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"] if same else 0)
    names = {e["pid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "process_name"}
    assert list(names.values()) == ["digits_cnn.int8.onnx", "digits_cnn.onnx"]
    assert {event["pid"] for event in complete} == set(names)


def test_integers_that_the_model_refuses_are_replaced():
    class OnlyAt16Khz:
        def run(self, names, feeds):
            if feeds["rate"] != 16000 or feeds["ids"].max() > 1:
                raise DataError("no such rate")

    feeds = {"rate": np.zeros((), np.int64), "ids": np.zeros((1, 4), np.int64), "x": np.ones(3, np.float32)}
    made = running_feeds(OnlyAt16Khz(), feeds)
    assert made["rate"] == 16000
    assert made["x"] is feeds["x"]
    with pytest.raises(DataError, match="no such rate"):
        running_feeds(OnlyAt16Khz(), {**feeds, "rate": np.ones((), np.float32)})
