"""Damaged models end in one clear error or in a correct model: no traceback, no hang, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from quantkit.errors import ModelError
from quantkit.load import load
from tests.robustness.mutations import mutants, vision
from tests.robustness.sources import BESIDE, SOURCES, beside, source
from tests.robustness.worker import outcome

ROOT = Path(__file__).resolve().parents[2]
EVERY_DAY, ALL = 22, 200


def run_worker(start: int, count: int, kind: str = "plain") -> list[dict]:
    """What the worker reported; a death is the fault of the mutant it was working on."""
    command = [sys.executable, "-m", "tests.robustness.worker", str(start), str(count), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * count, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    reports = [line for line in lines if "outcome" in line]
    if len(reports) < count:
        reports.append({"name": lines[-1].get("start", "?"), "outcome": f"died with {done.returncode}", "seconds": 0})
    return reports


def failures(reports: list[dict]) -> list[str]:
    """What is neither correct nor refused, and refusals that nobody foresaw."""
    fine = ("correct", "refused: ")
    return [f"{entry['name']}: {entry['outcome']}" for entry in reports
            if not entry["outcome"].startswith(fine) or "QUANTKIT_DEBUG" in entry["outcome"]]  # fmt: skip


def test_the_first_damaged_models_end_in_a_clear_error_or_a_correct_model():
    reports = run_worker(0, EVERY_DAY)
    assert failures(reports) == []
    assert {"correct"} < {entry["outcome"] for entry in reports}


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, ALL, 50))
def test_two_hundred_damaged_models_end_in_a_clear_error_or_a_correct_model(start):
    assert failures(run_worker(start, 50)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_damaged_models_of_every_kind_end_in_a_clear_error_or_a_correct_model(kind):
    assert failures(run_worker(1000, 70, kind)) == []


@pytest.mark.parametrize("kind", SOURCES)
def test_models_of_every_kind_are_correct_before_they_are_damaged(kind, tmp_path):
    content, feeds = source(kind)
    tmp_path.joinpath("model.onnx").write_bytes(content)
    tmp_path.joinpath(BESIDE).write_bytes(beside())
    assert outcome(tmp_path / "model.onnx", feeds) == "correct"


def test_an_absurd_stride_of_a_quantized_layer_is_refused(tmp_path):
    content, feeds = source("quantized")
    proto = onnx.ModelProto.FromString(content)
    strides = next(a for node in proto.graph.node if node.op_type == "MaxPool" for a in node.attribute
                   if a.name == "strides")  # fmt: skip
    strides.ints[0] = 1 << 31
    onnx.save(proto, tmp_path / "model.onnx")
    assert not failures([{"name": "", "outcome": outcome(tmp_path / "model.onnx", feeds)}])


@pytest.mark.parametrize(("kind", "damaged"), [("quantized", "a1_zero_point"), ("plain", "w0")])
def test_a_tensor_of_too_few_numbers_is_refused_by_name(kind, damaged, tmp_path):
    content, feeds = source(kind)
    proto = onnx.ModelProto.FromString(content)
    next(tensor for tensor in proto.graph.initializer if tensor.name == damaged).dims[:] = [7]
    onnx.save(proto, tmp_path / "model.onnx")
    assert outcome(tmp_path / "model.onnx", feeds).startswith("refused: ")
    with pytest.raises(ModelError, match=rf"'{damaged}' holds .* where its shape \[7\] needs"):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize(("rounds", "fine"), [(3, True), (1 << 31, False)])
def test_a_loop_that_would_run_for_hours_is_refused(rounds, fine):
    proto = onnx.ModelProto.FromString(source("loop")[0])
    next(a for node in proto.graph.node for a in node.attribute if a.name == "value_int").i = rounds
    if fine:
        load(proto)
    else:
        with pytest.raises(ModelError, match="loops 2147483648 times and nothing ends it"):
            load(proto)


def test_mutants_are_the_same_every_time_and_differ_from_the_model():
    first, second = dict(mutants(33)), dict(mutants(33))
    assert first == second
    assert vision().SerializeToString() not in first.values()
