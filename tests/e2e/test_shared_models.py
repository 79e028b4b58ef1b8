"""The whole road on real models and real images. Skipped where the shared folder is absent."""

from __future__ import annotations

import importlib.util
import re
import sys

import numpy as np
import pytest

from quantkit import Session, pipeline
from quantkit.execute.binding import available_isas
from quantkit.execute.oracle import run_oracle
from quantkit.types import METHODS, QuantConfig

MOST_OF_LIVE = 1.3
"""The memory of a run, in times the largest set of tensors that live at once."""
FAST = QuantConfig(method="minmax", effort="fast")
ISAS = [isa for isa, there in available_isas().items() if there and isa != "scalar"]


@pytest.fixture(scope="module")
def lite0(request):
    """(FP32 path, calibrated model) of EfficientNet-Lite0."""
    shared = request.getfixturevalue("shared_root")
    fp32 = shared("models/efficientnet_lite0.onnx")
    data = shared("data/imagenet/calib")
    config = QuantConfig(method="mse", effort="fast")
    return fp32, pipeline.quantize(fp32, data, preprocess="efficientnet-lite", config=config)


def test_lite0_keeps_its_accuracy(lite0, shared):
    """Exact arithmetic with plain min-max ranges gives 88.6 % / 97.8 % / 19.4 dB; onnxruntime 83.4 / 88.2 / 7.8."""
    fp32, result = lite0
    found = pipeline.compare(fp32, result.model, shared("data/imagenet/val"), layers=False, seconds=0,
                             labels=shared("data/imagenet/labels.csv"))  # fmt: skip
    assert found.fp32["top1"] == pytest.approx(0.896, abs=0.0021)
    assert found.int8["top1"] >= 0.884
    assert found.agreement >= 0.975
    assert found.sqnr_db >= 19.0
    assert found.coverage["native_macs"] >= 0.99


def test_entropy_is_at_most_a_decibel_and_a_half_below_minmax_on_lite0(shared):
    """entropy with the clipped values hidden from P, as TensorRT has it, was 6 dB below."""
    fp32, data = shared("models/efficientnet_lite0.onnx"), shared("data/imagenet/calib")
    config = QuantConfig(effort="fast")
    result = pipeline.quantize(fp32, data, preprocess="efficientnet-lite", config=config, samples=32)
    found = next(d.detail for d in result.decisions if d.detail.startswith("ranges by") and ": " in d.detail)
    scores = {name: float(db) for name, db in re.findall(r"([a-z-]+) ([0-9.]+) dB", found)}
    assert set(scores) == set(METHODS)
    assert scores["entropy"] > scores["minmax"] - 1.5


@pytest.mark.slow
def test_lite0_with_the_default_effort_gives_the_answers_of_fp32(shared):
    """The goals of `balanced`: 89.0 % of 89.6, agreement 98.4 %, 20.5 dB. About a minute on an idle machine."""
    fp32 = shared("models/efficientnet_lite0.onnx")
    result = pipeline.quantize(fp32, shared("data/imagenet/calib"), preprocess="efficientnet-lite")
    found = pipeline.compare(fp32, result.model, shared("data/imagenet/val"), layers=False, seconds=0,
                             labels=shared("data/imagenet/labels.csv"))  # fmt: skip
    assert found.int8["top1"] >= 0.890
    assert found.agreement >= 0.984
    assert found.sqnr_db >= 20.5


def test_lite0_is_the_same_on_every_isa_and_for_any_threads_and_batch(lite0):
    x = np.random.default_rng(3).normal(size=(8, 3, 224, 224)).astype(np.float32)
    expected = Session(lite0[1].model, threads=1, isa="scalar").run(None, {"input": x[:2]})[0]
    whole = Session(lite0[1].model, threads=2).run(None, {"input": x})[0]
    np.testing.assert_array_equal(whole[:2], expected)
    for isa in ISAS:
        for threads in (1, 3):
            got = Session(lite0[1].model, threads=threads, isa=isa).run(None, {"input": x[:2]})[0]
            np.testing.assert_array_equal(got, expected)
    session = Session(lite0[1].model, threads=1)
    singles = [session.run(None, {"input": x[i : i + 1]})[0] for i in range(8)]
    np.testing.assert_array_equal(np.concatenate(singles), whole)


@pytest.mark.parametrize("name", ["resnet20", pytest.param("resnet44", marks=pytest.mark.slow)])
def test_cifar_resnets_lose_at_most_three_tenths(shared, name):
    fp32 = shared(f"models/{name}.onnx")
    config = QuantConfig(method="mse", effort="fast")
    result = pipeline.quantize(fp32, shared("data/cifar10/calib.npz"), preprocess="cifar", config=config)
    found = pipeline.compare(fp32, result.model, shared("data/cifar10/test.npz"), layers=False, seconds=0)
    assert found.samples == 5000
    assert found.fp32["top1"] - found.int8["top1"] <= 0.003
    assert found.coverage["native_macs"] >= 0.99


@pytest.fixture(scope="module")
def materialize(request):
    """materialize(name) -> ModelProto of a torchvision topology with seeded weights."""
    path = request.getfixturevalue("shared_root")("models/topologies/materialize.py")
    spec = importlib.util.spec_from_file_location("materialize", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["materialize"] = module
    spec.loader.exec_module(module)
    return module.materialize


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "googlenet", "shufflenet_v2_x1_0", "densenet121"])
def test_a_topology_is_native_and_equals_the_oracle(materialize, name):
    rng = np.random.default_rng(0)
    proto = materialize(name)
    result = pipeline.quantize(proto, rng.normal(size=(2, 3, 224, 224)).astype(np.float32), config=FAST)
    session = Session(result.model)
    total = sum(row.macs for row in session.plan)
    native = sum(row.macs for row in session.plan if row.runs_on == "native")
    assert native / total >= 0.98
    x = rng.normal(size=(1, 3, 224, 224)).astype(np.float32)
    np.testing.assert_array_equal(session.run(None, {"input": x})[0], run_oracle(result.model, {"input": x})["logits"])
    for plan in (compiled.plan for runner in session._runners for compiled in runner._plans.values()):
        assert plan.arena_bytes <= MOST_OF_LIVE * plan.live_bytes
