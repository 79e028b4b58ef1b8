"""Zero Pads go into the Conv or pooling that reads them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.fold.editing import RefusalError, constant, data_input, decide, input_at, rank, rewrite_nodes
from quantkit.types import Decision

NEVER_NEGATIVE = frozenset(["Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt"])
"""Ops whose result is never below zero."""
KEEPS_SIGN = frozenset(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Concat"])
"""Ops whose result is never below zero if no input is."""


def fold_pads(model: ir.Model) -> list[Decision]:
    """Add the pads of a constant zero Pad to those of the Conv, AveragePool or MaxPool behind it; asymmetric too.

    AveragePool: if its own padding counts or it has none, and then count_include_pad is set. MaxPool: if the values
    are known to be >= 0, so that its own padding (minus infinity) gives the same maximum.
    """
    return rewrite_nodes(model, RULES, _fold)


def _fold(node: ir.Node) -> Decision | None:
    pad = data_input(node).producer()
    if pad is None or pad.op_type != "Pad" or pad.domain != "" or pad.graph is not node.graph:
        return None
    added = _spatial_pads(pad)
    if added is None:
        return None
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise RefusalError(f"{node.op_type} with auto_pad behind Pad {pad.name}")
    own = node.attributes.get_ints("pads") or (0,) * len(added)
    total = [a + b for a, b in zip(own, added, strict=True)]
    RULES[node.op_type](node, pad, tuple(own), total)
    node.attributes["pads"] = ir.AttrInt64s("pads", total)
    node.replace_input_with(0, data_input(pad))
    return decide(node, "folded", f"Pad {pad.name} into it, pads {total}")


def _spatial_pads(pad: ir.Node) -> list[int] | None:
    """The pads on the spatial axes, begins then ends; None if it also pads N or C. Raises RefusalError."""
    values, fill, axes_value = constant(input_at(pad, 1)), input_at(pad, 2), input_at(pad, 3)
    if values is None:
        return None
    dims = rank(data_input(pad)) or (values.size // 2 if axes_value is None else None)
    axes = constant(axes_value)
    if dims is None or (axes_value is not None and axes is None):
        return None
    full = np.zeros((2, dims), np.int64)
    full[:, np.arange(dims) if axes is None else axes] = values.reshape(2, -1)
    if full[:, :2].any():
        return None
    if pad.attributes.get_string("mode", "constant") != "constant":
        raise RefusalError(f"Pad {pad.name} with mode {pad.attributes.get_string('mode')} is no zero padding")
    fill_value = constant(fill)
    if fill is not None and (fill_value is None or fill_value.any()):
        raise RefusalError(f"Pad {pad.name} does not pad with zero")
    if (full < 0).any():
        raise RefusalError(f"Pad {pad.name} crops")
    return [int(p) for p in full[:, 2:].reshape(-1)]


def _conv(node: ir.Node, pad: ir.Node, own: tuple[int, ...], total: list[int]) -> None:
    """A Conv pads with zero itself: always the same."""


def _pool_window(node: ir.Node, pad: ir.Node, total: list[int]) -> None:
    kernel = node.attributes.get_ints("kernel_shape") or ()
    if node.attributes.get_int("ceil_mode", 0):
        raise RefusalError(f"{node.op_type} with ceil_mode behind Pad {pad.name}")
    if any(d != 1 for d in node.attributes.get_ints("dilations") or ()):
        raise RefusalError(f"{node.op_type} with dilations behind Pad {pad.name}")
    if any(p >= k for p, k in zip(total, [*kernel, *kernel], strict=True)):
        raise RefusalError(f"{node.op_type} would have windows that see only padding of Pad {pad.name}")


def _average(node: ir.Node, pad: ir.Node, own: tuple[int, ...], total: list[int]) -> None:
    _pool_window(node, pad, total)
    if any(own) and not node.attributes.get_int("count_include_pad", 0):
        raise RefusalError(f"AveragePool does not count its own padding, but that of Pad {pad.name}")
    node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)


def _maximum(node: ir.Node, pad: ir.Node, own: tuple[int, ...], total: list[int]) -> None:
    _pool_window(node, pad, total)
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise RefusalError(f"MaxPool gives indices, which count the padding of Pad {pad.name}")
    if not never_negative(data_input(pad)):
        raise RefusalError(f"MaxPool pads with minus infinity, Pad {pad.name} with zero, and values may be negative")


def never_negative(value: ir.Value, depth: int = 8) -> bool:
    """Whether the op that makes `value` cannot give anything below zero."""
    node = value.producer()
    if node is None or node.domain != "" or depth == 0:
        return False
    if node.op_type == "Clip":
        low = constant(input_at(node, 1))
        return low is not None and bool((low >= 0).all())
    if node.op_type in KEEPS_SIGN:
        return all(never_negative(x, depth - 1) for x in node.inputs if x is not None)
    return node.op_type in NEVER_NEGATIVE


RULES: dict[str, Callable[[ir.Node, ir.Node, tuple[int, ...], list[int]], None]] = {
    "Conv": _conv,
    "AveragePool": _average,
    "MaxPool": _maximum,
}
"""op type -> check that raises RefusalError, given the node, the Pad, the node's own pads and the total."""
