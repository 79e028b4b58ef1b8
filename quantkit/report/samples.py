"""Open sample data for a model, prepared the way its metadata say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.quantize.calibration import PREPROCESS_KEY

if TYPE_CHECKING:
    from quantkit.load.specs import TensorSpec
    from quantkit.observe import Dataset


def open_samples(
    data: Any,
    inputs: Sequence[TensorSpec],
    metadata: Mapping[str, str],
    *,
    preprocess: Any = None,
    labels: Path | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    strict: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Dataset:
    """`observe.open_data` with the preprocessing given (name, path or Preprocess), else that of `metadata`, else none.

    Raises UsageError for an unknown preset, DataError for data that cannot be used.
    """
    from quantkit.observe import Preprocess, load_preprocess, open_data

    if isinstance(preprocess, (str, Path)):
        preprocess = load_preprocess(preprocess)
    elif preprocess is None and PREPROCESS_KEY in metadata:
        preprocess = Preprocess.from_json(metadata[PREPROCESS_KEY])
    return open_data(
        data,
        inputs,
        preprocess=preprocess,
        labels=labels,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        strict=strict,
        warn=warn,
    )


def session_inputs(session: Any) -> list[TensorSpec]:
    """TensorSpecs of a session's inputs."""
    import numpy as np

    from quantkit.load.specs import TensorSpec

    specs = []
    for value in session.get_inputs():
        dtype = np.dtype(NUMPY_NAMES.get(value.type, "float32"))
        specs.append(TensorSpec(value.name, tuple(value.shape), dtype))
    return specs


NUMPY_NAMES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
"""Element types as onnxruntime and Session spell them."""
