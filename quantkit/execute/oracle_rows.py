"""Ops of the oracle that work along some axes: softmax, PRelu, normalizations. Formulas: docs/numerics.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from quantkit.execute.oracle_arithmetic import lookup_table, pairs, params, requantize
from quantkit.execute.oracle_normalizations import NORMALIZATIONS

Attributes = Mapping[str, Any]
Inputs = Sequence[np.ndarray]


def _softmax(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QSoftmax: x triple, y pair. Exponentials are integers, so their sum is exact in any order."""
    x, (x_params, y_params) = inputs[0], pairs(inputs[1:])
    axis = int(attributes.get("axis", -1))
    below = x.max(axis=axis, keepdims=True).astype(np.int64) - x
    table = np.rint(2.0**24 * np.exp(-np.arange(256) * x_params.scale))
    entries = table[below].astype(np.int64)
    factor = (1.0 / (entries.sum(axis=axis, keepdims=True) * y_params.scale)).astype(np.float32)
    return [requantize(entries.astype(np.float32) * factor, y_params)]


def _leaky(alpha: float, real: np.ndarray) -> np.ndarray:
    return np.where(real < 0, alpha * real, real)


def _prelu(attributes: Attributes, inputs: Inputs) -> list[np.ndarray]:
    """QPRelu: x triple, slope, y pair: a table for each channel, in float64."""
    x, x_params, slope, y_params = inputs[0], params(*inputs[1:3]), inputs[3].reshape(-1), params(*inputs[4:6])
    y = np.empty_like(x)
    for channel, alpha in enumerate(slope.tolist()):
        table = lookup_table(partial(_leaky, alpha), x_params, y_params)
        y[:, channel] = table[x[:, channel]]
    return [y]


ROWS: dict[str, Callable[[Attributes, Inputs], list[np.ndarray]]] = {
    "Softmax": _softmax,
    "PRelu": _prelu,
    **NORMALIZATIONS,
}
