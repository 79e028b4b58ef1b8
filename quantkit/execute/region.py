"""A native region of a session: its packed weights, and a plan for each shape of its inputs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np

from quantkit.execute.binding import CompiledPlan, Pool, aligned_bytes
from quantkit.execute.packing import shared_pack
from quantkit.execute.stored import Shapes, StoredRegion
from quantkit.lower.plan import PackedSpec, Plan

PLANS_KEPT = 8
"""Plans of a region kept for different input shapes; the least recently used goes first."""

BYTES_A_THREAD = 1 << 20
"""Of weights, about 10 ms of packing: a thread starts in a hundredth of that."""

Lower = Callable[[Shapes, dict[str, PackedSpec]], Plan]
"""The plan of a region for input shapes; adds the weights it needs to the specs."""


def _shape_or_operand(array: np.ndarray) -> tuple[int, ...]:
    """What a plan depends on: the shape of a tensor, the numbers in an int64 one, which is a shape itself."""
    return tuple(array.tolist()) if array.dtype == np.int64 else array.shape


class NativeRegion:
    """A native step of a session: packed weights, and a plan for each input shape seen lately.

    inputs: names of the values it reads. stored: its cache entries. threads: to pack weights on.
    """

    def __init__(
        self, inputs: Sequence[str], lower: Lower, isa: str, stored: StoredRegion | None = None, threads: int = 1
    ) -> None:
        self.inputs, self.isa, self._threads = list(inputs), isa, threads
        self._lower, self._stored = lower, stored
        self._specs: dict[str, PackedSpec] = {}
        self._packed: dict[str, np.ndarray] = dict(stored.packed) if stored is not None else {}
        self._plans: OrderedDict[Shapes, CompiledPlan] = OrderedDict()
        self._last: tuple[Shapes, CompiledPlan] | None = None
        self._memory: list[np.ndarray] = []
        self._planning = threading.Lock()

    def plan_for(self, shapes: Shapes) -> CompiledPlan:
        """The plan for these input shapes (of a shape operand: what it holds), made at first use."""
        last = self._last
        if last is not None and last[0] == shapes:
            return last[1]
        found = self._plans.get(shapes)
        if found is None:
            with self._planning:
                found = self._plans.get(shapes) or self._make_plan(shapes)
        else:
            with suppress(KeyError):  # another thread may have dropped it just now
                self._plans.move_to_end(shapes)
        self._last = shapes, found
        return found

    def _make_plan(self, shapes: Shapes) -> CompiledPlan:
        plan = self._stored.plan(shapes) if self._stored is not None else None
        if plan is None:
            plan = self._lower(shapes, self._specs)
            self._pack({name: spec for name, spec in self._specs.items() if name not in self._packed})
            if self._stored is not None:
                self._stored.save(shapes, plan, self._packed)
        found = self._plans[shapes] = CompiledPlan(plan, self.isa, self._packed)
        while len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return found

    def _pack(self, specs: Mapping[str, PackedSpec]) -> None:
        """Packs weights, several layers at a time where they are worth a thread."""
        one = partial(shared_pack, self.isa)
        workers = min(self._threads, sum(spec.weights.nbytes for spec in specs.values()) // BYTES_A_THREAD)
        if workers < 2:
            self._packed.update((name, one(spec)) for name, spec in specs.items())
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="quantkit-pack") as pool:
            self._packed.update(zip(specs, pool.map(one, specs.values()), strict=True))

    @property
    def latest_plan(self) -> CompiledPlan | None:
        """The plan of the latest run; None before the first."""
        return self._last[1] if self._last is not None else None

    @property
    def arena_bytes(self) -> int:
        """The largest arena of the plans made so far."""
        return max((compiled.plan.arena_bytes for compiled in list(self._plans.values())), default=0)

    def _borrow(self, size: int) -> np.ndarray:
        try:
            memory = self._memory.pop()
        except IndexError:
            return aligned_bytes(size)
        return memory if memory.size >= size else aligned_bytes(size)

    def run(self, values: dict[str, np.ndarray], pool: Pool, nanoseconds: dict[str, int] | None = None) -> None:
        """Reads the region's inputs from `values` and adds its outputs; on the threads of `pool`."""
        inputs = [np.ascontiguousarray(values[name]) for name in self.inputs]
        compiled = self.plan_for(tuple([_shape_or_operand(array) for array in inputs]))
        outputs = [np.empty(dims, dtype) for _, dims, dtype in compiled.outputs]
        memory = self._borrow(compiled.memory_bytes(pool.threads))
        times = np.zeros(len(compiled.plan.ops), np.int64) if nanoseconds is not None else None
        compiled.run(pool, memory, [*inputs, *outputs], times)
        self._memory.append(memory)
        for (name, _, _), array in zip(compiled.outputs, outputs, strict=True):
            values[name] = array
        if nanoseconds is not None and times is not None:
            for op, time in zip(compiled.plan.ops, times, strict=True):
                nanoseconds[op.node] = nanoseconds.get(op.node, 0) + int(time)
