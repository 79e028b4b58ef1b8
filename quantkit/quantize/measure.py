"""Distance of INT8 models from FP32, measured on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from quantkit.fuse.judged import judged_tensors
from quantkit.observe import FloatRunner
from quantkit.quantize.runners import OpenInt8, Run
from quantkit.types import Score

Samples = Iterable[tuple[dict[str, np.ndarray], int]]
"""(feeds, valid rows) of each batch; iterated over again for each model."""
SILENT = 1e-30
"""Keeps the logarithm of an output, or of an error, that is zero finite."""


class Fidelity:
    """The FP32 outputs of some samples, to be compared with those of INT8 models. Keeps outputs, not activations."""

    def __init__(self, model: ir.Model, samples: Samples, threads: int | None,
                 labels: np.ndarray | None = None) -> None:  # fmt: skip
        self.names = judged_tensors(model.graph)
        runner = FloatRunner(model, threads, expose=self.names)
        self._samples, self._labels = samples, labels
        self._wanted = [dict(zip(self.names, runner.run(feeds, self.names), strict=True)) for feeds, _ in samples]

    def _outputs(self, run: Run) -> Iterator[tuple[dict[str, np.ndarray], ...]]:
        for (feeds, valid), wanted in zip(self._samples, self._wanted, strict=True):
            got = run(feeds)
            floats = [n for n, y in wanted.items() if y.dtype.kind == "f" and n in got and got[n].shape == y.shape]
            yield {name: wanted[name][:valid] for name in floats}, {name: got[name][:valid] for name in floats}

    def sqnr(self, model: ir.Model, open_int8: OpenInt8) -> float:
        """10 log10(sum y^2 / sum (y - y_int8)^2) in dB over all float outputs and samples."""
        return self.score(model, open_int8).sqnr

    def score(self, model: ir.Model, open_int8: OpenInt8) -> Score:
        """How near an INT8 model is: see score_of."""
        return self.score_of(open_int8(model, self.names))

    def score_of(self, run: Run) -> Score:
        """How near what `run` gives is to FP32: SQNR over all float outputs; classes of the first of them, labels
        where the samples have some."""
        signal = noise = 0.0
        ours: list[np.ndarray] = []
        theirs: list[np.ndarray] = []
        for wanted, got in self._outputs(run):
            signal += _power(wanted)
            noise += _power({name: wanted[name] - got[name] for name in wanted})
            first = next(iter(wanted), None)
            axis = None if first is None else _class_axis(wanted[first])
            if first is not None and axis is not None:
                theirs.append(wanted[first].argmax(axis).reshape(-1))
                ours.append(got[first].argmax(axis).reshape(-1))
        sqnr = 10.0 * float(np.log10(max(signal, SILENT) / max(noise, SILENT)))
        if not ours:
            return Score(sqnr)
        int8, fp32 = np.concatenate(ours), np.concatenate(theirs)
        return Score(sqnr, float((int8 == fp32).mean()), self._drop(int8, fp32))

    def _drop(self, int8: np.ndarray, fp32: np.ndarray) -> float | None:
        if self._labels is None or self._labels.size != int8.size:
            return None
        return 100.0 * float((fp32 == self._labels).mean() - (int8 == self._labels).mean())


def _power(outputs: Mapping[str, np.ndarray]) -> float:
    return float(sum(np.sum(np.square(value, dtype=np.float64)) for value in outputs.values()))


def _class_axis(output: np.ndarray) -> int | None:
    """Axis 1 of [N, C] and of maps [N, C, H, W], the last of sequences [N, T, C]; None without a choice to make."""
    if output.ndim < 2:
        return None
    axis = 2 if output.ndim == 3 else 1
    return axis if output.shape[axis] > 1 else None
