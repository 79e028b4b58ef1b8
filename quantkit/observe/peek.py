"""The first sample of any kind of data, without using it up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe.data import open_data
from quantkit.observe.preprocess import Preprocess


def peek(data: Any, specs: Sequence[TensorSpec], *, preprocess: Preprocess | None = None,
         labels: Any = None) -> tuple[Any, dict[str, np.ndarray]]:  # fmt: skip
    """(data to go on with, the feeds of its first batch). A stream that can be read once gets its first item back.

    Raises DataError for data that cannot be used or that holds no sample, as `open_data` does.
    """
    head = data
    if hasattr(data, "get_next") and not hasattr(data, "__iter__"):
        data = iter(data.get_next, None)
    if isinstance(data, Iterator):
        first = next(data, None)
        if first is None:
            raise DataError("the data held no sample; give at least one")
        head, data = [first], chain([first], data)
    dataset = open_data(head, specs, preprocess=preprocess, labels=labels, batch_size=1, warn=lambda _: None)
    batch = next(iter(dataset), None)
    if batch is None:
        raise DataError("the data held no sample; give at least one")
    return data, dict(batch.feeds)
