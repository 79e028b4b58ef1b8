"""What the engine is told to do: a list of ops over buffers. Plain data; the binding turns it into C structs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit.lower.views import Buffer


@dataclass(frozen=True)
class Ref:
    """Byte `offset` of `buffer`."""

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True)
class PlanOp:
    """One op. kind: name of a qk_op_kind; params: fields of its struct, arrays where C has pointers.

    node: the node of the model it belongs to; weights: key of the packed weights, if it has any.
    """

    kind: str
    inputs: tuple[Ref, ...]
    output: Ref
    params: Mapping[str, Any]
    node: str
    weights: str | None = None


@dataclass(frozen=True)
class PackedSpec:
    """What qk_conv_pack needs: weights s8 [out_c, kernel_h, kernel_w, in_c / groups], bias int32 and multiplier f32
    [out_c]."""

    weights: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    params: Mapping[str, Any]


@dataclass(frozen=True)
class ExternalTensor:
    """An input or output of a plan, in ONNX's dense layout. dtype: float32, uint8, or int64 of a shape operand."""

    name: str
    dims: tuple[int, ...]
    dtype: np.dtype


@dataclass
class Plan:
    """A native region for fixed shapes.

    externals: the buffers outside the arena, in the order inputs, outputs, constants (u8 arrays).
    arena_bytes: what one run needs; live_bytes: what no placement could go below. dims: of every tensor, by name.
    """

    ops: list[PlanOp]
    inputs: list[ExternalTensor]
    outputs: list[ExternalTensor]
    externals: list[Buffer]
    constants: list[np.ndarray]
    arena_bytes: int
    live_bytes: int
    dims: dict[str, tuple[int, ...]]
