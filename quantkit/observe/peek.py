"""The first samples of any kind of data, without using it up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from quantkit.errors import DataError, QuantkitError
from quantkit.load.specs import TensorSpec
from quantkit.observe.batches import Batch, common_rows, static_batch, take
from quantkit.observe.data import Dataset, open_data
from quantkit.observe.preprocess import Preprocess
from quantkit.observe.runner import FloatRunner
from quantkit.observe.streams import called

LOOKED_AT = 8
"""Samples that are looked at; a stream must hold so many in memory."""
SAME_ROW = 0.1
"""What a row alone may differ by from the same row among others, as a part of its norm: more than onnxruntime's other
order of sums and the ranges of a DynamicQuantizeLinear over the batch, less than a neighbour that is missing."""


def peek(data: Any, specs: Sequence[TensorSpec], *, preprocess: Preprocess | None = None,
         labels: Any = None, open_float: Callable[[], FloatRunner] | None = None
         ) -> tuple[Any, list[dict[str, np.ndarray]]]:  # fmt: skip
    """(data to go on with, the feeds of its first samples, at most LOOKED_AT).

    open_float: opens the FP32 model, to see whether the rows of an item are samples of their own; else they are.

    A stream that can be read once gets its first items back. Raises DataError for data that cannot be used or that
    holds no sample, as `open_data` does.
    """
    head = data = called(data)
    if hasattr(data, "get_next") and not hasattr(data, "__iter__"):
        data = iter(data.get_next, None)
    if isinstance(data, Iterator):
        head = _first(data)
        if not head:
            raise DataError("the data held no sample; give at least one")
        data = chain(head, data)

    def opened(size: int | None) -> Dataset:
        return open_data(head, specs, preprocess=preprocess, labels=labels, batch_size=size, warn=lambda _: None)

    dataset = opened(None)
    if open_float is None or dataset.single_rows or static_batch(specs) is not None:
        found = [dict(batch.feeds) for batch in islice(opened(1), LOOKED_AT)]
    else:
        found = list(islice(_samples(dataset, open_float), LOOKED_AT))
    if not found:
        raise DataError("the data held no sample; give at least one")
    return data, found


def _first(data: Iterator[Any]) -> list[Any]:
    """What the user's iterator gives first. An exception in it becomes a DataError."""
    try:
        return list(islice(data, LOOKED_AT))
    except QuantkitError:
        raise
    except Exception as error:
        raise DataError(f"data: reading the data failed ({type(error).__name__}: {error})") from error


def _samples(dataset: Dataset, open_float: Callable[[], FloatRunner]) -> Iterator[dict[str, np.ndarray]]:
    """The items as they are where their first axis is no batch (the frames of a piece of music, say), else the rows."""
    apart: bool | None = None
    for batch in dataset:
        if common_rows(batch.feeds) in (None, 1):
            yield dict(batch.feeds)
            continue
        if apart is None:
            apart = rows_are_samples(open_float(), batch)
        pieces = (take(batch, row, row + 1) for row in range(batch.valid)) if apart else [batch]
        yield from (dict(piece.feeds) for piece in pieces)


def rows_are_samples(runner: FloatRunner, item: Batch) -> bool:
    """Whether the model gives for the last row of an item alone what it gives for it among the others.

    True where it cannot run on the item either: the rows may still do. item: at least two rows, in all feeds.
    """
    try:
        among = runner.run(item.feeds)
    except DataError:
        return True
    try:
        alone = runner.run(take(item, item.valid - 1, item.valid).feeds)
    except DataError:
        return False
    return all(_is_row(np.asarray(row), np.asarray(rows), item.valid) for row, rows in zip(alone, among, strict=True))


def _is_row(row: np.ndarray, rows: np.ndarray, count: int) -> bool:
    """Whether `row` is the last of `count` rows. What holds no numbers is not looked at."""
    if rows.dtype.kind not in "fiub":
        return True
    if not rows.ndim or len(rows) != count or row.shape != (1, *rows.shape[1:]):
        return False
    wanted = np.nan_to_num(rows[-1].astype(np.float64))
    error = np.nan_to_num(row[0].astype(np.float64)) - wanted
    return bool(np.linalg.norm(error.ravel()) <= SAME_ROW * np.linalg.norm(wanted.ravel()))
