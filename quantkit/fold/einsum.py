"""Einsum that is a matrix product becomes Transpose, Reshape and MatMul, which have INT8 forms.

Labels of two operands: batch (in both and the result), depth (in both, summed), rows and columns (in one operand and
the result).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    RefusalError,
    add_constant,
    constant,
    data_input,
    decide,
    graph_of,
    replace_node,
    rewrite_nodes,
    unused_node_name,
    unused_value_name,
)
from quantkit.types import Decision


def matrix_products(model: ir.Model) -> list[Decision]:
    """Einsum of two operands as MatMul, of one operand as Transpose. Others stay, with the reason."""
    return rewrite_nodes(model, ("Einsum",), _rewrite)


@dataclass(frozen=True)
class _Labels:
    """The labels of a product a x b, by role, and those of the result."""

    batch: str
    rows: str
    depth: str
    columns: str
    result: str


def _rewrite(node: ir.Node) -> Decision | None:
    operands, result = _parsed(node.attributes["equation"].as_string())
    if len(operands) == 1 and sorted(operands[0]) == sorted(result):
        replace = decide(node, "rewritten", "Einsum as Transpose")
        replace_node(node, "Transpose", [data_input(node)], {"perm": [operands[0].index(label) for label in result]})
        return replace
    if len(operands) != 2:
        raise RefusalError(f"Einsum of {len(operands)} operands is no matrix product")
    a, b = node.inputs
    if a is None or b is None:
        return None
    if constant(a) is not None and constant(b) is None:  # weights are the right factor
        operands, a, b = operands[::-1], b, a
    sizes = _sizes(operands, (a, b))
    labels = _roles(operands, result)
    _write(node, (a, b), operands, labels, sizes)
    return Decision("fold", "rewritten", node.name or "Einsum", f"Einsum {','.join(operands)}->{result} as MatMul")


def _parsed(equation: str) -> tuple[list[str], str]:
    """(labels of the operands, labels of the result). Without "->" these are the labels used once, in order."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if "." in equation:
        raise RefusalError("Einsum with an ellipsis")
    operands = left.split(",")
    if any(len(set(labels)) < len(labels) for labels in (*operands, right)):
        raise RefusalError("Einsum over a diagonal")
    counts = Counter("".join(operands))
    return operands, right if arrow else "".join(sorted(label for label in counts if counts[label] == 1))


def _sizes(operands: Sequence[str], values: Sequence[ir.Value]) -> dict[str, int | None]:
    """Label -> its size, None where it is not known."""
    sizes: dict[str, int | None] = {}
    for labels, value in zip(operands, values, strict=True):
        dims = value.shape.dims if value.shape is not None else [None] * len(labels)
        if len(dims) != len(labels):
            raise RefusalError(f"Einsum with {len(labels)} labels for rank {len(dims)}")
        for label, dim in zip(labels, dims, strict=True):
            size = dim if isinstance(dim, int) else None
            known = sizes.get(label)
            if known is not None and size is not None and known != size:
                raise RefusalError(f"Einsum that broadcasts {label!r}: {known} and {size}")
            sizes[label] = size if size is not None else known
    return sizes


def _roles(operands: Sequence[str], result: str) -> _Labels:
    a, b = operands
    batch = "".join(label for label in a if label in b and label in result)
    depth = "".join(label for label in a if label in b and label not in result)
    rows = "".join(label for label in a if label not in b)
    columns = "".join(label for label in b if label not in a)
    if not (depth and rows and columns) or any(label not in result for label in rows + columns):
        raise RefusalError("Einsum that is no matrix product: it needs rows, columns and a common depth")
    return _Labels(batch, rows, depth, columns, result)


def _write(node: ir.Node, values: Sequence[ir.Value], operands: Sequence[str], labels: _Labels,
           sizes: Mapping[str, int | None]) -> None:  # fmt: skip
    """The nodes before `node`, and the last of them in its place."""
    batch, rows, depth, columns = labels.batch, labels.rows, labels.depth, labels.columns
    if len(rows) > 1 and batch:
        raise RefusalError("Einsum with several rows and a batch")
    lead = batch + rows
    _require_known(depth if len(depth) > 1 else "", sizes)
    _require_known(columns if len(columns) > 1 else "", sizes)
    site = _Site(node)
    a = site.transposed(values[0], operands[0], lead + depth)
    b = site.transposed(values[1], operands[1], batch + depth + columns)
    if len(depth) > 1:
        a = site.reshaped(a, [0] * len(lead) + [_product(depth, sizes)])
    if len(depth) > 1 or len(columns) > 1:
        b = site.reshaped(b, [0] * len(batch) + [_target(depth, sizes), _target(columns, sizes)])
    y = site.made("MatMul", [a, b])
    if len(columns) > 1:
        y = site.reshaped(y, [0] * len(lead) + [sizes[label] or 0 for label in columns])
    site.finish(site.transposed(y, lead + columns, labels.result))


def _require_known(group: str, sizes: Mapping[str, int | None]) -> None:
    if any(sizes[label] is None for label in group):
        raise RefusalError("Einsum over several labels of which one has no known size")


def _product(group: str, sizes: Mapping[str, int | None]) -> int:
    return prod(sizes[label] or 0 for label in group)


def _target(group: str, sizes: Mapping[str, int | None]) -> int:
    """The size of a group in a Reshape; -1 for a single label, whose size need not be known."""
    return _product(group, sizes) if len(group) > 1 or sizes[group] is not None else -1


class _Site:
    """Appends nodes before the Einsum; constants are changed at once."""

    def __init__(self, node: ir.Node) -> None:
        self.node, self.graph = node, graph_of(node)

    def made(self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, object] | None = None
             ) -> ir.Value:  # fmt: skip
        name = f"{self.node.name}/{op_type}"
        out = ir.Value(name=unused_value_name(self.graph, name), type=self.node.outputs[0].type)
        attrs = ir.convenience.convert_attributes(attributes or {})  # type: ignore[arg-type]
        made = ir.Node("", op_type, list(inputs), attrs, outputs=[out])
        made.name = self.node.name if op_type == "MatMul" else unused_node_name(self.graph, name)
        self.graph.insert_before(self.node, made)
        return out

    def transposed(self, value: ir.Value, labels: str, wanted: str) -> ir.Value:
        order = [labels.index(label) for label in wanted]
        if order == sorted(order):
            return value
        array = constant(value)
        if array is not None:
            return add_constant(self.graph, f"{value.name}", np.ascontiguousarray(array.transpose(order)))
        return self.made("Transpose", [value], {"perm": order})

    def reshaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """`shape` as of Reshape: 0 keeps a dimension."""
        array = constant(value)
        if array is not None:
            dims = [array.shape[i] if size == 0 else size for i, size in enumerate(shape)]
            return add_constant(self.graph, f"{value.name}", array.reshape(dims))
        target = add_constant(self.graph, f"{self.node.name}/shape", np.array(shape, np.int64))
        return self.made("Reshape", [value, target])

    def finish(self, value: ir.Value) -> None:
        """`value` in the place of the Einsum's output."""
        old, name = self.node.outputs[0], self.node.outputs[0].name
        value.shape, value.type = old.shape, old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)
        old.name, value.name = None, name
