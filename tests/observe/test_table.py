"""The calibration table: reads back equal, is written whole or not at all, is refused where it does not belong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quantkit.errors import CalibrationError, OutputError
from quantkit.observe import CalibrationTable, NumpyBackend, TensorStatistics, load_preprocess, preprocess_digest
from quantkit.types import METHODS, QuantConfig

MODEL, DATA = "a" * 64, "b" * 64
RECIPE = preprocess_digest(load_preprocess("cifar"))


def table() -> CalibrationTable:
    made = {}
    for name, seed in (("conv1/out", 1), ('odd "name"', 2)):
        made[name] = TensorStatistics()
        made[name].update(np.random.default_rng(seed).normal(size=3000).astype(np.float32), NumpyBackend())
    result = CalibrationTable(MODEL, DATA, RECIPE, 12, made)
    result.fill(QuantConfig())
    return result


def test_a_table_reads_back_equal(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    again = CalibrationTable.load(path)
    original = table()
    assert again.ranges == original.ranges
    assert set(again.ranges["conv1/out"]) == set(METHODS)
    assert (again.model_sha256, again.data_sha256, again.preprocess_sha256, again.samples) == (MODEL, DATA, RECIPE, 12)
    for name, entry in original.statistics.items():
        np.testing.assert_array_equal(again.statistics[name].counts, entry.counts)
        assert again.statistics[name].to_json() == entry.to_json()


def test_ranges_by_another_percentile_can_be_computed_from_a_loaded_table(tmp_path):
    table().save(tmp_path / "t.json")
    again = CalibrationTable.load(tmp_path / "t.json")
    again.fill(QuantConfig(percentile=99.0), ("percentile",))
    expected = table()
    expected.fill(QuantConfig(percentile=99.0), ("percentile",))
    assert again.ranges == expected.ranges


def test_the_file_is_json_with_a_line_for_every_tensor(tmp_path):
    table().save(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text()
    assert list(json.loads(text)["tensors"]) == ["conv1/out", 'odd "name"']
    assert len(text.splitlines()) == 6 + 2 + 4


def test_the_same_hashes_are_accepted_and_hashes_not_given_are_not_compared():
    table().require(model=MODEL, data=DATA, preprocess=RECIPE)
    table().require(model=MODEL)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"model": "c" * 64}, "another FP32 model"),
        ({"data": "c" * 64}, "another data"),
        ({"preprocess": preprocess_digest(None)}, "another preprocessing"),
        ({"model": "c" * 64, "data": "d" * 64}, "another FP32 model .* and another data"),
    ],
)
def test_a_table_of_something_else_is_refused_saying_of_what(now, words):
    with pytest.raises(CalibrationError, match=words) as caught:
        table().require(**now)
    assert "calibrate again" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable"),
        ("[]", "not a calibration table"),
        ('{"format": "other"}', "not a calibration table"),
        ('{"format": "quantkit calibration table", "version": 99}', "version 99"),
        ('{"format": "quantkit calibration table", "version": 1}', "damaged"),
        ('{"format": "quantkit calibration table", "version": 1, "tensors": 3}', "damaged"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, message):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=message) as caught:
        CalibrationTable.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_calibration_error(tmp_path):
    with pytest.raises(CalibrationError, match="not a readable"):
        CalibrationTable.load(tmp_path / "absent.json")


def test_nothing_is_left_behind_when_the_folder_is_missing_or_the_rename_fails(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="cannot be written"):
        table().save(tmp_path / "absent" / "t.json")

    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OutputError, match="No space"):
        table().save(tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []
