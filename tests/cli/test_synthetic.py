"""Random inputs for a model without sample data."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.cli import main
from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe.synthetic import synthetic_feeds, working_feeds


def spec(name: str, shape: tuple, dtype: type) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype))


def test_open_dimensions_get_plausible_sizes_and_every_type_its_values():
    specs = [spec("x", ("n", 3, "h", None), np.float32), spec("ids", (None, "t"), np.int64), spec("on", (1,), np.bool_)]
    first, again = synthetic_feeds(specs, 2), synthetic_feeds(specs, 2)
    assert first[0]["x"].shape == (1, 3, 224, 224)
    assert first[0]["x"].dtype == np.float32
    assert first[0]["ids"].shape == (1, 32)
    assert set(np.unique(first[0]["ids"])) <= {0, 1}
    assert first[0]["on"].all()
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(first, again, strict=True) for key in a)


class Pretended:
    """A model that takes only what `accepts` says, and gives what `gives` says."""

    def __init__(self, inputs: list[TensorSpec], accepts, gives=lambda feeds: np.zeros(1)) -> None:
        self.inputs, self.accepts, self.gives = inputs, accepts, gives

    def run(self, feeds: dict) -> list[np.ndarray]:
        if not self.accepts(feeds):
            raise DataError("wrong shape")
        return [self.gives(feeds), [np.zeros(2), np.zeros(3)]]  # a sequence is an output, too


WAVE = spec("wave", ("batch", "samples"), np.float32)


@pytest.mark.parametrize(
    ("inputs", "accepts"),
    [
        ([spec("x", ("n", 3, "?", "w"), np.float32)], lambda f: f["x"].shape[2] == 48),
        ([WAVE, spec("rate", (), np.int64)], lambda f: f["rate"] == 16000 and f["wave"].shape[1] >= 400),
        ([WAVE, spec("state", (2, None, 64), np.float32)], lambda f: len(f["wave"]) == f["state"].shape[1]),
        ([WAVE, spec("state", (2, "batch", 64), np.float32)], lambda f: len(f["wave"]) == f["state"].shape[1]),
        ([WAVE, spec("lengths", ("batch",), np.int64)], lambda f: f["lengths"][0] == f["wave"].shape[1]),
        ([spec("nodes", ("n", 9), np.float32), spec("edges", (2, "m"), np.int64)], lambda f: len(f["nodes"]) > 1),
    ],
    ids=["lines of text", "a sampling rate", "an unnamed batch", "a named batch", "lengths", "a graph"],
)
def test_sizes_and_integers_are_guessed_until_the_model_runs(inputs, accepts):
    feeds = working_feeds(Pretended(inputs, accepts), 3)
    assert len(feeds) == 3
    assert all(accepts(one) for one in feeds)


def test_a_guess_without_nan_is_taken_before_one_with_it_and_one_that_runs_before_none():
    ids = spec("ids", ("n", "t"), np.int64)
    empty_gives_nan = Pretended([ids], lambda f: True, lambda f: np.zeros(1) / f["ids"].min())
    with np.errstate(invalid="ignore", divide="ignore"):
        assert all(feeds["ids"].min() == 1 for feeds in working_feeds(empty_gives_nan, 2))
        assert working_feeds(Pretended([ids], lambda f: True, lambda f: np.full(1, np.nan)), 2)


def test_a_model_that_no_guess_suits_needs_data():
    with pytest.raises(DataError, match=r"--data \(wrong shape\)"):
        working_feeds(Pretended([WAVE], lambda f: False))


def test_strings_cannot_be_made_up():
    with pytest.raises(DataError, match="--data"):
        synthetic_feeds([spec("s", (1,), object)])


def test_synthetic_data_are_warned_of_and_exclude_real_data(digits, tmp_path, capsys):
    arguments = ["quantize", str(digits.fp32), "--synthetic", "-o", str(tmp_path / "o.onnx"), "--effort", "fast"]
    assert main(arguments) == 0
    assert "accuracy of this INT8 model is not known" in capsys.readouterr().err
    assert main([*arguments, "--force", "--data", str(digits.calib)]) == 2
    assert main(["quantize", str(digits.fp32), "-o", str(tmp_path / "p.onnx")]) == 2
