"""What commands find for themselves: samples that fit a model, the FP32 model beside an INT8 one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.cli.options import DataOptions
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit.observe import Dataset


def open_samples(model: Path, data: str, sampling: DataOptions) -> Dataset:
    """The samples of `data` for `model`, to look at: whoever reads them all gives the warnings.

    Raises ModelError, DataError, UsageError.
    """
    from quantkit.load import input_specs, load
    from quantkit.report import samples

    loaded = load(model)
    return samples.open_samples(data, input_specs(loaded), loaded.metadata_props, **vars(sampling), warn=lambda _: None)


def find_reference(model: Path) -> Path:
    """The FP32 file that `model` was made from, by the name in its metadata, in its folder. Raises UsageError."""
    from quantkit.load import FILE_KEY, load

    name = load(model).metadata_props.get(FILE_KEY)
    if name and (model.parent / name).is_file():
        return model.parent / name
    raise UsageError(
        f"{model}: its FP32 model {name or ''} is not beside it, and a goal needs it; name it with --reference"
    )
