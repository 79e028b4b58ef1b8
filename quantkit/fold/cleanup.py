"""Drops nodes and initializers that nothing reads."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.load.parts import captured
from quantkit.types import Decision


def remove_unused_nodes(graph: ir.Graph) -> int:
    """Remove the nodes that lead to no graph output; returns how many. The body of one that goes uses nothing more."""
    needed = set(graph.outputs)
    unused = []
    for node in reversed(list(graph)):
        if needed.isdisjoint(node.outputs):
            unused.append(node)
        else:
            needed.update(value for value in (*node.inputs, *captured(node)) if value is not None)
    for node in unused:
        forget_captured(node)
        graph.remove(node, safe=True)
    return len(unused)


def forget_captured(owner: ir.Node) -> None:
    """Takes what the bodies of a node that goes read from outside out of their inputs: it has a use less."""
    outside = set(captured(owner))
    for body in (a.as_graph() for a in owner.attributes.values() if a.type == ir.AttributeType.GRAPH):
        for node in body.all_nodes():
            for index, given in enumerate(node.inputs):
                if given in outside:
                    node.replace_input_with(index, None)


def remove_unused(model: ir.Model) -> list[Decision]:
    """Remove nodes none of whose outputs is used, and initializers without a reader. Graph inputs stay.

    Reports the nodes in one Decision: they are the remains of what other passes did, or dead in the file.
    """
    graph = model.graph
    removed = remove_unused_nodes(graph)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
    if not removed:
        return []
    return [Decision("fold", "removed", model.graph.name or "graph", f"{removed} nodes whose result nobody reads")]
