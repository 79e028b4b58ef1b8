"""An If whose condition is constant becomes the branch that runs."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fold.cleanup import forget_captured
from quantkit.fold.editing import (
    constant,
    decide,
    graph_of,
    rewrite_nodes,
    unused_node_name,
    unused_value_name,
    value_names,
)
from quantkit.types import Decision


def take_known_branches(model: ir.Model) -> list[Decision]:
    """Move the nodes and initializers of the branch that a constant condition selects into the main graph."""
    return rewrite_nodes(model, ("If",), _take)


def _take(node: ir.Node) -> Decision | None:
    condition = constant(node.inputs[0])
    if condition is None:
        return None
    name = "then_branch" if condition.reshape(-1)[0] else "else_branch"
    branch = node.attributes.get_graph(name)
    if branch is None:
        return None
    graph = graph_of(node)
    results = list(branch.outputs)
    branch.outputs.clear()
    _move(branch, graph, node)
    decision = decide(node, "replaced", f"by its {name}: the condition is constant")
    for output, result in zip(list(node.outputs), results, strict=True):
        kept = ir.Value(name=output.name, shape=output.shape, type=output.type)
        identity = ir.Node("", "Identity", [result], outputs=[kept])
        identity.name = unused_node_name(graph, f"{node.name}_{output.name}")
        graph.insert_before(node, identity)
        output.replace_all_uses_with(kept, replace_graph_outputs=True)
    forget_captured(node)
    graph.remove(node, safe=True)
    return decision


def _move(branch: ir.Graph, graph: ir.Graph, before: ir.Node) -> None:
    """Everything of `branch` to `graph`, in front of `before`; names that the graph uses already get a suffix."""
    outside = value_names(graph, inside=False)
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name or "")
        _rename(value, graph, outside)
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    taken = {node.name for node in graph}
    for node in nodes:
        if node.name in taken:
            node.name = unused_node_name(graph, f"{before.name}_{node.name}")
        for value in node.outputs:
            _rename(value, graph, outside)
    graph.insert_before(before, nodes)


def _rename(value: ir.Value, graph: ir.Graph, outside: set[str | None]) -> None:
    if value.name and value.name in outside:
        value.name = unused_value_name(graph, value.name)
