"""What a graph takes and gives: name, shape and element type of its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output. A dimension is an int, the name of a symbol, or None (unknown)."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype


def spec_of(value: ir.Value) -> TensorSpec:
    """Name, shape (() where it is not known) and element type (float32 where it is not) of a value."""
    dims = () if value.shape is None else value.shape.dims
    shape = tuple(d if isinstance(d, int) else d.value for d in dims)
    dtype = np.dtype(np.float32) if value.dtype is None else np.dtype(value.dtype.numpy())
    return TensorSpec(value.name or "", shape, dtype)


def _specs(values: Iterable[ir.Value]) -> list[TensorSpec]:
    return [spec_of(value) for value in values]


def input_specs(model: ir.Model) -> list[TensorSpec]:
    """The inputs a caller must feed, in graph order; initializers listed as inputs (IR version < 4) are left out."""
    return _specs(value for value in model.graph.inputs if value.name not in model.graph.initializers)


def output_specs(model: ir.Model) -> list[TensorSpec]:
    """The outputs, in graph order. A shape the file does not state is () until shapes are inferred."""
    return _specs(model.graph.outputs)
