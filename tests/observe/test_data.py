"""Every other kind of DATA: arrays, files, Python objects; what batches come out, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from quantkit.errors import DataError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.observe import Preprocess, open_data
from quantkit.observe.preprocess import Resize
from tests.observe.samples import FLOAT, IMAGE, RAW, TWO, VECTOR, all_labels, all_names, all_rows, rows, write_images

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


def test_an_endless_iterator_is_an_error_unless_the_number_of_samples_is_given(monkeypatch):
    monkeypatch.setattr("quantkit.observe.streams.MOST_SPOOLED", 20)

    def endless():
        while True:
            yield {"x": np.zeros((1, 2), np.float32)}

    specs = [TensorSpec("x", (None, 2), np.dtype("float32"))]
    with pytest.raises(DataError, match="more than 20 samples and no end in sight; say how many with --samples"):
        open_data(endless(), specs)
    assert len(open_data(endless(), specs, samples=5)) == 5
