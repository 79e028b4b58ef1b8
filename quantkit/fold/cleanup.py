"""Drops nodes and initializers that nothing reads."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.types import Decision


def remove_unused(model: ir.Model) -> list[Decision]:
    """Remove nodes none of whose outputs is used, and initializers without a reader. Graph inputs stay.

    Reports the nodes in one Decision: they are the remains of what other passes did, or dead in the file.
    """
    graph = model.graph
    removed = 0
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
            removed += 1
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
    if not removed:
        return []
    return [Decision("fold", "removed", model.graph.name or "graph", f"{removed} nodes whose result nobody reads")]
