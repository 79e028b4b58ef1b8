"""Python data that holds pictures (a Hugging Face data set, a list of PIL images): each becomes a model input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from quantkit.observe.preprocess import Preprocess

Prepare = Callable[[Any], Any]


def is_picture(value: Any) -> bool:
    """Whether `value` is a PIL image, or something that is one in all that matters here."""
    return hasattr(value, "mode") and hasattr(value, "size") and callable(getattr(value, "convert", None))


def holds_pictures(data: Any) -> bool:
    """Whether the first entry of a sequence has a picture, or of an iterable of unknown length that starts anew.

    An iterator is not read ahead: its first entry would be lost. Nor is an iterable that knows its length, such as a
    loader, which would start its workers for that.
    """
    if isinstance(data, (str, bytes, Mapping, np.ndarray, Iterator)) or callable(getattr(data, "get_next", None)):
        return False
    if hasattr(data, "__len__"):
        return hasattr(data, "__getitem__") and bool(len(data)) and any(map(is_picture, _parts(data[0])))
    return isinstance(data, Iterable) and any(map(is_picture, _parts(next(iter(data), ()))))


def prepared(data: Any, recipe: Preprocess) -> Any:
    """The same data, of the same kind (sequence, iterable or iterator), every picture put through `recipe`."""

    def prepare(entry: Any) -> Any:
        if is_picture(entry):
            return recipe.apply(entry)[np.newaxis]
        if isinstance(entry, Mapping) and any(map(is_picture, entry.values())):
            return {key: prepare(value) if is_picture(value) else _label(value) for key, value in entry.items()}
        if isinstance(entry, (tuple, list)) and any(map(is_picture, entry)):
            return tuple(prepare(value) if is_picture(value) else _label(value) for value in entry)
        return entry

    if isinstance(data, Iterator):
        return map(prepare, data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _Sequence(data, prepare)
    return _Iterable(data, prepare)


def _parts(entry: Any) -> Iterable[Any]:
    if isinstance(entry, Mapping):
        return entry.values()
    return entry if isinstance(entry, (tuple, list)) else (entry,)


def _label(value: Any) -> Any:
    """A class index beside one picture, as the vector of one that labels of a batch of one are."""
    return np.array([value]) if isinstance(value, (int, np.integer)) else value


class _Sequence:
    def __init__(self, data: Sequence[Any], prepare: Prepare) -> None:
        self._data, self._prepare = data, prepare

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        return self._prepare(self._data[index])


class _Iterable:
    def __init__(self, data: Iterable[Any], prepare: Prepare) -> None:
        self._data, self._prepare = data, prepare

    def __iter__(self) -> Iterator[Any]:
        return map(self._prepare, self._data)
