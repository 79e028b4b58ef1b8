"""The measured tables of docs/comparison.md are those of benchmarks/results, and new results take their place."""

from __future__ import annotations

import json

import pytest

from benchmarks import publish

MACHINE = {
    "cpu": "a CPU", "cores": 2, "isa": "avx2", "rivals_isa": "all the CPU has", "versions": {"quantkit": "1"},
    "date": "2026-01-02", "commit": "abc",
}  # fmt: skip
CELL = {"model": "a", "batch": 1, "threads": 1, "int8": True, "median_ms": 2.0, "min_ms": 1.0, "sqnr_db": None}
SPEED = {
    "machine": MACHINE,
    "summary": [{"batch": 1, "threads": 1, "against": "x INT8", "models": 1, "geometric_mean": 1.23456, "least": 0.5,
                 "least_model": "a"}],
    "results": [CELL | {"runtime": publish.QUANTKIT.name, "speedup": 1.0},
                CELL | {"runtime": "x INT8", "speedup": 1.23456}],
}  # fmt: skip
ACCURACY = {
    "machine": MACHINE, "model": "m.onnx", "calibration_samples": 10, "samples": 20,
    "rows": [
        {"name": "quantkit", "top1": 0.5, "agreement": None, "sqnr_db": 20.04, "seconds": 1.2},
        {"name": "other", "failed": "ValueError"},
    ],
}  # fmt: skip
PAGE = "before\n" + "".join(
    f"<!-- measured: {kind}; `python -m benchmarks.publish` -->\nold\n<!-- end -->\n" for kind in ("speed", "accuracy")
)


def test_the_page_is_what_the_stored_results_say():
    page = publish.PAGE.read_text(encoding="utf-8")
    assert publish.written(page) == page, "docs/comparison.md is out of date; run `python -m benchmarks.publish`"
    assert len(publish.MARKED.findall(page)) == 2


def test_results_are_stored_by_kind_and_written_into_the_page(tmp_path):
    for name, value in {"one": SPEED, "two": ACCURACY}.items():
        (tmp_path / name).write_text(json.dumps(value))
        publish.store(tmp_path / name, tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"speed-avx2.json", "accuracy-m.json"}
    page = publish.written(PAGE, tmp_path)
    assert page.startswith("before\n")
    assert "old" not in page
    assert "| avx2, batch 1, 1 thread | 1.23 (0.50) |" in page
    assert "| quantkit | 50.00 |  | 20.0 | 1 |" in page
    assert "| other | failed: ValueError |  |  |  |" in page
    assert "2026-01-02, commit abc on a CPU, 2 cores, avx2; quantkit 1" in page
    assert publish.written(page, tmp_path) == page


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"machine": {}}')
    with pytest.raises(SystemExit, match="neither of"):
        publish.store(tmp_path / "x.json", tmp_path)
