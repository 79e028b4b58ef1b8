"""Data sets of pictures from Python, without the libraries that make them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from quantkit.load.specs import TensorSpec
from quantkit.observe import Preprocess, open_data

SPEC = [TensorSpec("input", ("N", 3, 8, 8), np.dtype(np.float32))]
RECIPE = Preprocess(scale=255.0, mean=(0.5,), std=(0.25,))


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(count)]


class LikeHuggingFace:
    """Indexed and sized, each entry a dict of a PIL image and a class index."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return {"image": self._images[index], "label": index % 2}


class LikeDataLoader:
    """Iterable and sized, not indexed; batches of tensors that know detach, cpu and numpy."""

    class Tensor:
        def __init__(self, array):
            self._array = array
            self.shape = array.shape

        def detach(self):
            return self

        cpu = detach

        def numpy(self):
            return self._array

    def __init__(self, arrays):
        self._arrays = arrays

    def __len__(self):
        return len(self._arrays)

    def __iter__(self):
        return ((self.Tensor(a), self.Tensor(np.arange(len(a)))) for a in self._arrays)


class LikeIterableDataset:
    """Iterable as often as wanted, of unknown length; has an index only by name, as torch's base class gives it."""

    def __init__(self, images):
        self._images = images

    def __iter__(self):
        return ({"image": image, "label": i % 2} for i, image in enumerate(self._images))

    def __getitem__(self, index):
        raise NotImplementedError


def joined(dataset) -> np.ndarray:
    return np.concatenate([batch.feeds["input"] for batch in dataset])


def expected(images) -> np.ndarray:
    return np.stack([RECIPE.apply(image) for image in images])


def test_a_data_set_of_picture_and_label_dicts_is_prepared_like_a_folder():
    images = pictures(5)
    dataset = open_data(LikeHuggingFace(images), SPEC, preprocess=RECIPE)
    assert np.array_equal(joined(dataset), expected(images))
    assert np.concatenate([batch.labels for batch in dataset]).tolist() == [0, 1, 0, 1, 0]
    assert dataset.preprocess == RECIPE


@pytest.mark.parametrize("kind", [list, iter, tuple])
def test_pictures_in_any_iterable_are_prepared(kind):
    images = pictures(3)
    assert np.array_equal(joined(open_data(kind(images), SPEC, preprocess=RECIPE)), expected(images))


def test_pictures_without_a_recipe_are_fed_as_pixels_with_a_warning():
    warnings: list[str] = []
    images = pictures(2)
    dataset = open_data(images, SPEC, warn=warnings.append)
    assert joined(dataset).max() > 100
    assert "no preprocessing given" in warnings[0]


def test_a_uint8_array_of_images_is_prepared_when_there_is_a_recipe():
    images = pictures(4)
    array = np.stack([np.asarray(image) for image in images])
    labels = np.array([3, 2, 1, 0])
    dataset = open_data({"images": array, "labels": labels}, SPEC, preprocess=RECIPE)
    assert np.array_equal(joined(dataset), expected(images))
    assert np.concatenate([batch.labels for batch in dataset]).tolist() == [3, 2, 1, 0]
    assert np.array_equal(joined(open_data(array, SPEC, preprocess=RECIPE)), expected(images))


def test_batches_of_tensors_and_labels_are_taken_as_they_are():
    arrays = [np.full((2, 3, 8, 8), i, np.float32) for i in range(3)]
    dataset = open_data(LikeDataLoader(arrays), SPEC, preprocess=RECIPE)
    assert np.array_equal(joined(dataset), np.concatenate(arrays))
    assert dataset.has_labels


def test_a_stream_of_pictures_is_prepared_like_a_sequence_of_them():
    images = pictures(5)
    stream, sequence = (
        open_data(kind(images), SPEC, preprocess=RECIPE, batch_size=2)
        for kind in (LikeIterableDataset, LikeHuggingFace)
    )
    np.testing.assert_array_equal(joined(stream), joined(sequence))
    assert joined(stream).shape == (5, 3, 8, 8)
