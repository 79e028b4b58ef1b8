"""Attributes that are left to defaults or to auto_pad are written out, so that later stages read plain numbers."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fold.editing import RefusalError, constant, data_input, decide, input_at, opset, rank, rewrite_nodes
from quantkit.types import Decision

WINDOW_OPS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
DILATED_AVERAGE_OPSET = 19
"""AveragePool has dilations from this opset on."""
CEIL_MODE_OPSET = 10
"""MaxPool has ceil_mode from this opset on."""


def write_out_attributes(model: ir.Model) -> list[Decision]:
    """Write kernel_shape, strides, dilations, group and pads to convolutions and poolings; resolve auto_pad.

    auto_pad needs the spatial size where the stride is above 1; without it a MaxPool of 2 by 2 gets ceil_mode, and any
    other node is left alone, with a refusal.
    """
    dilated_average = opset(model) >= DILATED_AVERAGE_OPSET
    has_ceil_mode = opset(model) >= CEIL_MODE_OPSET
    completed: list[str] = []

    def rewrite(node: ir.Node) -> Decision | None:
        kernel = _kernel(node)
        if kernel is None:
            return None
        has_dilations = node.op_type != "AveragePool" or dilated_average
        if _write_defaults(node, kernel, has_dilations):
            completed.append(node.name or "")
        if has_ceil_mode and _halves(node, kernel):
            return _to_ceil_mode(node, kernel)
        return _resolve_auto_pad(node, kernel)

    decisions = rewrite_nodes(model, WINDOW_OPS, rewrite)
    if completed:
        detail = f"default attributes of {len(completed)} convolutions and poolings"
        decisions.append(Decision("fold", "wrote out", model.graph.name or "graph", detail))
    return decisions


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is not None:
        return tuple(kernel)
    weight = constant(input_at(node, 1))
    return None if weight is None else tuple(weight.shape[2:])


def _write_defaults(node: ir.Node, kernel: tuple[int, ...], has_dilations: bool) -> bool:
    ones = [1] * len(kernel)
    defaults: dict[str, list[int]] = {"kernel_shape": list(kernel), "strides": ones}
    if has_dilations:
        defaults["dilations"] = ones
    if node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" and not node.attributes.get_ints("output_shape"):
        defaults["pads"] = [0] * (2 * len(kernel))
    missing = [name for name in defaults if name not in node.attributes]
    for name in missing:
        node.attributes[name] = ir.AttrInt64s(name, defaults[name])
    if node.op_type in ("Conv", "ConvTranspose") and "group" not in node.attributes:
        node.attributes["group"] = ir.AttrInt64("group", 1)
        return True
    return bool(missing)


def _resolve_auto_pad(node: ir.Node, kernel: tuple[int, ...]) -> Decision | None:
    mode = node.attributes.get_string("auto_pad")
    if mode is None:
        return None
    if mode == "NOTSET":
        del node.attributes["auto_pad"]
        return None
    if mode == "VALID":
        pads = [0] * (2 * len(kernel))
    elif node.op_type == "ConvTranspose":
        raise RefusalError(f"ConvTranspose with auto_pad {mode} stays")
    else:
        pads = _same_pads(node, kernel, upper=mode == "SAME_UPPER")
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return decide(node, "resolved", f"auto_pad {mode} to pads {pads}")


def _halves(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Is it a MaxPool of windows of 2 side by side, the last of which may hang out, over sizes known only at run time?

    ceil((size - 2) / 2) + 1 = ceil(size / 2), and what hangs out is one value at the end: SAME_UPPER and ceil_mode are
    the same then.
    """
    strides = node.attributes.get_ints("strides") or ()
    dilations = node.attributes.get_ints("dilations") or (1,) * len(kernel)
    dims = list(data_input(node).shape or [None] * (len(kernel) + 2))[2:]
    same = node.op_type == "MaxPool" and node.attributes.get_string("auto_pad") == "SAME_UPPER"
    twos = all(set(numbers) == {2} for numbers in (kernel, strides)) and set(dilations) == {1}
    return same and twos and not all(isinstance(dim, int) for dim in dims)


def _to_ceil_mode(node: ir.Node, kernel: tuple[int, ...]) -> Decision:
    del node.attributes["auto_pad"]
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 1)
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * (2 * len(kernel)))
    return decide(node, "resolved", "auto_pad SAME_UPPER to ceil_mode")


def _same_pads(node: ir.Node, kernel: tuple[int, ...], upper: bool) -> list[int]:
    """pad = max((ceil(size / stride) - 1) * stride + extent - size, 0); the odd one at the end for SAME_UPPER."""
    x = data_input(node)
    strides = node.attributes.get_ints("strides") or (1,) * len(kernel)
    dilations = node.attributes.get_ints("dilations") or (1,) * len(kernel)
    if rank(x) not in (None, len(kernel) + 2):
        raise RefusalError(f"{node.op_type} has a kernel of {len(kernel)} dimensions for an input of rank {rank(x)}")
    begins, ends = [], []
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        extent = (size - 1) * dilation + 1
        length = x.shape[axis + 2] if x.shape is not None else None
        if stride == 1:
            total = extent - 1
        elif isinstance(length, int):
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
        else:
            raise RefusalError(
                f"auto_pad of {node.op_type} with stride {stride} needs a spatial size known only at run time"
            )
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return begins + ends
