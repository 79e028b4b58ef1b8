"""Ready model inputs as a source: .npz and .npy arrays, folders of .npz or ONNX test_data_set_*, Python sequences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe.batches import Batch, common_rows, make_item, shape_fits
from quantkit.observe.preprocess import Preprocess

LABEL_KEYS = ("labels", "label")


class FeedSource:
    """Items that can be loaded by index. Each is checked against the inputs when it is loaded."""

    preprocess: Preprocess | None = None

    def __init__(
        self,
        load: Callable[[int], Batch],
        length: int,
        rows: int | None,
        has_labels: bool,
        single_rows: bool = False,
    ) -> None:
        self._load, self._length, self._rows = load, length, rows
        self.has_labels, self.single_rows = has_labels, single_rows

    @property
    def count(self) -> int:
        """Samples; items whose number of rows is not known are counted by loading them once."""
        if self._rows is None:
            self._rows = sum(item.valid for item in self.items())
        return self._rows

    @property
    def length(self) -> int:
        """Number of items."""
        return self._length

    def select(self, indices: Sequence[int]) -> FeedSource:
        """The same source over a subset of its items."""
        chosen = list(indices)
        rows = len(chosen) if self._rows == self._length else None
        load = self._load
        part = FeedSource(lambda index: load(chosen[index]), len(chosen), rows, self.has_labels, self.single_rows)
        part.preprocess = self.preprocess
        return part

    def items(self) -> Iterator[Batch]:
        """The items in order."""
        return (self._load(index) for index in range(self._length))


def npy_source(path: Path, specs: Sequence[TensorSpec]) -> FeedSource:
    """A .npy for a one-input model; it is mapped, not read into memory."""
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(f"{path}: a .npy fits a model with one input; this one has {names}: give a .npz")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy ({error})") from error
    return array_feeds({specs[0].name: array}, specs, path.name, None)


def array_feeds(
    arrays: Mapping[str, np.ndarray], specs: Sequence[TensorSpec], name: str, labels: np.ndarray | None
) -> FeedSource:
    """One array per input: rows of axis 0 are samples; with one axis more than the input, axis 0 counts whole feeds.

    Arrays that share no axis 0, or match a static shape exactly, are one feed.
    """
    rows = common_rows(arrays)
    if rows == 0:
        raise DataError(f"{name}: the arrays are empty; give at least one sample")
    if rows is None or _is_static(specs, arrays):
        item = make_item(arrays, specs, name, labels)
        return FeedSource(lambda index: item, 1, item.valid, labels is not None)
    if labels is not None and len(labels) != rows:
        raise DataError(f"{name}: {len(labels)} labels for {rows} samples; give one a sample")
    ranks = {spec.name: len(spec.shape) for spec in specs}
    extra = all(ranks[key] and array.ndim == ranks[key] + 1 for key, array in arrays.items())

    def load(index: int) -> Batch:
        row = index if extra else slice(index, index + 1)
        feeds = {key: np.array(array[row]) for key, array in arrays.items()}
        label = None if labels is None else labels[index : index + 1]
        return make_item(feeds, specs, f"{name}[{index}]", label)

    return FeedSource(load, rows, None if extra else rows, labels is not None, single_rows=not extra)


def npz_feeds(archive: Mapping[str, np.ndarray], specs: Sequence[TensorSpec], name: str) -> FeedSource:
    """A .npz with one array per input (a single array of any name for a one-input model) and optional labels."""
    wanted = [spec.name for spec in specs]
    key = next((key for key in LABEL_KEYS if key in archive and key not in wanted), None)
    labels = None if key is None else np.asarray(archive[key])
    arrays = {entry: archive[entry] for entry in archive if entry != key}
    if all(entry in arrays for entry in wanted):
        arrays = {entry: arrays[entry] for entry in wanted}
    elif len(wanted) == 1 and len(arrays) == 1:
        arrays = {wanted[0]: next(iter(arrays.values()))}
    else:
        raise DataError(
            f"{name}: the inputs are {', '.join(wanted)}, the file holds {', '.join(archive) or 'nothing'}; "
            "name its arrays as the inputs, or give uint8 `images` [N, H, W, C]"
        )
    return array_feeds(arrays, specs, name, labels)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of a .npz that holds numbers. Raises DataError on a broken file; pickled objects are never loaded."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: not a readable .npz ({error})") from error


def npz_folder_source(files: Sequence[Path], specs: Sequence[TensorSpec]) -> FeedSource:
    """A folder of .npz, each one feed of the model with optional labels."""

    def load(index: int) -> Batch:
        archive = read_npz(files[index])
        key = next((key for key in LABEL_KEYS if key in archive and key not in {spec.name for spec in specs}), None)
        labels = None if key is None else archive.pop(key)
        return make_item(archive, specs, files[index].name, labels)

    return FeedSource(load, len(files), None, load(0).labels is not None)


def onnx_test_source(folders: Sequence[Path], specs: Sequence[TensorSpec]) -> FeedSource:
    """ONNX test_data_set_* folders: input_0.pb, input_1.pb... in the order of the inputs."""

    def load(index: int) -> Batch:
        files = _numbered(folders[index].glob("input_*.pb"))
        if len(files) < len(specs):
            raise DataError(f"{folders[index]}: {len(files)} input_*.pb files for {len(specs)} inputs")
        arrays = {spec.name: _read_tensor(file) for spec, file in zip(specs, files, strict=False)}
        return make_item(arrays, specs, folders[index].name)

    return FeedSource(load, len(folders), None, False)


def sequence_source(data: Sequence[Any], specs: Sequence[TensorSpec], name: str) -> FeedSource:
    """A list of feeds: dicts, arrays, or (x, y) pairs."""

    def load(index: int) -> Batch:
        return python_item(data[index], specs, f"{name}[{index}]")

    return FeedSource(load, len(data), None, load(0).labels is not None)


def python_item(entry: Any, specs: Sequence[TensorSpec], name: str) -> Batch:
    """An item from what an iterable yields: a dict, an array or tensor, or a pair (x, y).

    A dict may hold `labels` beside the inputs. A y that is no vector of class indices is not a label and is left out.
    """
    entry, labels = _split(entry, [spec.name for spec in specs])
    item = make_item(entry, specs, name)
    if labels is None or not _are_classes(labels, item.valid):
        return item
    return make_item(item.feeds, specs, name, labels)


def _split(entry: Any, inputs: Sequence[str]) -> tuple[Any, Any]:
    """(feeds, labels or None) of an entry."""
    if isinstance(entry, (tuple, list)) and entry and (hasattr(entry[0], "shape") or isinstance(entry[0], Mapping)):
        if len(entry) == 1 or isinstance(entry[0], Mapping):
            return entry[0], entry[1] if len(entry) > 1 else None
        if len(entry) in (len(inputs), len(inputs) + 1):
            labels = entry[len(inputs)] if len(entry) > len(inputs) else None
            return dict(zip(inputs, entry, strict=False)), labels
    if isinstance(entry, Mapping):
        key = next((key for key in LABEL_KEYS if key in entry and key not in inputs), None)
        if key is not None:
            return {name: array for name, array in entry.items() if name != key}, entry[key]
    return entry, None


def _are_classes(labels: Any, rows: int) -> bool:
    array = labels.numpy() if callable(getattr(labels, "numpy", None)) else np.asarray(labels)
    return array.dtype.kind in "iu" and array.size == rows


def _is_static(specs: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether all shapes are fixed and the arrays have exactly these."""
    return all(
        spec.shape
        and all(isinstance(size, int) for size in spec.shape)
        and shape_fits(arrays[spec.name].shape, spec.shape)
        for spec in specs
    )


def _numbered(files: Any) -> list[Path]:
    """Sorted by the number at the end of the name: input_10 after input_9."""
    return sorted(files, key=lambda file: int((re.search(r"(\d+)$", file.stem) or [0, 0])[1]))


def _read_tensor(path: Path) -> np.ndarray:
    import onnx

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # protobuf's DecodeError has no public base of its own
        raise DataError(f"{path}: not a readable ONNX tensor ({error})") from error
