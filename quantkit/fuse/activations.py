"""Elementwise activations: one row each. Everything that knows an activation reads it from here.

`body` writes the ONNX form, `evaluate` gives the float64 value from which the 256-entry table is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

Emit = Callable[..., Any]
"""emit(op_type, inputs, attributes) -> value: appends one standard ONNX node."""


@dataclass(frozen=True)
class Activation:
    """attributes: name -> default (ONNX's); lookup: evaluated by table (else it is a pair of clamp bounds, or wide).

    wide: behind weights only, evaluated on the float32 value of the sum before it is rounded. by_channel: attributes
    that are tensors, float32 [C] with as many axes of size 1 behind as the output has behind its channels; `evaluate`
    leaves them out."""

    attributes: Mapping[str, float]
    lookup: bool
    body: Callable[[Emit, Any, Mapping[str, Any]], Any]
    evaluate: Callable[[float, Mapping[str, float]], float]
    wide: bool = False
    by_channel: tuple[str, ...] = ()


def constant(emit: Emit, value: float) -> Any:
    """A float32 scalar in the graph that `emit` writes."""
    return emit("Constant", [], {"value_float": float(value)})


def _node(op_type: str) -> Callable[[Emit, Any, Mapping[str, Any]], Any]:
    return lambda emit, x, attributes: emit(op_type, [x], dict(attributes))


def _clip_body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
    low = emit("Constant", [], {"value_float": attributes["min"]})
    high = emit("Constant", [], {"value_float": attributes["max"]})
    return emit("Clip", [x, low, high], {})


def _silu_body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
    return emit("Mul", [x, emit("Sigmoid", [x], {})], {})


def _hard_swish_body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
    return emit("Mul", [x, emit("HardSigmoid", [x], {"alpha": 1.0 / 6.0, "beta": 0.5})], {})


def _mish_body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
    return emit("Mul", [x, emit("Tanh", [emit("Softplus", [x], {})], {})], {})


def _gelu_body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
    erf = emit("Erf", [emit("Mul", [x, constant(emit, math.sqrt(0.5))], {})], {})
    half = emit("Mul", [x, constant(emit, 0.5)], {})
    return emit("Mul", [half, emit("Add", [erf, constant(emit, 1.0)], {})], {})


def _gelu_tanh_body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
    cube = emit("Mul", [emit("Mul", [x, x], {}), x], {})
    inner = emit("Add", [x, emit("Mul", [cube, constant(emit, 0.044715)], {})], {})
    tanh = emit("Tanh", [emit("Mul", [inner, constant(emit, math.sqrt(2.0 / math.pi))], {})], {})
    half = emit("Mul", [x, constant(emit, 0.5)], {})
    return emit("Mul", [half, emit("Add", [tanh, constant(emit, 1.0)], {})], {})


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))


def _clip(x: float, a: Mapping[str, float]) -> float:
    return min(max(x, a["min"]), a["max"])


def _hard_sigmoid(x: float, a: Mapping[str, float]) -> float:
    return min(max(a["alpha"] * x + a["beta"], 0.0), 1.0)


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


_FLOAT_MAX = 3.4028234663852886e38

ACTIVATIONS: dict[str, Activation] = {
    "Relu": Activation({}, False, _node("Relu"), lambda x, a: max(x, 0.0)),
    "Clip": Activation({"min": -_FLOAT_MAX, "max": _FLOAT_MAX}, False, _clip_body, _clip),
    "LeakyRelu": Activation({"alpha": 0.01}, True, _node("LeakyRelu"), lambda x, a: x if x >= 0 else a["alpha"] * x),
    "Elu": Activation({"alpha": 1.0}, True, _node("Elu"), lambda x, a: x if x >= 0 else a["alpha"] * math.expm1(x)),
    "HardSigmoid": Activation({"alpha": 0.2, "beta": 0.5}, True, _node("HardSigmoid"), _hard_sigmoid),
    "HardSwish": Activation({}, True, _hard_swish_body, lambda x, a: x * min(max(x / 6.0 + 0.5, 0.0), 1.0)),
    "Sigmoid": Activation({}, True, _node("Sigmoid"), lambda x, a: _sigmoid(x)),
    "SiLU": Activation({}, True, _silu_body, lambda x, a: x * _sigmoid(x)),
    "Tanh": Activation({}, True, _node("Tanh"), lambda x, a: math.tanh(x)),
    "Gelu": Activation({}, True, _gelu_body, lambda x, a: 0.5 * x * (1.0 + math.erf(x * math.sqrt(0.5)))),
    "GeluTanh": Activation({}, True, _gelu_tanh_body, lambda x, a: _gelu_tanh(x)),
    "Mish": Activation({}, True, _mish_body, lambda x, a: x * math.tanh(_softplus(x))),
    "Softplus": Activation({}, True, _node("Softplus"), lambda x, a: _softplus(x)),
    "Erf": Activation({}, True, _node("Erf"), lambda x, a: math.erf(x)),
    "Exp": Activation({}, True, _node("Exp"), lambda x, a: _exp(x)),
    "Sqrt": Activation({}, True, _node("Sqrt"), lambda x, a: math.sqrt(max(x, 0.0))),
    "Abs": Activation({}, True, _node("Abs"), lambda x, a: abs(x)),
    "Neg": Activation({}, True, _node("Neg"), lambda x, a: -x),
}

AFFINE = "Affine"
"""Suffix of an activation that is followed by `scale * y + shift` with two numbers: one table, one rounding."""
WITH_AFFINE = ("Relu", "HardSwish", "Sigmoid", "SiLU", "Tanh")
"""Those that networks write an affine behind: learnable affine blocks, the decoded offsets of detectors."""


def _with_affine(row: Activation) -> Activation:
    def body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
        scale, shift = (emit("Constant", [], {"value_float": attributes[key]}) for key in ("scale", "shift"))
        return emit("Add", [emit("Mul", [row.body(emit, x, {}), scale], {}), shift], {})

    attributes = {**row.attributes, "scale": 1.0, "shift": 0.0}
    return Activation(attributes, True, body, lambda x, a: row.evaluate(x, a) * a["scale"] + a["shift"])


ACTIVATIONS.update({name + AFFINE: _with_affine(ACTIVATIONS[name]) for name in WITH_AFFINE})


def _with_channels(row: Activation, by_channel: tuple[str, ...]) -> Activation:
    def body(emit: Emit, x: Any, attributes: Mapping[str, Any]) -> Any:
        value = row.body(emit, x, {})
        for step, key in zip(("Mul", "Add"), by_channel, strict=False):
            value = emit(step, [value, emit("Constant", [], {"value": attributes[key]})], {})
        return value

    return replace(row, lookup=False, body=body, by_channel=by_channel)


SCALED = {"HardSwishScaled": ("scale",), "HardSwishScaledShifted": ("scale", "shift")}
"""scale * HardSwish(x) [+ shift], numbers for each channel: what equalization makes of it, behind weights only."""
ACTIVATIONS.update({name: _with_channels(ACTIVATIONS["HardSwish"], keys) for name, keys in SCALED.items()})

WIDE = "Wide"
"""Prefix of an activation that a weighted op evaluates on its sums: one rounding less than by table."""
WITH_WIDE = ("HardSwish", "HardSwishAffine", *SCALED, "LeakyRelu")
"""Those that a few float32 operations give, the same on every CPU."""
ACTIVATIONS.update({WIDE + name: replace(ACTIVATIONS[name], lookup=False, wide=True) for name in WITH_WIDE})


def lookup_table(name: str, attributes: Mapping[str, float], x_scale: float, x_zero_point: int, y_scale: float,
                 y_zero_point: int) -> bytes:  # fmt: skip
    """T[q] = clamp(rne(act((q - zp_x) * s_x) / s_y) + zp_y, 0, 255) for q in 0..255, in float64: 256 bytes.

    Deterministic: Python's `round` is ties-to-even; math functions differ between C libraries by at most an ulp of
    float64, which moves an entry only where the value lies within 1e-15 (relative) of a tie.
    """
    return _table(name, tuple(sorted(attributes.items())), x_scale, x_zero_point, y_scale, y_zero_point)


@lru_cache(maxsize=4096)
def _table(name: str, attributes: tuple[tuple[str, float], ...], x_scale: float, x_zero_point: int, y_scale: float,
           y_zero_point: int) -> bytes:  # fmt: skip
    """`lookup_table`, 0.2 ms of Python each: a session asks for a table up to four times, every trial again."""
    row = ACTIVATIONS[name]
    filled = {**row.attributes, **dict(attributes)}
    reals = (row.evaluate((q - x_zero_point) * x_scale, filled) for q in range(256))
    limit = 1 << 20
    scaled = (min(max(real / y_scale, -limit), limit) for real in reals)
    return bytes(min(max(round(value) + y_zero_point, 0), 255) for value in scaled)
