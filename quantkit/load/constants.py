"""Weights come as initializers, `Constant` nodes or through `Identity`; afterwards all are initializers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass


def lift_constants(model: ir.Model) -> int:
    """Turn Constant nodes and Identity chains of constants of the main graph into initializers, in place.

    A chain end that is a graph output stays. Returns how many nodes went.
    """
    graph = model.graph
    before = len(graph)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(graph):
        if node.op_type != "Identity" or node.domain != "" or node.outputs[0].is_graph_output():
            continue
        source = node.inputs[0]
        if source is not None and source.is_initializer() and source.graph is graph:
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
    return before - len(graph)


def drop_initializer_inputs(model: ir.Model) -> list[str]:
    """Initializers listed as graph inputs (IR version < 4) become plain constants, in place. Returns their names."""
    graph = model.graph
    names = [value.name for value in graph.inputs if value.name in graph.initializers]
    kept = [value for value in graph.inputs if value.name not in graph.initializers]
    if names:
        graph.inputs.clear()
        graph.inputs.extend(kept)
    return [name for name in names if name]


def release(tensor: Any) -> None:
    """Lets go of a weight that is mapped from a file: its pages count as this process's memory until then."""
    if isinstance(tensor, ir.ExternalTensor):
        with suppress(BufferError):  # somebody still looks at it
            tensor.release()
