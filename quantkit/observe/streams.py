"""Python objects as a source: iterables, one-shot iterators, CalibrationDataReader, `module:callable`."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import DataError, QuantkitError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.observe.batches import Batch
from quantkit.observe.feeds import FeedSource, npz_feeds, python_item, sequence_source
from quantkit.observe.preprocess import Preprocess


class StreamSource:
    """An iterable that can be iterated again (a DataLoader, say); its length in samples is not known."""

    preprocess: Preprocess | None = None
    count: int | None = None
    single_rows = False

    def __init__(self, data: Iterable[Any], specs: Sequence[TensorSpec], name: str) -> None:
        self._data, self._specs, self._name = data, specs, name
        first = next(iter(self.items()), None)
        if first is None:
            raise DataError(f"{name}: the iterable is empty; give at least one sample")
        self.has_labels = first.labels is not None

    def items(self) -> Iterator[Batch]:
        """The items in order. An exception in the user's code becomes a DataError."""
        return stream_items(self._data, self._specs, self._name)


def stream_items(data: Iterable[Any], specs: Sequence[TensorSpec], name: str) -> Iterator[Batch]:
    """A checked item for everything that `data` yields."""
    try:
        for index, entry in enumerate(data):
            yield python_item(entry, specs, f"{name}[{index}]")
    except QuantkitError:
        raise
    except Exception as error:
        raise DataError(f"{name}: reading the data failed ({type(error).__name__}: {error})") from error


MOST_SPOOLED = 100_000
"""Rows of an iterator that are kept without being asked for by number: an endless one would fill the disk."""


def spool(data: Iterator[Any], specs: Sequence[TensorSpec], name: str, samples: int | None) -> FeedSource:
    """A one-shot iterator, written to a temporary folder so that it can be read again in constant memory.

    Reads only until `samples` rows are there. The folder goes away with the source. Raises DataError for an iterator
    that gives nothing, or more than MOST_SPOOLED rows.
    """
    folder = tempfile.TemporaryDirectory(prefix="quantkit-data-")
    files: list[Path] = []
    labelled, rows = True, 0
    for item in stream_items(data, specs, name):
        files.append(Path(folder.name, f"{len(files)}.npz"))
        labels = {} if item.labels is None else {"labels": item.labels}
        np.savez(files[-1], *item.feeds.values(), names=np.array(item.names), **labels)  # type: ignore[arg-type]
        labelled, rows = labelled and item.labels is not None, rows + item.valid
        if samples is not None and rows >= samples:
            break
        if rows > MOST_SPOOLED:
            raise DataError(
                f"{name}: more than {MOST_SPOOLED} samples and no end in sight; say how many with --samples"
            )
    if not files:
        raise DataError(f"{name}: the iterator gave nothing; give at least one sample, or rewind the reader")
    inputs = [spec.name for spec in specs]

    def load(index: int, _keep: tempfile.TemporaryDirectory[str] = folder) -> Batch:
        with np.load(files[index], allow_pickle=False) as archive:
            feeds = {key: archive[f"arr_{place}"] for place, key in enumerate(inputs)}
            names = [str(entry) for entry in archive["names"]]
            return Batch(feeds, archive["labels"] if labelled else None, names, len(names))

    return FeedSource(load, len(files), rows, labelled)


def python_source(data: Any, specs: Sequence[TensorSpec], name: str, samples: int | None) -> FeedSource | StreamSource:
    """The source for a Python object. Raises UsageError when it is nothing that can be iterated."""
    if callable(getattr(data, "get_next", None)):
        return spool(iter(data.get_next, None), specs, name, samples)
    if isinstance(data, np.ndarray):
        return npz_feeds({"data": data}, specs, name)
    if isinstance(data, Mapping):
        return npz_feeds({key: np.asarray(array) for key, array in data.items()}, specs, name)
    if isinstance(data, Iterator):
        return spool(data, specs, name, samples)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, bytes)):
        if not len(data):
            raise DataError(f"{name}: no samples in it; give at least one")
        return sequence_source(data, specs, name)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return StreamSource(data, specs, name)
    raise UsageError(
        f"{name}: {type(data).__name__} is no data; give a path, an iterable of dicts or arrays, or get_next()"
    )


class Calls:
    """What a function gives, which is called anew for every reading."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return iter(self._function())


def called(data: Any) -> Any:
    """What a function or class gives that stands for the data; everything else as it is.

    A function that gives another iterator each time can be read again. Raises DataError when the call fails.
    """
    known = ("get_next", "__iter__", "__getitem__")
    if not callable(data) or not (isinstance(data, type) or not any(hasattr(data, name) for name in known)):
        return data
    try:
        made = data()
        return Calls(data) if isinstance(made, Iterator) and data() is not made else made
    except Exception as error:
        name = getattr(data, "__name__", type(data).__name__)
        raise DataError(f"data: calling {name} failed ({type(error).__name__}: {error})") from error


def from_callable(target: str) -> Any:
    """What `module:callable` returns; the current folder is searched for the module first.

    Raises UsageError when it cannot be imported, DataError when the call fails.
    """
    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:
        raise UsageError(f"{target}: cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        return function
    try:
        return function()
    except Exception as error:
        raise DataError(f"{target}: the call failed ({type(error).__name__}: {error})") from error
