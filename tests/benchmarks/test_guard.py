"""The guard against lost speed: what it reports, what it forgives, what it writes."""

from __future__ import annotations

import json

import pytest

from benchmarks import guard, zoo
from benchmarks.guard import Speed

WAS = Speed(2.0, {"a": 0.30, "b": 0.20, "tiny": 0.001})


def test_a_slower_model_and_its_slower_layer_are_named():
    found = guard.slower_parts("net", WAS, Speed(1.6, {"a": 0.42, "b": 0.20, "tiny": 0.001}))
    assert found == ["net: 2.00 -> 1.60 times onnxruntime, 25 % slower", "net, a: 40 % slower"]


@pytest.mark.parametrize(
    "now",
    [
        Speed(1.9, {"a": 0.32, "b": 0.21, "tiny": 0.001}),  # less than 10 %
        Speed(3.0, {"a": 0.10, "b": 0.10, "tiny": 0.001}),  # faster
        Speed(2.0, {"a": 0.30, "b": 0.20, "tiny": 0.010}),  # too small to judge
        Speed(2.0, {"a": 0.30, "new": 0.20}),  # fused otherwise: the model's ratio judges that
    ],
)
def test_what_is_no_loss_is_not_reported(now):
    assert guard.slower_parts("net", WAS, now) == []


def test_what_looks_slower_is_measured_again_and_its_best_counts():
    series = iter([Speed(1.0, {"a": 0.30}), Speed(1.95, {"a": 0.60})])
    assert guard.check(["net"], {"net": WAS}, lambda name: next(series)) == []
    assert list(series) == []


def test_what_stays_slower_is_reported_after_all_repeats():
    count = []

    def measured(name):
        count.append(name)
        return Speed(1.0, {})

    assert guard.check(["net"], {"net": WAS}, measured) == ["net: 2.00 -> 1.00 times onnxruntime, 100 % slower"]
    assert len(count) == 1 + guard.REPEATS


def test_a_measurement_has_the_layers_of_the_model_and_adds_up(prepared):
    speed = guard.measure(zoo.embedded(), "scalar", prepared, seconds=0.0)
    assert speed.ratio > 0
    assert "/classifier/Gemm" in speed.layers
    assert sum(speed.layers.values()) == pytest.approx(1 / speed.ratio)


def test_the_baseline_keeps_other_machines_and_drops_those_of_another_onnxruntime(tmp_path):
    path = tmp_path / "baseline.json"
    guard.write(path, "scalar", {"net": WAS})
    content = json.loads(path.read_text())
    content["machines"]["another CPU, avx2"] = {}
    path.write_text(json.dumps(content))
    guard.write(path, "avx2", {"net": WAS})
    assert set(guard.read(path)["machines"]) == {guard.key("scalar"), guard.key("avx2"), "another CPU, avx2"}
    path.write_text(json.dumps({**content, "onnxruntime": "0.1"}))
    guard.write(path, "avx2", {"net": WAS})
    assert list(guard.read(path)["machines"]) == [guard.key("avx2")]
