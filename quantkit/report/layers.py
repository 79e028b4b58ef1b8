"""What quantization does to every layer: error introduced and accumulated, range, clipping, distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from quantkit.execute.binding import NativeStatistics
from quantkit.execute.intermediate import expose
from quantkit.execute.session import Session
from quantkit.load import load
from quantkit.load.kind import DOMAIN
from quantkit.observe import FloatRunner, TensorStatistics
from quantkit.quantize.apply import quantized_name
from quantkit.report.accuracy import PowerRatio
from quantkit.report.isolate import isolate, isolated_name, quantization_of
from quantkit.report.spans import ChannelSpans, used_share

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, int, int | None], None]
BARS = 64
"""Bars of a layer's histogram in a report."""


@dataclass(frozen=True)
class LayerError:
    """One tensor of the INT8 model against the FP32 tensor it stands for.

    sqnr_db: dequantized, the errors of all layers before it included. introduced_db: the same when the layer gets
    exact FP32 inputs, rounded once to u8: its own share; None where it cannot be run alone.
    low, high: the range that its u8 values cover; clipped: the fraction of the FP32 values outside, by more than half
    a step; used: the share of that range in which 99.9 % of the FP32 values lie; all None for a float32 output.
    channels, dead_channels: of the FP32 tensor, and those of one constant value. spread: the tensor's span over that of
    its middle live channel. None where channels hold too few values to tell.
    histogram: {"low", "high", "counts"} of the FP32 values.
    """

    name: str
    op: str
    tensor: str
    sqnr_db: float
    introduced_db: float | None = None
    low: float | None = None
    high: float | None = None
    clipped: float | None = None
    used: float | None = None
    channels: int | None = None
    dead_channels: int | None = None
    spread: float | None = None
    histogram: dict[str, Any] | None = None


def layer_errors(
    reference: onnx.ModelProto,
    int8: Any,
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    threads: int | None = None,
    isa: str | None = None,
    progress: Progress | None = None,
) -> list[LayerError]:
    """The error of every tensor that a quantkit op makes and `reference` has too, in model order, over all `feeds`.

    reference: FP32 model of standard ops. int8: path, ModelProto or onnx_ir.Model of the calibrated model.
    """
    model = load(int8)
    pairs = _pairs(reference, model)
    if not pairs:
        return []
    observers = [_Observer(pair) for pair in pairs]
    tensors, values = [pair.tensor for pair in pairs], [pair.value for pair in pairs]
    alone = isolate(model, {pair.value: pair.tensor for pair in pairs})
    wanted = list(dict.fromkeys([*tensors, *alone.tensors]))
    float_runner = FloatRunner(reference, threads, expose=wanted)
    session = Session(expose(model, values), threads, isa)
    alone_session = Session(alone.model, threads, isa) if alone.outputs else None
    for done, batch in enumerate(feeds):
        exact = dict(zip(wanted, float_runner.run(batch, wanted), strict=True))
        own = _run_alone(alone_session, alone.tensors, alone.inputs, {**exact, **batch})
        for observer, got in zip(observers, session.run(values, batch), strict=True):
            observer.add(exact[observer.pair.tensor], got, own.get(isolated_name(observer.pair.value)))
        if progress:
            progress("layers", done + 1, None)
    return [observer.result() for observer in observers]


def _run_alone(
    session: Session | None, tensors: Mapping[str, str], inputs: Iterable[str], exact: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if session is None:
        return {}
    feeds = {**{name: exact[name] for name in inputs}, **{name: exact[tensor] for tensor, name in tensors.items()}}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@dataclass(frozen=True)
class _Pair:
    """A value of the calibrated model, the node that makes it, the FP32 tensor it stands for, its scale and zero."""

    name: str
    op: str
    value: str
    tensor: str
    scale: float | None
    zero_point: int


class _Observer:
    """What is summed up for one pair, batch by batch."""

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self._accumulated, self._introduced, self._alone = PowerRatio(), PowerRatio(), False
        self._statistics, self._backend = TensorStatistics(), NativeStatistics()
        self._outside, self._channels = 0, ChannelSpans(first="Conv" in pair.op)

    def _bounds(self) -> tuple[float, float] | None:
        scale, zero = self.pair.scale, self.pair.zero_point
        return None if scale is None else (-zero * scale, (255 - zero) * scale)

    def add(self, exact: np.ndarray, got: np.ndarray, alone: np.ndarray | None) -> None:
        self._accumulated.add(exact, got)
        if alone is not None:
            self._introduced.add(exact, alone)
            self._alone = True
        x = np.ascontiguousarray(exact, np.float32)
        self._statistics.update(x, self._backend)
        self._channels.add(x)
        bounds = self._bounds()
        if bounds is not None and self.pair.scale is not None:
            half = self.pair.scale / 2
            self._outside += int(np.count_nonzero(x < bounds[0] - half) + np.count_nonzero(x > bounds[1] + half))

    def result(self) -> LayerError:
        pair, bounds, count = self.pair, self._bounds(), self._statistics.count
        return LayerError(
            name=pair.name,
            op=pair.op,
            tensor=pair.tensor,
            sqnr_db=self._accumulated.db,
            introduced_db=self._introduced.db if self._alone else None,
            low=bounds[0] if bounds else None,
            high=bounds[1] if bounds else None,
            clipped=self._outside / count if bounds and count else None,
            used=used_share(self._statistics, *bounds) if bounds and count else None,
            channels=self._channels.count,
            dead_channels=self._channels.dead,
            spread=self._channels.spread,
            histogram=bars(self._statistics) if count else None,
        )


def bars(statistics: TensorStatistics, count: int = BARS) -> dict[str, Any]:
    """{"low", "high", "counts"}: the histogram in at most `count` bars of equal width, of bins that hold values."""
    filled = np.flatnonzero(statistics.counts)
    if not filled.size:
        return {"low": 0.0, "high": 0.0, "counts": []}
    first, last = int(filled[0]), int(filled[-1]) + 1
    width = -(-(last - first) // count)
    used = -(-(last - first) // width)
    counts = np.zeros(used * width, np.int64)
    counts[: last - first] = statistics.counts[first:last]
    low = (statistics.first + first) * statistics.width
    return {
        "low": low,
        "high": low + used * width * statistics.width,
        "counts": counts.reshape(used, width).sum(axis=1).tolist(),
    }


def _pairs(reference: onnx.ModelProto, model: ir.Model) -> list[_Pair]:
    """Every value of a quantkit op that stands for a node's output in `reference`: u8, or float32 of the same name.

    What a reference that is quantized in part makes in u8 has no float tensor to be compared with.
    """
    in_float = [node for node in reference.graph.node if node.domain != DOMAIN and node.op_type != "QuantizeLinear"]
    made = [name for node in in_float for name in node.output if name]
    tensor_of = {**{name: name for name in made}, **{quantized_name(name): name for name in made}}
    pairs = []
    for node in model.graph:
        for value in node.outputs if node.domain == DOMAIN else ():
            name = value.name or ""
            if name in tensor_of:
                scale, zero_point = quantization_of(value) or (None, 0)
                pairs.append(_Pair(node.name or "", node.op_type, name, tensor_of[name], scale, zero_point))
    return pairs
