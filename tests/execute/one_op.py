"""Models of one quantkit op, built by hand: its function body is standard ONNX, so onnxruntime can judge the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, parser

OPSET = 20
IR_VERSION = 10


@dataclass
class OneOp:
    """`quantkit::name` with the given function statements; `y` (or y0, y1...) is what it returns.

    inputs: formal name -> array, in the order of the op; those in `fed` become graph inputs, the rest initializers.
    """

    name: str
    body: str
    inputs: dict[str, np.ndarray]
    attributes: dict[str, object] = field(default_factory=dict)
    fed: tuple[str, ...] = ("x",)
    outputs: tuple[str, ...] = ("y",)
    output_type: int = TensorProto.UINT8

    @property
    def model(self) -> onnx.ModelProto:
        formal = f"<{', '.join(self.attributes)}>" if self.attributes else ""
        function = parser.parse_function(
            f'<domain: "quantkit", opset_import: ["" : {OPSET}]> {self.name} {formal}'
            f"({', '.join(self.inputs)}) => ({', '.join(self.outputs)}) {{ {self.body} }}"
        )
        node = helper.make_node(
            self.name, list(self.inputs), list(self.outputs), name="op", domain="quantkit", **self.attributes
        )
        types = {name: helper.np_dtype_to_tensor_dtype(self.inputs[name].dtype) for name in self.fed}
        graph = helper.make_graph(
            [node],
            "one_op",
            [helper.make_tensor_value_info(name, types[name], self.inputs[name].shape) for name in self.fed],
            [helper.make_tensor_value_info(name, self.output_type, None) for name in self.outputs],
            [numpy_helper.from_array(v, name) for name, v in self.inputs.items() if name not in self.fed],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("quantkit", 1)]
        return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=IR_VERSION)

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {name: self.inputs[name] for name in self.fed}


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """onnxruntime with every optimization off: the function body in float, step by step."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def zero(value: int) -> np.ndarray:
    return np.array(value, np.uint8)


def triple(name: str, q: np.ndarray, s: float, z: int) -> dict[str, np.ndarray]:
    return {name: q, f"{name}s": scale(s), f"{name}z": zero(z)}


def pair(name: str, s: float, z: int) -> dict[str, np.ndarray]:
    return {f"{name}s": scale(s), f"{name}z": zero(z)}


def random_u8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random bytes, an eighth of them 0 and an eighth 255."""
    q = rng.integers(0, 256, shape).astype(np.uint8)
    return np.choose(rng.integers(0, 8, shape), [0, 255, q, q, q, q, q, q]).astype(np.uint8)
