"""Damaged models end in one clear error or in a correct model: no traceback, no hang, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness.mutations import mutants, vision

ROOT = Path(__file__).resolve().parents[2]
EVERY_DAY, ALL = 22, 200


def run_worker(start: int, count: int) -> list[dict]:
    """What the worker reported; a death is the fault of the mutant it was working on."""
    command = [sys.executable, "-m", "tests.robustness.worker", str(start), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * count, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    reports = [line for line in lines if "outcome" in line]
    if len(reports) < count:
        reports.append({"name": lines[-1].get("start", "?"), "outcome": f"died with {done.returncode}", "seconds": 0})
    return reports


def failures(reports: list[dict]) -> list[str]:
    fine = ("correct", "refused: ")
    return [f"{entry['name']}: {entry['outcome']}" for entry in reports if not entry["outcome"].startswith(fine)]


def test_the_first_damaged_models_end_in_a_clear_error_or_a_correct_model():
    reports = run_worker(0, EVERY_DAY)
    assert failures(reports) == []
    assert {"correct"} < {entry["outcome"] for entry in reports}


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, ALL, 50))
def test_two_hundred_damaged_models_end_in_a_clear_error_or_a_correct_model(start):
    assert failures(run_worker(start, 50)) == []


def test_mutants_are_the_same_every_time_and_differ_from_the_model():
    first, second = dict(mutants(33)), dict(mutants(33))
    assert first == second
    assert vision().SerializeToString() not in first.values()
