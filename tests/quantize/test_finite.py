"""Samples that bring NaN and infinities about inside a model, which its outputs do not show."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from quantkit import Session, pipeline
from quantkit.errors import CalibrationError
from quantkit.execute import nearest
from quantkit.execute.nearest import Distance
from quantkit.observe import FloatRunner
from quantkit.quantize import calibration
from quantkit.quantize.calibration import METHOD_KEY
from quantkit.types import QuantConfig
from tests.fold.fold_cases import build, normal

FAST = QuantConfig(effort="fast", keep_int8=True)
DIVIDED = "s = MatMul(x, w)\n d = Div(s, gate)\n r = Relu(d)\n m = MatMul(r, v)\n"
GUARDED = DIVIDED + "e = Equal(gate, zero)\n g = Where(e, s, m)\n y = MatMul(g, u)"
INPUTS = "(float[N,4,16] x, float[N,1,1] gate) => (float[N,4,16] y)"


def network(text: str) -> onnx.ModelProto:
    weights = {"w": normal(16, 16), "v": normal(16, 16), "u": normal(16, 16), "zero": np.float32(0)}
    return build(INPUTS, text, **{name: value for name, value in weights.items() if f", {name})" in text})


def samples(closed: int) -> list[dict[str, np.ndarray]]:
    """20 samples; the gate is 0 in number `closed` alone."""
    rng = np.random.default_rng(0)
    return [
        {"x": rng.normal(size=(1, 4, 16)).astype(np.float32), "gate": np.full((1, 1, 1), i != closed, np.float32)}
        for i in range(20)
    ]


@pytest.mark.parametrize("closed", [2, 15], ids=["in the trial", "after it"])
def test_nodes_that_meet_infinite_values_stay_fp32_and_the_rest_is_quantized(closed):
    model, data = network(GUARDED), samples(closed)
    result = pipeline.quantize(model, data, config=FAST, threads=1)
    assert result.kind == "calibrated"
    kept = {d.node: d.detail for d in result.decisions if "NaN or infinite" in d.detail}
    assert list(kept) == ["MatMul_3"]
    session = Session(result.model, threads=1)
    for feeds in (data[0], data[closed]):
        (wanted,), (found,) = FloatRunner(model, 1).run(feeds), session.run(None, feeds)
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("closed", [2, 15], ids=["in the trial", "after it"])
def test_a_sample_whose_outputs_are_nan_is_named(closed):
    model = network(DIVIDED + "y = MatMul(m, u)")
    with pytest.raises(CalibrationError, match=rf"NaN or infinite for sample data\[{closed}\]"):
        pipeline.quantize(model, samples(closed), config=FAST, threads=1)


def test_other_ranges_come_from_the_same_statistics_and_keep_the_same_nodes_in_fp32(monkeypatch):
    runs, observe = [], calibration.observe
    monkeypatch.setattr(calibration, "observe", lambda *args, **given: runs.append(args) or observe(*args, **given))
    far = {"entropy": 19.0}
    by_method = lambda model, *others: Distance(far.get(model.metadata_props[METHOD_KEY], 12.0), [12.0])  # noqa: E731
    monkeypatch.setattr(nearest, "distance", by_method)
    result = pipeline.quantize(network(GUARDED), samples(15), config=FAST, threads=1)
    assert len(runs) == 2  # once until sample 15, once without the node that it spoils
    assert result.model.metadata_props[METHOD_KEY] == "entropy"
    assert [d.node for d in result.decisions if "NaN or infinite" in d.detail] == ["MatMul_3"]


def test_data_that_can_be_read_once_cannot_be_read_anew():
    with pytest.raises(CalibrationError, match=r"NaN or infinite for sample"):
        pipeline.quantize(network(GUARDED), iter(samples(15)), config=FAST, threads=1)
