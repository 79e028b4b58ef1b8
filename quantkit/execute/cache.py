"""A folder of files that save work at the next start: arrays with a JSON header, checked, bounded, atomic.

QUANTKIT_CACHE names the folder, or is "off"; by default it is quantkit in XDG_CACHE_HOME (~/.cache). QUANTKIT_CACHE_MB
bounds its size. Whatever goes wrong here costs time, never a result: nothing in this file raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quantkit import __version__
from quantkit.execute.binding import ALIGNMENT, aligned_bytes

OFF = "off"
DEFAULT_MEGABYTES = 1024
SUFFIX, TEMPORARY = ".qkcache", ".writing"
ABANDONED_SECONDS = 3600
"""A temporary file older than this belongs to a process that died."""
PREFIX = struct.Struct("<8sQQQ")
"""Magic, bytes of the header, bytes of the arrays, checksum of both."""
MAGIC = b"QKCACHE1"
PAGE_WORDS = 512

Entry = tuple[dict[str, Any], list[np.ndarray]]


def cache_folder() -> Path | None:
    """The folder, made if need be, for this user alone; None: switched off, or it cannot be had."""
    named = os.environ.get("QUANTKIT_CACHE")
    if named == OFF:
        return None
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(named).expanduser() if named else Path(root).expanduser() / "quantkit"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    return folder if not hasattr(os, "getuid") or owner == os.getuid() else None


@cache
def build_key() -> str:
    """Changes with the engine and with the Python that plans for it: SHA-256 of the version and of their files' names,
    sizes and times. To read them takes as long as a third of all else in a second start."""
    package = Path(__file__).resolve().parent.parent
    engine = sorted(package.glob("execute/_engine*"))
    sources = [path for stage in ("fuse", "lower", "execute", "load") for path in sorted(package.glob(f"{stage}/*.py"))]
    digest = hashlib.sha256(__version__.encode())
    for path in [*engine, *sources]:
        status = path.stat()
        digest.update(f"{path.relative_to(package)} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def checksum(data: np.ndarray) -> int:
    """Of uint8 [n]: CRC-32 of the sums (modulo 2^64) of its 4 KB pages, and of the rest. Ten times as fast as CRC."""
    whole = data.size // (8 * PAGE_WORDS) * 8 * PAGE_WORDS
    sums = data[:whole].view(np.uint64).reshape(-1, PAGE_WORDS).sum(axis=1, dtype=np.uint64)
    return zlib.crc32(data[whole:].tobytes(), zlib.crc32(sums.tobytes()))


def read(name: str) -> Entry | None:
    """What `write` stored; None if there is none, or it is damaged (then it is removed). Arrays lie on 64 bytes."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / (name + SUFFIX)
    try:
        with path.open("rb", buffering=0) as stream:
            entry = _parse(stream, path.stat().st_size)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, MemoryError, struct.error):
        entry = None
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True) if entry is None else os.utime(path)
    return entry


def _parse(stream: Any, size: int) -> Entry | None:
    magic, header_bytes, array_bytes, expected = PREFIX.unpack(stream.read(PREFIX.size))
    if magic != MAGIC or PREFIX.size + header_bytes + array_bytes != size:
        return None
    text = stream.read(header_bytes)
    data = aligned_bytes(array_bytes)
    view, filled = data.data, 0
    while filled < array_bytes:
        count = stream.readinto(view[filled:])
        if not count:
            return None
        filled += count
    if checksum(data) ^ zlib.crc32(text) != expected:
        return None
    header = json.loads(text)
    arrays = [data[start : start + count].view(dtype).reshape(shape) for start, count, dtype, shape in header["arrays"]]
    return header["content"], arrays


def write(name: str, content: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Store JSON `content` and `arrays`, whole or not at all, then remove the least recently used files above the
    bound."""
    folder = cache_folder()
    if folder is None:
        return
    table: list[list[Any]] = []
    start = 0
    for array in arrays:
        table.append([start, array.nbytes, array.dtype.str, list(array.shape)])
        start += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    data = aligned_bytes(start)
    data[:] = 0
    for (first, count, _, _), array in zip(table, arrays, strict=True):
        data[first : first + count] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    text = json.dumps({"content": content, "arrays": table}).encode()
    prefix = PREFIX.pack(MAGIC, len(text), start, checksum(data) ^ zlib.crc32(text))
    with contextlib.suppress(OSError):
        _write_whole(folder, name, [prefix, text, data.data])
        shrink(folder, bound_bytes())


def _write_whole(folder: Path, name: str, parts: Sequence[bytes | memoryview]) -> None:
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb", buffering=0) as stream:
            for part in parts:
                left = memoryview(part)
                while len(left):
                    left = left[stream.write(left) :]
        os.replace(temporary, folder / (name + SUFFIX))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def bound_bytes() -> int:
    """QUANTKIT_CACHE_MB in bytes; the default where it is no number."""
    text = os.environ.get("QUANTKIT_CACHE_MB", "")
    return (int(text) if text.isdigit() else DEFAULT_MEGABYTES) * 1_000_000


def shrink(folder: Path, limit: int) -> None:
    """Remove what was not used for longest until at most `limit` bytes are left, and what dead writers left behind."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.suffix == SUFFIX:
                found.append((status.st_mtime_ns, status.st_size, path))
            elif path.suffix == TEMPORARY and time.time() - status.st_mtime > ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        total -= size
