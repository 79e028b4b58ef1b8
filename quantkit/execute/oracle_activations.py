"""Activations of the oracle, in float64. Formulas: the ONNX operator of the same name; SiLU(x) = x * Sigmoid(x),
GeluTanh is Gelu with approximate = "tanh"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Attributes = Mapping[str, Any]

CLAMPS: dict[str, Callable[[Attributes], tuple[float, float]]] = {
    "Relu": lambda attributes: (0.0, math.inf),
    "Clip": lambda attributes: (attributes.get("min", -math.inf), attributes.get("max", math.inf)),
}
"""Activations that are clamp bounds: attributes -> (low, high), as real values."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x])


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _sqrt(x: np.ndarray) -> np.ndarray:
    """Below 0 a quantized tensor holds only rounding noise: 0, not NaN."""
    return np.sqrt(np.maximum(x, 0.0))


def _elu(x: np.ndarray, attributes: Attributes) -> np.ndarray:
    return np.where(x < 0, attributes.get("alpha", 1.0) * np.expm1(x), x)


def _celu(x: np.ndarray, attributes: Attributes) -> np.ndarray:
    alpha = attributes.get("alpha", 1.0)
    return np.maximum(x, 0.0) + np.minimum(alpha * np.expm1(x / alpha), 0.0)


def _selu(x: np.ndarray, attributes: Attributes) -> np.ndarray:
    alpha, gamma = attributes.get("alpha", 1.6732632), attributes.get("gamma", 1.0507010)
    return gamma * np.where(x > 0, x, alpha * np.expm1(x))


def _hard_sigmoid(x: np.ndarray, attributes: Attributes) -> np.ndarray:
    return np.clip(attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5), 0.0, 1.0)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _plain(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, Attributes], np.ndarray]:
    """A function without attributes in the signature of the table."""
    return lambda x, attributes: function(x)


LOOKUPS: dict[str, Callable[[np.ndarray, Attributes], np.ndarray]] = {
    "LeakyRelu": lambda x, attributes: np.where(x < 0, attributes.get("alpha", 0.01) * x, x),
    "ThresholdedRelu": lambda x, attributes: np.where(x > attributes.get("alpha", 1.0), x, 0.0),
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Gelu": _plain(lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))),
    "GeluTanh": _plain(_gelu_tanh),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "Sigmoid": _plain(_sigmoid),
    "SiLU": _plain(lambda x: x * _sigmoid(x)),
    "Mish": _plain(lambda x: x * np.tanh(_softplus(x))),
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1.0 + np.abs(x))),
    "Erf": _plain(_erf),
    "Tanh": _plain(np.tanh),
    "Exp": _plain(np.exp),
    "Log": _plain(np.log),
    "Sqrt": _plain(_sqrt),
    "Reciprocal": _plain(np.reciprocal),
    "Abs": _plain(np.abs),
    "Neg": _plain(np.negative),
    "Sign": _plain(np.sign),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.rint),
    "Sin": _plain(np.sin),
    "Cos": _plain(np.cos),
}
"""Activations that are tables: (x float64 [256], attributes) -> float64 [256]."""


def _wide_hard_swish(v: np.ndarray, attributes: Attributes, step: float) -> np.ndarray:
    """Its scale and shift are numbers, or arrays that broadcast over v."""
    scale, shift = (np.asarray(attributes.get(key, default), np.float64) for key, default in _UNSCALED.items())
    sixfold = v * np.clip(v + np.float32(3), np.float32(0), np.float32(6))
    return sixfold * (scale / (6.0 * step)).astype(np.float32) + (shift / step).astype(np.float32)


def _wide_leaky_relu(v: np.ndarray, attributes: Attributes, step: float) -> np.ndarray:
    return v * np.where(v < 0, np.float32(attributes.get("alpha", 0.01) / step), np.float32(1.0 / step))


_UNSCALED = {"scale": 1.0, "shift": 0.0}
_HARD_SWISHES = ("HardSwish", "HardSwishAffine", "HardSwishScaled", "HardSwishScaledShifted")
WIDES: dict[str, Callable[[np.ndarray, Attributes, float], np.ndarray]] = {
    **{f"Wide{name}": _wide_hard_swish for name in _HARD_SWISHES},
    "WideLeakyRelu": _wide_leaky_relu,
}
"""Activations on the sums of a weighted op: (float32 [...], attributes, output scale) -> float32 output steps."""


def _affine(function: Callable[[np.ndarray, Attributes], np.ndarray]) -> Callable[[np.ndarray, Attributes], np.ndarray]:
    """scale * function + shift."""
    return lambda x, attributes: function(x, attributes) * attributes["scale"] + attributes["shift"]


LOOKUPS.update({f"{name}Affine": _affine(LOOKUPS[name]) for name in ("HardSwish", "Sigmoid", "SiLU", "Tanh")})
LOOKUPS["ReluAffine"] = _affine(_plain(lambda x: np.maximum(x, 0.0)))
