"""Rows of FP32 targets and of INT8 inputs at the same sampled positions of the same samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.observe import FloatRunner
from quantkit.quantize.apply import quantized_name
from quantkit.quantize.layers import Layer, input_rows, output_rows, positions_of
from quantkit.quantize.replay import Replay
from quantkit.quantize.runners import OpenInt8, ancestors_of

ROWS_LEAST, ROWS_MOST, ROWS_PER_COLUMN = 2048, 8192, 16
"""Rows a layer is fitted on, by its number of columns K; all positions where there are fewer."""
TARGET_BYTES = 192 << 20
"""FP32 target rows held at a time; layers go in chunks that fit, each with a pass of the float model."""


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

    def __init__(self, expanded: ir.Model, layers: Sequence[Layer], replay: Replay, seed: int,
                 threads: int | None) -> None:  # fmt: skip
        names = list(dict.fromkeys(layer.target for layer in layers))
        runner = FloatRunner(expanded, threads, expose=names)
        self.positions: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
        self._rows: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
        for index, (feeds, valid) in enumerate(replay):
            values = dict(zip(names, runner.run(feeds, names), strict=True))
            for layer in layers:
                output = _valid(values[layer.target], feeds, valid)
                count = -(-rows_wanted(layer) // replay.samples)
                drawn = _draw(positions_of(layer, output), count, seed, index)
                self.positions[layer.name].append(drawn)
                self._rows[layer.name].append(output_rows(layer, output, drawn))

    def rows(self, layer: Layer) -> np.ndarray:
        """The rows of a layer; its memory is given up."""
        return np.concatenate(self._rows.pop(layer.name))


def _draw(positions: int, count: int, seed: int, batch: int) -> np.ndarray:
    if count >= positions:
        return np.arange(positions)
    return np.sort(np.random.default_rng([seed, batch, positions]).choice(positions, count, replace=False))


def _valid(array: np.ndarray, feeds: dict[str, np.ndarray], valid: int) -> np.ndarray:
    """Without the rows that only fill up a static batch."""
    padded = len(next(iter(feeds.values())))
    return array[:valid] if valid < padded and len(array) == padded else array


def int8_rows(layer: Layer, model: ir.Model, open_int8: OpenInt8, replay: Replay, targets: Targets
              ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(x float32 [groups, R, K], t float32 [R, C]): the layer's input in `model` and what W x + b should give.

    t is the FP32 target less the INT8 residual, so that an error of the residual is made up for as well.
    """
    source = quantized_name(layer.source)
    residual = quantized_name(layer.residual) if layer.residual is not None else None
    names = list(dict.fromkeys(name for name in (source, residual) if name is not None))
    run = open_int8(ancestors_of(model, names), names)
    x, r = [], []
    for (feeds, valid), positions in zip(replay, targets.positions[layer.name], strict=True):
        values = run(feeds)
        x.append(input_rows(layer, _valid(values[source], feeds, valid), positions))
        if residual is not None:
            r.append(output_rows(layer, _valid(values[residual], feeds, valid), positions))
    t = targets.rows(layer)
    return np.concatenate(x, axis=1), t - np.concatenate(r) if r else t
