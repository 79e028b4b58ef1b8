"""Layer by layer on the partly quantized network: rounding with error feedback, and the bias that removes mean errors.

Each layer sees the INT8 values that the layers before it really give, and aims at its FP32 output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from quantkit.quantize.adaround import learnt_round
from quantkit.quantize.apply import set_weights, sharers
from quantkit.quantize.layers import Layer
from quantkit.quantize.means import is_mean
from quantkit.quantize.qparams import QuantizedWeights, finish_weights, scale_for_bias, weight_scales
from quantkit.quantize.replay import Replay
from quantkit.quantize.rounding import covariance, damped, feedback_round
from quantkit.quantize.runners import OpenInt8
from quantkit.quantize.sampling import Targets, chunks, int8_rows
from quantkit.types import WEIGHT_MAX, Decision

DAMPING = 0.01
"""Price of a column without data, in mean squares of a column: as in GPTQ."""
COLUMNS_MOST = 4608
"""Columns rounded together (3 x 3 x 512); a wider layer goes in parts of this width. 4608^2 float64 are 170 MB."""

SHARERS_MOST = 8
"""Weights of more nodes than this stay as they are: an unrolled recurrence would grow by a copy a step."""

FITTED_SHARE = 0.8
"""Rows on which rounding is learnt; the others judge it."""

Progress = Callable[[str, int, "int | None"], None]


def tune_layers(model: ir.Model, expanded: ir.Model, layers: Sequence[Layer], x_scales: Mapping[str, float],
                replay: Replay, open_int8: OpenInt8, *, per_channel: bool = True, seed: int = 0, learn: bool = False,
                threads: int | None = None, progress: Progress | None = None) -> list[Decision]:  # fmt: skip
    """Rewrites weights and biases of the calibrated `model` in place, in graph order.

    expanded: the FP32 model in standard ops. x_scales: layer name -> scale of its input. learn: see `rounded`.
    """
    nodes = {node.name: node for node in model.graph}
    layers = [layer for layer in layers if not is_mean(layer) and sharers(nodes[layer.name]) <= SHARERS_MOST]
    decisions = []
    for chunk in chunks(layers):
        targets = Targets(expanded, chunk, replay, seed, threads)
        for layer in chunk:
            x, t = int8_rows(layer, model, open_int8, replay, targets)
            weights, detail = rounded(layer, x, t, x_scales[layer.name], per_channel, learn=seed if learn else None)
            set_weights(nodes[layer.name], weights, x_scales[layer.name])
            decisions.append(Decision("quantize", "tuned", layer.name, detail))
            if progress is not None:
                progress("tune", len(decisions), len(layers))
    return decisions


def rounded(layer: Layer, x: np.ndarray, t: np.ndarray, x_scale: float, per_channel: bool, *,
            learn: int | None = None) -> tuple[QuantizedWeights, str]:  # fmt: skip
    """The layer's weights rounded with error feedback, and its bias so that the mean of every channel is that of t.

    x: float32 [G, R, K]; t: float32 [R, C]. learn: a seed; rounding is also learnt by descent, and taken where it is
    better than feedback on rows that gave neither.
    """
    rows = layer.weights
    channels, columns = rows.shape
    scale = scale_for_bias(weight_scales(rows, per_channel=per_channel), layer.bias, x_scale)
    grouped = (layer.groups, channels // layer.groups)
    step = scale.astype(np.float64).reshape(grouped)
    w = rows.reshape(*grouped, columns)
    nearest = np.clip(np.rint(w / step[..., None]), -WEIGHT_MAX, WEIGHT_MAX)
    wanted = t.reshape(len(t), *grouped).transpose(1, 0, 2)
    q = None if learn is None else _learnt(w, x, wanted, step, learn)
    how = "" if q is None else ", rounding learnt"
    if q is None:
        q = _with_feedback(w, x, step)
    before, after = (_error(x, wanted, candidate * step[..., None]) for candidate in (nearest, q))
    best, error = (q, after) if after[0] <= before[0] else (nearest, before)
    weights = finish_weights(best.reshape(channels, columns).astype(np.int8), scale, layer.shape,
                             error[1].reshape(-1), x_scale, axis=layer.axis, name=layer.name)  # fmt: skip
    plain = _error(x, wanted, nearest * step[..., None], layer.bias.reshape(grouped))
    return weights, f"output SQNR {_db(wanted, plain[0]):.1f} -> {_db(wanted, error[0]):.1f} dB{how}"


def _with_feedback(w: np.ndarray, x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Integers for w [G, C, K] / step [G, C], rounded with feedback in parts of at most COLUMNS_MOST columns."""
    parts = [
        feedback_round(w[..., part], damped(covariance(x[..., part]), DAMPING), step) for part in _parts(w.shape[-1])
    ]
    return np.concatenate(parts, axis=-1)


def _learnt(w: np.ndarray, x: np.ndarray, t: np.ndarray, step: np.ndarray, seed: int) -> np.ndarray | None:
    """Integers learnt on the first rows, or None where feedback from the same rows is as good on the last ones.

    x: float32 [G, R, K], t: float32 [G, R, C], in the order of the samples: the last rows are of other samples.
    """
    cut = round(FITTED_SHARE * x.shape[1])
    fitted, held = x[:, :cut], x[:, cut:]
    if cut < 1 or held.shape[1] < 1:
        return None
    candidates = (_with_feedback(w, fitted, step), learnt_round(fitted, w, step, np.random.default_rng(seed)))
    errors = []
    for q in candidates:
        v = q * step[..., None]
        errors.append(_error(held, t[:, cut:], v, _error(fitted, t[:, :cut], v)[1])[0])
    return candidates[1] if errors[1] < errors[0] else None


def _parts(columns: int) -> list[slice]:
    count = -(-columns // COLUMNS_MOST)
    edges = np.linspace(0, columns, count + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _error(x: np.ndarray, t: np.ndarray, v: np.ndarray, bias: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """(mean square of t - v x - b, b float64 [G, C]); b makes the mean error of each channel zero unless given."""
    rest = t - np.matmul(x, v.transpose(0, 2, 1).astype(np.float32))
    b = rest.mean(axis=1, dtype=np.float64) if bias is None else bias
    return float(np.square(rest - b[:, None].astype(np.float32)).mean(dtype=np.float64)), b


def _db(t: np.ndarray, error: float) -> float:
    signal = float(np.square(t).mean(dtype=np.float64))
    return 10.0 * float(np.log10(max(signal, 1e-30) / max(error, 1e-30)))
