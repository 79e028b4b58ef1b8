"""Float models of gigabytes, run part by part: the weights of one part are in memory at a time.

Large weights are inputs of the parts, read from where they lie and let go after use. A part is slower than the same
nodes with weights inside, which onnxruntime copies and packs: that would take twice the size of the model.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.load.constants import release
from quantkit.load.parts import captured, submodel
from quantkit.load.specs import TensorSpec, input_specs, spec_of

STREAM_BYTES = 1 << 30
"""Weights above which a model in memory is run part by part, in bounded memory."""
PART_BYTES = 256 << 20
"""Weights of one part; a larger weight is a part of its own."""
FREED_BYTES = 128 << 20
"""Weights from here on are freed at once: a collection takes 0.1 s."""
LARGE_BYTES = 1 << 20
"""Weights from here on are inputs; smaller ones stay in the part, where onnxruntime may fold them."""


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def free_models(like: ir.Model) -> None:
    """Frees graphs and sessions that nothing refers to any more, where models are as large as `like`: their values
    and nodes refer to each other, so hundreds of megabytes wait for the garbage collector. Weights of `like` in a file
    are let go of. What is free goes back to the system: see `give_back`."""
    if weight_bytes(like) > FREED_BYTES:
        gc.collect()
        for value in like.graph.initializers.values():
            release(value.const_value)
    give_back()


def give_back() -> None:
    """Gives free memory back to the system, where the C library is glibc: it keeps what sessions of onnxruntime have
    used, 700 MB behind one of a network with 44 million weights on pictures of 1024 x 1024. Takes 0.2 s a gigabyte,
    and 0.2 ms where nothing is free."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """malloc_trim(3) of glibc; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


@dataclass(frozen=True)
class _Part:
    """A session with the names of what it reads and makes; weights: input name -> tensor; last: names done with."""

    session: Any
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, ir.TensorProtocol]
    last: list[str]


@dataclass(frozen=True)
class Link:
    """Consecutive nodes of a graph run as one part. inputs, outputs: values that cross its border. later: names of what
    the parts behind it read."""

    nodes: list[ir.Node]
    inputs: list[ir.Value]
    outputs: list[ir.Value]
    later: frozenset[str]


def links(groups: Sequence[list[ir.Node]], wanted: Collection[str]) -> list[Link]:
    """The parts that groups of nodes, in graph order, become. wanted: names of values that are outputs in any case."""
    reads = [dict.fromkeys(v for node in group for v in (*node.inputs, *captured(node)) if v is not None)
             for group in groups]  # fmt: skip
    found = []
    for index, group in enumerate(groups):
        inside = dict.fromkeys(out for node in group for out in node.outputs)
        later = {v for others in reads[index + 1 :] for v in others}
        inputs = [v for v in reads[index] if v not in inside and v.const_value is None]
        outputs = [v for v in inside if v in later or v.name in wanted]
        found.append(Link(group, inputs, outputs, frozenset(v.name or "" for v in later)))
    return found


class StreamedSession:
    """Runs a model like onnxruntime.InferenceSession; `expose` adds tensors of the graph to the outputs.

    model: onnx_ir.Model; not modified. options: onnxruntime.SessionOptions. One caller at a time.
    """

    def __init__(self, model: ir.Model, options: Any, expose: Sequence[str]) -> None:
        graph = model.graph
        values = {v.name: v for node in graph for v in node.outputs}
        self.inputs: list[TensorSpec] = input_specs(model)
        outputs = [*graph.outputs, *(values[name] for name in expose if not values[name].is_graph_output())]
        self.outputs: list[TensorSpec] = [spec_of(value) for value in outputs]
        self._constants = {v.name or "": v.const_value for v in graph.outputs if v.const_value is not None}
        self._lock = threading.Lock()
        self._parts = self._cut(model, options, {value.name or "" for value in outputs})

    def _cut(self, model: ir.Model, options: Any, wanted: set[str]) -> list[_Part]:
        import onnxruntime

        parts = []
        for link in links(_groups(model.graph), wanted):
            part = submodel(model, link.nodes, link.inputs, link.outputs)
            weights = _weights_as_inputs(part.graph)
            session = onnxruntime.InferenceSession(
                ir.to_proto(part).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            inputs, outputs = ([v.name or "" for v in values] for values in (link.inputs, link.outputs))
            done = [name for name in inputs if name not in link.later and name not in wanted]
            parts.append(_Part(session, inputs, outputs, weights, done))
        return parts

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Outputs by name (None: all) for the feeds."""
        values: dict[str, Any] = {name: tensor.numpy() for name, tensor in self._constants.items()} | dict(feeds)
        with self._lock:
            for part in self._parts:
                given = {name: values[name] for name in part.inputs}
                given |= {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in part.weights.items()}
                values.update(zip(part.outputs, part.session.run(part.outputs, given), strict=True))
                del given
                for tensor in part.weights.values():
                    release(tensor)
                for name in part.last:
                    values.pop(name, None)
        return [values[name] for name in (names if names is not None else [spec.name for spec in self.outputs])]


def _groups(graph: ir.Graph) -> list[list[ir.Node]]:
    """Consecutive nodes whose large weights fill PART_BYTES together."""
    groups: list[list[ir.Node]] = [[]]
    size = 0
    for node in graph:
        own = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
        if groups[-1] and own >= LARGE_BYTES and size + own > PART_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(node)
        size += own if own >= LARGE_BYTES else 0
    return groups


def _weights_as_inputs(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Turns the large initializers of a part into inputs. Returns their tensors by name."""
    found = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LARGE_BYTES:
            found[name] = tensor
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
        elif isinstance(tensor, ir.ExternalTensor):  # bytes have no folder to look for the file in
            value.const_value = ir.Tensor(tensor.numpy(), name=name)
    return found
