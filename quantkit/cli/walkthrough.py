"""`quantkit demo`: the whole road on the embedded model and data, told step by step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.cli.console import Console
from quantkit.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from quantkit.report.compare import Comparison

MODEL, RECIPE = "digits_cnn.onnx", "digits.toml"
CALIBRATION, TEST = "digits_calib.npz", "digits_test.npz"
SELF_TEST_SAMPLES = 3


def walk(directory: Path, force: bool, threads: int | None, isa: str | None, console: Console) -> None:
    """Copy the embedded model to `directory`, convert, calibrate and compare it there, and explain the result."""
    from quantkit import pipeline
    from quantkit.report.assets import asset
    from quantkit.report.files import check_output, write_json, write_text
    from quantkit.report.html import comparison_page

    started = time.monotonic()
    converted, int8, report, json_path = (
        directory / name
        for name in ("digits_cnn.converted.onnx", "digits_cnn.int8.onnx", "comparison.html", "comparison.json")
    )
    _make(directory)
    for path in (converted, int8, report, json_path):
        check_output(path, force=force)
    fp32, recipe = (Path(shutil.copyfile(asset(name), directory / name)) for name in (MODEL, RECIPE))
    say = _narrator(console)

    say("1. convert", f"fold {fp32.name} and rewrite it into quantized ops")
    pipeline.convert(fp32, progress=console.progress).save(converted, force=True)
    say("2. calibrate", "find the range of every activation on sample images of handwritten digits")
    calibrated = pipeline.calibrate(
        converted,
        asset(CALIBRATION),
        preprocess=recipe,
        threads=threads,
        progress=console.progress,
        warn=console.warn,
    )
    calibrated.save(int8, force=True)
    say("3. compare", "run both models on test images that neither has seen\n")
    comparison = pipeline.compare(
        fp32, int8, asset(TEST), threads=threads, isa=isa, progress=console.progress, warn=console.warn
    )
    write_json(json_path, comparison.to_json())
    write_text(report, comparison_page(comparison, fp32.name, int8.name))
    console.result(comparison.to_text())
    console.result(f"\n{verdict(comparison)}\nWritten to {directory}/ in {time.monotonic() - started:.1f} s.")
    console.result(f"Open {report} in a browser: charts, samples, every layer.")
    console.result(f"Next: quantkit inspect {int8}, or quantkit quantize YOUR_MODEL.onnx --data YOUR_IMAGES/")


def self_test_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The embedded model, quantized in memory, and the first SELF_TEST_SAMPLES test images: what `doctor` checks."""
    from quantkit import pipeline
    from quantkit.load import input_specs, load
    from quantkit.observe import load_preprocess, open_data
    from quantkit.report.assets import asset
    from quantkit.types import QuantConfig

    recipe = load_preprocess(asset(RECIPE))
    quantized = pipeline.quantize(
        asset(MODEL),
        asset(CALIBRATION),
        config=QuantConfig(method="minmax", effort="fast"),
        preprocess=recipe,
        samples=32,
    )
    specs = input_specs(load(asset(MODEL)))
    batch = next(iter(open_data(asset(TEST), specs, preprocess=recipe, batch_size=SELF_TEST_SAMPLES)))
    return quantized.proto, batch.feeds


def peak_model(channels: int = 512, side: int = 28) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A 1x1 conv that keeps every kernel as busy as it gets, quantized in memory, and its input."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from quantkit import pipeline
    from quantkit.types import QuantConfig

    generator = np.random.default_rng(0)
    weights = generator.standard_normal((channels, channels, 1, 1)).astype(np.float32)
    shape = [1, channels, side, side]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": generator.standard_normal(shape).astype(np.float32)}
    config = QuantConfig(method="minmax", effort="fast")
    return pipeline.quantize(model, [feeds], config=config).proto, feeds


def verdict(comparison: Comparison) -> str:
    """The result in one sentence for someone who has not seen such a table before."""
    from quantkit.report.text import times

    smaller = times(comparison.fp32["bytes"] / comparison.int8["bytes"])
    parts = [f"The INT8 model is {smaller} smaller"]
    if comparison.throughput:
        parts.append(f"runs {times(comparison.throughput['speedup'])} as fast as FP32 in onnxruntime")
    fp32, int8 = comparison.fp32["top1"], comparison.int8["top1"]
    right = f"and gets {100 * int8:.1f} % of the digits right (FP32: {100 * fp32:.1f} %)."
    return ", ".join(parts) + " " + right


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{directory} cannot be made: {error.strerror}; name another folder") from error


def _narrator(console: Console) -> Callable[[str, str], None]:
    def say(step: str, what: str) -> None:
        if not console.quiet:
            console.result(f"{step:<13}{what}")

    return say
