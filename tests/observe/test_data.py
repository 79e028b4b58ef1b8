"""Every kind of DATA: what batches come out, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from quantkit.errors import DataError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.observe import PRESETS, Preprocess, open_data
from quantkit.observe.preprocess import Resize

FLOAT = np.dtype(np.float32)
VECTOR = [TensorSpec("x", ("N", 3), FLOAT)]
IMAGE = [TensorSpec("x", ("N", 3, "H", "W"), FLOAT)]
STATIC_IMAGE = [TensorSpec("x", (1, 3, 8, 8), FLOAT)]
TWO = [TensorSpec("a", ("N", 2), FLOAT), TensorSpec("b", ("N", 4), np.dtype(np.int64))]
RAW = PRESETS["none"]


def rows(count: int, width: int = 3) -> np.ndarray:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def write_images(folder, names, size=(8, 8), seed=0):
    generator = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def all_rows(dataset, name="x"):
    return np.concatenate([batch.feeds[name][: batch.valid] for batch in dataset])


def all_names(dataset):
    return [name for batch in dataset for name in batch.names]


def all_labels(dataset):
    return np.concatenate([batch.labels for batch in dataset]).tolist()


# ---- folders of images ----


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


# ---- .npz and .npy ----


def test_npz_images_are_preprocessed_and_labelled(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(5), classes=np.array(["a", "b"]))
    data = open_data(tmp_path / "d.npz", IMAGE, preprocess=Preprocess(scale=2.0))
    np.testing.assert_array_equal(all_rows(data), (images.transpose(0, 3, 1, 2) / 2).astype(np.float32))
    assert all_labels(data) == [0, 1, 2, 3, 4]
    assert data.preprocess == Preprocess(scale=2.0)


def test_npz_grey_images_without_a_channel_axis(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images)
    data = open_data(tmp_path / "d.npz", [TensorSpec("x", ("N", 1, 8, 8), FLOAT)], preprocess=Preprocess(color="L"))
    np.testing.assert_array_equal(all_rows(data)[:, 0], images)


def test_npz_labels_may_come_from_a_csv_in_row_order(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "l.csv").write_text("class_index\n4\n5\n")
    data = open_data(tmp_path / "d.npz", IMAGE, preprocess=RAW, labels=tmp_path / "l.csv")
    assert all_labels(data) == [4, 5]


def test_npz_with_an_array_per_input_is_used_as_it_is(tmp_path):
    np.savez(tmp_path / "d.npz", a=rows(5, 2), b=np.arange(20).reshape(5, 4), labels=np.arange(5))
    data = open_data(tmp_path / "d.npz", TWO, batch_size=2)
    assert [batch.valid for batch in data] == [2, 2, 1]
    np.testing.assert_array_equal(all_rows(data, "a"), rows(5, 2))
    np.testing.assert_array_equal(all_rows(data, "b"), np.arange(20).reshape(5, 4))
    assert all_labels(data) == [0, 1, 2, 3, 4]
    assert data.preprocess is None


def test_rows_of_arrays_are_put_in_batches_of_a_sensible_size(tmp_path):
    np.save(tmp_path / "d.npy", rows(100))
    assert [batch.valid for batch in open_data(tmp_path / "d.npy", VECTOR)] == [32, 32, 32, 4]


def test_npz_with_one_array_of_any_name_fits_a_one_input_model(tmp_path):
    np.savez(tmp_path / "d.npz", rows(4))
    np.testing.assert_array_equal(all_rows(open_data(tmp_path / "d.npz", VECTOR)), rows(4))


def test_npz_whose_names_do_not_match_lists_both(tmp_path):
    np.savez(tmp_path / "d.npz", p=rows(2), q=rows(2))
    with pytest.raises(DataError, match=r"inputs are a, b.*holds p, q"):
        open_data(tmp_path / "d.npz", TWO)


def test_a_broken_npz_and_a_text_file_are_refused(tmp_path):
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="not a readable"):
        open_data(tmp_path / "d.npz", VECTOR)
    (tmp_path / "d.npy").write_text("text")
    with pytest.raises(DataError, match="not a readable"):
        open_data(tmp_path / "d.npy", VECTOR)
    (tmp_path / "d.txt").write_text("text")
    with pytest.raises(DataError, match="not a kind of data"):
        open_data(tmp_path / "d.txt", VECTOR)


def test_pickled_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="not a readable"):
        open_data(tmp_path / "d.npz", VECTOR)


def test_a_leading_axis_more_than_the_input_counts_whole_feeds(tmp_path):
    np.save(tmp_path / "d.npy", rows(6).reshape(3, 2, 3))
    assert [batch.feeds["x"].shape for batch in open_data(tmp_path / "d.npy", VECTOR)] == [(2, 3)] * 3


def test_arrays_that_share_no_first_axis_are_one_sample(tmp_path):
    specs = [TensorSpec("a", ("N", 2), FLOAT), TensorSpec("k", (1,), np.dtype(np.int64))]
    np.savez(tmp_path / "d.npz", a=rows(4, 2), k=np.array([3]))
    (batch,) = open_data(tmp_path / "d.npz", specs)
    assert batch.feeds["a"].shape == (4, 2)
    assert batch.valid == 1


def test_a_folder_of_npz_gives_one_feed_a_file(tmp_path):
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", a=rows(2, 2) + index, b=np.zeros((2, 4), np.int64))
    data = open_data(tmp_path, TWO)
    assert [batch.feeds["a"][0, 0] for batch in data] == [0, 1, 2]
    assert data.count == 6


def test_onnx_test_data_sets_are_read_in_input_order(tmp_path):
    for index in range(2):
        folder = tmp_path / f"test_data_set_{index}"
        folder.mkdir()
        for place, array in enumerate([rows(1, 2) + index, np.full((1, 4), index)]):
            (folder / f"input_{place}.pb").write_bytes(onnx.numpy_helper.from_array(array).SerializeToString())
    data = open_data(tmp_path, TWO)
    assert [batch.feeds["b"][0, 0] for batch in data] == [0, 1]
    assert all_names(data) == ["test_data_set_0", "test_data_set_1"]
    single = open_data(tmp_path / "test_data_set_1", TWO)
    assert [batch.feeds["b"][0, 0] for batch in single] == [1]
    (tmp_path / "test_data_set_0" / "input_1.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(DataError, match="not a readable ONNX tensor"):
        list(open_data(tmp_path, TWO))


# ---- Python objects ----


class Reader:
    """The CalibrationDataReader protocol: None at the end, and no way back."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


class Tensor:
    """Like a torch tensor: no array itself, but it can be made one."""

    def __init__(self, array):
        self.array = array

    shape = property(lambda self: self.array.shape)

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class Loader:
    """Like a DataLoader: iterable again and again, of unknown length."""

    def __init__(self, entries):
        self.entries = entries

    def __iter__(self):
        return iter(self.entries)


FEEDS = [{"x": rows(2) + index} for index in range(3)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: FEEDS,
        lambda: Reader(FEEDS),
        lambda: Loader(FEEDS),
        lambda: iter(FEEDS),
        lambda: (feed for feed in FEEDS),
        lambda: [feed["x"] for feed in FEEDS],
        lambda: Loader([(Tensor(feed["x"]), Tensor(np.array([0, 1]))) for feed in FEEDS]),
        lambda: [feed | {"unused": 1} for feed in FEEDS],
        lambda: np.concatenate([feed["x"] for feed in FEEDS]),
        lambda: {"x": np.concatenate([feed["x"] for feed in FEEDS])},
    ],
    ids=["dicts", "reader", "loader", "iterator", "generator", "arrays", "torch pairs", "extra", "array", "dict"],
)
def test_python_objects_give_their_rows_twice_over_with_the_same_digest(make):
    expected = np.concatenate([feed["x"] for feed in FEEDS])
    data = open_data(make(), VECTOR)
    np.testing.assert_array_equal(all_rows(data), expected)
    np.testing.assert_array_equal(all_rows(data), expected)
    assert data.digest == open_data(expected, VECTOR, batch_size=4).digest
    assert data.count in (None, 6)


def test_labels_come_from_pairs_and_from_a_labels_key():
    pairs = open_data(Loader([(rows(2), np.array([3, 4]))]), VECTOR)
    assert pairs.has_labels
    assert all_labels(pairs) == [3, 4]
    keyed = open_data(iter([{"x": rows(2), "labels": np.array([[3], [4]])}]), VECTOR)
    assert all_labels(keyed) == [3, 4]


def test_a_target_that_is_no_class_index_is_no_label():
    data = open_data([(rows(2), np.array([0.5, 0.25]))], VECTOR)
    assert not data.has_labels
    assert all_rows(data).shape == (2, 3)


def test_a_missing_batch_axis_is_added():
    assert all_rows(open_data([rows(1)[0], rows(1)[0]], VECTOR)).shape == (2, 3)


def test_module_and_callable_are_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "made_here.py").write_text(
        "import numpy as np\n\ndef data():\n    return [{'x': np.ones((1, 3), np.float32)}] * 2\n\n"
        "def bad():\n    1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert all_rows(open_data("made_here:data", VECTOR)).shape == (2, 3)
    with pytest.raises(DataError, match="ZeroDivisionError"):
        open_data("made_here:bad", VECTOR)
    with pytest.raises(UsageError, match="cannot be imported"):
        open_data("made_here:absent", VECTOR)
    with pytest.raises(UsageError, match="cannot be imported"):
        open_data("not_made_anywhere:data", VECTOR)
    assert sys.path == path


def test_an_exception_in_the_users_iterable_is_a_data_error():
    def broken():
        yield FEEDS[0]
        raise RuntimeError("disk gone")

    with pytest.raises(DataError, match="disk gone"):
        open_data(broken(), VECTOR)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"x": np.zeros((1, 4), np.float32)}], r"\[1, 4\].*needs \[N, 3\]"),
        ([{"x": np.zeros((1, 1, 1, 3), np.float32)}], "needs"),
        ([{"x": np.zeros((0, 3), np.float32)}], "empty"),
        ([{"x": np.full((1, 3), np.nan, np.float32)}], "NaN"),
        ([{"x": np.array([["a", "b", "c"]])}], "needs float32"),
        ([{"y": rows(1), "z": rows(1)}], "no array for input x"),
        ([{"x": object()}], "not an array"),
        ([], "no samples"),
        (iter([]), "gave nothing"),
        (Loader([]), "empty"),
        (np.zeros((0, 3), np.float32), "empty"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        list(open_data(data, VECTOR))


def test_floats_are_not_cut_to_integers():
    with pytest.raises(DataError, match="int64"):
        list(open_data([{"a": rows(1, 2), "b": np.zeros((1, 4))}], TWO))


def test_doubles_and_integers_become_the_floats_the_model_needs():
    data = open_data([rows(1).astype(np.float64), np.array([[1, 2, 3]])], VECTOR)
    assert {batch.feeds["x"].dtype for batch in data} == {FLOAT}


@pytest.mark.parametrize("data", [3, None, object()])
def test_what_is_no_data_is_a_usage_error(data):
    with pytest.raises(UsageError, match="is no data"):
        open_data(data, VECTOR)


@pytest.mark.parametrize("option", [{"samples": 0}, {"batch_size": 0}, {"labels": "l.csv"}])
def test_options_that_make_no_sense_are_usage_errors(option):
    with pytest.raises(UsageError):
        open_data(FEEDS, VECTOR, **option)


def test_a_model_without_inputs_is_refused():
    with pytest.raises(DataError, match="no inputs"):
        open_data(FEEDS, [])


# ---- batches, subsets, digests ----


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_rows_labels_and_digest_do_not_depend_on_the_batch_size(batch_size):
    arrays = {"x": rows(11), "labels": np.arange(11)}
    data = open_data(arrays, VECTOR, batch_size=batch_size)
    np.testing.assert_array_equal(all_rows(data), rows(11))
    assert all_labels(data) == list(range(11))
    assert data.digest == open_data(arrays, VECTOR).digest
    assert all(batch.valid == len(batch.names) == len(batch.feeds["x"]) for batch in data)


@pytest.mark.parametrize("sizes", [[3, 3, 3], [8, 1], [1, 1, 7], [9]])
def test_feeds_of_any_size_are_cut_and_joined_to_the_static_batch(sizes):
    specs = [TensorSpec("x", (4, 3), FLOAT)]
    data = open_data(np.split(rows(9), np.cumsum(sizes)[:-1]), specs, batch_size=2)
    batches = list(data)
    assert [batch.feeds["x"].shape for batch in batches] == [(4, 3)] * 3
    assert [batch.valid for batch in batches] == [4, 4, 1]
    np.testing.assert_array_equal(batches[-1].feeds["x"], np.repeat(rows(9)[8:], 4, axis=0))
    np.testing.assert_array_equal(all_rows(data), rows(9))


def test_samples_choose_a_seeded_subset_in_the_old_order():
    chosen = [all_rows(open_data(rows(50), VECTOR, samples=10, seed=seed))[:, 0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])
    assert len(np.unique(chosen[0])) == 10
    assert (np.diff(chosen[0]) > 0).all()
    assert chosen[0].max() > 3 * 10  # not simply the first ten


def test_more_samples_than_there_are_means_all():
    data = open_data(rows(5), VECTOR, samples=10)
    assert data.count == 5
    assert all_rows(data).shape == (5, 3)


@pytest.mark.parametrize("make", [lambda: iter(FEEDS), lambda: Loader(FEEDS), lambda: FEEDS])
def test_samples_cut_the_last_feed(make):
    data = open_data(make(), VECTOR, samples=3)
    assert all_rows(data).shape == (3, 3)
    assert data.count in (None, 3)


def test_an_endless_generator_is_read_only_as_far_as_needed():
    def endless():
        while True:
            yield rows(1)

    assert open_data(endless(), VECTOR, samples=7).count == 7


def test_the_digest_changes_with_a_pixel_and_with_the_choice_of_samples(tmp_path):
    write_images(tmp_path, [f"{index}.png" for index in range(4)])
    before = open_data(tmp_path, IMAGE, preprocess=RAW).digest
    assert open_data(tmp_path, IMAGE, preprocess=RAW, batch_size=3).digest == before
    assert open_data(tmp_path, IMAGE, preprocess=RAW, samples=2).digest != before
    write_images(tmp_path, ["2.png"], seed=9)
    assert open_data(tmp_path, IMAGE, preprocess=RAW).digest != before


def test_leaving_early_stops_the_decoding(tmp_path):
    write_images(tmp_path, [f"{index:02}.png" for index in range(40)])
    opened = []

    class Watched(Preprocess):
        def apply(self, image):
            opened.append(image)
            return super().apply(image)

    stream = iter(open_data(tmp_path, IMAGE, preprocess=Watched(resize=Resize(width=4, height=4)), batch_size=1))
    next(stream)
    stream.close()
    assert len(opened) < 20
