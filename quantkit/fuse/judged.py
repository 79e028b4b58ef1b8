"""Where a model's error can be measured: at its outputs, or before what turns a small error into another answer.

Detectors end in NonMaxSuppression or TopK: the boxes of two equally good runs come in another order and number, so that
their outputs have no distance. The tensors that such a tail reads have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant, is_standard, quantkit_name
from quantkit.fuse.patterns import activation_of

UNSTEADY = ("ArgMax", "ArgMin", "Compress", "Multinomial", "NonMaxSuppression", "NonZero", "TopK", "Unique")
"""Ops whose result jumps when values that are nearly equal, or near a threshold, change places."""
PEAKS = ("MaxPool", "ReduceMax")
"""Where a float tensor is compared with its own maximum (Equal), the largest value of a neighbourhood is chosen: a peak
of a heat map that moves by one pixel counts twice."""
VALUES, PROBABILITIES = "values", "probabilities"
"""Kinds of tensors that cannot leave -1..1; those of a Softmax also sum to 1 along its axis."""
BOUNDED = {"Sigmoid": VALUES, "HardSigmoid": VALUES, "Tanh": VALUES, "Erf": VALUES, "Softmax": PROBABILITIES}
PASSING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split", "Identity", "Expand",
           "MaxPool", "DepthToSpace", "Concat", "Mul")  # fmt: skip
"""Ops that leave bounds as they are. Mul and Concat: if all operands are bounded."""
MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Split")
"""Ops after a Softmax that leave its values as they are, in other places."""
MOST_VALUES = 1 << 20
"""Of a tensor and a sample that say how near a model is: more would say the same."""
SHORT_AXIS = 32
"""An axis of at most so many positions keeps them all."""
Bounds = Mapping[str, str]
"""tensor name -> kind, of the tensors that are bounded by what makes them."""


def judged_tensors(graph: ir.Graph) -> list[str]:
    """Names of the float tensors that tell how near a quantized model is to this one, in graph order.

    An output that no op of UNSTEADY leads to stands for itself; any other is replaced by the float tensors that its
    unsteady part reads. A graph without such ops gives its outputs.
    """
    unsteady = _unsteady_nodes(graph)
    if not unsteady:
        return [value.name or "" for value in graph.outputs]
    found: dict[str, None] = {}
    seen: set[ir.Value] = set()
    for output in graph.outputs:
        if output.producer() not in unsteady:
            found[output.name or ""] = None
        else:
            _collect(output, unsteady, seen, found)
    return list(found)


def _unsteady_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes with an op of UNSTEADY, in a body or at top level, and all that depend on them."""
    nodes: set[ir.Node] = set()
    for node in graph:
        jumps = any(is_standard(n, *UNSTEADY) or _chooses_peaks(n) for n in (node, *_inner_nodes(node)))
        if jumps or any(value is not None and value.producer() in nodes for value in node.inputs):
            nodes.add(node)
    return nodes


def _chooses_peaks(node: ir.Node) -> bool:
    """Whether an Equal compares a float tensor with what a MaxPool or ReduceMax makes, if only moved since; a maximum
    that is compared with a number (is it zero?) chooses nothing."""
    if not is_standard(node, "Equal") or any(constant(value) is not None for value in node.inputs):
        return False
    makers = [_unmoved(value).producer() for value in node.inputs if value is not None]
    return any(maker is not None and is_standard(maker, *PEAKS) and maker.inputs[0] is not None
               and maker.inputs[0].dtype == ir.DataType.FLOAT for maker in makers)  # fmt: skip


def _unmoved(value: ir.Value) -> ir.Value:
    """The tensor whose values a chain of MOVING ops puts into other places."""
    node = value.producer()
    while node is not None and is_standard(node, *MOVING) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _inner_nodes(node: ir.Node) -> list[ir.Node]:
    """All nodes in the bodies of a node (If, Loop, Scan)."""
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [inner for body in bodies for inner in body.all_nodes()]


def _collect(value: ir.Value, unsteady: set[ir.Node], seen: set[ir.Value], found: dict[str, None]) -> None:
    """Adds the first float tensors on every way up from `value` that no unsteady node makes."""
    stack = [value]
    while stack:
        value = stack.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        if node not in unsteady and value.dtype == ir.DataType.FLOAT:
            found[value.name or ""] = None
        else:
            stack.extend(v for v in node.inputs if v is not None)


def bounded_tensors(graph: ir.Graph, names: Iterable[str]) -> dict[str, str]:
    """Which of the tensors `names` of a fused or a plain graph cannot leave -1..1, by the ops that make them, and their
    kind: VALUES or PROBABILITIES."""
    made = {value.name: value for node in graph for value in node.outputs}
    known: dict[ir.Value, str | None] = {}
    kinds = {name: _kind(made[name], known) for name in names if name in made}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _kind(value: ir.Value, known: dict[ir.Value, str | None]) -> str | None:
    if value not in known:
        known[value] = None
        node = value.producer()
        known[value] = None if node is None else _own_kind(node) or _passed_kind(node, known)
    return known[value]


def _own_kind(node: ir.Node) -> str | None:
    name, found = quantkit_name(node), activation_of(node)
    if name is not None and name.activation:
        activation, attributes = name.activation, node.attributes
        bounds = [attributes[key].as_float() for key in ("min", "max") if key in attributes]
    else:
        activation = found[0] if found is not None else node.op_type if node.domain == "" else ""
        bounds = list(found[1].values()) if found is not None else []
    if activation == "Clip":
        return VALUES if bounds and max(map(abs, bounds)) <= 1.0 else None
    return BOUNDED.get(activation)


def _passed_kind(node: ir.Node, known: dict[ir.Value, str | None]) -> str | None:
    if not is_standard(node, *PASSING):
        return None
    operands = node.inputs if node.op_type in ("Concat", "Mul") else node.inputs[:1]
    kinds = {None if value is None else _kind(value, known) for value in operands}
    if None in kinds:
        return None
    return kinds.pop() if len(kinds) == 1 and node.op_type != "Mul" else VALUES


@dataclass(frozen=True)
class Logits:
    """The tensor of which a Softmax along `axis` (never negative) makes probabilities."""

    name: str
    axis: int


def logits_of(graph: ir.Graph, names: Iterable[str]) -> dict[str, Logits]:
    """What enters the Softmax that makes a tensor, for those of `names` that one makes: directly, or only moved since.

    graph: fused or plain, opset 13 or later (before it, Softmax means something else). An error of probabilities jumps
    where a row hesitates between two classes; that of the logits, each row less its mean (`centred`), is smooth, and
    those of single layers add up. Tensors whose logits have no known rank are left out.
    """
    made = {value.name: value for node in graph for value in node.outputs}
    found = {}
    for name in names:
        node = _unmoved(made[name]).producer() if name in made else None
        if node is not None and is_standard(node, "Softmax"):
            scores = node.inputs[0]
            if scores is not None and scores.shape is not None and scores.name:
                found[name] = Logits(scores.name, node.attributes.get_int("axis", -1) % len(scores.shape))
    return found


def centred(scores: np.ndarray, axis: int) -> np.ndarray:
    """float [..., classes, ...] less the mean of the finite values along `axis`: Softmax gives the same for scores plus
    a constant, so that a constant is no error. Classes that are masked by -inf stay so. Same shape and dtype."""
    finite = np.isfinite(scores)
    count = np.maximum(finite.sum(axis=axis, keepdims=True), 1)
    mean = np.where(finite, scores, 0).sum(axis=axis, keepdims=True) / count
    return scores - mean.astype(scores.dtype)


def thinned(values: Any, most: int = MOST_VALUES) -> Any:
    """Of a float tensor [N, ...] every third position along its longest axis, and again, until `most` values are left
    or all axes are short. Axis 0 and, of maps [N, C, H, W], axis 1 stay whole.

    Maps of features at the size of the picture are outputs of some networks: those of a few samples fill gigabytes.
    Every third, and not every second, since pixels are often made two by two. Same dtype, C-contiguous. What has no
    more values, or is no float tensor, is returned as it is.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return values
    first = 2 if values.ndim >= 4 else 1
    whole = values
    while values.size > most and max(values.shape[first:], default=0) > SHORT_AXIS:
        axis = first + int(np.argmax(values.shape[first:]))
        values = values[(slice(None),) * axis + (slice(None, None, 3),)]
    return whole if values is whole else np.ascontiguousarray(values)
