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
"""Samples that are looked at; a stream must hold so many in memory."""


def peek(data: Any, specs: Sequence[TensorSpec], *, preprocess: Preprocess | None = None,
         labels: Any = None) -> tuple[Any, list[dict[str, np.ndarray]]]:  # fmt: skip
    """(data to go on with, the feeds of its first samples, at most LOOKED_AT).

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
    found = [dict(batch.feeds) for batch in islice(dataset, LOOKED_AT)]
    if not found:
        raise DataError("the data held no sample; give at least one")
    return data, found
