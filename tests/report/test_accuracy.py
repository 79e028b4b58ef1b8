"""Sums over batches, checked against the definitions worked by hand."""

import math

import numpy as np
import pytest

from quantkit.report.accuracy import SQNR_CAP_DB, PowerRatio, Tally, class_axis, in_top, sqnr_db


def logits(*classes, count=10):
    """One-hot rows: the class of each row is as given."""
    return np.eye(count, dtype=np.float32)[list(classes)]


def tally(fp32, int8, labels=None, valid=None):
    result = Tally()
    labels = None if labels is None else np.array(labels)
    result.add({"y": fp32}, {"y": int8}, labels, len(fp32) if valid is None else valid)
    return result


def test_sqnr_is_ten_log_ten_of_signal_over_noise():
    power = PowerRatio()
    power.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert power.db == pytest.approx(10 * math.log10(25 / 0.25))


def test_sqnr_over_batches_is_that_of_all_samples_together():
    whole, parts = PowerRatio(), PowerRatio()
    generator = np.random.default_rng(1)
    x = generator.standard_normal((8, 5)).astype(np.float32)
    y = x + generator.standard_normal((8, 5)).astype(np.float32) / 10
    whole.add(x, y)
    for i in range(8):
        parts.add(x[i], y[i])
    assert parts.db == pytest.approx(whole.db)


def test_equal_outputs_score_the_cap_and_a_nan_in_the_output_the_lowest():
    assert sqnr_db(1.0, 0.0) == SQNR_CAP_DB
    broken = PowerRatio()
    broken.add(np.array([1.0, 2.0]), np.array([1.0, np.nan]))
    assert broken.db == -SQNR_CAP_DB


def test_an_infinite_reference_value_does_not_count():
    power = PowerRatio()
    power.add(np.array([-np.inf, 2.0]), np.array([-np.inf, 2.0]))
    assert power.db == SQNR_CAP_DB


def test_accuracy_and_flips_count_per_image():
    result = tally(logits(0, 1, 2, 3), logits(0, 1, 3, 2), labels=[0, 5, 3, 3])
    assert result.top("fp32")["top1"] == 0.5
    assert result.top("int8")["top1"] == 0.5
    assert result.flips() == {"fixed": 1, "broken": 1}
    assert result.agreement == 0.5


def test_padding_of_the_last_batch_does_not_count():
    result = tally(logits(0, 1, 1), logits(0, 1, 9), labels=[0, 1, 1], valid=2)
    assert (result.samples, result.agreement, result.top("int8")["top1"]) == (2, 1.0, 1.0)
    assert result.power.db == SQNR_CAP_DB


def test_without_labels_there_is_no_accuracy_and_no_flips():
    result = tally(logits(0, 1), logits(0, 1))
    assert result.top("fp32") == {"top1": None, "top5": None}
    assert result.flips() is None


def test_top5_counts_ties_as_argmax_does():
    scores = np.array([[1, 1, 1, 1, 1, 1]], np.float32)
    assert in_top(scores, np.array([4]), 5).tolist() == [True]
    assert in_top(scores, np.array([5]), 5).tolist() == [False]
    assert in_top(scores, np.array([0]), 1).tolist() == [True]


def test_a_label_beyond_the_classes_is_wrong_not_an_error():
    assert in_top(logits(3), np.array([10]), 5).tolist() == [False]
    assert in_top(logits(3), np.array([-1]), 5).tolist() == [False]


def test_classes_are_on_axis_1_but_on_the_last_axis_of_sequences():
    assert class_axis(np.zeros((2, 10), np.float32)) == 1
    assert class_axis(np.zeros((2, 21, 8, 8), np.float32)) == 1
    assert class_axis(np.zeros((2, 40, 97), np.float32)) == 2
    assert class_axis(np.zeros((2, 1, 8, 8), np.float32)) is None
    assert class_axis(np.zeros((2, 10), np.int64)) is None
    assert class_axis(np.zeros(3, np.float32)) is None


def test_agreement_is_unknown_for_outputs_without_classes():
    assert tally(np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)).agreement is None


def test_outputs_that_are_texts_count_by_whether_they_are_the_same():
    names = np.array(["cat", "dog", "cat", "owl"], object)
    assert tally(names, names.copy()).power.db == SQNR_CAP_DB
    assert tally(names, np.array(["cat", "dog", "dog", "owl"], object)).power.db == pytest.approx(10 * math.log10(4))


def test_tensors_of_a_sequence_and_values_of_maps_are_compared_each():
    ragged = [np.ones(3), np.full((2, 2), 2.0)]
    result = tally(ragged, [np.ones(3), np.full((2, 2), 1.0)], valid=3)
    assert result.power.db == pytest.approx(10 * math.log10(19 / 4))
    maps = [{0: 0.5, 1: 0.5}, {0: 1.0, 1: 0.0}]
    assert tally(maps, maps, valid=2).power.db == SQNR_CAP_DB
    assert tally(maps, [{0: 0.5, 1: 0.5}, {0: 0.0, 1: 0.0}], valid=1).power.db == SQNR_CAP_DB


def test_an_output_of_another_shape_has_nothing_in_common():
    result = tally(logits(1, 2, 3), logits(1, 2), valid=3)
    assert result.power.db == pytest.approx(0.0)
    assert result.agreement is None
