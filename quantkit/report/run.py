"""Run a model over a data source and keep its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import DataError
from quantkit.execute.session import Session
from quantkit.report.files import write_atomically
from quantkit.report.samples import open_samples, session_inputs

Progress = Callable[[str, int, int | None], None]


def run_model(
    model: Path | Any,
    data: Any,
    *,
    threads: int | None = None,
    isa: str | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> dict[str, np.ndarray]:
    """Outputs by name, all samples along axis 0, for `model` (path, ModelProto or onnx_ir.Model) on `data`.

    sampling: keywords of `open_samples`. Raises DataError if outputs of two batches do not fit together.
    """
    session = Session(model, threads=threads, isa=isa)
    names = [output.name for output in session.get_outputs()]
    dataset = open_samples(data, session_inputs(session), session.metadata, **sampling)
    collected: dict[str, list[np.ndarray]] = {name: [] for name in names}
    done = 0
    for batch in dataset:
        for name, array in zip(names, session.run(None, batch.feeds), strict=True):
            collected[name].append(array[: batch.valid] if np.ndim(array) else np.asarray(array)[None])
        done += batch.valid
        if progress:
            progress("run", done, dataset.count)
    return {name: _joined(name, arrays) for name, arrays in collected.items()}


def _joined(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        shapes = sorted({str(list(array.shape)) for array in arrays})
        raise DataError(
            f"output {name} has other shapes for other samples ({', '.join(shapes[:3])}); "
            "give samples of one size, or a --preprocess that resizes"
        ) from error


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz atomically. Raises OutputError."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # an open file: numpy would append .npz to another suffix
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)
