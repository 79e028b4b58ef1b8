"""Random inputs for a model without sample data: enough to see whether it runs, not to choose ranges for real use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe.calibrate import holds_nan
from quantkit.observe.runner import FloatRunner

CHANNELS = 3
INTEGERS_BELOW = 2
"""Token ids, masks and flags alike may be 0 or 1 in any model."""
SAMPLE_RATE = 16000
WARNING = (
    "--synthetic: ranges come from random numbers, not from data; the accuracy of this INT8 model is not known. "
    "Quantize again with real samples before it is used"
)
Integers = Callable[[tuple[int, ...], int, np.random.Generator], np.ndarray]
"""make(shape, length of open axes, rng) -> integers of that shape."""


def _bits(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, INTEGERS_BELOW, size=shape)


def _ones(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> np.ndarray:
    return np.ones(shape, np.int64)


def _lengths(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors and scalars tell how long sequences are."""
    return np.full(shape, length if len(shape) < 2 else 1)


def _rates(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> np.ndarray:
    """Single numbers are sampling rates."""
    return np.full(shape, SAMPLE_RATE) if np.prod(shape) == 1 else _bits(shape, length, rng)


INTEGERS: tuple[Integers, ...] = (_bits, _lengths, _ones, _rates)


@dataclass(frozen=True)
class Guess:
    """What open dimensions are taken to be: the first axis; of four the sides of an image; any other. And integers.

    states: the middle axis of three is the batch, too: the state of a recurrent network is [layers, batch, size].
    """

    batch: int = 1
    sides: tuple[int, int] = (224, 224)
    length: int = 32
    integers: Integers = _bits
    states: bool = False


LENGTHS = (512, SAMPLE_RATE)
"""Also tried: pieces of audio, and a second of it."""
SIDES = ((48, 320), (32, 320), (640, 640), (320, 320), (256, 256), (64, 64))
"""Also tried: lines of text, and what detectors and generators take."""


def synthetic_feeds(specs: Sequence[TensorSpec], count: int = 8, seed: int = 0, guess: Guess | None = None
                    ) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """`count` feeds of seeded noise: standard normal floats, integers and sizes as guessed, all flags set.

    Raises DataError for an input of strings, and for a model without inputs.
    """
    if not specs:
        raise DataError("the model has no inputs, so there is nothing to feed data to")
    rng, batches = np.random.default_rng(seed), _batch_names(specs)
    return [{spec.name: _noise(spec, guess or Guess(), batches, rng) for spec in specs} for _ in range(count)]


def working_feeds(runner: FloatRunner, count: int = 8, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """`synthetic_feeds` by the first guess with which the model runs without giving NaN, or else just runs.

    Raises DataError where no guess suits the model, with what onnxruntime says to the first.
    """
    refused: DataError | None = None
    fallback: list[dict[str, np.ndarray]] | None = None
    for guess in _guesses(runner.inputs):
        all_feeds = synthetic_feeds(runner.inputs, count, seed, guess)
        try:
            if not any(holds_nan(runner.run(feeds)) for feeds in all_feeds):
                return all_feeds
        except DataError as error:
            refused = refused or error
            continue
        fallback = fallback or all_feeds
    if fallback is None:
        raise DataError(f"--synthetic: random numbers do not suit this model; give samples with --data ({refused})")
    return fallback


def _guesses(specs: Sequence[TensorSpec]) -> Iterator[Guess]:
    """The most likely first; only what makes a difference for these inputs."""
    plain, batches = Guess(), _batch_names(specs)
    is_open = {_kind(spec, axis, plain, batches) for spec in specs for axis in range(len(spec.shape))}
    shapes = [plain]
    if "length" in is_open:
        shapes += [replace(plain, length=length) for length in LENGTHS]
        shapes += [replace(shape, states=True) for shape in shapes]
    if "side" in is_open:
        shapes += [replace(plain, sides=sides) for sides in SIDES]
    if "batch" in is_open:
        shapes.append(replace(plain, batch=plain.length))
    integers = INTEGERS if any(spec.dtype.kind in "iu" for spec in specs) else INTEGERS[:1]
    return (replace(shape, integers=kind) for shape in shapes for kind in integers)


def _batch_names(specs: Sequence[TensorSpec]) -> set[str]:
    """How open first axes are called: axes of the same name have the same size."""
    return {dim for spec in specs for dim in spec.shape[:1] if isinstance(dim, str)}


def _noise(spec: TensorSpec, guess: Guess, batches: set[str], rng: np.random.Generator) -> np.ndarray:
    shape = tuple(_size(spec, axis, guess, batches) for axis in range(len(spec.shape)))
    if spec.dtype.kind in "iu":
        return guess.integers(shape, guess.length, rng).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return np.ones(shape, spec.dtype)
    if spec.dtype.kind != "f":
        raise DataError(f"input {spec.name!r} is {spec.dtype}: no random data for it; give samples with --data")
    return np.asarray(rng.normal(size=shape)).astype(spec.dtype)


def _kind(spec: TensorSpec, axis: int, guess: Guess, batches: set[str]) -> str:
    """What an axis is: "fixed", "batch", "channels", "side" or "length"."""
    dim, rank = spec.shape[axis], len(spec.shape)
    if isinstance(dim, int):
        return "fixed"
    if axis == 0 or dim in batches or (guess.states and rank == 3 and axis == 1):
        return "batch"
    if rank != 4:
        return "length"
    return "channels" if axis == 1 and not _channels_last(spec) else "side"


def _channels_last(spec: TensorSpec) -> bool:
    return spec.shape[3] in (1, CHANNELS)


def _size(spec: TensorSpec, axis: int, guess: Guess, batches: set[str]) -> int:
    dim = spec.shape[axis]
    if isinstance(dim, int):
        return dim
    side = guess.sides[0 if axis == (1 if _channels_last(spec) else 2) else 1] if len(spec.shape) == 4 else 0
    sizes = {"batch": guess.batch, "channels": CHANNELS, "side": side, "length": guess.length}
    return sizes[_kind(spec, axis, guess, batches)]
