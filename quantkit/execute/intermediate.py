"""A calibrated model with inner tensors among its outputs, for per-layer reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.execute.session import Session
from quantkit.fold.cleanup import remove_unused_nodes
from quantkit.fuse.graph import quantkit_name
from quantkit.load.parts import copied
from quantkit.quantize.apply import quantized_name


def quantization_pair(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The scale and zero point of a u8 value, from the node that makes it."""
    node = value.producer()
    if node is None:
        return None
    if quantkit_name(node) is not None or node.op_type == "QuantizeLinear":
        scale, zero_point = node.inputs[-2:]
        return (scale, zero_point) if scale is not None and zero_point is not None else None
    return None


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """`model` itself where `names` are among its outputs, else `expose`."""
    return model if set(names) <= {value.name for value in model.graph.outputs} else expose(model, names)


def expose(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of `model` whose graph outputs are the tensors `names`; u8 ones are dequantized under the same name.

    An FP32 tensor that only u8 stands for is that one dequantized. Names that the model does not have are left out, and
    so are the nodes that none of the others needs.
    """
    copy = copied(model)
    graph = copy.graph
    found = {v.name: v for node in graph for v in node.outputs if v.name}
    outputs = []
    for name in dict.fromkeys(names):
        value = found.get(name) or found.get(quantized_name(name))
        if value is None:
            continue
        pair = quantization_pair(value) if value.dtype == ir.DataType.UINT8 else None
        if pair is not None:
            node = ir.node("DequantizeLinear", [value, *pair], name=f"{name}/report")
            graph.insert_after(value.producer(), node)  # type: ignore[arg-type]
            out = node.outputs[0]
            out.shape, out.type = value.shape, ir.TensorType(ir.DataType.FLOAT)
            value.name, out.name = f"{name}/u8", name
            value = out
        outputs.append(value)
    graph.outputs[:] = outputs
    remove_unused_nodes(graph)
    return copy


def int8_opener(threads: int | None) -> Callable[[ir.Model, Sequence[str]], Callable[..., dict[str, np.ndarray]]]:
    """How the quantize stage looks into INT8 models: quantkit.quantize.runners.OpenInt8 on the engine."""

    def open_int8(model: ir.Model, names: Sequence[str]) -> Callable[..., dict[str, np.ndarray]]:
        session = Session(expose(model, names), threads)
        found = [output.name for output in session.get_outputs()]

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(found, session.run(None, feeds), strict=True))

        return run

    return open_int8
