"""onnxruntime's Attention, MultiHeadAttention and EmbedLayerNormalization, written out.

softmax(scale Q K' + mask) V by heads. Attention projects Q, K and V from one input: three products with their own
weights here, as the exporter wrote them, so that each gets a range of its own.
Source: onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.fold.contrib_writer import MICROSOFT, Form, Writer, require_rank, require_unused
from quantkit.fold.editing import RefusalError, constant, data_input, input_at, rank

MASKED = -10000.0
"""mask_filter_value: what is added to the score of a hidden position."""


@dataclass(frozen=True)
class _Heads:
    """Q, K, V: [batch, sequence, heads * size], and the sizes of a head, of Q and of V."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    sizes: tuple[int, int]


def _attention(writer: Writer) -> dict[int, ir.Value]:
    node = writer.node
    require_unused(node, 1)
    for name in ("unidirectional", "do_rotary", "past_present_share_buffer"):
        if node.attributes.get_int(name, 0):
            raise RefusalError(f"Attention with {name}")
    if input_at(node, 4) is not None:
        raise RefusalError("Attention with a past")
    weights, bias, heads = constant(node.inputs[1]), constant(input_at(node, 2)), node.attributes.get_int("num_heads")
    if weights is None or (bias is None and input_at(node, 2) is not None):
        raise RefusalError("Attention whose weights are not constant")
    sizes = node.attributes.get_ints("qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
    ends = np.cumsum([0, *sizes])
    parts = [slice(ends[i], ends[i + 1]) for i in range(3)]
    q, k, v = (_projected(writer, name, weights[:, part], None if bias is None else bias[part])
               for name, part in zip("qkv", parts, strict=True))  # fmt: skip
    mask = _mask(writer, input_at(node, 3))
    return _written(writer, _Heads(q, k, v, (sizes[0] // heads, sizes[2] // heads)), mask, input_at(node, 5))


def _projected(writer: Writer, name: str, weights: np.ndarray, bias: np.ndarray | None) -> ir.Value:
    y = writer.emit("MatMul", data_input(writer.node), writer.array(f"weights_{name}", weights))
    return y if bias is None else writer.emit("Add", y, writer.array(f"bias_{name}", bias))


def _multi_head(writer: Writer) -> dict[int, ir.Value]:
    node = writer.node
    require_unused(node, 1, 2, 3)
    q, k, v = (input_at(node, index) for index in range(3))
    if q is None or k is None or v is None or any(require_rank(value) != 3 for value in (q, k, v)):
        raise RefusalError("MultiHeadAttention of packed or projected operands")
    if any(input_at(node, index) is not None for index in range(6, len(node.inputs))):
        raise RefusalError("MultiHeadAttention with a past")
    if node.attributes.get_int("unidirectional", 0):
        raise RefusalError("MultiHeadAttention with unidirectional")
    widths = [_width(value) for value in (q, k, v)]
    if (bias := input_at(node, 3)) is not None:
        array = constant(bias)
        if array is None:
            raise RefusalError("MultiHeadAttention whose bias is not constant")
        ends = np.cumsum([0, *widths])
        q, k, v = (writer.emit("Add", value, writer.array(f"bias_{name}", array[ends[i] : ends[i + 1]]))
                   for i, (name, value) in enumerate(zip("qkv", (q, k, v), strict=True)))  # fmt: skip
    heads = node.attributes.get_int("num_heads")
    mask = _mask(writer, input_at(node, 4))
    return _written(writer, _Heads(q, k, v, (widths[0] // heads, widths[2] // heads)), mask, input_at(node, 5))


def _width(value: ir.Value) -> int:
    width = value.shape[-1] if value.shape is not None else None
    if not isinstance(width, int):
        raise RefusalError("MultiHeadAttention of unknown width")
    return width


def _mask(writer: Writer, mask: ir.Value | None) -> ir.Value | None:
    """(1 - mask) * mask_filter_value with axes for heads, from [batch, keys] or [batch, queries, keys] of 0 and 1, or
    from [batch] counts of the keys that are shown."""
    if mask is None:
        return None
    if require_rank(mask) == 1:
        mask = _from_counts(writer, mask)
    missing = {2: (1, 2), 3: (1,)}.get(rank(mask) or 2)
    if missing is None:
        raise RefusalError(f"{writer.node.op_type} with a mask of rank {rank(mask)}")
    shown = writer.emit("Cast", mask, to=int(ir.DataType.FLOAT))
    shown = writer.emit("Unsqueeze", shown, writer.integers(*missing))
    hidden = writer.emit("Sub", writer.number(1.0), shown)
    return writer.emit("Mul", hidden, writer.number(writer.node.attributes.get_float("mask_filter_value", MASKED)))


def _from_counts(writer: Writer, counts: ir.Value) -> ir.Value:
    """[batch, keys] of bool. Other masks of one axis, for padding on both sides, have two or more values a sample."""
    x = data_input(writer.node)
    if counts.shape is None or x.shape is None or counts.shape[0] != x.shape[0] or counts.shape[0] is None:
        raise RefusalError(f"{writer.node.op_type} with a mask of one axis that is not the batch")
    ends = writer.emit("Cast", writer.emit("Unsqueeze", counts, writer.integers(1)), to=int(ir.DataType.INT64))
    return writer.emit("Less", writer.counted(x, 1), ends)


def _embedding(writer: Writer) -> dict[int, ir.Value]:
    """LayerNormalization of the sum of the rows for words, positions and segments; output 1 counts the mask's ones,
    output 2 is the sum. Without a mask, output 1 is 0: as a mask it hides all keys alike, which is none."""
    node = writer.node
    words, segments, mask, positions = (input_at(node, index) for index in (0, 1, 7, 8))
    if mask is None and len(node.outputs) > 1:
        for reader, index in list(node.outputs[1].uses()):
            if (reader.op_type, index) == ("Attention", 3):
                reader.replace_input_with(3, None)
        require_unused(node, 1)
    places = writer.counted(words, 1) if positions is None else positions
    total = writer.emit(
        "Add", writer.emit("Gather", node.inputs[2], words), writer.emit("Gather", node.inputs[3], places)
    )
    if segments is not None:
        total = writer.emit("Add", total, writer.emit("Gather", node.inputs[4], segments))
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    written = {0: writer.emit("LayerNormalization", total, *list(node.inputs)[5:7], epsilon=epsilon, axis=-1)}
    if mask is not None and len(node.outputs) > 1:
        written[1] = writer.emit("ReduceSum", mask, writer.integers(1), keepdims=0)
    return written | ({2: total} if len(node.outputs) > 2 else {})


def _written(writer: Writer, heads: _Heads, *masks: ir.Value | None) -> dict[int, ir.Value]:
    size, size_v = heads.sizes
    scale = writer.node.attributes.get_float("scale", 0.0) or 1.0 / np.sqrt(size)

    def split(x: ir.Value, width: int, perm: list[int]) -> ir.Value:
        return writer.emit("Transpose", writer.emit("Reshape", x, writer.integers(0, 0, -1, width)), perm=perm)

    q, v = split(heads.q, size, [0, 2, 1, 3]), split(heads.v, size_v, [0, 2, 1, 3])
    scores = writer.emit("MatMul", q, split(heads.k, size, [0, 2, 3, 1]))
    scores = writer.emit("Mul", scores, writer.number(scale))
    for mask in masks:
        scores = scores if mask is None else writer.emit("Add", scores, mask)
    joined = writer.emit("MatMul", writer.emit("Softmax", scores, axis=-1), v)
    joined = writer.emit("Transpose", joined, perm=[0, 2, 1, 3])
    width = size_v * writer.node.attributes.get_int("num_heads")
    return {0: writer.emit("Reshape", joined, writer.integers(0, 0, width))}


ATTENTION: dict[tuple[str, str], Form] = {
    (MICROSOFT, "Attention"): _attention,
    (MICROSOFT, "MultiHeadAttention"): _multi_head,
    (MICROSOFT, "EmbedLayerNormalization"): _embedding,
}
"""As the table of quantkit.fold.contrib."""
