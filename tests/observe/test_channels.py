"""Channel means: right for every layout and sampling, the same for any number of threads, kept in the table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quantkit.errors import CalibrationError
from quantkit.load.specs import TensorSpec
from quantkit.observe import CalibrationTable, calibrate, channels, observe, open_data
from quantkit.observe.channels import ChannelSums, channel_sums
from tests.graphs import model

IMAGES = np.random.default_rng(0).normal(size=(7, 5, 6, 4)).astype(np.float32)
SPEC = [TensorSpec("x", ("N", 5, 6, 4), np.dtype(np.float32))]


def relu_model():
    return model("y = Relu(x)", {}, inputs="float[N,5,6,4] x", outputs="float[N,5,6,4] y")


@pytest.mark.parametrize(("shape", "axis"), [((3, 8, 5, 7), 1), ((3, 9, 8), -1), ((4, 10), 1), ((3, 40, 3), 1)])
@pytest.mark.parametrize("most", [16384, 50])
def test_sums_are_those_of_the_sampled_values_of_each_channel(shape, axis, most, monkeypatch):
    monkeypatch.setattr(calibrate, "HISTOGRAM_VALUES", most)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    part, step = calibrate._part(x, shape[0])
    found = channel_sums(part, shape, axis, step)
    channel = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if a == axis % len(shape) else 1
                                                              for a in range(len(shape))]), shape)  # fmt: skip
    for c in range(shape[axis]):
        seen = np.concatenate([row[::step][rows[::step] == c] for row, rows in
                               zip(x.reshape(shape[0], -1), channel.reshape(shape[0], -1), strict=True)])  # fmt: skip
        assert found.counts[c] == seen.size
        assert found.sums[c] == pytest.approx(seen.sum(), abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_means_of_inputs_and_intermediates_have_the_same_bits_for_any_number_of_threads(threads, batch_size):
    axes = {"x": 1, "y": -1}
    found = observe(relu_model(), ["x", "y"], open_data(IMAGES, SPEC, batch_size=batch_size), channels=axes,
                    threads=threads)  # fmt: skip
    alone = observe(relu_model(), ["x", "y"], open_data(IMAGES, SPEC, batch_size=batch_size), channels=axes, threads=1)
    np.testing.assert_allclose(found["x"].channels.means, IMAGES.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found["y"].channels.means, np.maximum(IMAGES, 0).mean(axis=(0, 1, 2)), atol=1e-6)
    for name in axes:
        assert found[name].to_json() == alone[name].to_json()


def test_tensors_that_are_not_asked_for_have_none():
    assert observe(relu_model(), ["x"], open_data(IMAGES, SPEC))["x"].channels is None


def test_merged_statistics_have_the_means_of_all_the_data():
    parts = [observe(relu_model(), ["x"], open_data(half, SPEC), channels={"x": 1})["x"]
             for half in (IMAGES[:2], IMAGES[2:])]  # fmt: skip
    parts[0].merge(parts[1])
    np.testing.assert_allclose(parts[0].channels.means, IMAGES.mean(axis=(0, 2, 3)), atol=1e-6)


def test_a_table_keeps_channel_sums_to_the_last_bit_and_older_tables_load_without_them(tmp_path):
    path = tmp_path / "table.json"
    found = observe(relu_model(), ["x", "y"], open_data(IMAGES, SPEC), channels={"x": 1})
    CalibrationTable("a" * 64, "b" * 64, "none", 7, found).save(path)
    again = CalibrationTable.load(path).statistics
    assert again["x"].channels.to_json() == found["x"].channels.to_json()
    assert again["y"].channels is None
    document = json.loads(path.read_text())
    document["version"] = 1
    del document["tensors"]["x"]["channels"]
    path.write_text(json.dumps(document))
    old = CalibrationTable.load(path).statistics["x"]
    assert old.channels is None
    np.testing.assert_array_equal(old.counts, found["x"].counts)


@pytest.mark.parametrize("damage", [{"sums": [1.0]}, {"sums": [[1.0]], "counts": [[1]]}, {"axis": None},
                                    {"sums": [1.0, float("nan")]}])  # fmt: skip
def test_damaged_sums_are_refused(damage):
    good = ChannelSums(1, np.array([1.0, 2.0]), np.array([3, 4])).to_json()
    with pytest.raises(CalibrationError, match="damaged"):
        ChannelSums.from_json({**good, **damage})


def test_the_channels_of_large_tensors_are_not_kept():
    channels._kept_channels.cache_clear()
    wide = np.ones((1, 2 * channels.KEPT_VALUES), np.float32)
    for shape in ((1, 2, channels.KEPT_VALUES), (1, channels.KEPT_VALUES, 2)):
        for axis in (1, 2):
            assert channel_sums(wide, shape, axis, 1).sums.sum() == wide.size
    assert channels._kept_channels.cache_info().currsize == 0
    channel_sums(wide[:, :64], (1, 8, 8), 2, 1)
    assert channels._kept_channels.cache_info().currsize == 1
