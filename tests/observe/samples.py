"""Inputs, small images, and what comes out of a dataset, for the tests of the data readers."""

from __future__ import annotations

import numpy as np
from PIL import Image

from quantkit.load.specs import TensorSpec
from quantkit.observe import PRESETS

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
