"""One form for fully connected layers: Gemm with alpha = beta = 1, transA = 0, transB = 1, weight [N, K], bias [N]."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import (
    RefusalError,
    add_constant,
    constant_float,
    data_input,
    decide,
    graph_of,
    input_at,
    known_shape,
    rank,
    replace_node,
    rewrite_nodes,
    set_input,
    sole_consumer,
    unused_node_name,
    unused_value_name,
)
from quantkit.types import Decision


def normalize_gemm(model: ir.Model) -> list[Decision]:
    """Bring Gemm with a constant weight into the one form; MatMul + Add of a bias on [M, K] becomes such a Gemm."""
    return rewrite_nodes(model, ("Gemm",), _normalize) + rewrite_nodes(model, ("Add",), _from_matmul)


def _normalize(node: ir.Node) -> Decision | None:
    weight_value, bias_value = input_at(node, 1), input_at(node, 2)
    if _is_plain(node):
        return None
    weight, bias = constant_float(weight_value), constant_float(bias_value)
    if weight is None or weight_value is None:
        return None
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    trans_a, trans_b = (node.attributes.get_int(name, 0) for name in ("transA", "transB"))
    rows = weight.shape[0] if trans_b else weight.shape[1]
    bias_is_plain = bias_value is None or (bias is not None and bias.shape == (rows,))
    if bias_value is not None and bias is None and beta != 1.0:
        raise RefusalError("Gemm with beta and a bias that is not constant")
    new_bias = None if bias is None else _plain_bias(bias * beta, rows)
    graph = graph_of(node)
    if trans_a:
        _transpose_input(node)
    if not trans_b or alpha != 1.0:
        new_weight = (weight if trans_b else weight.T) * alpha
        set_input(node, 1, add_constant(graph, weight_value.name or "weight", new_weight.astype(np.float32)))
    if new_bias is not None and bias_value is not None and not (bias_is_plain and beta == 1.0):
        set_input(node, 2, add_constant(graph, bias_value.name or "bias", new_bias.astype(np.float32)))
    for name in ("alpha", "beta", "transA"):
        node.attributes.pop(name, None)
    node.attributes["transB"] = ir.AttrInt64("transB", 1)
    return decide(node, "normalized", "to alpha = beta = 1, transA = 0, transB = 1")


def _is_plain(node: ir.Node) -> bool:
    """Whether the node has the one form already; looks at shapes only, not at the weights."""
    weight, bias = input_at(node, 1), input_at(node, 2)
    shapes = [known_shape(value) for value in (weight, bias)]
    numbers = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    flags = [node.attributes.get_int(name, 0) for name in ("transA", "transB")]
    bias_is_plain = bias is None or (shapes[0] is not None and shapes[1] == shapes[0][:1])
    return numbers == [1.0, 1.0] and flags == [0, 1] and bias_is_plain


def _plain_bias(bias: np.ndarray, rows: int) -> np.ndarray:
    """The bias as [rows]. Raises RefusalError for one that differs from row to row of the batch."""
    if bias.ndim == 2 and bias.shape[0] != 1:
        raise RefusalError(f"Gemm with a bias of shape {list(bias.shape)}, not one value per output")
    return np.broadcast_to(bias.reshape(-1), (rows,))


def _transpose_input(node: ir.Node) -> None:
    graph, x = graph_of(node), data_input(node)
    shape = None if x.shape is None else ir.Shape([*x.shape.dims][::-1])
    output = ir.Value(name=unused_value_name(graph, f"{x.name}_transposed"), shape=shape, type=x.type)
    attributes = [ir.AttrInt64s("perm", [1, 0])]
    transpose = ir.Node("", "Transpose", [x], attributes, outputs=[output])
    transpose.name = unused_node_name(graph, f"{node.name}_transpose")
    graph.insert_before(node, transpose)
    node.replace_input_with(0, output)


def _from_matmul(node: ir.Node) -> Decision | None:
    for position in (0, 1):
        product = node.inputs[position]
        matmul = product.producer() if product is not None else None
        bias_value = node.inputs[1 - position]
        if matmul is not None and matmul.op_type == "MatMul" and matmul.domain == "" and bias_value is not None:
            return _merge_bias(node, matmul, bias_value)
    return None


def _merge_bias(node: ir.Node, matmul: ir.Node, bias_value: ir.Value) -> Decision | None:
    x, weight_value = data_input(matmul), matmul.inputs[1]
    weight, bias = constant_float(weight_value), constant_float(bias_value)
    if weight is None or weight_value is None or weight.ndim != 2 or bias is None or rank(x) != 2:
        return None
    columns = weight.shape[1]
    if bias.size not in (1, columns) or bias.shape not in ((), (1,), (columns,), (1, 1), (1, columns)):
        return None
    if sole_consumer(matmul.outputs[0]) is not node or matmul.graph is not node.graph:
        return None
    graph = graph_of(node)
    inputs = [
        x,
        add_constant(graph, weight_value.name or "weight", weight.T.astype(np.float32)),
        add_constant(graph, bias_value.name or "bias", _plain_bias(bias, columns).astype(np.float32)),
    ]
    name = matmul.name
    decision = Decision("fold", "merged", name or "MatMul", f"with its bias {node.name} into a Gemm")
    node.name, matmul.name = name, node.name
    replace_node(node, "Gemm", inputs, {"transB": 1})
    graph.remove(matmul, safe=True)
    return decision
