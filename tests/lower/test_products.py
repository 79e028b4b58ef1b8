"""Products of two activations whose depth is known only when they run."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit import Session, pipeline
from quantkit.errors import EngineError
from quantkit.fuse.opnames import MAX_DEPTH
from quantkit.observe import FloatRunner
from quantkit.types import QuantConfig
from tests.fold.fold_cases import build, normal

TEXT = "a = MatMul(x, w)\n t = Transpose<perm=[0,2,1]>(a)\n g = MatMul(t, a)\n y = MatMul(g, v)"


def feeds(length: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(length).normal(size=(1, length, 4)).astype(np.float32)}


def test_a_sum_over_an_open_axis_runs_at_any_length_and_is_refused_beyond_what_int32_holds():
    model = build("(float[N,T,4] x) => (float[N,4,4] y)", TEXT, w=normal(4, 4), v=normal(4, 4))
    data = [feeds(length) for length in (48, 64)]
    made = pipeline.quantize(model, data, config=QuantConfig(effort="fast", keep_int8=True), threads=1)
    session = Session(made.model, threads=1)
    assert "QActivationMatMul" in [node.op for node in session.plan]
    for length in (40, 56):
        (wanted,), (found,) = FloatRunner(model, 1).run(feeds(length)), session.run(None, feeds(length))
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)
    with pytest.raises(EngineError, match=rf"sums of {MAX_DEPTH + 1} products"):
        session.run(None, feeds(MAX_DEPTH + 1))
