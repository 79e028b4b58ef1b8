"""One report has one speed, and a notebook shows what a terminal does."""

from __future__ import annotations

import pytest

from quantkit import pipeline
from quantkit.report.bench import bench
from quantkit.report.inspect import inspect_model


@pytest.mark.parametrize("batch_size", [1, 4])
def test_throughput_of_one_sample_is_the_measurement_that_gives_latency(digits, batch_size):
    found = pipeline.compare(
        digits.fp32, digits.int8, digits.test, samples=8, batch_size=batch_size, seconds=0.05, layers=False
    )
    fp32, int8 = found.latency["runs"]
    assert found.latency["batch"] == 1
    assert found.throughput["batch"] == batch_size
    same = (found.throughput["fp32_onnxruntime"], found.throughput["int8_quantkit"], found.throughput["speedup"]) == (
        fp32["samples_per_s"],
        int8["samples_per_s"],
        int8["speedup"],
    )
    assert same == (batch_size == 1)


def test_a_report_without_names_takes_those_of_the_files(digits):
    found = pipeline.compare(digits.fp32, digits.int8, digits.test, samples=4, seconds=0, layers=False)
    assert found.to_markdown().startswith("# digits_cnn.int8.onnx against digits_cnn.onnx")
    in_memory = pipeline.compare(
        digits.fp32, pipeline.convert(digits.fp32), digits.test, samples=4, seconds=0, layers=False,
        preprocess=digits.recipe,
    )  # fmt: skip
    assert in_memory.names() == ("digits_cnn.onnx", "INT8")


def test_a_notebook_shows_inspection_and_bench_as_the_terminal_does(digits):
    for result in (inspect_model(digits.int8), bench([digits.int8], seconds=0.0, threads=1)):
        shown = result._repr_html_()
        assert shown.startswith('<pre style="font-family:monospace')
        assert "input/QuantizeLinear" in shown or "median ms" in shown
