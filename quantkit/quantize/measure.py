"""Distance of INT8 models from FP32, measured on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.fuse.judged import centred, judged_tensors, logits_of, thinned
from quantkit.observe import FloatRunner
from quantkit.observe.streamed import free_models
from quantkit.quantize.apply import quantized_name
from quantkit.quantize.runners import OpenInt8, Run
from quantkit.types import Score

Samples = Iterable[tuple[dict[str, np.ndarray], int]]
"""(feeds, valid rows) of each batch; iterated over again for each model."""
SILENT = 1e-30
"""Keeps the logarithm of an output, or of an error, that is zero finite."""


class Fidelity:
    """The FP32 outputs of some samples, to be compared with those of INT8 models. Keeps outputs, not activations.

    model: FP32 in standard ops. weights: what each batch counts for; 1 unless given. Batches for which FP32 itself is
    not finite do not count.
    names: the tensors compared, the outputs first, then those of which a Softmax makes an output.
    """

    def __init__(self, model: ir.Model, samples: Samples, threads: int | None, labels: np.ndarray | None = None, *,
                 weights: Sequence[float] | None = None) -> None:  # fmt: skip
        self.outputs = judged_tensors(model.graph)
        self._logits = logits_of(model.graph, self.outputs)
        self.names = list(dict.fromkeys([*self.outputs, *(logits.name for logits in self._logits.values())]))
        runner = FloatRunner(model, threads, expose=self.names, arena=False)
        self._model = model
        self._samples, self._labels = samples, labels
        self._thinned = thinned if labels is None else lambda values: values  # every label has its class
        self._wanted = [dict(zip(self.names, map(self._thinned, runner.run(feeds, self.names)), strict=True))
                        for feeds, _ in samples]  # fmt: skip
        self._weights = list(weights) if weights is not None else [1.0] * len(self._wanted)
        for index, wanted in enumerate(self._wanted):
            if not all(np.isfinite(wanted[n]).all() for n in self.outputs if wanted[n].dtype.kind == "f"):
                self._weights[index] = 0.0

    def _outputs(self, run: Run) -> Iterator[tuple[dict[str, np.ndarray], ...]]:
        """(FP32, INT8) float tensors of `names` of each batch, rows that fill it up left out."""
        for (feeds, valid), wanted in zip(self._samples, self._wanted, strict=True):
            got = {name: self._thinned(values) for name, values in run(feeds).items()}
            floats = [n for n, y in wanted.items() if y.dtype.kind == "f" and n in got and got[n].shape == y.shape]
            yield tuple({name: _rows(values[name], valid) for name in floats} for values in (wanted, got))

    def sqnr(self, model: ir.Model, open_int8: OpenInt8) -> float:
        """How near an INT8 model is, in dB, to choose between models by: see sqnr_of."""
        return self.sqnr_of(self._opened(model, open_int8))

    def sqnr_of(self, run: Run) -> float:
        """10 log10(sum y^2 / sum (y - y_int8)^2) in dB over all float outputs and samples, by their weights.

        Where a Softmax makes an output, y is what enters it, each row less its mean: the noise of probabilities is
        that of the few rows that hesitate, and jumps from one model to the next.
        """
        return self._weighed(self._powers(run), self._weights)

    def sqnr_and_of(self, model: ir.Model, open_int8: OpenInt8, part: Sequence[bool]) -> tuple[float, float]:
        """(sqnr, the same over some of the batches, all of one weight; where none of these counts: sqnr)."""
        powers = self._powers(self._opened(model, open_int8))
        chosen = [float(taken and weight > 0) for taken, weight in zip(part, self._weights, strict=True)]
        whole = self._weighed(powers, self._weights)
        return whole, self._weighed(powers, chosen) if any(chosen) else whole

    def _powers(self, run: Run) -> list[tuple[float, float]]:
        """(signal, noise) of each batch; zeros for those that do not count."""
        found = []
        for weight, (wanted, got) in zip(self._weights, self._outputs(run), strict=True):
            y, y_int8 = (self._smooth(wanted, got), self._smooth(got, got)) if weight else ({}, {})
            found.append((_power(y), _power({name: y[name] - y_int8[name] for name in y})))
        return found

    @staticmethod
    def _weighed(powers: Sequence[tuple[float, float]], weights: Sequence[float]) -> float:
        signal, noise = (sum(w * power[i] for w, power in zip(weights, powers, strict=True)) for i in (0, 1))
        return _decibels(signal, noise)

    def _smooth(self, values: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, logits instead of probabilities where `known` has them."""
        found = {}
        for name in self.outputs:
            logits = self._logits.get(name)
            if logits is not None and logits.name in known:
                scores = centred(values[logits.name], logits.axis)
                found[logits.name] = np.where(np.isfinite(scores), scores, 0.0)  # masked classes have no error
            elif name in known:
                found[name] = values[name]
        return found

    def score(self, model: ir.Model, open_int8: OpenInt8) -> Score:
        """How near an INT8 model is, as the user sees it: SQNR over all float outputs, probabilities as they are;
        classes of the first of them, labels where the samples have some."""
        signal = noise = 0.0
        ours: list[np.ndarray] = []
        theirs: list[np.ndarray] = []
        for wanted, got in self._outputs(self._opened(model, open_int8)):
            outputs = [name for name in self.outputs if name in wanted]
            signal += _power({name: wanted[name] for name in outputs})
            noise += _power({name: wanted[name] - got[name] for name in outputs})
            first = next(iter(outputs), None)
            axis = None if first is None else _class_axis(wanted[first])
            if first is not None and axis is not None:
                theirs.append(wanted[first].argmax(axis).reshape(-1))
                ours.append(got[first].argmax(axis).reshape(-1))
        sqnr = _decibels(signal, noise)
        if not ours:
            return Score(sqnr)
        int8, fp32 = np.concatenate(ours), np.concatenate(theirs)
        return Score(sqnr, float((int8 == fp32).mean()), self._drop(int8, fp32))

    def _opened(self, model: ir.Model, open_int8: OpenInt8) -> Run:
        """What runs an INT8 model, under FP32's names; logits that are u8 in it have another name there."""
        made = {value.name for node in model.graph for value in node.outputs}
        known = {name: name for name in self.outputs}
        for name in self.names:
            found = next((own for own in (name, quantized_name(name)) if own in made), None)
            if found is not None:
                known.setdefault(name, found)
        free_models(self._model)
        run = open_int8(model, list(known.values()))

        def renamed(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            got = run(feeds)
            return {name: got[own] for name, own in known.items() if own in got}

        return renamed

    def _drop(self, int8: np.ndarray, fp32: np.ndarray) -> float | None:
        if self._labels is None or self._labels.size != int8.size:
            return None
        return 100.0 * float((fp32 == self._labels).mean() - (int8 == self._labels).mean())


def _rows(output: np.ndarray, valid: int) -> np.ndarray:
    """The first rows of an output; one number without axes, as a Squeeze leaves of a batch of one, is whole."""
    return output[:valid] if output.ndim else output


def _decibels(signal: float, noise: float) -> float:
    return 10.0 * float(np.log10(max(signal, SILENT) / max(noise, SILENT)))


def _power(outputs: Mapping[str, np.ndarray]) -> float:
    return float(sum(np.sum(np.square(value, dtype=np.float64)) for value in outputs.values()))


def _class_axis(output: np.ndarray) -> int | None:
    """Axis 1 of [N, C] and of maps [N, C, H, W], the last of sequences [N, T, C]; None without a choice to make."""
    if output.ndim < 2:
        return None
    axis = 2 if output.ndim == 3 else 1
    return axis if output.shape[axis] > 1 else None
