"""Finds the embedded model, its recipe and its data: in an installed package, or in the source tree."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import DataError

PACKAGE = Path(__file__).resolve().parent.parent
FOLDERS = (PACKAGE / "_assets", PACKAGE.parent / "models", PACKAGE.parent / "calib")
"""The first exists in a wheel (setup.py makes it), the others in the source tree and an editable install."""


def asset(name: str) -> Path:
    """The path of an embedded file: digits_cnn.onnx, digits.toml, digits_calib.npz, digits_test.npz.

    Raises DataError if this installation has no such file.
    """
    for folder in FOLDERS:
        path = folder / name
        if path.is_file():
            return path
    raise DataError(
        f"the embedded file {name!r} is not part of this installation; reinstall quantkit from a full source"
    )
