"""INT8 models of other tools (QDQ or QOperator form), rewritten in memory into quantkit ops so that they run natively.

Integers, scales and zero points are the file's own; only the arithmetic is quantkit's: exact accumulators and one
rounding. Signed activations are shifted by 128. What has no exact form stays as it is, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from quantkit.types import Decision

if TYPE_CHECKING:
    from quantkit.foreign.weights import Weights

__all__ = ["LONE_KEY", "REASON_KEY", "to_static"]

REASON_KEY = "quantkit.foreign.reason"
"""Key of node.meta: why the import left the node to onnxruntime."""
LONE_KEY = "quantkit.foreign.lone"
"""Key of node.meta: why a QuantizeLinear or DequantizeLinear that the engine could run is left to onnxruntime."""
OLDEST_OPSET = 13
"""DequantizeLinear has an axis from here on."""


def to_static(model: ir.Model) -> list[Decision]:
    """Rewrites a loaded foreign INT8 model in place into static quantkit ops. Inputs and outputs keep name and dtype.

    Returns what was imported and, for every node that was not, why; these nodes have the reason in meta[REASON_KEY].
    A model below opset 13, that could not be raised by `load`, is left alone.
    """
    from quantkit.fold import fold
    from quantkit.fold.cleanup import remove_unused
    from quantkit.foreign.affine import absorb_affines
    from quantkit.foreign.channels import absorb_batchnorms, absorb_channel_scales
    from quantkit.foreign.convert import convert_nodes, leave_lone_edges
    from quantkit.foreign.linear import forget_constants, normalize, remember_constants
    from quantkit.foreign.qoperators import expand_qoperators
    from quantkit.fuse import fuse
    from quantkit.fuse.expand import expand_in_place
    from quantkit.load import infer_shapes
    from quantkit.load.constants import lift_constants
    from quantkit.quantize.apply import finish_model

    if model.graph.opset_imports.get("", 0) < OLDEST_OPSET:
        return [Decision("load", "kept", "model", f"quantized ops of an opset below {OLDEST_OPSET} are not imported")]
    expand_qoperators(model)
    normalize(model)
    absorb_batchnorms(model)
    fold(model)
    absorb_channel_scales(model)
    absorb_affines(model)
    normalize(model)  # again: there may be new constants and scales
    remember_constants(model)
    turned, left = _transposed_convolutions(model.graph)
    decisions = convert_nodes(model, fuse(model, lambda name: name in left), turned)
    forget_constants(model)
    expand_in_place(model)
    lift_constants(model)
    infer_shapes(model)
    remove_unused(model)
    finish_model(model)
    leave_lone_edges(model.graph)
    return decisions


def _transposed_convolutions(graph: ir.Graph) -> tuple[dict[str, Weights], set[str]]:
    """Of the ConvTransposes: the integer weights by node name (fuse rearranges their float values), and the names of
    those that have none; these have the reason in meta."""
    from quantkit.foreign.weights import transposed_weights
    from quantkit.fuse.graph import Reject, is_standard

    turned, left = {}, set()
    for node in graph:
        if is_standard(node, "ConvTranspose"):
            try:
                turned[node.name or ""] = transposed_weights(node)
            except Reject as reason:
                left.add(node.name or "")
                node.meta[REASON_KEY] = f"ConvTranspose: {reason}"
    return turned, left
