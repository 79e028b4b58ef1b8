"""FP32 weights rounded to s8 once, however many models are made of them: to round them takes longer than all else that
a trial of a transformer does."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from quantkit.quantize import bias as biases
from quantkit.quantize import qparams
from quantkit.quantize.layers import Layer
from quantkit.quantize.qparams import QuantizedWeights

SHARED_BYTES = 1 << 30
"""FP32 weights of a model up to which their s8 form is kept while the FP32 tensors live: a quarter of their size."""


@dataclass
class Rounded:
    """The s8 form of one FP32 tensor by one scale. values: in the tensor's shape, read-only, shared by all models.

    base: float32 [C], the scale before biases had a say. scale: float32 [C]. sums: int64 [C], of the magnitudes.
    """

    values: np.ndarray
    base: np.ndarray
    scale: np.ndarray
    sums: np.ndarray
    _seen: tuple[np.ndarray, np.ndarray] | None = None

    def with_bias(self, bias: np.ndarray, x_scale: float, *, name: str) -> QuantizedWeights:
        """The weights with a bias of their own. Raises ModelError as `quantize_weights` does."""
        return qparams.with_bias(self.values, self.scale, self.sums, bias, x_scale, name=name)

    def mean_error(self, layer: Layer, expected: np.ndarray) -> np.ndarray:
        """quantkit.quantize.bias.mean_error; that of the last call where `expected` is the same."""
        if self._seen is None or not np.array_equal(self._seen[0], expected):
            weights = QuantizedWeights(self.values, self.scale, self.sums)
            self._seen = expected, biases.mean_error(layer, weights, expected)
        return self._seen[1]


_KNOWN: WeakKeyDictionary[ir.TensorProtocol, dict[tuple[int, bool], Rounded]] = WeakKeyDictionary()


def rounded_weights(tensor: ir.TensorProtocol, bias: np.ndarray, x_scale: float, *, axis: int, per_channel: bool,
                    shared: bool) -> Rounded:  # fmt: skip
    """What `quantize_weights` makes of a float32 tensor with output channels on `axis`, all but the bias.

    bias: float32 [C], which may raise a scale. shared: keep it for the next call with this tensor.
    """
    key = axis, per_channel
    known = _KNOWN.get(tensor, {}).get(key)
    if known is not None:
        scale = qparams.scale_for_bias(known.base, bias, x_scale)
        if np.array_equal(known.scale, scale):
            return known
    weights = tensor.numpy()
    base = qparams.base_scales(weights, axis=axis, per_channel=per_channel)
    scale = qparams.scale_for_bias(base, bias, x_scale)
    q = qparams.rounded_rows(weights, scale, axis=axis)
    values = qparams.in_shape(q, weights.shape, axis)
    for array in (values, scale):
        array.flags.writeable = False
    made = Rounded(values, base, scale, qparams.magnitudes(q))
    if shared:
        _KNOWN.setdefault(tensor, {})[key] = made
    return made
