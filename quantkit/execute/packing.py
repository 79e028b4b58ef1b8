"""Packed weights, shared by all sessions of a process that need the same bytes."""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from dataclasses import replace

import numpy as np

from quantkit.execute.binding import pack
from quantkit.lower.plan import PackedSpec

_SHARED: weakref.WeakValueDictionary[bytes, np.ndarray] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


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
    with _LOCK:
        found = _SHARED.get(key)
    if found is None:
        made = pack(isa, spec)
        with _LOCK:  # of two threads that packed at the same time, the first is kept
            found = _SHARED.setdefault(key, made)
    return found
