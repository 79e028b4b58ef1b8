"""Ops that have no INT8 form here on purpose, each with its reason, for decisions and `inspect`."""

from __future__ import annotations

import onnx_ir as ir

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
    """Why an op of this type stays in float32; empty where there is nothing more to say than that it has no form."""
    return WHY_FLOAT.get(node.op_type, "")
