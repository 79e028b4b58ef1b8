"""Ops that have no INT8 form here on purpose, each with its reason, for decisions and `inspect`."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fuse.graph import is_standard

RECURRENT = "its state feeds back at every step, so that rounding to 8 bits adds up"
WHY_FLOAT = {
    "LSTM": RECURRENT,
    "GRU": RECURRENT,
    "RNN": RECURRENT,
    "Log": "small values decide its result, and they have no step of a linear 8-bit scale to themselves",
    "Exp": "a step of its input becomes a factor of its result",
    "TopK": "it compares values, which 8 bits may make equal",
    "NonMaxSuppression": "it compares boxes and scores, which 8 bits may make equal",
    "ArgMax": "it compares values, which 8 bits may make equal",
    "TreeEnsembleClassifier": "trees compare inputs with thresholds and multiply nothing",
    "TreeEnsembleRegressor": "trees compare inputs with thresholds and multiply nothing",
}
"""Op type -> why it stays in float32."""


def why_float(node: ir.Node) -> str:
    """Why a node stays in float32, by its type or the axes of its weights; empty where there is nothing more to say
    than that it has no form."""
    weights = node.inputs[1] if is_standard(node, "Conv", "ConvTranspose") and len(node.inputs) > 1 else None
    if weights is not None and weights.shape is not None and len(weights.shape) > 4:
        return f"a convolution over {len(weights.shape) - 2} axes has no INT8 form, those over 1 and 2 have"
    return WHY_FLOAT.get(node.op_type, "")
