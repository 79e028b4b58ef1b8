"""The first samples of any kind of data, without using it up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe.data import open_data
from quantkit.observe.preprocess import Preprocess

LOOKED_AT = 8
"""Samples that are looked at for other shapes; a stream must hold so many in memory."""
SHAPES_MOST = 3


def peek(data: Any, specs: Sequence[TensorSpec], *, preprocess: Preprocess | None = None,
         labels: Any = None) -> tuple[Any, list[dict[str, np.ndarray]]]:  # fmt: skip
    """(data to go on with, the feeds of its first samples: one of each shape, at most SHAPES_MOST of LOOKED_AT).

    A stream that can be read once gets its first items back. Raises DataError for data that cannot be used or that
    holds no sample, as `open_data` does.
    """
    head = data
    if hasattr(data, "get_next") and not hasattr(data, "__iter__"):
        data = iter(data.get_next, None)
    if isinstance(data, Iterator):
        head = list(islice(data, LOOKED_AT))
        if not head:
            raise DataError("the data held no sample; give at least one")
        data = chain(head, data)
    dataset = open_data(head, specs, preprocess=preprocess, labels=labels, batch_size=1, warn=lambda _: None)
    found: dict[tuple[tuple[int, ...], ...], dict[str, np.ndarray]] = {}
    for batch in islice(dataset, LOOKED_AT):
        shapes = tuple(array.shape for array in batch.feeds.values())
        if shapes not in found and len(found) < SHAPES_MOST:
            found[shapes] = dict(batch.feeds)
    if not found:
        raise DataError("the data held no sample; give at least one")
    return data, list(found.values())
