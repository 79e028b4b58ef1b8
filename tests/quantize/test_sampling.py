"""How many rows a layer is fitted on, where a sample has one entry on axis 0 and where it has many."""

from types import SimpleNamespace

import numpy as np
import pytest

from quantkit.quantize.sampling import ROWS_LEAST, Targets, int8_rows

BATCHES = 4


class Replay:
    """Batches of one sample."""

    samples = BATCHES

    def __iter__(self):
        return ((feeds, 1) for feeds in [{"x": np.zeros((1, 4), np.float32)}] * BATCHES)


def rows_of(entries: int, positions: int, lost: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
    """(x, t) of a MatMul whose input is float32 [entries, positions, 2] for each sample; t is the first of x. lost:
    entries that the INT8 model has less."""
    layer = SimpleNamespace(
        name="m", is_convolution=False, columns=2, shape=(2, 1), source="x", residual=None, target="y", groups=1
    )
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(entries, positions, 2)).astype(np.float32) for _ in range(BATCHES)]
    fp32 = SimpleNamespace(values=lambda names: iter([{"y": a[..., :1]} for a in arrays]))
    int8 = SimpleNamespace(values=lambda names: iter([{names[0]: a[lost:]} for a in arrays]))
    targets = Targets(fp32, [layer], Replay(), seed=0)
    return int8_rows(layer, int8, Replay(), targets)


@pytest.mark.parametrize(
    ("entries", "positions"), [(1, 5000), (50, 196), (700, 1), (3000, 1), (1000, 49)],
    ids=["a picture", "some regions of it", "vectors of regions", "many of them", "many regions"],
)  # fmt: skip
def test_as_many_rows_as_are_wanted_are_drawn_however_many_entries_a_sample_has(entries, positions):
    found = rows_of(entries, positions)
    assert found is not None
    x, t = found
    assert min(ROWS_LEAST, BATCHES * entries * positions) <= x.shape[1] <= 2 * ROWS_LEAST
    assert np.array_equal(x[0, :, :1], t)  # the same positions of both


@pytest.mark.parametrize(("entries", "lost"), [(50, 1), (50, 50), (0, 0)])
def test_rows_that_are_not_those_of_fp32_or_none_at_all_tune_nothing(entries, lost):
    assert rows_of(entries, 196, lost) is None
