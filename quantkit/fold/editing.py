"""Small safe edits of an onnx_ir graph, and the loop that runs one rewrite over its nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.types import Decision

Pass = Callable[[ir.Model], list[Decision]]
"""One pass over a model, in place. Returns what it did and what it refused."""
Rewrite = Callable[[ir.Node], "Decision | None"]
"""One rewrite: looks first, then edits. None: nothing to do here. Raises RefusalError with a reason worth telling."""

DONE_NOTHING = "refused"
"""The action of a Decision that changed nothing."""


_NAMES_KEY = "quantkit.fold.value_names"


class RefusalError(Exception):
    """A rewrite that matched must not be done; the message says why. The graph is unchanged."""


def decide(node: ir.Node, action: str, detail: str) -> Decision:
    """A Decision of this stage about `node`."""
    return Decision("fold", action, node.name or node.op_type, detail)


def rewrite_nodes(model: ir.Model, op_types: Collection[str], rewrite: Rewrite) -> list[Decision]:
    """Offer every ai.onnx node of the main graph whose op type is listed to `rewrite`, in graph order.

    An exception is a refusal: rewrites edit only after everything is computed, so the graph stays as it was.
    """
    forget_names(model.graph)
    decisions = []
    for node in list(model.graph):
        if node.graph is not model.graph or node.domain != "" or node.op_type not in op_types:
            continue
        try:
            decision = rewrite(node)
        except RefusalError as refusal:
            decision = decide(node, DONE_NOTHING, str(refusal))
        except Exception as error:
            reason = " ".join(str(error).split()) or "no message"
            decision = decide(node, DONE_NOTHING, f"{type(error).__name__}: {reason[:200]}")
        if decision is not None:
            decisions.append(decision)
    return decisions


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that holds `node`."""
    assert node.graph is not None
    return node.graph


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, else None."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def constant_float(value: ir.Value | None) -> np.ndarray | None:
    """The float64 copy of a float32 initializer, else None: weight arithmetic is done in float64."""
    array = constant(value)
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else None


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def data_input(node: ir.Node) -> ir.Value:
    """The first input of a node that must have one."""
    value = node.inputs[0]
    assert value is not None
    return value


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer named after `name`, never under a name that is in use."""
    fresh = unused_value_name(graph, name)
    array = np.array(array, order="C")
    value = ir.Value(
        name=fresh,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.Tensor(array, name=fresh),
    )
    graph.register_initializer(value)
    return value


def unused_value_name(graph: ir.Graph, name: str) -> str:
    """`name` with the first suffix "_folded", "_folded_2", ... that no value of the graph or its subgraphs has."""
    used = graph.meta.get(_NAMES_KEY)
    if used is None:
        used = graph.meta[_NAMES_KEY] = value_names(graph)
    stem = name if name.endswith("_folded") else f"{name}_folded"
    candidate, suffix = stem, 2
    while candidate in used:
        candidate, suffix = f"{stem}_{suffix}", suffix + 1
    used.add(candidate)
    return candidate


def forget_names(graph: ir.Graph) -> None:
    """Drop the set of used value names, which is kept during one pass only: between passes anybody may rename."""
    graph.meta.pop(_NAMES_KEY, None)


def value_names(graph: ir.Graph, *, inside: bool = True) -> set[str | None]:
    """Names of all values of the graph; with `inside`, of its subgraphs too."""
    used = {value.name for node in (graph.all_nodes() if inside else graph) for value in node.outputs}
    for body in (graph, *(graph.subgraphs() if inside else ())):
        used.update(body.initializers)
        used.update(value.name for value in body.inputs)
    return used


def unused_node_name(graph: ir.Graph, name: str) -> str:
    """`name`, or with the first numeric suffix that makes it unique among the nodes."""
    used = {node.name for node in graph.all_nodes()}
    candidate, suffix = name, 2
    while candidate in used:
        candidate, suffix = f"{name}_{suffix}", suffix + 1
    return candidate


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Connect input `index`, growing the input list where optional inputs were left out."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, once; None if it has other uses, is a graph output or read in a subgraph."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0][0]


def bypass(node: ir.Node, replacement: ir.Value) -> bool:
    """Remove `node`, whose first output equals `replacement`; a graph output keeps its name.

    False, and nothing is done, where the graph output cannot be handed over: the replacement is an input, an
    initializer or another graph output.
    """
    output = node.outputs[0]
    if output.is_graph_output():
        producer = replacement.producer()
        if producer is None or replacement.is_graph_output() or producer.graph is not node.graph:
            return False
        hand_over(node, replacement)
        return True
    output.replace_all_uses_with(replacement)
    graph_of(node).remove(node, safe=True)
    return True


def hand_over(node: ir.Node, value: ir.Value) -> None:
    """Remove `node`; `value` takes over its first output: uses, name, type and shape.

    For a rewrite after which the producer of `value` computes what `node` did.
    """
    output = node.outputs[0]
    name, shape, kind = output.name, output.shape, output.type
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
    output.name = None
    value.name, value.shape, value.type = name, shape, kind


def replace_node(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict | None = None
) -> None:
    """Put a node of another op in the place of `node`: same name, same (only) output value name, type and shape."""
    graph = graph_of(node)
    old = node.outputs[0]
    new = ir.Value(name=old.name, shape=old.shape, type=old.type)
    made = ir.Node("", op_type, list(inputs), ir.convenience.convert_attributes(attributes or {}), outputs=[new])
    made.name = node.name
    made.metadata_props.update(node.metadata_props)
    graph.insert_before(node, made)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def known_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape where every dimension is a number, else None."""
    if value is None or value.shape is None:
        return None
    dims = value.shape.dims
    return tuple(d for d in dims if isinstance(d, int)) if all(isinstance(d, int) for d in dims) else None


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, None if unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def opset(model: ir.Model) -> int:
    """The ai.onnx opset of the model, 0 if it imports none."""
    return model.graph.opset_imports.get("", 0)
