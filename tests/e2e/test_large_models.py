"""Weights beyond one protobuf: streamed in, written beside the model, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantkit import Session, pipeline
from quantkit.quantize.dynamic import _quantize_rows
from quantkit.quantize.qparams import WEIGHT_MAX
from quantkit.report import models
from tests.e2e.odd_models import masked_attention

ROOT = Path(__file__).resolve().parents[2]
MEMORY_MOST = 2 << 30
"""Above the interpreter's own: the INT8 result (a quarter of 3 GB) and one layer."""


def test_large_weights_go_to_a_file_beside_the_model_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "EXTERNAL_BYTES", 1000)
    model, feeds = masked_attention()
    result = pipeline.convert(model)
    result.save(tmp_path / "out.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    skeleton = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in skeleton.graph.initializer)
    wanted = Session(result.model, threads=1).run(None, feeds)[0]
    assert np.array_equal(Session(tmp_path / "out.onnx", threads=1).run(None, feeds)[0], wanted)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_rounded_in_blocks_equal_those_rounded_at_once(axis, monkeypatch):
    from quantkit.quantize import dynamic

    weights = np.random.default_rng(2).normal(size=(37, 53)).astype(np.float32)
    whole = _quantize_rows(weights, axis)
    monkeypatch.setattr(dynamic, "BLOCK_VALUES", 100)
    parts = _quantize_rows(weights, axis)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert np.abs(whole[0].astype(int)).max(axis=1 - axis).min() == WEIGHT_MAX


@pytest.mark.slow
def test_a_model_of_three_gigabytes_converts_within_two_above_the_interpreter(tmp_path):
    command = [sys.executable, "benchmarks/large_model.py", str(tmp_path), "--gigabytes", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout)
    assert found["exit"] == 0, found["stderr"]
    assert found["fp32_bytes"] > 2.9e9
    assert found["above_interpreter_bytes"] < MEMORY_MOST
