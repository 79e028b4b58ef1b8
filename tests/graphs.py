"""Small FP32 models written as text, with seeded weights; and what onnxruntime makes of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper, parser

CONV = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 1"
"""Attributes of a 3x3 convolution that keeps the size."""


def model(body: str, weights: Mapping[str, Sequence[int] | np.ndarray], *, inputs: str = "float[N,3,8,8] x",
          outputs: str = "float[N,M,H,W] y", opset: int = 17, seed: int = 0) -> onnx.ModelProto:  # fmt: skip
    """A model with this body in ONNX's text form. weights: name -> shape (filled with seeded normals) or array."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto = parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, value in weights.items():
        if not isinstance(value, np.ndarray):
            fan_in = max(1, int(np.prod(value[1:])))
            value = (rng.normal(size=tuple(value)) / np.sqrt(fan_in)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def fused(proto: onnx.ModelProto) -> ir.Model:
    """The model after load, fold and fuse."""
    from quantkit.pipeline import fused_model

    return fused_model(proto)[0]


def op_types(graph_of: ir.Model | onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph_of.graph] if isinstance(graph_of, ir.Model) else [
        node.op_type for node in graph_of.graph.node
    ]  # fmt: skip


def run_onnxruntime(proto: onnx.ModelProto, feeds: Mapping[str, Any], optimize: bool = False) -> list[np.ndarray]:
    """Outputs by onnxruntime on one thread, graph optimizations off unless asked for."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def image(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quantized(proto: onnx.ModelProto, *samples: np.ndarray, **config: Any) -> ir.Model:
    """The calibrated model, ranges by min and max of the samples (default: four seeded images [4, 3, 8, 8])."""
    from quantkit import pipeline
    from quantkit.types import QuantConfig

    data = list(samples) or [image(4, 3, 8, 8)]
    name = proto.graph.input[0].name
    config = {"method": "minmax", "effort": "fast", **config}
    return pipeline.quantize(proto, [{name: x} for x in data], config=QuantConfig(**config)).model


def sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    noise = float(((reference - got) ** 2).sum())
    return float(10 * np.log10(float((reference**2).sum()) / max(noise, 1e-30)))


def all_in_int8(proto: onnx.ModelProto | Path, samples: Sequence[np.ndarray]) -> ir.Model:
    """As `pipeline.quantize`, but every op that has a u8 form gets it: nothing is timed, so it never varies."""
    from quantkit import pipeline
    from quantkit.execute.binding import NativeStatistics
    from quantkit.quantize.calibration import calibrate_fused
    from quantkit.quantize.select import select
    from quantkit.types import QuantConfig

    fused, _ = pipeline.fused_model(proto)
    data = [{fused.graph.inputs[0].name or "": x} for x in samples]
    config = QuantConfig(method="minmax", effort="fast")
    return calibrate_fused(fused, select(fused), data, config, backend=NativeStatistics()).model
