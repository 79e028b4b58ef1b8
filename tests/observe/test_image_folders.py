"""Folders of images as DATA: labels, pixels, batches, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from quantkit.errors import DataError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.observe import open_data
from tests.observe.samples import FLOAT, IMAGE, RAW, STATIC_IMAGE, TWO, all_labels, all_names, write_images


def test_a_folder_gives_its_images_sorted_and_nothing_else(tmp_path):
    write_images(tmp_path, ["b.png", "a.bmp", "deep/c.webp", ".hidden.png", ".cache/d.png"])
    (tmp_path / "notes.txt").write_text("no image")
    data = open_data(tmp_path, IMAGE, preprocess=RAW)
    assert all_names(data) == ["a.bmp", "b.png", "deep/c.webp"]
    assert len(data) == data.count == 3
    assert not data.has_labels
    assert data.preprocess == RAW


def test_pixels_reach_the_model_input_unchanged(tmp_path):
    write_images(tmp_path, ["a.png"])
    (batch,) = open_data(tmp_path, IMAGE, preprocess=RAW)
    expected = np.asarray(Image.open(tmp_path / "a.png")).transpose(2, 0, 1)[np.newaxis]
    np.testing.assert_array_equal(batch.feeds["x"], expected.astype(np.float32))


def test_labels_csv_inside_the_folder(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_text("file,class_index,name\nb.png,7,seven\na.png,3,three\n")
    data = open_data(tmp_path, IMAGE, preprocess=RAW)
    assert data.has_labels
    assert all_labels(data) == [3, 7]


def test_labels_csv_in_the_parent_names_files_relative_to_itself(tmp_path):
    write_images(tmp_path, ["val/a.png", "val/b.png", "calib/a.png"])
    (tmp_path / "labels.csv").write_text("file,class_index\ncalib/a.png,9\nval/a.png,1\nval/b.png,2\n")
    assert all_labels(open_data(tmp_path / "val", IMAGE, preprocess=RAW)) == [1, 2]


def test_a_labels_file_given_goes_before_the_one_in_the_folder(tmp_path):
    write_images(tmp_path, ["images/a.png"])
    (tmp_path / "images" / "labels.csv").write_text("file,class_index\na.png,1\n")
    (tmp_path / "other.csv").write_text("file,class_index\nimages/a.png,2\n")
    data = open_data(tmp_path / "images", IMAGE, preprocess=RAW, labels=tmp_path / "other.csv")
    assert all_labels(data) == [2]


def test_class_folders_are_numbered_in_sorted_order(tmp_path):
    write_images(tmp_path, ["dog/1.png", "cat/1.png", "cat/2.png"])
    data = open_data(tmp_path, IMAGE, preprocess=RAW)
    assert dict(zip(all_names(data), all_labels(data), strict=True)) == {"cat/1.png": 0, "cat/2.png": 0, "dog/1.png": 1}


def test_class_folders_with_numbers_mean_these_numbers(tmp_path):
    write_images(tmp_path, ["10/a.png", "2/a.png"])
    data = open_data(tmp_path, IMAGE, preprocess=RAW)
    assert dict(zip(all_names(data), all_labels(data), strict=True)) == {"10/a.png": 10, "2/a.png": 2}


def test_one_subfolder_is_not_a_class(tmp_path):
    write_images(tmp_path, ["images/a.png"])
    assert not open_data(tmp_path, IMAGE, preprocess=RAW).has_labels


def test_an_unlabelled_image_is_left_out_with_a_warning_and_an_error_when_strict(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_text("file,class_index\na.png,1\n")
    warnings: list[str] = []
    data = open_data(tmp_path, IMAGE, preprocess=RAW, warn=warnings.append)
    assert all_names(data) == ["a.png"]
    assert len(warnings) == 1
    assert "b.png" in warnings[0]
    with pytest.raises(DataError, match=r"b\.png"):
        open_data(tmp_path, IMAGE, preprocess=RAW, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,1\n", "class_index"),
        ("file,class_index\na.png,cat\n", "integer"),
        ("file,class_index\nz.png,1\n", "names none"),
        ("", "class_index"),
    ],
)
def test_a_bad_labels_file_is_a_usage_error(tmp_path, text, message):
    write_images(tmp_path, ["a.png"])
    (tmp_path / "given.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_data(tmp_path, IMAGE, preprocess=RAW, labels=tmp_path / "given.csv")


def test_a_corrupt_jpeg_is_skipped_with_one_warning_that_names_it(tmp_path):
    write_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:200])
    (tmp_path / "d.jpg").write_bytes(b"")
    warnings: list[str] = []
    data = open_data(tmp_path, IMAGE, preprocess=RAW, warn=warnings.append)
    assert all_names(data) == ["a.jpg", "c.jpg"]
    assert all_names(data) == ["a.jpg", "c.jpg"]
    assert [("b.jpg" in text, "d.jpg" in text) for text in warnings] == [(True, False), (False, True)]
    assert "\n" not in warnings[0]


def test_a_corrupt_jpeg_is_an_error_when_strict(tmp_path):
    write_images(tmp_path, ["a.jpg"])
    (tmp_path / "b.jpg").write_text("no image at all")
    with pytest.raises(DataError, match=r"b\.jpg.*--strict"):
        list(open_data(tmp_path, IMAGE, preprocess=RAW, strict=True))


def test_only_corrupt_images_is_an_error(tmp_path):
    (tmp_path / "b.jpg").write_text("no image at all")
    with pytest.raises(DataError, match="none of the 1 images"):
        list(open_data(tmp_path, IMAGE, preprocess=RAW, warn=lambda text: None))


def test_an_empty_folder_and_a_missing_path_are_errors(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        open_data(tmp_path, IMAGE, preprocess=RAW)
    with pytest.raises(DataError, match="no such file"):
        open_data(tmp_path / "absent", IMAGE, preprocess=RAW)


def test_a_wrong_image_size_for_a_static_model_names_the_file_and_both_sizes(tmp_path):
    write_images(tmp_path, ["a.png"], size=(9, 7))
    with pytest.raises(DataError, match=r"a\.png: wrong image size.*9x7.*'x' needs \[3, 8, 8\]"):
        list(open_data(tmp_path, STATIC_IMAGE, preprocess=RAW))


def test_images_of_different_sizes_come_in_different_batches(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"], size=(4, 4))
    write_images(tmp_path, ["c.png"], size=(6, 4))
    shapes = [batch.feeds["x"].shape for batch in open_data(tmp_path, IMAGE, preprocess=RAW, batch_size=8)]
    assert shapes == [(2, 3, 4, 4), (1, 3, 4, 6)]


def test_without_preprocessing_pixels_are_fed_as_they_are_with_a_warning(tmp_path):
    write_images(tmp_path, ["a.png"])
    warnings: list[str] = []
    nhwc = [TensorSpec("x", ("N", 8, 8, 1), FLOAT)]
    (batch,) = open_data(tmp_path, nhwc, warn=warnings.append)
    grey = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    np.testing.assert_array_equal(batch.feeds["x"], grey[np.newaxis, ..., np.newaxis])
    assert len(warnings) == 1
    assert "--preprocess" in warnings[0]


def test_a_uint8_input_takes_raw_pixels(tmp_path):
    write_images(tmp_path, ["a.png"])
    (batch,) = open_data(tmp_path, [TensorSpec("x", ("N", 3, 8, 8), np.dtype(np.uint8))], warn=pytest.fail)
    assert batch.feeds["x"].dtype == np.uint8


def test_images_for_a_model_with_two_inputs_are_refused(tmp_path):
    write_images(tmp_path, ["a.png"])
    with pytest.raises(DataError, match="a, b"):
        open_data(tmp_path, TWO, preprocess=RAW)
