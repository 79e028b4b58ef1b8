"""Rounding learnt by gradient descent: whether each weight goes up or down, so that the layer's output stays.

Nagel et al., "Up or down? Adaptive rounding for post-training quantization" (AdaRound, ICML 2020), on the inputs that
the quantized layers before really give, aiming at what FP32 weights make of these inputs. Aiming at the FP32 output
itself teaches the weights the noise of the sampled inputs: on rows held out that is worse than rounding to nearest.
All problems are batched over groups: x [G, R, K], weights [G, C, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.types import WEIGHT_MAX

STRETCH_LOW, STRETCH = -0.1, 1.2
"""h = clip(1.2 sigmoid(v) - 0.1, 0, 1): the ends are reached at finite v."""
STEPS, BATCH = 400, 256
"""Steps of Adam, and rows a step: beyond them the held-out error of layers stays within 0.01 dB."""
RATE = 0.01
PRICE = 1.0
"""Of a weight between two integers, beside an output error of that of rounding to nearest."""
FREE_SHARE = 0.2
"""The first steps let weights move without that price."""
SHARPNESS = (20.0, 2.0)
"""Exponent of the price, from the first to the last step: it pushes in ever wider neighbourhoods of 0 and 1."""
MEMORY = (0.9, 0.999)
"""Adam's: of the gradient, and of its square."""


@dataclass
class _Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization" (ICLR 2015)."""

    first: np.ndarray
    second: np.ndarray
    steps: int = 0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """What to subtract. gradient: float32, the shape of both moments; it is overwritten."""
        self.steps += 1
        a, b = MEMORY
        self.first += (1 - a) * (gradient - self.first)
        np.square(gradient, out=gradient)
        self.second += (1 - b) * (gradient - self.second)
        scale = RATE * np.sqrt(1 - b**self.steps) / (1 - a**self.steps)
        return np.asarray(scale * self.first / (np.sqrt(self.second) + 1e-8))


def learnt_round(x: np.ndarray, w: np.ndarray, scale: np.ndarray, rng: np.random.Generator,
                 steps: int = STEPS) -> np.ndarray:  # fmt: skip
    """Integers q, each the floor or the ceiling of w / scale, with a small E |(w - s q) x|^2 after means are taken off.

    x: float32 [G, R, K]; w: float64 [G, C, K]; scale: float64 [G, C]. Returns int8-valued float64 [G, C, K]. With h in
    [0, 1] the soft share of the step up, and e the error of rounding to nearest,

        loss = E |(w - s (floor + h)) x|^2 / e + PRICE mean(1 - |2 h - 1|^b)
    """
    x = x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    ratio = w / scale[..., None]
    nearest = np.clip(np.rint(ratio), -WEIGHT_MAX, WEIGHT_MAX)
    step = scale[..., None].astype(np.float32)
    error = np.square(np.matmul(x, ((nearest - ratio) * step).transpose(0, 2, 1).astype(np.float32)))
    if not error.any():
        return nearest
    gain = np.float32(2.0 / float(error.mean(dtype=np.float64)))
    floor = np.clip(np.floor(ratio), -WEIGHT_MAX, WEIGHT_MAX - 1)
    off = (ratio - floor).astype(np.float32)
    v = _unsoft(np.clip(off, 0.01, 0.99))
    adam = _Adam(np.zeros_like(v), np.zeros_like(v))
    for index in range(steps):
        rows = x[:, rng.integers(0, x.shape[1], size=min(BATCH, x.shape[1]))]
        h, slope = _soft(v)
        made = np.matmul(rows, ((h - off) * step).transpose(0, 2, 1))
        gradient = np.matmul(made.transpose(0, 2, 1), rows) * (step * (gain / np.float32(made.size)))
        if index >= FREE_SHARE * steps:
            gradient -= _pull(h, _sharpness(index / steps)) * np.float32(PRICE / v.size)
        gradient *= slope
        v -= adam.step(gradient)
    return floor + (_soft(v)[0] >= 0.5)


def _soft(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, dh/dv) of float32 v."""
    s = 1.0 / (1.0 + np.exp(-v))
    h = STRETCH * s + STRETCH_LOW
    inside = (h > 0.0) & (h < 1.0)
    return np.clip(h, 0.0, 1.0), STRETCH * s * (1.0 - s) * inside


def _unsoft(h: np.ndarray) -> np.ndarray:
    s = (h - STRETCH_LOW) / STRETCH
    return np.asarray(np.log(s / (1.0 - s)))


def _sharpness(done: float) -> float:
    """Exponent at this share of the steps: half a cosine from the first to the last."""
    after = (done - FREE_SHARE) / (1.0 - FREE_SHARE)
    return float(SHARPNESS[1] + 0.5 * (SHARPNESS[0] - SHARPNESS[1]) * (1.0 + np.cos(np.pi * after)))


def _pull(h: np.ndarray, exponent: float) -> np.ndarray:
    """-d/dh of 1 - |2 h - 1|^b: towards the nearer end."""
    far = 2.0 * h - 1.0
    return np.asarray(2.0 * exponent * np.sign(far) * np.abs(far) ** np.float32(exponent - 1.0))
