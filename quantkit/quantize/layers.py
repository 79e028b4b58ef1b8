"""Weighted layers as linear regressions: rows of inputs and of outputs at sampled positions.

A convolution, Gemm or MatMul is y = W x + b at every output position; a row is the x (im2col) or y of one position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.expand import pre_activation_name
from quantkit.fuse.graph import constant
from quantkit.fuse.opnames import CONVOLUTIONS
from quantkit.quantize.qparams import BLOCK_VALUES, channel_rows
from quantkit.quantize.support import StaticForm


@dataclass(frozen=True)
class Layer:
    """A weighted node of the fused model.

    read_weights: gives the weights as the model has them, float32; bias: float64 [C]. shape, axis: of the weights.
    source, residual: tensor names of x and of what is added; target: the FP32 tensor W x + b (+ residual); output: what
    the activation makes of it.
    """

    name: str
    base: str
    read_weights: Callable[[], np.ndarray]
    bias: np.ndarray
    shape: tuple[int, ...]
    axis: int
    groups: int
    source: str
    residual: str | None
    target: str
    output: str
    attributes: Mapping[str, Any]

    @property
    def weights(self) -> np.ndarray:
        """float64 [C, K], one row an output channel. Made anew by every call: twice the size of the float32 weights."""
        return channel_rows(self.read_weights(), self.axis)

    def row_blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """`weights` some channels at a time: (channels, their rows). Of several groups, all at once."""
        step = max(1, BLOCK_VALUES // max(self.columns, 1)) if self.groups == 1 else self.channels
        stored = self.read_weights()
        for start in range(0, self.channels, step):
            place = slice(start, start + step)
            yield place, channel_rows(stored[(*[slice(None)] * self.axis, place)], self.axis)

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.shape[self.axis]

    @property
    def columns(self) -> int:
        """Products in one sum: K."""
        return prod(self.shape) // max(self.channels, 1)

    @property
    def is_convolution(self) -> bool:
        """Channels on axis 1, weights [C, C_in / groups, *kernel]."""
        return self.base in CONVOLUTIONS

    @property
    def row_values(self) -> int:
        """Numbers in one input row: K for each group."""
        return self.groups * self.columns


def layer_of(node: ir.Node, form: StaticForm) -> Layer:
    """The layer of a weighted node of a fused FP32 model."""
    stored, bias = node.inputs[1], constant(node.inputs[2])
    assert stored is not None
    assert stored.const_value is not None
    assert bias is not None
    axis = 1 if form.name.base == "MatMul" else 0
    out = node.outputs[0].name or ""
    return Layer(
        name=node.name or "",
        base=form.name.base,
        read_weights=stored.const_value.numpy,
        bias=bias.astype(np.float64).reshape(-1),
        shape=tuple(stored.const_value.shape.numpy()),
        axis=axis,
        groups=int(form.attributes.get("group", 1)) if form.name.base in CONVOLUTIONS else 1,
        source=form.data[0].name or "",
        residual=(form.data[1].name or "") if form.name.add else None,
        target=pre_activation_name(out) if form.name.activation else out,
        output=out,
        attributes=form.attributes,
    )


def positions_of(layer: Layer, output: np.ndarray) -> int:
    """Output positions of one sample: pixels behind a convolution, tokens behind a MatMul."""
    return prod(output.shape[2:]) if layer.is_convolution else prod(output.shape[1:-1])


def output_rows(layer: Layer, output: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """float32 [N, C, *S] (Conv) or [N, *T, C] -> [N * len(positions), C]."""
    n = output.shape[0]
    if layer.is_convolution:
        picked = output.reshape(n, output.shape[1], prod(output.shape[2:]))[:, :, positions].transpose(0, 2, 1)
    else:
        picked = output.reshape(n, prod(output.shape[1:-1]), output.shape[-1])[:, positions]
    return np.ascontiguousarray(picked).reshape(-1, picked.shape[-1])


def input_rows(layer: Layer, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """float32 [N, Cin, *S] (Conv) or [N, *T, K] -> [groups, N * len(positions), K]; padding is 0."""
    n = x.shape[0]
    if not layer.is_convolution:
        picked = x.reshape(n, prod(x.shape[1:-1]), x.shape[-1])[:, positions]
        return np.ascontiguousarray(picked).reshape(1, n * len(positions), x.shape[-1])
    kernel, dims = layer.shape[2:], len(layer.shape) - 2
    pads, strides, dilations = (layer.attributes[key] for key in ("pads", "strides", "dilations"))
    if layer.base == "ConvTranspose":
        x, pads, strides = _as_convolved(layer, x)
    spatial = list(zip(pads[:dims], pads[dims:], strict=True))
    padded = np.pad(x, [(0, 0), (0, 0), *spatial])
    extent = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    ]
    index = []
    for axis, where in enumerate(np.unravel_index(positions, extent)):
        places = where[:, None] * strides[axis] + np.arange(kernel[axis]) * dilations[axis]
        index.append(places.reshape(len(positions), *(kernel[axis] if a == axis else 1 for a in range(dims))))
    picked = padded[(slice(None), slice(None), *index)]  # [N, Cin, P, *kernel]
    if layer.base == "ConvTranspose":
        picked = np.flip(picked, axis=tuple(range(3, 3 + dims)))
    channels, taps = x.shape[1] // layer.groups, prod(kernel)
    grouped = picked.reshape(n, layer.groups, channels, len(positions), taps).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(grouped).reshape(layer.groups, n * len(positions), channels * taps)


def _as_convolved(layer: Layer, x: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """(x with stride - 1 zeros between its values, pads, strides) of the Conv with a flipped kernel that is the same.

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), section 4.
    """
    dims = len(layer.shape) - 2
    strides, dilations, pads, extra = (
        [int(v) for v in layer.attributes[key]] for key in ("strides", "dilations", "pads", "output_padding")
    )
    spread = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], strides, strict=True)]
    wide = np.zeros((*x.shape[:2], *spread), x.dtype)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    reach = [d * (k - 1) for d, k in zip(dilations, layer.shape[2:], strict=True)]
    before = [r - p for r, p in zip(reach, pads[:dims], strict=True)]
    after = [r - p + e for r, p, e in zip(reach, pads[dims:], extra, strict=True)]
    return wide, [*before, *after], [1] * dims
