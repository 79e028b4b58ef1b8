"""Layer by layer on the partly quantized network: rounding with error feedback, and the bias that removes mean errors.

Each layer sees the INT8 values that the layers before it really give, and aims at its FP32 output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from quantkit.budgets import Deadline
from quantkit.observe import FloatRunner
from quantkit.quantize.adaround import learnt_round
from quantkit.quantize.apply import set_weights, weight_of
from quantkit.quantize.chance import chance_shift, sure_covariance
from quantkit.quantize.frontier import Frontier
from quantkit.quantize.layers import Layer
from quantkit.quantize.means import is_mean
from quantkit.quantize.qparams import QuantizedWeights, finish_weights, scale_for_bias, weight_scales
from quantkit.quantize.replay import Replay
from quantkit.quantize.rounding import Factor, damped, factor, feedback_round
from quantkit.quantize.runners import OpenInt8, Run
from quantkit.quantize.sampling import Targets, chunks, int8_rows, reads_same_rows
from quantkit.types import BIAS_LIMIT, WEIGHT_MAX, Decision

DAMPING = 0.01
"""Price of a column without data, in mean squares of a column: as in GPTQ."""
COLUMNS_MOST = 4608
"""Columns rounded together (3 x 3 x 512); a wider layer goes in parts of this width. 4608^2 float64 are 170 MB."""

GROWTH_MOST = 0.1
"""Nodes that share weights get tuned ones each, as long as the copies add at most this share to the weights' bytes: a
graph transformer that runs its layers eight times came out twice as large as in FP32, an unrolled recurrence would grow
by a copy a step."""

FITTED_SHARE = 0.8
"""Rows on which rounding is learnt; the others judge it."""

ERROR_ROWS = 2048
"""Rows that tell errors: with 64 channels, 0.4 % of a mean square is chance, and both candidates share it."""

NO_ROWS = "keeps its first weights: the samples have no rows of it, or INT8 has others than FP32"

Progress = Callable[[str, int, "int | None"], None]


def tune_layers(model: ir.Model, expanded: ir.Model, layers: Sequence[Layer], x_scales: Mapping[str, float],
                replay: Replay, open_int8: OpenInt8, *, per_channel: bool = True, seed: int = 0, learn: bool = False,
                threads: int | None = None, progress: Progress | None = None, seconds: float = float("inf")
                ) -> list[Decision]:  # fmt: skip
    """Rewrites weights and biases of the calibrated `model` in place, in graph order.

    expanded: the FP32 model in standard ops. x_scales: layer name -> scale of its input. learn: see `rounded`.
    seconds: after which the layers that are left stay as they are, as a Deadline counts them.
    """
    deadline = Deadline(seconds)
    nodes = {node.name: node for node in model.graph}
    layers = [layer for layer in worth_copies(layers, nodes) if not is_mean(layer)]
    decisions = []
    before: tuple[Layer, Inputs] | None = None
    with Frontier(expanded, replay, _float_opener(threads)) as fp32, Frontier(model, replay, open_int8) as int8:
        for chunk in chunks(layers):
            if deadline.is_over:
                break
            targets = Targets(fp32, chunk, replay, seed)
            for layer in chunk:
                if deadline.is_over:
                    break
                inputs = before[1] if before is not None and reads_same_rows(before[0], layer) else None
                before = None  # first, so that there are never two
                rows = int8_rows(layer, int8, replay, targets, None if inputs is None else inputs.x)
                if rows is None:
                    decisions.append(Decision("quantize", "untuned", layer.name, NO_ROWS))
                    continue
                x, t = rows
                inputs = inputs or Inputs(x, replay.samples)
                weights, detail = rounded(layer, inputs, t, x_scales[layer.name], per_channel,
                                          learn=seed if learn else None)  # fmt: skip
                set_weights(nodes[layer.name], weights, x_scales[layer.name])
                before = layer, inputs
                decisions.append(Decision("quantize", "tuned", layer.name, detail))
                if progress is not None:
                    progress("tune", len(decisions), len(layers))
    left = len(layers) - len(decisions)
    if left:
        text = f"the last {left} of {len(layers)} layers keep their first weights: the others took {seconds:g} s"
        decisions.append(Decision("quantize", "measured", "model", text))
    return decisions


def worth_copies(layers: Sequence[Layer], nodes: Mapping[str | None, ir.Node]) -> list[Layer]:
    """Without those whose copies of shared weights would add more than GROWTH_MOST to the bytes of all weights.

    nodes: of the calibrated model, by name. Small weights go first.
    """
    weights = {layer.name: weight_of(nodes[layer.name]) for layer in layers}
    sizes = {value: int(np.prod(layer.shape)) for layer in layers for value in (weights[layer.name],)}
    extra = {value: size * (len(value.uses()) - 1) for value, size in sizes.items()}
    grown = dict(zip(sorted(extra, key=lambda value: extra[value]), np.cumsum(sorted(extra.values())), strict=True))
    most = GROWTH_MOST * sum(sizes.values())
    return [layer for layer in layers if not extra[weights[layer.name]] or grown[weights[layer.name]] <= most]


def _float_opener(threads: int | None) -> OpenInt8:
    """How a part of the FP32 model is run."""

    def open_part(part: ir.Model, names: Sequence[str]) -> Run:
        runner = FloatRunner(part, threads, expose=names)
        return lambda feeds: dict(zip(names, runner.run(feeds, names), strict=True))

    return open_part


@dataclass(frozen=True)
class Inputs:
    """x: float32 [G, R, K], the input rows of one layer or of several, in the order of the samples they are from."""

    x: np.ndarray
    samples: int

    @cached_property
    def factors(self) -> list[Factor]:
        """Of the moments of x, of each part of at most COLUMNS_MOST columns."""
        parts = (self.x[..., part] for part in _parts(self.x.shape[-1]))
        return [factor(damped(sure_covariance(part, self.samples), DAMPING)) for part in parts]


def rounded(layer: Layer, inputs: Inputs, t: np.ndarray, x_scale: float, per_channel: bool, *,
            learn: int | None = None) -> tuple[QuantizedWeights, str]:  # fmt: skip
    """The layer's weights rounded with error feedback, and its bias so that the mean of every channel is that of t, as
    far as that is not chance.

    t: float32 [R, C]. learn: a seed; rounding is also learnt by descent, and taken where it is better than feedback on
    rows that gave neither.
    """
    x = inputs.x
    rows = layer.weights
    channels, columns = rows.shape
    scale = scale_for_bias(weight_scales(rows, per_channel=per_channel), layer.bias, x_scale)
    grouped = (layer.groups, channels // layer.groups)
    step = scale.astype(np.float64).reshape(grouped)
    w = rows.reshape(*grouped, columns)
    nearest = np.clip(np.rint(w / step[..., None]), -WEIGHT_MAX, WEIGHT_MAX)
    wanted = t.reshape(len(t), *grouped).transpose(1, 0, 2)
    q = None if learn is None else _learnt(w, inputs, wanted, step, learn)
    how = "" if q is None else ", rounding learnt"
    if q is None:
        q = _with_feedback(w, inputs, step)
    chance = chance_shift(x, wanted, w, layer.bias.reshape(grouped), inputs.samples)
    biases, errors = [], []
    for candidate in (nearest, q):
        v = candidate * step[..., None]
        biases.append(_bias(x, wanted, v) - chance)
        errors.append(_error(x, wanted, v, biases[-1], layer.bias.reshape(grouped)))
    chosen = int(errors[1][0] <= errors[0][0])
    bias = biases[chosen].reshape(-1)
    fits = np.abs(bias) < (BIAS_LIMIT - 1) * x_scale * scale.astype(np.float64)  # a dead channel's scale holds no mean
    weights = finish_weights((nearest, q)[chosen].reshape(channels, columns).astype(np.int8), scale, layer.shape,
                             np.where(fits, bias, layer.bias), x_scale, axis=layer.axis, name=layer.name)  # fmt: skip
    plain, error = _db(wanted, errors[0][1]), _db(wanted, errors[chosen][0])
    return weights, f"output SQNR {plain:.1f} -> {error:.1f} dB{how}"


def _with_feedback(w: np.ndarray, inputs: Inputs, step: np.ndarray) -> np.ndarray:
    """Integers for w [G, C, K] / step [G, C], rounded with feedback in parts of at most COLUMNS_MOST columns."""
    parts = zip(_parts(w.shape[-1]), inputs.factors, strict=True)
    return np.concatenate([feedback_round(w[..., part], h, step) for part, h in parts], axis=-1)


def _learnt(w: np.ndarray, inputs: Inputs, t: np.ndarray, step: np.ndarray, seed: int) -> np.ndarray | None:
    """Integers learnt on the first rows, or None where feedback from the same rows is as good on the last ones.

    t: float32 [G, R, C], in the order of the samples: the last rows are of other samples.
    """
    x = inputs.x
    cut = round(FITTED_SHARE * x.shape[1])
    fitted, held = x[:, :cut], x[:, cut:]
    if cut < 1 or held.shape[1] < 1:
        return None
    few = Inputs(fitted, max(1, round(FITTED_SHARE * inputs.samples)))
    candidates = (_with_feedback(w, few, step), learnt_round(fitted, w, step, np.random.default_rng(seed)))
    errors = []
    for q in candidates:
        v = q * step[..., None]
        errors.append(_error(held, t[:, cut:], v, _bias(fitted, t[:, :cut], v))[0])
    return candidates[1] if errors[1] < errors[0] else None


def _parts(columns: int) -> list[slice]:
    count = -(-columns // COLUMNS_MOST)
    edges = np.linspace(0, columns, count + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _bias(x: np.ndarray, t: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [G, C]: what makes the mean of t - v x - b zero."""
    mean_x, mean_t = (rows.mean(axis=1, dtype=np.float64) for rows in (x, t))
    return mean_t - np.matmul(v, mean_x[..., None])[..., 0]


def _error(x: np.ndarray, t: np.ndarray, v: np.ndarray, *biases: np.ndarray) -> list[float]:
    """The mean square of t - v x - b for each bias [G, C], over at most ERROR_ROWS rows that lie evenly."""
    part = slice(None, None, -(-x.shape[1] // ERROR_ROWS))
    rest = t[:, part] - np.matmul(x[:, part], v.transpose(0, 2, 1).astype(np.float32))
    return [float(np.square(rest - b[:, None].astype(np.float32)).mean(dtype=np.float64)) for b in biases]


def _db(t: np.ndarray, error: float) -> float:
    signal = float(np.square(t).mean(dtype=np.float64))
    return 10.0 * float(np.log10(max(signal, 1e-30) / max(error, 1e-30)))
