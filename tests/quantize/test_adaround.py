"""Rounding by descent: near the weights, better than nearest, repeatable, refused where it only fits its rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quantkit import pipeline
from quantkit.quantize import calibration, tune
from quantkit.quantize.adaround import _pull, _soft, learnt_round
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model

RNG = 7


def rows(groups: int, count: int, columns: int, seed: int) -> np.ndarray:
    """float32 [G, R, K] with strongly correlated columns."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, columns // 2, columns))
    return (rng.normal(size=(groups, count, columns // 2)) @ mix + 3.0).astype(np.float32)


def output_error(x: np.ndarray, off: np.ndarray) -> float:
    made = x @ off.transpose(0, 2, 1)
    return float(np.square(made - made.mean(axis=1, keepdims=True)).mean())


@pytest.mark.parametrize(("groups", "channels", "columns"), [(1, 8, 32), (4, 1, 10), (2, 3, 18)])
def test_learnt_integers_are_neighbours_of_the_weights_and_halve_the_error_of_nearest(groups, channels, columns):
    rng = np.random.default_rng(0)
    w, step = rng.normal(size=(groups, channels, columns)), np.full((groups, channels), 0.2)
    x, other = (rows(groups, 1500, columns, 1)[:, part] for part in (slice(1000), slice(1000, None)))
    q = learnt_round(x, w, step, np.random.default_rng(RNG))
    ratio = w / step[..., None]
    assert ((q == np.floor(ratio)) | (q == np.floor(ratio) + 1)).all()
    nearest, learnt = (output_error(other, v * step[..., None] - w) for v in (np.rint(ratio), q))
    assert learnt < 0.5 * nearest


def test_the_same_seed_gives_the_same_integers():
    rng = np.random.default_rng(0)
    w, step, x = rng.normal(size=(1, 4, 16)), np.full((1, 4), 0.2), rows(1, 500, 16, 1)
    found = [learnt_round(x, w, step, np.random.default_rng(RNG), steps=50) for _ in range(2)]
    np.testing.assert_array_equal(*found)


def test_exact_weights_and_silent_inputs_are_rounded_to_nearest():
    w, step = np.array([[[-127.0, 3.0, 126.0]]]), np.ones((1, 1))
    np.testing.assert_array_equal(learnt_round(rows(1, 50, 4, 0)[..., :3], w, step, np.random.default_rng(0)), w)
    silent = np.zeros((1, 50, 3), np.float32)
    np.testing.assert_array_equal(learnt_round(silent, w + 0.3, step, np.random.default_rng(0)), np.rint(w + 0.3))


def test_weights_beyond_the_range_end_at_its_ends():
    w = np.array([[[140.0, -140.0, 20.4, 3.3]]])
    q = learnt_round(rows(1, 400, 4, 3), w, np.ones((1, 1)), np.random.default_rng(RNG))
    assert np.abs(q).max() <= 127


def test_the_slopes_are_those_of_the_functions():
    v, h, tiny = np.linspace(-2, 2, 9), np.linspace(0.05, 0.95, 9), 1e-6
    np.testing.assert_allclose(_soft(v)[1], (_soft(v + tiny)[0] - _soft(v - tiny)[0]) / (2 * tiny), rtol=1e-4)
    price = [1 - np.abs(2 * (h + d) - 1) ** 3 for d in (tiny, -tiny)]
    np.testing.assert_allclose(_pull(h, 3.0), (price[1] - price[0]) / (2 * tiny), rtol=1e-4, atol=1e-6)


def test_what_is_worse_on_other_rows_is_refused():
    """Rows of which the last ones are of another kind: feedback is right there by chance or not, but never learnt."""
    rng = np.random.default_rng(0)
    w, step = rng.normal(size=(1, 4, 16)), np.full((1, 4), 0.2)
    x = rows(1, 500, 16, 1)
    t = np.matmul(x, w.transpose(0, 2, 1).astype(np.float32))
    backwards = t.copy()
    feedback = tune._with_feedback(w, tune.Inputs(x[:, :400], 1), step) * step[..., None]
    backwards[:, 400:] = np.matmul(x[:, 400:], feedback.transpose(0, 2, 1).astype(np.float32))
    assert tune._learnt(w, tune.Inputs(x, 1), backwards, step, RNG) is None


def test_best_tries_it_last_and_says_so(monkeypatch):
    monkeypatch.setattr(calibration, "DRAWS", 1)
    proto = model(f"c = Conv<{CONV}>(x,w) r = Relu(c) y = Conv<{CONV}>(r,v)", {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3)})
    config = QuantConfig(effort="best", method="minmax", keep_int8=True)
    made = [pipeline.quantize(proto, image(32, 3, 8, 8), config=config) for _ in range(2)]
    notes = [d.detail for d in made[0].decisions if d.detail.startswith("nearest of the tuned")]
    assert notes[0].endswith("rounding learnt")
    assert isinstance(made[0].model, ir.Model)
    files = [result.proto.SerializeToString(deterministic=True) for result in made]
    assert files[0] == files[1]
