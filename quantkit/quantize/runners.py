"""How tuning looks into the INT8 model. The engine stands above this stage, so the pipeline hands it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.load.parts import copied

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""feeds -> tensors by name."""
OpenInt8 = Callable[[ir.Model, Sequence[str]], Run]
"""(calibrated model, tensor names) -> Run; u8 tensors come dequantized to float32."""


def ancestors_of(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of `model` with the tensors `names` as its outputs, and without the nodes that they do not need."""
    copy = copied(model)
    graph = copy.graph
    made = {value.name: value for node in graph for value in node.outputs}
    graph.outputs[:] = [made[name] for name in names]
    needed = set(graph.outputs)
    for node in reversed(list(graph)):
        if needed.isdisjoint(node.outputs):
            graph.remove(node, safe=True)
        else:
            needed.update(value for value in node.inputs if value is not None)
    return copy
