"""Batches: what a model is fed with. Items of a source are checked against the inputs, then merged or split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec

BATCH_BYTES = 1 << 20
"""A batch chosen here holds about this many bytes of input: enough to hide the cost of a call, little memory."""
BATCH_MOST = 32


@dataclass(frozen=True)
class Batch:
    """Feeds of one run. Rows from `valid` on repeat the last sample, to fill the batch of a static-shape model.

    feeds: one array per model input. labels: int64 [valid] or None. names: one per valid row.
    """

    feeds: dict[str, np.ndarray]
    labels: np.ndarray | None
    names: list[str]
    valid: int


def make_item(
    feeds: Any, specs: Sequence[TensorSpec], name: str, labels: Any = None, *, row_name: str | None = None
) -> Batch:
    """A checked item: feeds (a mapping, or one array for a one-input model) with the dtypes and ranks of the inputs.

    An array that lacks only the batch axis gets one; some may have length 0 on another axis. Raises DataError naming
    the item, the input and both shapes.
    """
    named = _by_input(feeds, specs, name)
    checked = {spec.name: _fit(_as_array(named[spec.name], name), spec, name) for spec in specs}
    if checked and not any(array.size for array in checked.values()):  # some may be, as caches before the first token
        shapes = [list(array.shape) for array in checked.values()]
        raise DataError(f"{name}: every input is empty: {shapes}")
    rows = common_rows(checked)
    names = [row_name or name] if rows in (None, 1) else [f"{name}[{row}]" for row in range(rows)]
    classes = None if labels is None else _classes(labels, len(names), name)
    return Batch(checked, classes, names, len(names))


def common_rows(feeds: Mapping[str, np.ndarray]) -> int | None:
    """Length of axis 0 when all feeds share it, else None: such an item is one sample and cannot be merged or split."""
    lengths = {array.shape[0] if array.ndim else None for array in feeds.values()}
    return lengths.pop() if len(lengths) == 1 else None


def shape_fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    """Whether every fixed dimension of `wanted` is met."""
    return len(shape) == len(wanted) and all(
        size == want or not isinstance(want, int) for size, want in zip(shape, wanted, strict=True)
    )


def static_batch(specs: Sequence[TensorSpec]) -> int | None:
    """The batch size a static-shape model insists on, or None."""
    sizes = {spec.shape[0] if spec.shape else None for spec in specs}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if isinstance(size, int) else None


def natural_batch(item: Batch) -> int:
    """Rows that make up about BATCH_BYTES, at most BATCH_MOST."""
    row_bytes = sum(array.nbytes for array in item.feeds.values()) // max(1, item.valid)
    return max(1, min(BATCH_MOST, BATCH_BYTES // max(1, row_bytes)))


PADDED_MOST = 1 << 16
"""Rows that a last batch is filled up with; a static batch beyond that is a damaged file."""


def rebatch(items: Iterable[Batch], size: int | None, *, pad: bool) -> Iterator[Batch]:
    """Batches of `size` rows (None: items as they come). Rows of different shapes are never put in one batch.

    pad: fill a last, shorter batch by repeating its last row, as a static-shape model needs it.
    """
    waiting: list[Batch] = []
    for item in items:
        if size is None or common_rows(item.feeds) is None:
            yield from _flush(waiting, size, pad)
            waiting = []
            yield item
            continue
        for row in _pieces(item, size, sum(piece.valid for piece in waiting)):
            if waiting and (_row_shapes(waiting[0]) != _row_shapes(row) or _total(waiting) + row.valid > size):
                yield from _flush(waiting, size, pad)
                waiting = []
            waiting.append(row)
    yield from _flush(waiting, size, pad)


def take(batch: Batch, start: int, stop: int) -> Batch:
    """Rows start..stop-1 of an item whose feeds share axis 0."""
    feeds = {name: array[start:stop] for name, array in batch.feeds.items()}
    labels = None if batch.labels is None else batch.labels[start:stop]
    names = batch.names[start:stop]
    return Batch(feeds, labels, names, len(names))


def row_contents(batch: Batch) -> Iterator[bytes]:
    """Name, dtype, shape and bytes of every row, so that a digest does not depend on how rows were grouped."""
    rows = common_rows(batch.feeds)
    pieces = [batch] if rows is None else (take(batch, row, row + 1) for row in range(batch.valid))
    for piece in pieces:
        parts = []
        for name in sorted(piece.feeds):
            array = piece.feeds[name]
            parts += [f"{name}:{array.dtype}{array.shape}".encode(), np.ascontiguousarray(array).tobytes()]
        yield b"".join(parts)


def _pieces(item: Batch, size: int, filled: int) -> Iterator[Batch]:
    """The item cut so that the first piece completes a batch that already holds `filled` rows."""
    start = 0
    room = size - filled if filled < size else size
    while start < item.valid:
        stop = min(item.valid, start + room)
        yield item if (start, stop) == (0, item.valid) else take(item, start, stop)
        start, room = stop, size


def _total(pieces: Sequence[Batch]) -> int:
    return sum(piece.valid for piece in pieces)


def _row_shapes(batch: Batch) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in batch.feeds.values()]


def _flush(pieces: list[Batch], size: int | None, pad: bool) -> Iterator[Batch]:
    if not pieces:
        return
    names = [name for piece in pieces for name in piece.names]
    missing = (size or 0) - len(names) if pad else 0
    if missing > PADDED_MOST:
        raise DataError(f"a static batch of {size} for {len(names)} samples; check the model")
    feeds = {}
    for key in pieces[0].feeds:
        arrays = [piece.feeds[key] for piece in pieces]
        if missing > 0:
            arrays.append(np.repeat(arrays[-1][-1:], missing, axis=0))
        feeds[key] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    yield Batch(feeds, np.concatenate(labels) if len(labels) == len(pieces) else None, names, len(names))


def _by_input(feeds: Any, specs: Sequence[TensorSpec], name: str) -> Mapping[str, Any]:
    wanted = [spec.name for spec in specs]
    if not isinstance(feeds, Mapping):
        if len(wanted) != 1:
            raise DataError(f"{name}: one array for a model with inputs {', '.join(wanted)}; give a dict of arrays")
        return {wanted[0]: feeds}
    missing = [entry for entry in wanted if entry not in feeds]
    if missing and len(wanted) == 1 and len(feeds) == 1:
        return {wanted[0]: next(iter(feeds.values()))}
    if missing:
        raise DataError(
            f"{name}: no array for input {', '.join(missing)}; got {', '.join(map(str, feeds)) or 'nothing'}. "
            "Name the arrays as the model's inputs"
        )
    return feeds


def _as_array(value: Any, name: str) -> np.ndarray:
    """numpy from an array, a torch-like tensor (detach, cpu, numpy), or nested lists."""
    for method in ("detach", "cpu", "numpy"):
        if not isinstance(value, np.ndarray) and callable(getattr(value, method, None)):
            value = getattr(value, method)()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name}: not an array ({error})") from error
    if array.dtype == object and not all(isinstance(entry, str) for entry in array.flat):
        raise DataError(f"{name}: not an array of numbers but {type(value).__name__}")
    return array


def _fit(array: np.ndarray, spec: TensorSpec, name: str) -> np.ndarray:
    """The array in the dtype and rank of the input. The batch axis is left free: rebatch sees to it."""
    where = f"{name}: input {spec.name!r}"
    if array.dtype.kind in "OUS" and spec.dtype.kind in "OUS":
        array = array.astype(object)
    elif array.dtype != spec.dtype:
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise DataError(f"{where} needs {spec.dtype}, got {array.dtype}; convert the data")
        array = array.astype(spec.dtype)
    if spec.shape and array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    if spec.shape and not (array.ndim == len(spec.shape) and shape_fits(array.shape[1:], spec.shape[1:])):
        shape = ", ".join(str(size) if size is not None else "?" for size in spec.shape)
        raise DataError(
            f"{where} has shape {list(array.shape)}, the model needs [{shape}]; check the data and --preprocess"
        )
    if 0 in array.shape[:1]:
        raise DataError(f"{where} is empty: shape {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where} holds NaN or infinity; clean the data")
    return array


def _classes(labels: Any, rows: int, name: str) -> np.ndarray:
    classes = _as_array(labels, name)
    if classes.ndim == 2 and classes.shape[1] == 1:
        classes = classes[:, 0]
    if classes.dtype.kind not in "iu" or classes.size != rows or classes.ndim > 1:
        raise DataError(
            f"{name}: labels must be {rows} class indices (integers), got {classes.dtype} {list(classes.shape)}"
        )
    return classes.astype(np.int64).reshape(rows)
