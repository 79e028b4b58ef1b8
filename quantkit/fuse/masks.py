"""Masked scores in front of a Softmax: attention that leaves out padding, or what comes later.

A mask adds 0 or a very negative number. Samples of full length show only zeros, and of the range [0, 0] an 8-bit scale
has nothing that hides a padded token; one for -10000 has no step left for the scores. The same goes for scores that are
replaced by such a number.
"""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fuse.graph import constant

MASK_DATA = {
    **dict.fromkeys(
        ("Cast", "Clip", "Expand", "Flatten", "Identity", "Neg", "Not", "Reshape", "ScatterND", "Slice"), 1
    ),
    **dict.fromkeys(("ScatterND", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"), 1),
    **dict.fromkeys(("Add", "And", "Div", "Equal", "Gather", "GatherND", "Greater", "GreaterOrEqual", "Less"), 2),
    **dict.fromkeys(("LessOrEqual", "Max", "Min", "Mul", "Or", "Sub"), 2),
    "Where": 3,
}
"""Ops that masks are made by -> how many of their first inputs are data."""
BETWEEN = frozenset({"Add", "Cast", "Clip", "Identity", "Max", "Min", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Ops that stand between the mask and the Softmax."""
HIDING = -1000.0
"""exp(x - largest) of less than this is 0 for any scores."""
FAR = 40
"""Nodes that are looked at for one mask."""


def adds_a_mask(node: ir.Node) -> bool:
    """Whether an Add puts a mask that is made of inputs of the model on scores that a Softmax reads."""
    if node.op_type != "Add" or not _leads_to_softmax(node):
        return False
    masks = [is_mask(value) for value in node.inputs]
    return any(masks) and not all(masks)


def is_masked(value: ir.Value) -> bool:
    """Whether a value is scores for a Softmax that a mask has been put on, by a sum or a Where."""
    found: ir.Value | None = value
    for _ in range(FAR):
        producer = None if found is None else found.producer()
        if producer is None or producer.domain != "":
            return False
        if adds_a_mask(producer) or (producer.op_type == "Where" and _replaces(producer)):
            return True
        if producer.op_type not in BETWEEN:
            return False
        found = next((x for x in producer.inputs if x is not None and x.const_value is None), None)
    return False


def _replaces(where: ir.Node) -> bool:
    """Whether a Where puts a very negative number in the place of scores for a Softmax."""
    arrays = [constant(x) for x in where.inputs[1:] if x is not None]
    hides = any(array is not None and array.size and float(array.max()) <= HIDING for array in arrays)
    return hides and _leads_to_softmax(where)


def is_mask(value: ir.Value | None) -> bool:
    """Whether a value is made of inputs of the model, at least one, and constants alone, by MASK_DATA."""
    waiting, seen, from_input = [value], set(), False
    while waiting:
        current = waiting.pop()
        if current is None or current in seen or current.const_value is not None:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is None:
            from_input = True
        elif producer.domain == "" and producer.op_type == "Constant":
            continue
        elif producer.domain != "" or producer.op_type not in MASK_DATA or len(seen) > FAR:
            return False
        else:
            waiting += producer.inputs[: MASK_DATA[producer.op_type]]
    return from_input


def _leads_to_softmax(node: ir.Node) -> bool:
    readers, steps = list(node.outputs[0].uses()), 0
    while readers and steps < FAR:
        reader, steps = readers.pop().node, steps + 1
        if reader.op_type in ("Softmax", "LogSoftmax"):
            return True
        if reader.op_type in BETWEEN:
            readers += reader.outputs[0].uses()
    return False
