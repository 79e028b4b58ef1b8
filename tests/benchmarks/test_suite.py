"""The benchmark suite: summaries, candidates that fail, the stand-in model. Its times are not tested."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import __main__ as main
from benchmarks import suite, zoo
from benchmarks.runtimes import CANDIDATES, QUANTKIT, REFERENCE, Candidate, Setting


def cell(model, runtime, speedup, int8=True, batch=1):
    return suite.Cell(model, batch, 1, runtime, int8, 2.0, 1.0, speedup, None)


def test_the_geometric_mean_is_that_of_the_logarithms():
    assert suite.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert suite.geometric_mean([0.5, 2.0, 1.0]) == pytest.approx(1.0)


def test_the_fastest_rival_is_chosen_model_by_model():
    cells = [cell("a", "x INT8", 2.0), cell("a", "y INT8", 1.0), cell("b", "x INT8", 4.0), cell("b", "y INT8", 8.0)]
    cells += [cell("a", "x FP32", 3.0, int8=False), cell("a", QUANTKIT.name, 1.0)]
    found = {s.against: s for s in suite.summarize(cells)}
    assert set(found) == {"x INT8", "y INT8", "x FP32", "fastest INT8 rival", "fastest FP32 rival"}
    assert found["fastest INT8 rival"].geometric_mean == pytest.approx(2.0)  # 1 in a, 4 in b
    assert (found["fastest INT8 rival"].least, found["fastest INT8 rival"].least_model) == (1.0, "a")
    assert found["fastest FP32 rival"].models == 1


def test_batches_are_summarized_apart():
    summaries = suite.summarize([cell("a", "x", 2.0), cell("a", "x", 3.0, batch=8)])
    assert [(s.batch, s.geometric_mean) for s in summaries if s.against == "x"] == [(1, 2.0), (8, pytest.approx(3.0))]


def test_results_of_the_same_setting_are_known_again_and_no_others(tmp_path):
    header = {"cpu": "a CPU", "isa": "i", "runtimes": ("x", "y"), "seconds": 8.0, "date": "yesterday"}
    cells = [cell("a", QUANTKIT.name, 1.0), cell("a", "x", 2.0)]
    path = tmp_path / "results.json"
    assert suite.known_cells(path, header) == []
    path.write_text(json.dumps(suite.to_json(header, cells)))
    assert suite.known_cells(path, {**header, "date": "today"}) == cells
    for other in ({"isa": "j"}, {"runtimes": ("x",)}, {"seconds": 2.0}):
        assert suite.known_cells(path, {**header, **other}) == []
    path.write_text(path.read_text()[:40])
    assert suite.known_cells(path, header) == []


def test_quick_measures_one_setting_for_a_short_time_unless_told_otherwise():
    full, quick, mixed = (main.parse(a) for a in ([], ["--quick"], ["--quick", "--batch", "8"]))
    assert (full.batch, full.threads, full.seconds) == main.FULL
    assert (quick.batch, quick.threads, quick.seconds) == main.QUICK
    assert (mixed.batch, mixed.threads) == ("8", "1")


@pytest.fixture
def digits(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTKIT_SHARED", str(tmp_path / "absent"))
    models, missing = zoo.available()
    assert len(missing) == len(zoo.TOPOLOGIES) + 1
    return models


def test_the_embedded_model_stands_in_where_the_shared_ones_are_absent(digits):
    assert [model.name for model in digits] == [zoo.EMBEDDED]
    assert [len(x) for x in digits[0].samples()] == [200, 500]


def test_a_measured_model_has_speed_and_fidelity_of_every_runtime(digits, prepared):
    candidates = [QUANTKIT, REFERENCE, CANDIDATES["onnxruntime-int8"]]
    cells = suite.measure(digits[0], candidates, Setting(batch=8, threads=1), prepared, 0.0, pytest.fail)
    assert [c.runtime for c in cells] == [c.name for c in candidates]
    assert all(c.median_ms >= c.min_ms > 0 for c in cells)
    assert cells[0].speedup == 1.0
    assert cells[1].sqnr_db is None
    assert cells[0].sqnr_db > 20
    assert cells[2].sqnr_db > 10
    header = {"versions": {}, "cpu": "a CPU", "cores": 1, "isa": "i", "rivals_isa": "r", "date": "d"}
    assert "onnxruntime INT8" in suite.to_text(header, cells)
    assert len(json.loads(json.dumps(suite.to_json(header, cells)))["results"]) == 3


def test_a_runtime_that_cannot_run_a_model_is_left_out_and_named(digits, prepared):
    def refuse(*arguments):
        raise RuntimeError("no kernel")

    broken = Candidate("broken", True, (), ".broken", lambda model, fp32, target: target.write_bytes(b""), refuse)
    said: list[str] = []
    cells = suite.measure(digits[0], [QUANTKIT, broken], Setting(1, 1), prepared, 0.0, said.append)
    assert [c.runtime for c in cells] == [QUANTKIT.name]
    assert said == ["broken cannot run digits_cnn: no kernel"]
    assert suite.measure(digits[0], [broken, QUANTKIT], Setting(1, 1), prepared, 0.0, said.append) == []


def test_a_candidate_names_what_is_not_installed():
    assert Candidate("c", True, ("numpy", "no_such_module"), "", None, None).missing == "no_such_module"
    assert QUANTKIT.missing is None


def test_samples_of_a_topology_are_the_same_every_time(shared):
    shared("models/topologies/resnet18.onnx")
    model = next(m for m in zoo.available()[0] if m.name == "resnet18")
    calibration, judged = model.samples()
    assert calibration.shape == judged.shape == (16, 3, 224, 224)
    assert not np.array_equal(calibration, judged)
    np.testing.assert_array_equal(calibration[0, 0, 0, :2], np.random.default_rng(0).standard_normal(2, np.float32))
