"""Consecutive Transposes become one, or none where they cancel."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fold.editing import bypass, data_input, decide, rewrite_nodes
from quantkit.types import Decision


def merge_transposes(model: ir.Model) -> list[Decision]:
    """Transpose(Transpose(x)) -> one Transpose of x, or x. The first one stays where others read it."""
    return rewrite_nodes(model, ("Transpose",), _merge)


def _merge(node: ir.Node) -> Decision | None:
    first = data_input(node).producer()
    if first is None or first.op_type != "Transpose" or first.domain != "" or first.graph is not node.graph:
        return None
    inner, outer = _permutation(first), _permutation(node)
    if inner is None or outer is None or len(inner) != len(outer):
        return None
    order = [inner[axis] for axis in outer]
    source = data_input(first)
    if order == sorted(order):
        if not bypass(node, source):
            return None
        return decide(node, "removed", f"cancels {first.name}")
    node.replace_input_with(0, source)
    node.attributes["perm"] = ir.AttrInt64s("perm", order)
    return decide(node, "merged", f"with {first.name}")


def _permutation(node: ir.Node) -> list[int] | None:
    order = node.attributes.get_ints("perm")
    if order is not None:
        return list(order)
    shape = data_input(node).shape
    return None if shape is None else list(range(len(shape)))[::-1]
