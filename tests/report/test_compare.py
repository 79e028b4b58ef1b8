"""The comparison against numbers worked out from plain onnxruntime runs."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import onnxruntime
import pytest

from quantkit import pipeline
from quantkit.errors import DataError, ModelError
from quantkit.execute import Session
from quantkit.observe import load_preprocess
from quantkit.report.compare import compare
from quantkit.report.layers import layer_errors
from tests.digits import Digits
from tests.graphs import model

SAMPLES = 60


@pytest.fixture(scope="module")
def feeds(digits: Digits) -> np.ndarray:
    """The first test images as model input, float32 [60, 1, 32, 32]."""
    recipe = load_preprocess(digits.recipe)
    return np.stack([recipe.apply(image) for image in np.load(digits.test)["images"][:SAMPLES]])


@pytest.fixture(scope="module")
def labels(digits: Digits) -> np.ndarray:
    return np.load(digits.test)["labels"][:SAMPLES]


@pytest.fixture(scope="module")
def comparison(digits: Digits, feeds: np.ndarray):
    return pipeline.compare(digits.fp32, digits.int8, feeds, seconds=0.05, threads=1, batch_size=16)


def sqnr(reference: np.ndarray, value: np.ndarray) -> float:
    reference = reference.astype(np.float64)
    return 10 * math.log10(np.sum(reference**2) / np.sum((reference - value) ** 2))


def test_fidelity_is_that_of_the_two_models_run_by_hand(digits, feeds, comparison):
    fp32 = onnxruntime.InferenceSession(digits.fp32).run(None, {"input": feeds})[0]
    int8 = Session(digits.int8).run(None, {"input": feeds})[0]
    assert comparison.samples == SAMPLES
    assert comparison.sqnr_db == pytest.approx(sqnr(fp32, int8), abs=0.01)
    assert comparison.agreement == np.mean(fp32.argmax(1) == int8.argmax(1))
    assert comparison.fp32["top1"] is None


def test_accuracy_is_that_of_the_two_models_run_by_hand(digits, feeds, labels):
    result = pipeline.compare(
        digits.fp32, digits.int8, list(zip(feeds[:, None], labels[:, None], strict=True)), layers=False, seconds=0
    )
    int8 = Session(digits.int8).run(None, {"input": feeds})[0]
    assert result.int8["top1"] == np.mean(int8.argmax(1) == labels)
    assert result.flips is not None
    assert result.throughput is None


def test_a_model_compared_with_itself_is_the_same_in_every_respect(digits, feeds):
    result = compare(digits.fp32, digits.fp32, feeds[:8], layers=True, seconds=0)
    assert (result.agreement, result.sqnr_db) == (1.0, 200.0)
    assert result.layers == []
    assert result.fp32 == result.int8


def test_models_in_memory_compare_like_files(digits, feeds, comparison):
    models = [onnx.load(path) for path in (digits.fp32, digits.int8)]
    result = pipeline.compare(*models, feeds, seconds=0, layers=False)
    assert result.sqnr_db == comparison.sqnr_db
    assert result.int8["bytes"] == pytest.approx(digits.int8.stat().st_size, rel=0.001)


def test_what_a_stage_returns_is_compared_without_saving_it(digits, feeds):
    result = pipeline.quantize(digits.fp32, feeds[:8])
    assert pipeline.compare(digits.fp32, result, feeds[:8], seconds=0).samples == 8


def test_every_quantized_layer_has_its_error_and_the_last_one_is_the_output_error(digits, comparison):
    nodes = [node.name for node in onnx.load(digits.int8).graph.node if node.domain == "quantkit"]
    assert [layer.name for layer in comparison.layers] == nodes
    assert comparison.layers[-1].tensor == "logits"
    assert all(20 < layer.sqnr_db < 60 for layer in comparison.layers)


def test_the_error_of_a_layer_is_that_of_its_dequantized_tensor(digits, feeds):
    reference = pipeline.fused_float(digits.fp32)
    layer = layer_errors(reference, digits.int8, [{"input": feeds[:9]}, {"input": feeds[9:20]}])[3]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(reference)
    exposed.graph.output.append(onnx.ValueInfoProto(name=layer.tensor))
    fp32 = onnxruntime.InferenceSession(exposed.SerializeToString()).run([layer.tensor], {"input": feeds[:20]})[0]
    name = f"{layer.tensor}_quantized"
    int8 = Session(digits.int8).run_intermediate([name], {"input": feeds[:20]})[name]
    assert layer.sqnr_db == pytest.approx(sqnr(fp32, int8), abs=0.01)


def test_no_sample_is_a_data_error(digits):
    with pytest.raises(DataError):
        pipeline.compare(digits.fp32, digits.int8, iter([]))


def test_the_text_names_the_machine_wherever_it_gives_a_speed(comparison):
    shown = comparison.to_text()
    assert comparison.machine["cpu"] in shown
    assert comparison.machine["isa"] in shown
    assert "1 thread, batch 16" in shown


def test_the_text_shows_the_worst_layers_first_unless_all_are_asked_for(comparison):
    worst = min(comparison.layers, key=lambda layer: layer.introduced_db)
    assert comparison.layer_rows(every_layer=False)[0][0] == worst.name
    assert len(comparison.layer_rows(every_layer=True)) == len(comparison.layers)


def test_the_first_layer_introduces_all_of_its_error_and_later_ones_less_than_they_carry(comparison):
    first, *others = comparison.layers
    assert first.introduced_db == pytest.approx(first.sqnr_db, abs=1e-6)
    assert all(layer.introduced_db > layer.sqnr_db for layer in others)


def test_the_error_that_a_layer_introduces_is_that_of_the_layer_run_alone_on_exact_inputs(digits, feeds):
    reference = pipeline.fused_float(digits.fp32)
    layer = layer_errors(reference, digits.int8, [{"input": feeds[:8]}])[1]
    fp32 = exact_tensors(reference, ["/stem/Relu_output_0", layer.tensor], feeds[:8])
    model = onnx.load(digits.int8)
    node = next(node for node in model.graph.node if node.name == layer.name)
    make = onnx.helper.make_node
    ends = (make("QuantizeLinear", ["x", *node.input[1:3]], node.input[:1]),
            make("DequantizeLinear", [node.output[0], *node.input[-2:]], ["y"]))  # fmt: skip
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for part in ("node", "input", "output", "value_info"):
        alone.graph.ClearField(part)
    alone.graph.node.extend([ends[0], node, ends[1]])
    alone.graph.input.append(onnx.helper.make_tensor_value_info("x", 1, fp32[0].shape))
    alone.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, fp32[1].shape))
    int8 = Session(alone).run(None, {"x": fp32[0]})[0]
    assert layer.introduced_db == pytest.approx(sqnr(fp32[1], int8), abs=0.01)


def exact_tensors(reference: onnx.ModelProto, names: list[str], array: np.ndarray) -> list[np.ndarray]:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(reference)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return onnxruntime.InferenceSession(exposed.SerializeToString()).run(names, {"input": array})


def test_range_clipping_and_histogram_describe_the_fp32_values(digits, feeds):
    reference = pipeline.fused_float(digits.fp32)
    layer = layer_errors(reference, digits.int8, [{"input": feeds[:5]}])[0]
    values = exact_tensors(reference, [layer.tensor], feeds[:5])[0]
    step = (layer.high - layer.low) / 255
    assert layer.clipped == np.mean((values > layer.high + step / 2) | (values < layer.low - step / 2))
    assert sum(layer.histogram["counts"]) == values.size
    assert layer.histogram["low"] <= values.min()
    assert layer.histogram["high"] >= values.max()


def test_latency_is_of_single_samples_with_both_models_in_the_same_rounds(comparison):
    runs = comparison.latency["runs"]
    assert comparison.latency["batch"] == 1
    assert [run["name"] for run in runs] == ["FP32 onnxruntime", "INT8 quantkit"]
    assert all(0 < run["min_ms"] <= run["p50_ms"] <= run["p95_ms"] <= run["p99_ms"] <= run["max_ms"] for run in runs)
    assert runs[0]["speedup"] == 1.0


def test_the_json_is_plain_and_holds_no_folder(digits, comparison):
    shown = json.dumps(comparison.to_json(), allow_nan=False)
    assert str(digits.fp32.parent) not in shown
    entry = json.loads(shown)["layers"][0]
    assert {"introduced_db", "low", "high", "clipped", "us", "kernel", "isa"} <= set(entry)


def test_models_in_the_wrong_order_are_refused_before_any_work(digits):
    with pytest.raises(ModelError, match="calibrated by quantkit; give the FP32 model first"):
        compare(digits.int8, digits.fp32, digits.test)


def test_models_with_other_inputs_are_refused_with_both_shapes(digits):
    other = model("output = Relu(input)", {}, inputs="float[1,3,8,8] input", outputs="float[1,3,8,8] output")
    with pytest.raises(ModelError, match=r"FP32 takes input 1x3x8x8; INT8 takes input \S+x1x32x32"):
        compare(other, digits.int8, digits.test)


def test_the_layers_of_a_model_with_external_weights_are_compared_from_any_folder(digits, feeds, tmp_path, monkeypatch):
    proto = onnx.load(digits.fp32)
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    monkeypatch.chdir(tmp_path.parent)
    result = pipeline.compare(tmp_path / "net.onnx", digits.int8, feeds[:8], seconds=0, threads=1)
    assert result.layers
