"""The method chosen by measurement: INT8 models by each method, their outputs against FP32's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.observe import FloatRunner
from quantkit.quantize.runners import OpenInt8


def signal_power(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sum of squares of each float output."""
    return {name: float(np.sum(np.square(v, dtype=np.float64))) for name, v in outputs.items() if v.dtype.kind == "f"}


class Fidelity:
    """FP32 outputs of some samples, and how far INT8 models are from them. Keeps the outputs, not the activations."""

    def __init__(self, model: ir.Model, samples: Iterable[tuple[dict[str, np.ndarray], int]],
                 threads: int | None) -> None:  # fmt: skip
        runner = FloatRunner(model, threads)
        self.names = runner.output_names
        self._samples = list(samples)
        self._wanted = [dict(zip(self.names, runner.run(feeds), strict=True)) for feeds, _ in self._samples]

    def sqnr(self, model: ir.Model, open_int8: OpenInt8) -> float:
        """10 log10(sum y^2 / sum (y - y_int8)^2) in dB over all float outputs and samples."""
        run = open_int8(model, self.names)
        signal = noise = 0.0
        for (feeds, _), wanted in zip(self._samples, self._wanted, strict=True):
            got = run(feeds)
            power = signal_power({name: value for name, value in wanted.items() if name in got})
            error = signal_power({name: wanted[name] - got[name] for name in power})
            signal, noise = signal + sum(power.values()), noise + sum(error.values())
        return 10.0 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def best_of(scores: Mapping[str, float], order: Sequence[str]) -> str:
    """The key with the highest score; of equal ones the first in `order`."""
    return max(order, key=lambda key: scores[key])
