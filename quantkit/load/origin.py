"""What the metadata say of where a model came from: its FP32 file, and who made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import ModelError
from quantkit.load import FILE_KEY, KEPT_KEY, SHA256_KEY, VERSION_KEY, file_digest, load

if TYPE_CHECKING:
    import onnx_ir as ir


def fp32_beside(converted: Any, model: ir.Model, warn: Callable[[str], None] | None) -> Path | None:
    """The FP32 file that the metadata name, if it lies beside the converted file and is still the same."""
    name = model.metadata_props.get(FILE_KEY)
    if not isinstance(converted, str | Path) or not name:
        return None
    path = Path(converted).parent / Path(name).name
    if not path.is_file():
        return None
    if file_digest(path) != model.metadata_props.get(SHA256_KEY):
        if warn:
            warn(f"{path} is not the file that {converted} was made from (SHA-256 differs): its weights are not used")
        return None
    return path


def require_same_source(reference: Any, converted: ir.Model) -> None:
    """Raises ModelError where `reference` is not the file that the metadata of `converted` name."""
    wanted = converted.metadata_props.get(SHA256_KEY)
    got = load(reference).metadata_props.get(SHA256_KEY)
    if wanted is not None and got != wanted:
        given = str(reference) if isinstance(reference, str | Path) else "the model"
        raise ModelError(
            f"{given} is not the FP32 model of the converted file: SHA-256 {str(got)[:12]}, "
            f"recorded {wanted[:12]}; give the right one with --reference, or convert again"
        )


def sign(model: ir.Model) -> None:
    """Marks a model as made by this version; what an earlier stage said of it in FP32 is gone."""
    from quantkit import __version__

    model.metadata_props[VERSION_KEY] = __version__
    model.metadata_props.pop(KEPT_KEY, None)
    model.producer_name, model.producer_version = "quantkit", __version__
