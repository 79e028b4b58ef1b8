"""Float models whose observed tensors are too large to be held together: run part by part, each part's tensors handed
on and dropped before the next part runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.expand import pre_activation_name
from quantkit.load.parts import submodel
from quantkit.observe.runner import FloatRunner
from quantkit.observe.streamed import STREAM_BYTES, links, weight_bytes

PASS_BYTES = 1 << 29
"""Observed tensors of one part; onnxruntime has them once more while it hands them over."""
FLOAT_BYTES = 4


def exposing(model: Any, names: Sequence[str], feeds: Mapping[str, np.ndarray], threads: int | None = None
             ) -> FloatRunner | PartedRunner:  # fmt: skip
    """What runs a float model with the tensors `names` in view: in one piece where those of `feeds` fit PASS_BYTES."""
    if isinstance(model, ir.Model) and weight_bytes(model) <= STREAM_BYTES:
        sizes = estimated_bytes(model.graph, names, feeds)
        if sum(sizes.values()) > PASS_BYTES:
            return PartedRunner(model, names, sizes, threads)
    return FloatRunner(model, threads, expose=names, spin=False, arena=False)


def estimated_bytes(graph: ir.Graph, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Bytes of the tensors `names` as float32 where the inputs are `feeds`, by the shapes that the graph states; one
    whose shape is not known counts as the largest of those that are."""
    bound: dict[str | None, int] = {}
    for value in graph.inputs:
        array = feeds.get(value.name or "")
        if value.shape is not None and array is not None:
            dims = zip(value.shape, array.shape, strict=False)
            bound.update((dim.value, size) for dim, size in dims if not isinstance(dim, int))
    values = {value.name or "": value for node in graph for value in node.outputs}
    values = {pre_activation_name(name): value for name, value in values.items()} | values
    known = {name: _bytes(values[name], bound) for name in names if name in values}
    largest = max((size for size in known.values() if size is not None), default=0)
    return {name: largest if size is None else size for name, size in known.items()}


def _bytes(value: ir.Value, bound: Mapping[str | None, int]) -> int | None:
    if value.shape is None:
        return None
    sizes = [dim if isinstance(dim, int) else bound.get(dim.value) for dim in value.shape]
    known = [size for size in sizes if size is not None]
    return FLOAT_BYTES * prod(known) if len(known) == len(sizes) else None


class PartedRunner:
    """`FloatRunner` with the tensors `names` of an onnx_ir.Model in view, of which at most PASS_BYTES are held.

    sizes: their bytes. Nodes run in the same order as in one piece; between parts lies what later ones read.
    Raises ModelError where onnxruntime refuses a part, CalibrationError for a tensor that no node makes.
    """

    def __init__(self, model: ir.Model, names: Sequence[str], sizes: Mapping[str, int], threads: int | None) -> None:
        self.names = list(names)
        groups = _groups(model.graph, {name: sizes.get(name, 0) for name in names})
        results = list(model.graph.outputs)
        self._constants = {v.name or "": v.const_value.numpy() for v in results if v.const_value is not None}
        self._parts = []
        for link in links(groups, {*names, *(value.name or "" for value in results)}):
            part = submodel(model, link.nodes, link.inputs, link.outputs)
            inputs, outputs = ([v.name or "" for v in values] for values in (link.inputs, link.outputs))
            self._parts.append((FloatRunner(part, threads, spin=False, arena=False), inputs, outputs, link.later))

    def passes(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The tensors `names`, those of each part at a time; a dict is emptied before the next part runs."""
        wanted = set(names)
        values: dict[str, Any] = {**self._constants, **feeds}
        yield {name: values[name] for name in names if name in values}
        for runner, inputs, outputs, later in self._parts:
            made = dict(zip(outputs, runner.run({name: values[name] for name in inputs}, outputs), strict=True))
            values = {name: array for name, array in (values | made).items() if name in later}
            made = {name: array for name, array in made.items() if name in wanted}
            yield made
            made.clear()

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The tensors `names` together."""
        found = {name: array for part in self.passes(feeds, names) for name, array in part.items()}
        return [found[name] for name in names]


def _groups(graph: ir.Graph, sizes: Mapping[str, int]) -> list[list[ir.Node]]:
    """Consecutive nodes whose observed tensors fill PASS_BYTES together."""
    groups: list[list[ir.Node]] = [[]]
    held = 0
    for node in graph:
        own = sum(sizes.get(value.name or "", 0) for value in node.outputs)
        if groups[-1] and held + own > PASS_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(node)
        held += own
    return groups
