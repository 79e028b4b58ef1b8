"""Outputs are written whole or not at all, and never over something that was not meant."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from quantkit.errors import OutputError


def check_output(path: Path, inputs: Iterable[Path] = (), force: bool = False) -> Path:
    """Return `path` if it may be written; called before the work starts, so that no hour is lost to a typing error.

    Raises OutputError if its folder is missing, it is a folder, it is one of `inputs`, or it exists without `force`.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it or choose another --output")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file with --output")
    if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
        raise OutputError(f"{path} is an input of this command and is never overwritten; choose another --output")
    if path.exists() and not force and not _is_special(path):
        raise OutputError(f"{path} exists; choose another --output or overwrite it with --force")
    return path


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a temporary file beside `path`, then move it there in one step; devices are written to directly.

    Raises OutputError if the file system refuses. An interruption leaves neither a partial nor a temporary file.
    """
    try:
        if _is_special(path):
            write(path)
            return
        path = path.resolve() if path.is_symlink() else path  # what a link leads to is written, the link stays
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            os.chmod(temporary, 0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error


def _is_special(path: Path) -> bool:
    """A device or a pipe, such as /dev/stdout: it is written to, and no file may take its place."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; bytes of file names that are no UTF-8 stand in it as \\udcXX. Raises OutputError."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically (no NaN or Infinity: they are a ValueError). Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
