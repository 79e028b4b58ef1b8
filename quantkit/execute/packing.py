"""Packed weights, shared by all sessions of a process that need the same bytes."""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from quantkit.execute.binding import pack
from quantkit.lower.plan import PackedSpec

KEPT_BYTES = 256 << 20
"""Packed weights that `keeping_packed` holds on to, the least recently used going first."""


class _Store:
    """Packed weights by key, for as long as a session holds them; where that is asked for, the latest ones longer."""

    def __init__(self) -> None:
        self._shared: weakref.WeakValueDictionary[bytes, np.ndarray] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._size = self._keepers = 0
        self._lock = threading.Lock()

    def find(self, key: bytes) -> np.ndarray | None:
        with self._lock:
            found = self._shared.get(key)
            if found is not None:
                self._keep(key, found)
            return found

    def add(self, key: bytes, made: np.ndarray) -> np.ndarray:
        """`made`, or what another thread added first."""
        with self._lock:
            made = self._shared.setdefault(key, made)
            self._keep(key, made)
            return made

    def _keep(self, key: bytes, packed: np.ndarray) -> None:
        if not self._keepers:
            return
        if key not in self._kept:
            self._size += packed.nbytes
        self._kept[key] = packed
        self._kept.move_to_end(key)
        while self._size > KEPT_BYTES:
            self._size -= self._kept.popitem(last=False)[1].nbytes

    def change_keepers(self, by: int) -> None:
        with self._lock:
            self._keepers += by
            if not self._keepers:
                self._kept.clear()
                self._size = 0


_STORE = _Store()


@contextmanager
def keeping_packed() -> Iterator[None]:
    """Inside, weights stay packed between sessions: those of trials differ by a few layers."""
    _STORE.change_keepers(1)
    try:
        yield
    finally:
        _STORE.change_keepers(-1)


def packing_key(isa: str, spec: PackedSpec) -> bytes:
    """SHA-256 of all that the packed bytes depend on: ISA, geometry, weights, bias, multipliers."""
    geometry = {key: int(value) for key, value in spec.params.items()}
    digest = hashlib.sha256(json.dumps([isa, spec.weights.shape, geometry], sort_keys=True).encode())
    for array in (spec.weights, spec.bias, spec.multiplier):
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def shared_pack(isa: str, spec: PackedSpec) -> np.ndarray:
    """The packed weights, made once a process for as long as a session holds them. 64-byte aligned; do not write."""
    spec = replace(spec, weights=np.ascontiguousarray(spec.weights))
    key = packing_key(isa, spec)
    found = _STORE.find(key)
    return found if found is not None else _STORE.add(key, pack(isa, spec))
