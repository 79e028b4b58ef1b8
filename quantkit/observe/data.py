"""Sample data of every kind, as one stream of batches that fit the model's inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quantkit.errors import DataError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.observe.batches import Batch, natural_batch, rebatch, row_contents, static_batch, take
from quantkit.observe.feeds import (
    FeedSource,
    npy_source,
    npz_feeds,
    npz_folder_source,
    onnx_test_source,
    read_npz,
)
from quantkit.observe.images import (
    ImageSource,
    array_source,
    digest_of,
    find_images,
    folder_source,
    read_label_column,
)
from quantkit.observe.pictures import holds_pictures, prepared
from quantkit.observe.preprocess import Preprocess
from quantkit.observe.streams import called, from_callable, python_source


class Source(Protocol):
    """Where items come from. Items are checked feeds with a batch axis; reading twice gives the same.

    single_rows: every item is one sample, so that the batch size is free to choose.
    """

    @property
    def count(self) -> int | None: ...
    @property
    def has_labels(self) -> bool: ...
    @property
    def preprocess(self) -> Preprocess | None: ...
    @property
    def single_rows(self) -> bool: ...
    def items(self) -> Iterator[Batch]: ...


class Dataset:
    """A re-iterable stream of Batch. `count` samples (None: not known before they are read); len() gives the same.

    digest: sha256 over the samples' files or bytes, the same for every batch size.
    preprocess: the recipe for images, None for ready inputs.
    """

    def __init__(
        self, source: Source, specs: Sequence[TensorSpec], samples: int | None, batch_size: int | None
    ) -> None:
        self._source, self._samples, self._batch_size = source, samples, batch_size
        self._static = static_batch(specs)
        self._digest: str | None = None
        self.has_labels = source.has_labels
        self.preprocess = source.preprocess

    @property
    def count(self) -> int | None:
        """Samples, before corrupt images are skipped; None for an iterable of unknown length."""
        known = self._source.count
        if known is None or self._samples is None:
            return known
        return min(known, self._samples)

    @property
    def single_rows(self) -> bool:
        """Whether the data says itself that rows are samples: images, and arrays of many of them."""
        return self._source.single_rows

    def __len__(self) -> int:
        count = self.count
        if count is None:
            raise TypeError("the number of samples of this iterable is not known; use .count")
        return count

    def __bool__(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        """sha256 hex; read from the data at the first use. Raises DataError when a file cannot be read."""
        if self._digest is None:
            try:
                if isinstance(self._source, ImageSource):
                    self._digest = digest_of(self._source.contents())
                else:
                    self._digest = digest_of(content for item in self._limited() for content in row_contents(item))
            except OSError as error:
                raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return self._digest

    def __iter__(self) -> Iterator[Batch]:
        size = self._static or self._batch_size
        items = self._limited()
        if size is None and self._source.single_rows:
            items, size = _with_natural_batch(items)
        return rebatch(items, size, pad=self._static is not None)

    def _limited(self) -> Iterator[Batch]:
        """The first `samples` rows of the source."""
        left = self._samples
        for item in self._source.items():
            if left is None:
                yield item
                continue
            yield item if item.valid <= left else take(item, 0, left)
            left -= item.valid
            if left <= 0:
                return


def open_data(
    data: Any,
    inputs: Sequence[TensorSpec],
    *,
    preprocess: Preprocess | None = None,
    labels: str | Path | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    strict: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Dataset:
    """The data as batches that fit `inputs`.

    data: a folder of images, of .npz or of test_data_set_*; a .npz or .npy; "module:callable"; or a Python object:
    an array, a dict of arrays, an iterable of dicts, arrays or (x, y) pairs, an object with get_next(), a function
    or class that gives one of these. PIL images in
    it, and uint8 arrays of images when `preprocess` is given, are prepared like those of a folder.
    samples: a seeded random subset when more are available (of a stream of unknown length, the first ones).
    batch_size: None chooses one; a static batch size of the model goes first.
    strict: a corrupt or unlabelled image is an error rather than a warning.
    Raises DataError for data that cannot be used, UsageError for options that make no sense.
    """
    for name, value in (("samples", samples), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    if not inputs:
        raise DataError("the model has no inputs, so there is nothing to feed data to")
    notify = warn or (lambda message: warnings.warn(message, stacklevel=3))
    opener = _Opener(inputs, preprocess, labels, strict, notify, samples)
    source = opener.open(data)
    if samples is not None and isinstance(source, (ImageSource, FeedSource)):
        source = _subset(source, samples, seed)
    return Dataset(source, inputs, samples, batch_size)


class _Opener:
    """Finds the kind of the data. One method a kind, so that each says what it needs."""

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        preprocess: Preprocess | None,
        labels: str | Path | None,
        strict: bool,
        warn: Callable[[str], None],
        samples: int | None,
    ) -> None:
        self._specs, self._preprocess, self._labels = specs, preprocess, labels
        self._strict, self._warn, self._samples = strict, warn, samples

    def open(self, data: Any) -> Any:
        """The source for `data`."""
        if not isinstance(data, (str, Path)):
            return self._unlabelled(self._python(called(data)), "data")
        if not str(data):  # Path("") is the current folder: an unset variable must not find images there
            raise DataError("--data is empty; give a folder of images, a .npz, a .npy or module:callable")
        path = Path(data)
        if path.is_dir():
            return self._folder(path)
        if path.is_file():
            return self._file(path)
        if isinstance(data, str) and ":" in data:
            made = from_callable(data)
            return self._unlabelled(python_source(made, self._specs, data, self._samples), data)
        raise DataError(f"{data}: no such file or folder; give a folder of images, a .npz, a .npy or module:callable")

    def _python(self, data: Any) -> Any:
        """A Python object; pictures in it are prepared like those of a folder."""
        images = data.get("images") if isinstance(data, dict) else data
        if isinstance(images, np.ndarray) and self._preprocess is not None and images.dtype == np.uint8:
            labels = data.get("labels") if isinstance(data, dict) else None
            return array_source(images, labels, "data", self._image_input(Path("data")), self._preprocess)
        found = holds_pictures(data)
        if self._preprocess is None and not found:
            return python_source(data, self._specs, "data", self._samples)
        if isinstance(data, (np.ndarray, Mapping)) or callable(getattr(data, "get_next", None)):
            return python_source(data, self._specs, "data", self._samples)
        recipe = self._recipe(self._image_input(Path("data")) if found else self._specs[0])
        source = python_source(prepared(data, recipe), self._specs, "data", self._samples)
        source.preprocess = recipe if found else None
        return source

    def _folder(self, path: Path) -> Any:
        test_sets = sorted(entry for entry in path.glob("test_data_set_*") if entry.is_dir())
        if not test_sets and any(path.glob("input_*.pb")):
            test_sets = [path]
        if test_sets:
            return self._unlabelled(onnx_test_source(test_sets, self._specs), path)
        archives = sorted(path.glob("*.npz"))
        if archives and not find_images(path):
            return self._unlabelled(npz_folder_source(archives, self._specs), path)
        spec = self._image_input(path)
        return folder_source(path, spec, self._recipe(spec), self._labels, self._strict, self._warn)

    def _file(self, path: Path) -> Any:
        if path.suffix.lower() == ".npy":
            return self._unlabelled(npy_source(path, self._specs), path)
        if path.suffix.lower() != ".npz":
            raise DataError(f"{path}: not a kind of data that is known; give a folder, a .npz or a .npy")
        arrays = read_npz(path)
        images = arrays.get("images")
        if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4):
            if self._labels is not None:
                arrays["labels"] = self._label_column()
            return npz_feeds(arrays, self._specs, path.name)
        labels = self._label_column() if self._labels is not None else arrays.get("labels")
        spec = self._image_input(path)
        return array_source(images, labels, path.name, spec, self._recipe(spec))

    def _label_column(self) -> np.ndarray:
        assert self._labels is not None
        return np.array([index for _, index in read_label_column(Path(self._labels))], dtype=np.int64)

    def _unlabelled(self, source: Any, name: object) -> Any:
        if self._labels is not None:
            raise UsageError(f"{name}: --labels goes with images and .npz files; give (x, y) pairs or 'labels' instead")
        return source

    def _image_input(self, path: Path) -> TensorSpec:
        if len(self._specs) != 1:
            names = ", ".join(spec.name for spec in self._specs)
            raise DataError(
                f"{path}: images fit a model with one input; this one has {names}: give a .npz of its inputs"
            )
        return self._specs[0]

    def _recipe(self, spec: TensorSpec) -> Preprocess:
        if self._preprocess is not None:
            return self._preprocess
        if spec.dtype.kind == "f":
            self._warn("no preprocessing given: the model is fed pixel values 0..255; see --preprocess")
        return raw_pixels(spec)


def raw_pixels(spec: TensorSpec) -> Preprocess:
    """Pixel values as they are, in the layout and colours that the input's shape suggests."""
    channels_last = len(spec.shape) == 4 and spec.shape[3] in (1, 3) and spec.shape[1] not in (1, 3)
    channels = spec.shape[3 if channels_last else 1] if len(spec.shape) == 4 else 3
    return Preprocess(color="L" if channels == 1 else "RGB", layout="NHWC" if channels_last else "NCHW")


def _subset(source: ImageSource | FeedSource, samples: int, seed: int) -> ImageSource | FeedSource:
    """A seeded random choice of items with at least `samples` rows, in their old order; all when there are not more."""
    available = source.count
    if available <= samples:
        return source
    items = available if isinstance(source, ImageSource) else source.length
    order = np.random.default_rng(seed).permutation(items)
    chosen = order[:samples] if items == available else _until(source, order, samples)
    return source.select(sorted(int(index) for index in chosen))


def _until(source: ImageSource | FeedSource, order: np.ndarray, samples: int) -> list[int]:
    """The first indices of `order` whose items have together at least `samples` rows."""
    rows = [item.valid for item in source.items()]
    total = np.cumsum([rows[index] for index in order])
    return list(order[: int(np.searchsorted(total, samples)) + 1])


def _with_natural_batch(items: Iterator[Batch]) -> tuple[Iterator[Batch], int]:
    """The same items, and the batch size that suits the first."""
    first = next(items, None)
    if first is None:
        return iter(()), 1

    def again() -> Iterator[Batch]:
        yield first
        yield from items

    return again(), natural_batch(first)
