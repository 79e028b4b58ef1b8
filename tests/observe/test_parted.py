"""Tensors that are too large to be held together are observed part by part, with the same statistics."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quantkit.errors import CalibrationError, NotFiniteError
from quantkit.load import load
from quantkit.observe import Batch, observe, parted
from quantkit.observe.parted import PartedRunner, estimated_bytes, exposing
from quantkit.observe.runner import FloatRunner
from tests.graphs import CONV, image, model

BODY = f"""c0 = Conv<{CONV}>(x, w, b) r0 = Relu(c0) c1 = Conv<{CONV}>(r0, v, b) r1 = Relu(c1) s = Add(r0, r1)
c2 = Conv<{CONV}>(s, v, b) y = Add(c2, x2)"""
SHAPES = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "b": (8,)}
NAMES = ["c0", "r0", "c1", "r1", "s", "y"]
ONE = 4 * 8 * 16 * 16
"""Bytes of each of them for one sample."""


@pytest.fixture
def net() -> ir.Model:
    return load(model(BODY, SHAPES, inputs="float[N,3,16,16] x, float[N,8,16,16] x2", outputs="float[N,8,16,16] y"))


def feeds(count: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": image(count, 3, 16, 16, seed=seed), "x2": image(count, 8, 16, 16, seed=seed + 100)}


def batches() -> list[Batch]:
    return [Batch(feeds(2, seed), None, [f"a{seed}", f"b{seed}"], 2) for seed in range(3)]


def test_sizes_follow_from_stated_shapes_and_the_feeds(net):
    assert estimated_bytes(net.graph, NAMES, feeds(3)) == dict.fromkeys(NAMES, 3 * ONE)
    unknown = next(v for node in net.graph for v in node.outputs if v.name == "c1")
    unknown.shape = None
    assert estimated_bytes(net.graph, NAMES, feeds(3))["c1"] == 3 * ONE


def test_what_fits_runs_in_one_piece(net):
    assert isinstance(exposing(net, NAMES, feeds()), FloatRunner)


def test_a_part_holds_no_more_bytes_than_a_pass_may(net, monkeypatch):
    monkeypatch.setattr(parted, "PASS_BYTES", 2 * ONE)
    runner = exposing(net, NAMES, feeds(), 1)
    assert isinstance(runner, PartedRunner)
    sizes = [sum(a.nbytes for a in made.values()) for made in runner.passes(feeds(), NAMES)]
    assert max(sizes) <= 2 * ONE
    assert sum(sizes) == len(NAMES) * ONE
    whole = FloatRunner(net, 1, expose=NAMES).run(feeds(), NAMES)
    for ours, theirs in zip(runner.run(feeds(), NAMES), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_part_is_emptied_before_the_next_one_runs(net, monkeypatch):
    monkeypatch.setattr(parted, "PASS_BYTES", ONE)
    given, seen = feeds(), []
    for made in exposing(net, NAMES, given, 1).passes(given, NAMES):
        assert all(not earlier for earlier in seen)
        seen.append(made)
    assert len(seen) > len(NAMES)  # the first holds what is fed


def test_statistics_of_parts_are_those_of_the_whole(net, monkeypatch):
    wanted, axes = ["x", "x2", *NAMES], {"r0": 1, "s": 1}
    whole = observe(net, wanted, batches(), channels=axes, threads=1)
    monkeypatch.setattr(parted, "PASS_BYTES", 2 * ONE)
    in_parts = observe(net, wanted, batches(), channels=axes, threads=1)
    for name in wanted:
        assert in_parts[name].to_json() == whole[name].to_json()


@pytest.mark.parametrize("where", ["x", "x2"])
def test_nan_is_named_as_in_one_piece(net, monkeypatch, where):
    data = batches()
    data[1].feeds[where][1, 0, 3, 3] = np.nan
    with pytest.raises((CalibrationError, NotFiniteError)) as whole:
        observe(net, ["x", *NAMES], data, threads=1)
    monkeypatch.setattr(parted, "PASS_BYTES", ONE)
    with pytest.raises(type(whole.value)) as in_parts:
        observe(net, ["x", *NAMES], data, threads=1)
    assert str(in_parts.value) == str(whole.value)
    assert "b1" in str(whole.value)
