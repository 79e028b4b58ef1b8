"""Rows of FP32 targets and of INT8 inputs at the same sampled positions of the same samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantkit.quantize.apply import quantized_name
from quantkit.quantize.frontier import Frontier
from quantkit.quantize.layers import Layer, input_rows, output_rows, positions_of
from quantkit.quantize.replay import Replay

ROWS_LEAST, ROWS_MOST, ROWS_PER_COLUMN = 2048, 8192, 16
"""Rows a layer is fitted on, by its number of columns K; all positions where there are fewer."""
TARGET_BYTES = 192 << 20
"""FP32 target rows held at a time; layers go in chunks that fit."""


def rows_wanted(layer: Layer) -> int:
    """How many rows a layer is fitted on."""
    return min(ROWS_MOST, max(ROWS_LEAST, ROWS_PER_COLUMN * layer.columns))


def chunks(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Consecutive layers whose target rows fit TARGET_BYTES together."""
    found: list[list[Layer]] = [[]]
    used = 0
    for layer in layers:
        size = 4 * rows_wanted(layer) * layer.channels
        if found[-1] and used + size > TARGET_BYTES:
            found.append([])
            used = 0
        found[-1].append(layer)
        used += size
    return [chunk for chunk in found if chunk]


class Targets:
    """The FP32 outputs of some layers at positions drawn by seed, one draw a batch.

    rows(layer) -> float32 [R, C], R in the order of the samples. positions: layer name -> one array a batch.
    """

    def __init__(self, fp32: Frontier, layers: Sequence[Layer], replay: Replay, seed: int) -> None:
        names = list(dict.fromkeys(layer.target for layer in layers))
        self.positions: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
        self._rows: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
        for index, ((feeds, valid), values) in enumerate(zip(replay, fp32.values(names), strict=True)):
            for layer in layers:
                output = _valid(values[layer.target], feeds, valid)
                output = output[:: _stride(layer, output, valid, replay)]
                count = -(-_each(layer, replay) * valid // max(len(output), valid))
                drawn = _draw(positions_of(layer, output), count, seed, index)
                self.positions[layer.name].append(drawn)
                self._rows[layer.name].append(output_rows(layer, output, drawn))

    def rows(self, layer: Layer) -> np.ndarray:
        """The rows of a layer; its memory is given up."""
        return np.concatenate(self._rows.pop(layer.name))


def _each(layer: Layer, replay: Replay) -> int:
    """Rows of one sample."""
    return -(-rows_wanted(layer) // replay.samples)


def _stride(layer: Layer, array: np.ndarray, valid: int, replay: Replay) -> int:
    """Which of the entries on axis 0 are taken: all, but where a sample has more of them than rows are wanted, as the
    thousand regions of a detector in two stages are, every so many."""
    return max(1, len(array) // (valid * _each(layer, replay)))


def _draw(positions: int, count: int, seed: int, batch: int) -> np.ndarray:
    if count >= positions:
        return np.arange(positions)
    return np.sort(np.random.default_rng([seed, batch, positions]).choice(positions, count, replace=False))


def _valid(array: np.ndarray, feeds: dict[str, np.ndarray], valid: int) -> np.ndarray:
    """Without the rows that only fill up a static batch."""
    padded = len(next(iter(feeds.values())))
    return array[:valid] if valid < padded and len(array) == padded else array


def int8_rows(layer: Layer, int8: Frontier, replay: Replay, targets: Targets, known: np.ndarray | None = None
              ) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    """(x float32 [groups, R, K], t float32 [R, C]): the layer's input in the INT8 model and what W x + b should give.

    t is the FP32 target less the INT8 residual, so that an error of the residual is made up for as well. known: x, if
    a layer before reads the same rows. None where there are no rows, or not the same: those of the regions that a
    detector proposes depend on values.
    """
    source = quantized_name(layer.source) if known is None else None
    residual = quantized_name(layer.residual) if layer.residual is not None else None
    names = list(dict.fromkeys(name for name in (source, residual) if name is not None))
    x, r = [] if known is None else [known], []

    def taken(array: np.ndarray, feeds: dict[str, np.ndarray], valid: int) -> np.ndarray:
        array = _valid(array, feeds, valid)
        return array[:: _stride(layer, array, valid, replay)]

    if names:
        batches = zip(replay, int8.values(names), targets.positions[layer.name], strict=True)
        for (feeds, valid), values, positions in batches:
            if source is not None:
                x.append(input_rows(layer, taken(values[source], feeds, valid), positions))
            if residual is not None:
                r.append(output_rows(layer, taken(values[residual], feeds, valid), positions))
    t = targets.rows(layer)
    counts = {len(t), sum(rows.shape[1] for rows in x), *([sum(map(len, r))] if r else [])}
    if len(counts) > 1 or 0 in counts:
        return None
    return x[0] if len(x) == 1 else np.concatenate(x, axis=1), t - np.concatenate(r) if r else t


def reads_same_rows(a: Layer, b: Layer) -> bool:
    """Whether the input rows of two layers are the same, as those of the query, key and value of attention are."""
    windows = [layer.is_convolution and (layer.shape[1:], layer.attributes) for layer in (a, b)]
    sizes = [(layer.source, layer.groups, layer.columns) for layer in (a, b)]
    return sizes[0] == sizes[1] and windows[0] == windows[1] and a.base == b.base
