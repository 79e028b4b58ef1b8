"""Packed weights and plans of a model in the cache: a calibrated file starts again without being parsed."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.execute import cache
from quantkit.execute.arguments import Argument
from quantkit.lower.plan import ExternalTensor, Plan, PlanOp, Ref
from quantkit.lower.views import Buffer

if TYPE_CHECKING:
    import onnx_ir as ir

MARK, MARK_BYTES = b"quantkit", 64
"""The producer's name, which stands at the start of every file that quantkit wrote."""
LARGEST_FILE = 1 << 30
NO_TENSOR, ARENA = -2, -1
"""What a stored ref says instead of an index among the plan's externals."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class StoredStep:
    """A step of a session. model: of a step that onnxruntime runs, serialized unless it is too large; None: native.

    inputs: the values it reads. name, operators: of its first node, and of all, for messages. control: If, Loop or
    Scan with INT8 bodies; never in the cache.
    """

    inputs: list[str]
    model: ir.Model | bytes | None = None
    name: str = ""
    operators: str = ""
    control: bool = False


class StoredModel:
    """The cache entries of one model file at one ISA.

    inputs, outputs, metadata: of the model, once `describe` or an earlier process stored them (then `known`).
    steps: what an earlier process stored.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.inputs: list[Argument] = []
        self.outputs: list[Argument] = []
        self.metadata: dict[str, str] = {}
        self.steps: list[StoredStep] = []
        entry = cache.read(self.key)
        self.known = entry is not None
        if entry is not None:
            content, arrays = entry
            self.inputs, self.outputs = ([Argument(*fields) for fields in content[k]] for k in ("inputs", "outputs"))
            self.metadata = content["metadata"]
            self.steps = [StoredStep(inputs, None if i is None else arrays[i].tobytes(), name, operators)
                          for inputs, i, name, operators in content["steps"]]  # fmt: skip

    @staticmethod
    def open(path: Path, isa: str) -> StoredModel | None:
        """None where the cache is off or the file is not one that quantkit wrote."""
        try:
            if cache.cache_folder() is None or path.stat().st_size > LARGEST_FILE:
                return None
            with path.open("rb") as stream:
                if MARK not in stream.read(MARK_BYTES):
                    return None
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                    digest = hashlib.sha256(whole)
        except (OSError, ValueError):  # ValueError: nothing to map
            return None
        digest.update(f"{isa} {cache.build_key()}".encode())
        return StoredModel(digest.hexdigest())

    def describe(self, inputs: list[Argument], outputs: list[Argument], metadata: dict[str, str],
                 steps: list[StoredStep]) -> None:  # fmt: skip
        """Store what a session needs to know of the model besides the plans and weights of its regions.

        Models of steps must be serialized.
        """
        self.inputs, self.outputs, self.metadata = inputs, outputs, metadata
        models = [step.model for step in steps if isinstance(step.model, bytes)]
        index = iter(range(len(models)))
        content = {
            "inputs": [list(vars(a).values()) for a in inputs], "outputs": [list(vars(a).values()) for a in outputs],
            "metadata": metadata,
            "steps": [[s.inputs, None if s.model is None else next(index), s.name, s.operators] for s in steps],
        }  # fmt: skip
        cache.write(self.key, content, [np.frombuffer(model, np.uint8) for model in models])
        self.known = True

    def region(self, index: int) -> StoredRegion:
        """The entries of the step of this index."""
        return StoredRegion(f"{self.key}-{index}", self.known)


class StoredRegion:
    """Weights and plans of a native region. packed: weights by node name, in the engine's layout."""

    def __init__(self, key: str, read: bool) -> None:
        self.key = key
        entry = cache.read(key) if read else None
        self.packed: dict[str, np.ndarray] = dict(zip(entry[0]["packed"], entry[1], strict=True)) if entry else {}
        self._stored = set(self.packed) if entry else None

    def plan(self, shapes: Shapes) -> Plan | None:
        """The stored plan for these input shapes, if all its weights are there."""
        entry = cache.read(self._plan_name(shapes)) if self._stored is not None else None
        if entry is None:
            return None
        plan = _plan_from(*entry)
        return plan if all(op.weights is None or op.weights in self.packed for op in plan.ops) else None

    def save(self, shapes: Shapes, plan: Plan, packed: Mapping[str, np.ndarray]) -> None:
        """Store a plan, and the weights if they are not there yet."""
        if self._stored != set(packed):
            cache.write(self.key, {"packed": list(packed)}, list(packed.values()))
            self._stored = set(packed)
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
