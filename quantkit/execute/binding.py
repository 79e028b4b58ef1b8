"""The engine as Python sees it. The only file that knows cffi."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import EngineError
from quantkit.lower.plan import PackedSpec, Plan
from quantkit.lower.views import Buffer

try:
    from quantkit.execute._engine import ffi, lib
except ImportError as error:
    raise EngineError(f"the native engine is not built ({error}); run `pip install .` or `make build`") from error

ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni")
"""Names of the instruction sets, from the one that every CPU has to the widest."""
ALIGNMENT = 64
GUARD = 256 << 10
"""Bytes between the scratch of two threads, never touched. Prefetchers that follow strides of 10 KB run up to 200 KB
past what a thread works on, and would take the lines that its neighbour writes out of that one's cache."""
PARAMS = {
    "QK_QUANTIZE": "qk_convert_params", "QK_DEQUANTIZE": "qk_convert_params", "QK_CONV": "qk_conv_params",
    "QK_BINARY": "qk_binary_params", "QK_POOL": "qk_pool_params", "QK_LOOKUP": "qk_copy_params",
    "QK_COPY": "qk_copy_params", "QK_FILL": "qk_copy_params", "QK_RESIZE": "qk_resize_params",
    "QK_SOFTMAX": "qk_softmax_params", "QK_NORMALIZE": "qk_normalize_params",
    "QK_GROUP_NORMALIZE": "qk_group_normalize_params", "QK_LRN": "qk_lrn_params",
    "QK_MATMUL": "qk_matmul_params", "QK_BLEND": "qk_resize_params",
    "QK_ADD_FLOAT": "qk_add_float_params", "QK_NORMALIZE_FLOAT": "qk_normalize_float_params",
}  # fmt: skip


INTERFACE = Path(__file__).resolve().parents[2] / "native" / "qk.h"
"""The interface that the engine must have been built from, where this is a source tree."""


def check_build(built: Any, interface: Path = INTERFACE) -> None:
    """Raises EngineError if the engine `built` (the cffi library) is not of these sources: its ops or structs differ.

    Such an engine would refuse plans one by one, and every model would quietly stay in FP32.
    """
    missing = [kind for kind in PARAMS if not hasattr(built, kind)]
    problem = f"it has no {', '.join(missing)}" if missing else ""
    fingerprint = getattr(built, "qk_interface", None)
    if not missing and fingerprint is not None and interface.is_file():
        wanted = hashlib.sha256(interface.read_bytes()).hexdigest()
        got = ffi.string(fingerprint()).decode()
        problem = "" if got == wanted else f"it was built from another native/qk.h ({got[:12]}, not {wanted[:12]})"
    if problem:
        raise EngineError(
            f"the native engine does not match these Python sources: {problem}; build it again with `make build`, "
            "or `pip install .`"
        )


check_build(lib)


def available_isas() -> dict[str, bool]:
    """ISA name -> this build has it and this CPU and operating system run it."""
    return {name: bool(lib.qk_isa_available(i)) for i, name in enumerate(ISAS)}


def choose_isa(name: str | None = None) -> str:
    """The ISA to run: `name`, else QUANTKIT_ISA, else the best one. Raises EngineError if it is forced and missing."""
    wanted = name or os.environ.get("QUANTKIT_ISA") or None
    have = available_isas()
    if wanted is None:
        return [isa for isa, there in have.items() if there][-1]
    if wanted not in have:
        raise EngineError(f"ISA {wanted!r} is unknown; choose one of {', '.join(ISAS)}")
    if not have[wanted]:
        usable = ", ".join(isa for isa, there in have.items() if there)
        raise EngineError(f"ISA {wanted!r} was asked for, but this CPU or build lacks it; it has {usable}")
    return wanted


def aligned_bytes(size: int) -> np.ndarray:
    """Uninitialised uint8 [size] that starts on a cache line."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def _check(status: int, what: str) -> None:
    reasons = {
        lib.QK_BAD_ARGUMENT: "the engine refused its sizes",
        lib.QK_ISA_MISSING: "the instruction set is not in this build or CPU",
        lib.QK_NO_MEMORY: "there is not enough memory",
    }
    if status != lib.QK_OK:
        raise EngineError(f"{what}: {reasons.get(status, f'status {status}')}")


def _struct(kind: str, fields: Mapping[str, Any], keep: list[Any]) -> Any:
    """A C struct of type `kind`; arrays become pointers to their data, nested mappings nested structs."""
    struct = ffi.new(f"{kind} *")
    _set_fields(struct, fields, keep)
    keep.append(struct)
    return struct


def _set_fields(struct: Any, fields: Mapping[str, Any], keep: list[Any]) -> None:
    for key, value in fields.items():
        if isinstance(value, Mapping):
            _set_fields(getattr(struct, key), value, keep)
        elif isinstance(value, np.ndarray):
            keep.append(value)
            target = ffi.typeof(ffi.addressof(struct, key)).item
            setattr(struct, key, ffi.cast(target, value.ctypes.data))
        else:
            setattr(struct, key, value)


class Pool:
    """Threads that run plans. threads: at least 1, the caller included. cpus: one CPU number a thread to keep to, for
    a pool that serves one caller at a time."""

    def __init__(self, threads: int, cpus: Sequence[int] | None = None) -> None:
        self.threads = threads
        self.handle = lib.qk_pool_create(threads)
        if self.handle == ffi.NULL:
            raise EngineError(f"could not start {threads} threads")
        if cpus is not None:
            lib.qk_pool_pin(self.handle, ffi.new("int32_t[]", list(cpus)))
        finalizer = weakref.finalize(self, lib.qk_pool_destroy, self.handle)
        finalizer.atexit = False  # a daemon thread may still be in a run then; the process ends its threads itself


def pack(isa: str, spec: PackedSpec) -> np.ndarray:
    """Weights in the layout of an ISA's kernels: aligned uint8."""
    keep: list[Any] = []
    index = ISAS.index(isa)
    conv = _struct("qk_conv_params", spec.params, keep)
    size = lib.qk_conv_packed_bytes(index, conv)
    if size <= 0:
        raise EngineError(f"weights of shape {spec.weights.shape}: the engine refused them")
    packed = aligned_bytes(size)
    weights, bias, multiplier = (np.ascontiguousarray(a) for a in (spec.weights, spec.bias, spec.multiplier))
    status = lib.qk_conv_pack(index, conv, ffi.cast("int8_t *", weights.ctypes.data),
                              ffi.cast("int32_t *", bias.ctypes.data), ffi.cast("float *", multiplier.ctypes.data),
                              ffi.cast("void *", packed.ctypes.data))  # fmt: skip
    _check(status, "packing weights")
    return packed


class CompiledPlan:
    """A plan as C structs, for one ISA. Reentrant: each run brings its own memory."""

    def __init__(self, plan: Plan, isa: str, packed: Mapping[str, np.ndarray]) -> None:
        self.plan = plan
        self.isa = ISAS.index(isa)
        self._keep: list[Any] = [packed]
        self._constants = [ffi.from_buffer(array) for array in plan.constants]
        self.outputs = [(tensor.name, tensor.dims, tensor.dtype) for tensor in plan.outputs]
        self._failed = ffi.new("int32_t *", -1)  # written when a run fails: it is the same op in every run
        index = {buffer: i + 1 for i, buffer in enumerate(plan.externals)}
        self._ops = ffi.new("qk_op[]", max(1, len(plan.ops)))
        for c_op, op in zip(self._ops, plan.ops, strict=False):
            fields = dict(op.params)
            if op.weights is not None:
                fields["packed"] = packed[op.weights]
            c_op.kind = getattr(lib, op.kind)
            try:
                c_op.params = ffi.cast("void *", _struct(PARAMS[op.kind], fields, self._keep))
            except OverflowError as error:  # an absurd attribute, which no kernel's 32 bits hold
                raise EngineError(f"{op.node}: {error}; a size or attribute of it is wrong") from error
            inputs = getattr(c_op, "in")
            for i in range(2):
                self._set_ref(inputs[i], op.inputs[i] if i < len(op.inputs) else None, index)
            self._set_ref(c_op.out, op.output, index)
        sizes = [lib.qk_op_scratch_bytes(self.isa, ffi.addressof(self._ops, i)) for i in range(len(plan.ops))]
        self.scratch_per_thread = -(-max(sizes, default=0) // ALIGNMENT) * ALIGNMENT + GUARD
        self.scratch_offset = -(-plan.arena_bytes // ALIGNMENT) * ALIGNMENT + GUARD

    @staticmethod
    def _set_ref(ref: Any, source: Any, index: Mapping[Buffer, int]) -> None:
        if source is None or source.buffer.external == -2:
            ref.buffer, ref.offset = -1, 0
        elif source.buffer in index:
            ref.buffer, ref.offset = index[source.buffer], source.offset
        else:
            ref.buffer, ref.offset = 0, source.buffer.offset + source.offset

    def kernel_names(self) -> list[str]:
        """The kernel that runs each op."""
        names = (lib.qk_op_kernel_name(self.isa, ffi.addressof(self._ops, i)) for i in range(len(self.plan.ops)))
        return [ffi.string(name).decode() if name != ffi.NULL else "" for name in names]

    def memory_bytes(self, threads: int) -> int:
        """What `run` needs as `memory`."""
        return self.scratch_offset + threads * self.scratch_per_thread + ALIGNMENT

    def run(self, pool: Pool, memory: np.ndarray, externals: Sequence[np.ndarray],
            nanoseconds: np.ndarray | None = None) -> None:  # fmt: skip
        """Runs all ops in one call. externals: inputs and outputs as plan.externals orders them, dense."""
        base = ffi.from_buffer(memory)  # a third of the time of ndarray.ctypes, which counts in small models
        buffers = ffi.new("void *[]", [base, *map(ffi.from_buffer, externals), *self._constants])
        times = ffi.NULL if nanoseconds is None else ffi.cast("int64_t *", nanoseconds.ctypes.data)
        scratch = base + self.scratch_offset
        status = lib.qk_run(self.isa, pool.handle, self._ops, len(self.plan.ops), buffers, scratch,
                            self.scratch_per_thread, times, self._failed)  # fmt: skip
        if status != lib.QK_OK:
            op = self.plan.ops[self._failed[0]] if self._failed[0] >= 0 else None
            _check(status, f"{op.node} ({op.kind})" if op else "plan")


class NativeStatistics:
    """Calibration statistics in native code: the backend of quantkit.observe. x: float32, any shape, C order."""

    def min_max(self, x: np.ndarray) -> tuple[float, float, int]:
        """(smallest, largest finite value, number of values that are not finite)."""
        low, high, bad = ffi.new("float *"), ffi.new("float *"), ffi.new("int64_t *")
        lib.qk_min_max(ffi.cast("float *", x.ctypes.data), x.size, low, high, bad)
        return float(low[0]), float(high[0]), int(bad[0])

    def histogram(self, x: np.ndarray, low: float, width: float, counts: np.ndarray) -> None:
        """Adds to counts, int64 [bins]; values outside go to the first and the last bin."""
        lib.qk_histogram(ffi.cast("float *", x.ctypes.data), x.size, low, width, counts.size,
                         ffi.cast("int64_t *", counts.ctypes.data))  # fmt: skip
