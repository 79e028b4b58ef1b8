"""What INT8 changed, sample by sample."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from quantkit.observe import Batch, Preprocess
from quantkit.report.changes import MOST_CHANGED, ChangeLog, class_names, sample_change, softmax, thumbnail


def one_hot(index: int, height: float = 5.0) -> np.ndarray:
    scores = np.zeros(4, np.float32)
    scores[index] = height
    return scores


@pytest.mark.parametrize(
    ("fp32", "int8", "label", "kind"),
    [(1, 1, 1, "same"), (1, 2, 1, "broken"), (1, 2, 2, "fixed"), (1, 2, 3, "changed"), (1, 2, None, "changed")],
)
def test_a_change_is_named_by_who_was_right(fp32, int8, label, kind):
    change = sample_change("x", one_hot(fp32), one_hot(int8), label, True)
    assert change.kind == kind
    assert (change.fp32_class, change.int8_class) == (fp32, int8)
    assert change.fp32_confidence == pytest.approx(np.exp(5) / (np.exp(5) + 3))


def test_probabilities_are_not_put_through_softmax_again():
    given = np.array([0.7, 0.2, 0.1], np.float32)
    assert softmax(given) == pytest.approx(given)
    assert softmax(np.array([1000.0, 0.0])) == pytest.approx([1.0, 0.0])


def batch_of(scores: np.ndarray, labels: list[int] | None) -> Batch:
    feeds = {"input": np.zeros((len(scores), 3, 8, 8), np.float32)}
    names = [f"s{i}" for i in range(len(scores))]
    return Batch(feeds, None if labels is None else np.array(labels), names, len(scores))


def test_the_worst_come_first_and_no_more_are_kept_than_are_shown():
    log = ChangeLog()
    before = np.stack([one_hot(0, 2 + 0.1 * i) for i in range(60)])
    after = before.copy()
    after[7], after[30] = one_hot(1, 20.0), before[30] + one_hot(1, 5.5)
    log.add(batch_of(before, [0] * 60), before, after)
    most = log.most_changed
    assert len(most) == MOST_CHANGED
    assert [change.name for change, _ in most[:2]] == ["s7", "s30"]
    assert len(log.records) == 60


def test_rows_that_fill_up_a_static_batch_do_not_count():
    log = ChangeLog()
    batch = Batch({"input": np.zeros((4, 3), np.float32)}, None, ["a", "b"], 2)
    log.add(batch, np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32))
    assert [change.name for change in log.records] == ["a", "b"]


def test_the_picture_is_what_the_model_saw_with_the_preprocessing_undone():
    recipe = Preprocess(scale=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = np.full((200, 200, 3), (250, 120, 10), np.uint8)
    uri = thumbnail({"input": recipe.apply(pixels)[None]}, 0, recipe)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert picture.shape == (112, 112, 3)
    assert np.abs(picture.reshape(-1, 3).astype(int) - (250, 120, 10)).max() <= 6


def test_what_is_no_picture_has_none():
    assert thumbnail({"ids": np.zeros((2, 9), np.int64)}, 0, None) is None
    assert thumbnail({"x": np.zeros((2, 64, 8, 8), np.float32)}, 0, None) is None


def test_class_names_come_from_the_labels_file_or_the_class_folders(tmp_path):
    (tmp_path / "labels.csv").write_text("file,class_index,name\na.png,3,sea_lion\n", encoding="utf-8")
    assert class_names(tmp_path, None) == {3: "sea lion"}
    (tmp_path / "sub" / "cat").mkdir(parents=True)
    (tmp_path / "sub" / "ant").mkdir()
    other = tmp_path / "elsewhere"
    (tmp_path / "sub").rename(other)
    (tmp_path / "labels.csv").unlink()
    assert class_names(other, None) == {0: "ant", 1: "cat"}
    assert class_names(np.zeros(3), None) == {}
