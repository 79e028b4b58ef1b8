"""Packed weights and plans of a model in the cache: a calibrated file starts again without being parsed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.execute import cache
from quantkit.execute.arguments import Argument
from quantkit.lower.plan import ExternalTensor, Plan, PlanOp, Ref
from quantkit.lower.views import Buffer

MARK, MARK_BYTES = b"quantkit", 64
"""The producer's name, which stands at the start of every file that quantkit wrote."""
LARGEST_FILE = 1 << 30
NO_TENSOR, ARENA = -2, -1
"""What a stored ref says instead of an index among the plan's externals."""

Shapes = tuple[tuple[int, ...], ...]


class StoredModel:
    """The cache entries of one model file at one ISA.

    inputs, outputs, metadata: of the model, once `describe` or an earlier process stored them (then `known`).
    packed: weights by node name, in the engine's layout.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.inputs: list[Argument] = []
        self.outputs: list[Argument] = []
        self.metadata: dict[str, str] = {}
        self.packed: dict[str, np.ndarray] = {}
        self._stored: set[str] = set()
        entry = cache.read(self.key)
        self.known = entry is not None
        if entry is not None:
            content, arrays = entry
            self.inputs, self.outputs = ([Argument(*fields) for fields in content[k]] for k in ("inputs", "outputs"))
            self.metadata = content["metadata"]
            self.packed = dict(zip(content["packed"], arrays, strict=True))
            self._stored = set(self.packed)

    @staticmethod
    def open(path: Path, isa: str) -> StoredModel | None:
        """None where the cache is off or the file is not one that quantkit wrote."""
        try:
            if cache.cache_folder() is None or path.stat().st_size > LARGEST_FILE:
                return None
            with path.open("rb") as stream:
                if MARK not in stream.read(MARK_BYTES):
                    return None
                stream.seek(0)
                digest = hashlib.sha256(stream.read())
        except OSError:
            return None
        digest.update(f"{isa} {cache.build_key()}".encode())
        return StoredModel(digest.hexdigest())

    def describe(self, inputs: list[Argument], outputs: list[Argument], metadata: dict[str, str]) -> None:
        """What a session needs to know of the model besides plans and weights."""
        self.inputs, self.outputs, self.metadata = inputs, outputs, metadata

    def plan(self, shapes: Shapes) -> Plan | None:
        """The stored plan for these input shapes, if all its weights are there."""
        entry = cache.read(self._plan_name(shapes)) if self.known else None
        if entry is None:
            return None
        plan = _plan_from(*entry)
        return plan if all(op.weights is None or op.weights in self.packed for op in plan.ops) else None

    def save(self, shapes: Shapes, plan: Plan, packed: Mapping[str, np.ndarray]) -> None:
        """Store a plan, and the weights if they are not there yet."""
        if not self.known or self._stored != set(packed):
            content = {"inputs": [list(vars(a).values()) for a in self.inputs],
                       "outputs": [list(vars(a).values()) for a in self.outputs],
                       "metadata": self.metadata, "packed": list(packed)}  # fmt: skip
            cache.write(self.key, content, list(packed.values()))
            self.known, self._stored = True, set(packed)
        cache.write(self._plan_name(shapes), *_plan_record(plan))

    def _plan_name(self, shapes: Shapes) -> str:
        return f"{self.key}-{hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]}"


def _plan_record(plan: Plan) -> cache.Entry:
    arrays: list[np.ndarray] = []
    index = {buffer: i for i, buffer in enumerate(plan.externals)}

    def ref(source: Ref) -> list[int]:
        if source.buffer.external == NO_TENSOR:
            return [NO_TENSOR, 0]
        if source.buffer in index:
            return [index[source.buffer], source.offset]
        return [ARENA, source.buffer.offset + source.offset]

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return {"array": len(arrays) - 1}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value.item() if isinstance(value, np.generic) else value

    content = {
        "ops": [[op.kind, [ref(r) for r in op.inputs], ref(op.output), plain(op.params), op.node, op.weights]
                for op in plan.ops],
        "inputs": [_tensor(t) for t in plan.inputs], "outputs": [_tensor(t) for t in plan.outputs],
        "externals": len(plan.externals), "constants": plain(plan.constants),
        "arena_bytes": plan.arena_bytes, "live_bytes": plan.live_bytes,
        "dims": {name: [int(d) for d in dims] for name, dims in plan.dims.items()},
    }  # fmt: skip
    return content, arrays


def _tensor(tensor: ExternalTensor) -> list[Any]:
    return [tensor.name, [int(d) for d in tensor.dims], tensor.dtype.str]


def _plan_from(content: dict[str, Any], arrays: list[np.ndarray]) -> Plan:
    externals = [Buffer(0, external=i) for i in range(content["externals"])]

    def ref(stored: list[int]) -> Ref:
        place, offset = stored
        return Ref(externals[place], offset) if place >= 0 else Ref(Buffer(0, external=place), offset)

    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            return arrays[value["array"]] if "array" in value else {key: rich(v) for key, v in value.items()}
        return value

    ops = [PlanOp(kind, tuple(map(ref, inputs)), ref(output), rich(params), node, weights)
           for kind, inputs, output, params, node, weights in content["ops"]]  # fmt: skip
    inputs, outputs = ([ExternalTensor(name, tuple(dims), np.dtype(dtype)) for name, dims, dtype in content[key]]
                       for key in ("inputs", "outputs"))  # fmt: skip
    return Plan(ops, inputs, outputs, externals, [rich(c) for c in content["constants"]], content["arena_bytes"],
                content["live_bytes"], {name: tuple(dims) for name, dims in content["dims"].items()})  # fmt: skip
