"""The calibration samples once more, and again: kept in a temporary folder, so that memory does not grow with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.observe import Batch

REPLAY_BYTES = 1 << 30
"""Inputs kept on disk, at most: 1700 images of 224 x 224."""
REPLAY_SAMPLES = 512
"""Samples kept, at most: layers are fitted on thousands of positions, which these hold even where a sample is one."""


class Replay:
    """The first batches of a dataset, kept as files while somebody iterates over it. A context manager.

    Iterating gives (feeds, valid rows) of each batch; rows that fill up a static batch are kept too.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._folder = tempfile.TemporaryDirectory(prefix="quantkit-replay-")
        self._kept: list[tuple[Path, int]] = []
        self._bytes = 0
        self._labels: list[np.ndarray] | None = []
        self.samples = 0

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    @property
    def count(self) -> int | None:
        """Samples of the dataset, as far as it is known."""
        return getattr(self._dataset, "count", None)

    def __len__(self) -> int:
        """Batches kept so far."""
        return len(self._kept)

    def recorded(self) -> Replay._Recording:
        """The dataset itself: iterate over it once, and its first batches are kept."""
        return self._Recording(self)

    def fill(self) -> None:
        """Reads the dataset as far as it is kept."""
        for _ in self.recorded():
            if self._is_full:
                return

    @property
    def _is_full(self) -> bool:
        return self.samples >= REPLAY_SAMPLES or self._bytes >= REPLAY_BYTES

    class _Recording:
        def __init__(self, replay: Replay) -> None:
            self._replay = replay
            self.count = replay.count

        def __iter__(self) -> Iterator[Batch]:
            for batch in self._replay._dataset:
                self._replay._keep(batch)
                yield batch

    def _keep(self, batch: Batch) -> None:
        if self._is_full:
            return
        path = Path(self._folder.name) / f"{len(self._kept)}.npz"
        np.savez(path, **batch.feeds)  # type: ignore[arg-type]
        self._kept.append((path, batch.valid))
        if batch.labels is None or self._labels is None:
            self._labels = None
        else:
            self._labels.append(np.asarray(batch.labels)[: batch.valid])
        self.samples += batch.valid
        self._bytes += sum(array.nbytes for array in batch.feeds.values())

    def __iter__(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        for path, valid in self._kept:
            with np.load(path) as arrays:
                yield dict(arrays), valid

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [samples], or None if a sample has no label."""
        return np.concatenate(self._labels) if self._labels else None

    def first(self, samples: int) -> list[tuple[dict[str, np.ndarray], int]]:
        """Whole batches that hold at least `samples` samples together, or all."""
        total = 0
        for index, (_, valid) in enumerate(self._kept):
            total += valid
            if total >= samples:
                return list(islice(self, index + 1))
        return list(self)


def halves(samples: list[tuple[dict[str, np.ndarray], int]], *, cut: bool) -> tuple[list[Any], list[Any]]:
    """The first and the second half of some batches. A batch alone is cut if `cut` allows it and its feeds share axis
    0; else the second half is empty."""
    if len(samples) > 1:
        middle = (len(samples) + 1) // 2
        return samples[:middle], samples[middle:]
    feeds, valid = samples[0]
    if not cut or valid < 2 or any(array.ndim == 0 or len(array) != valid for array in feeds.values()):
        return samples, []
    middle = (valid + 1) // 2
    parts = [{name: array[part] for name, array in feeds.items()} for part in (slice(middle), slice(middle, None))]
    return [(parts[0], middle)], [(parts[1], valid - middle)]
