"""The oracle: a calibrated file evaluated node by node in numpy, in exact integers.

It answers what the engine must compute, bit for bit, and shares no code with it. What is not a quantkit op runs as a
model of one node in onnxruntime, so any calibrated file can be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantkit.errors import DataError, ModelError, QuantkitError
from quantkit.execute import oracle_ops
from quantkit.execute.oracle_arithmetic import dequantize_linear, params, quantize_linear

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "quantkit"
DYNAMIC_PREFIX = "DynQ"
"""Ops of a converted file: their ranges are not fixed, so onnxruntime runs their function."""


def run_oracle(
    model: str | Path | onnx.ModelProto | ir.Model, feeds: Mapping[str, np.ndarray], *, keep: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The outputs of a model, by name, with every quantkit op computed by the numerics contract.

    model: a calibrated file (others run too, in onnxruntime). feeds: every graph input by name, in the model's dtype
    and shape. keep: tensors inside the graph to return as well, u8 as they are.
    Raises DataError for a missing input, ModelError for a quantkit op or tensor that it does not know, RangeError for
    an accumulator beyond int32.
    """
    return _Oracle(_proto(model), feeds).run(keep)


def _proto(model: str | Path | onnx.ModelProto | ir.Model) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, str | Path):
        return onnx.load(model)
    from onnx_ir import to_proto

    return to_proto(model)


@dataclass
class _Oracle:
    """One run: the tensors known so far. Tensors are dropped after their last use."""

    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {t.name: t for t in graph.initializer}
        missing = [i.name for i in graph.input if i.name not in self.feeds and i.name not in self.constants]
        if missing:
            raise DataError(f"no data for input {', '.join(missing)}; got {', '.join(self.feeds) or 'nothing'}")
        self.values = {name: np.asarray(value) for name, value in self.feeds.items()}
        self.functions = {(f.domain, f.name): f for f in self.model.functions}

    def run(self, keep: Sequence[str]) -> dict[str, np.ndarray]:
        wanted = [*dict.fromkeys([*(o.name for o in self.model.graph.output), *keep])]
        uses = Counter(name for node in self.model.graph.node for name in _reads(node)) + Counter(wanted)
        for node in self.model.graph.node:
            names = [name for name in node.output if name]
            self.values.update(zip(names, self._evaluate(node), strict=True))
            for name in _reads(node):
                uses[name] -= 1
                if not uses[name]:
                    self.values.pop(name, None)
        return {name: self._value(name) for name in wanted}

    def _value(self, name: str) -> np.ndarray:
        if name not in self.values:
            if name not in self.constants:
                raise ModelError(f"there is no tensor {name!r} in the graph; check the name")
            self.values[name] = numpy_helper.to_array(self.constants[name])
        return self.values[name]

    def _evaluate(self, node: onnx.NodeProto) -> list[np.ndarray]:
        function: Callable[..., list[np.ndarray] | None] | None = None
        if node.domain == DOMAIN and not node.op_type.startswith(DYNAMIC_PREFIX):
            function = oracle_ops.find(node.op_type, len(node.input), len(node.output))
            if function is None:
                raise ModelError(
                    f"{node.name}: the oracle knows no op quantkit::{node.op_type}; add it to oracle_ops.py"
                )
        elif node.domain in ("", "ai.onnx"):
            function = LINEAR.get(node.op_type)
        if function is not None:
            try:
                outputs = function(self._attributes(node), [self._value(name) for name in node.input])
            except QuantkitError as error:
                raise type(error)(f"{node.name} ({node.op_type}): {error}") from error
            if outputs is not None:
                return outputs
        return self._evaluate_in_onnxruntime(node)

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """The node's attributes over the defaults that its function declares; strings decoded, tensors as arrays."""
        function = self.functions.get((node.domain, node.op_type))
        declared = [*function.attribute_proto] if function else []
        values = {a.name: helper.get_attribute_value(a) for a in [*declared, *node.attribute]}
        return {name: _plain(value) for name, value in values.items()}

    def _evaluate_in_onnxruntime(self, node: onnx.NodeProto) -> list[np.ndarray]:
        import onnxruntime

        names = dict.fromkeys(_reads(node))
        constants = [self.constants[name] for name in names if name in self.constants]
        feeds = {name: self._value(name) for name in names if name not in self.constants}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        single = helper.make_model(
            helper.make_graph([node], "single", inputs, outputs, initializer=constants),
            opset_imports=self.model.opset_import,
            functions=self.model.functions,
            ir_version=self.model.ir_version,
        )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                single.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return session.run(None, feeds)
        except Exception as error:
            raise ModelError(f"{node.name} ({node.op_type}): onnxruntime cannot run it: {error}") from error


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that the node reads, those that its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            inside = {v.name for v in [*graph.input, *graph.initializer]} | {o for n in graph.node for o in n.output}
            outside = [name for n in graph.node for name in _reads(n)] + [o.name for o in graph.output]
            yield from (name for name in outside if name not in inside)


def _plain(value: Any) -> Any:
    """An attribute's value as the oracle's ops take it: strings decoded, tensors as arrays."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value


def _quantize(attributes: Mapping[str, Any], inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    if len(inputs) != 3 or inputs[2].dtype != np.uint8 or inputs[1].size != 1 or inputs[0].dtype != np.float32:
        return None
    return [quantize_linear(inputs[0], params(*inputs[1:]))]


def _dequantize(attributes: Mapping[str, Any], inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    if len(inputs) != 3 or inputs[0].dtype != np.uint8 or inputs[1].size != 1 or inputs[1].dtype != np.float32:
        return None
    return [dequantize_linear(inputs[0], params(*inputs[1:]))]


LINEAR = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
"""The edges of a quantized region; None from those that are not float32 <-> u8 with scalars: onnxruntime runs them."""
