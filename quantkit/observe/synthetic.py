"""Random inputs for a model without sample data: enough to see whether it runs, not to choose ranges for real use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec

BATCH_SIZE, CHANNELS, IMAGE_SIDE, LENGTH = 1, 3, 224, 32
"""What open dimensions are taken to be: the first axis; of four the second, then the sides of an image; any other."""
INTEGERS_BELOW = 2
"""Token ids, masks and flags alike may be 0 or 1 in any model."""
WARNING = (
    "--synthetic: ranges come from random numbers, not from data; the accuracy of this INT8 model is not known. "
    "Quantize again with real samples before it is used"
)


def synthetic_feeds(specs: Sequence[TensorSpec], count: int = 8, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """`count` feeds of seeded noise: standard normal floats, integers and booleans 0 or 1.

    Raises DataError for an input of strings, and for a model without inputs.
    """
    if not specs:
        raise DataError("the model has no inputs, so there is nothing to feed data to")
    rng = np.random.default_rng(seed)
    return [{spec.name: _noise(spec, rng) for spec in specs} for _ in range(count)]


def _noise(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    shape = [_size(spec, axis) for axis in range(len(spec.shape))]
    if spec.dtype.kind in "iu":
        return rng.integers(0, INTEGERS_BELOW, size=shape).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return np.ones(shape, spec.dtype)
    if spec.dtype.kind != "f":
        raise DataError(f"input {spec.name!r} is {spec.dtype}: no random data for it; give samples with --data")
    return rng.normal(size=shape).astype(spec.dtype)


def _size(spec: TensorSpec, axis: int) -> int:
    dim = spec.shape[axis]
    if isinstance(dim, int):
        return dim
    if axis == 0:
        return BATCH_SIZE
    if len(spec.shape) != 4:
        return LENGTH
    channels_last = spec.shape[3] in (1, CHANNELS)
    return CHANNELS if axis == 1 and not channels_last else IMAGE_SIDE
