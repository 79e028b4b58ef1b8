"""HardSigmoid behind weights as a clamp: one rounding to u8 instead of two, and no table.

clamp(alpha (W x + b) + beta, 0, 1) = Clip(W' x + b', 0, 1) with W' = alpha W, b' = alpha b + beta: what gates the
channels of squeeze-and-excite blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant, new_initializer, quantkit_name


def gates_as_clamps(model: ir.Model, chosen: Callable[[str], bool]) -> None:
    """Rewrites HardSigmoid behind the weights of a fused FP32 `model`, in place.

    chosen: by node name, whether a node may be rewritten. A node that adds a residual stays.
    """
    for node in model.graph:
        name = quantkit_name(node)
        weights, bias = (constant(value) for value in node.inputs[1:3]) if len(node.inputs) == 3 else (None, None)
        if name is None or not name.is_weighted or name.activation != "HardSigmoid" or not chosen(node.name or ""):
            continue
        if weights is None or bias is None:
            continue
        alpha, beta = (float(node.attributes.pop(key).as_float()) for key in ("alpha", "beta"))
        node.op_type = replace(name, activation="Clip").op_type
        node.attributes.update({key: ir.AttrFloat32(key, bound) for key, bound in (("min", 0.0), ("max", 1.0))})
        for index, array in ((1, alpha * weights.astype(np.float64)), (2, alpha * bias.astype(np.float64) + beta)):
            made = new_initializer(model.graph, f"{node.name}/clamped_{index}", array.astype(np.float32))
            node.replace_input_with(index, made)
