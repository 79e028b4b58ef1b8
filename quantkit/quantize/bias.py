"""What the rounding of weights adds to the mean of every output channel, taken off the bias: from statistics alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.quantize.layers import Layer
from quantkit.quantize.qparams import QuantizedWeights, finish_weights
from quantkit.types import BIAS_LIMIT


def channel_axis(layer: Layer) -> int:
    """The axis of the channels of the layer's input: 1 for convolutions, the last for Gemm and MatMul."""
    return 1 if layer.is_convolution else -1


def without_mean_error(layer: Layer, weights: QuantizedWeights, means: np.ndarray, spatial: tuple[int, ...] | None,
                       x_scale: float) -> QuantizedWeights:  # fmt: skip
    """The weights with b + (W - s_w W_q) E x for a bias: every output channel keeps its mean on the FP32 input.

    means: float64 [C_in], of each input channel; spatial: size of the input, None if not known, for the share of zero
    padding in E x. Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV 2019).
    """
    rows = np.moveaxis(weights.values, layer.axis, 0).reshape(layer.channels, -1)
    bias = shifted_bias(layer, weights.scale, mean_error(layer, weights, expected_row(layer, means, spatial)), x_scale)
    return finish_weights(rows, weights.scale, layer.shape, bias, x_scale, axis=layer.axis, name=layer.name)


def mean_error(layer: Layer, weights: QuantizedWeights, expected: np.ndarray) -> np.ndarray:
    """(W - s_w W_q) E x, float64 [C]. expected: E x, float64 [groups, K]."""
    rows = np.moveaxis(weights.values, layer.axis, 0).reshape(layer.channels, -1)
    scale, shift = weights.scale.astype(np.float64), np.empty(layer.channels)
    for place, exact in layer.row_blocks():
        rest = exact - rows[place] * scale[place, None]
        shift[place] = np.einsum("gck,gk->gc", rest.reshape(layer.groups, -1, layer.columns), expected).reshape(-1)
    return shift


def shifted_bias(layer: Layer, scale: np.ndarray, shift: np.ndarray, x_scale: float) -> np.ndarray:
    """b + shift, float64 [C]; b alone where that would leave the range of the int32 bias."""
    bias = layer.bias + shift
    fits = np.abs(bias) < (BIAS_LIMIT - 1) * x_scale * scale.astype(np.float64)
    return np.where(fits, bias, layer.bias)


def spatial_size(value: ir.Value, layer: Layer) -> tuple[int, ...] | None:
    """The spatial size of a convolution's input where it is fixed."""
    sizes = [] if value.shape is None or not layer.is_convolution else list(value.shape)[2:]
    return tuple(size for size in sizes if isinstance(size, int)) if sizes and all(
        isinstance(size, int) for size in sizes
    ) else None  # fmt: skip


def expected_row(layer: Layer, means: np.ndarray, spatial: tuple[int, ...] | None) -> np.ndarray:
    """E x of a row of the regression, float64 [groups, K]: channel means times the share of positions with data."""
    if not layer.is_convolution:
        return means.reshape(1, -1)
    share = np.ones(())
    for axis, kernel in enumerate(layer.shape[2:]):
        share = np.multiply.outer(share, _tap_share(layer, axis, kernel, None if spatial is None else spatial[axis]))
    return np.multiply.outer(means.reshape(layer.groups, -1), share).reshape(layer.groups, -1)


def _tap_share(layer: Layer, axis: int, kernel: int, size: int | None) -> np.ndarray:
    """float64 [kernel]: of all output positions along an axis, the share at which each tap meets data, not padding."""
    dims = len(layer.shape) - 2
    stride, dilation = (int(layer.attributes[key][axis]) for key in ("strides", "dilations"))
    if layer.base == "ConvTranspose":  # each output meets one tap in `stride`
        return np.full(kernel, 1.0 / stride)
    if size is None:
        return np.ones(kernel)
    before, after = int(layer.attributes["pads"][axis]), int(layer.attributes["pads"][axis + dims])
    count = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    at = np.arange(count)[:, None] * stride + np.arange(kernel) * dilation - before
    return ((at >= 0) & (at < size)).mean(axis=0)
