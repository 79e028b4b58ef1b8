"""Small valid models of several kinds that get damaged, each with what to feed it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from tests.e2e import odd_models
from tests.robustness.mutations import vision

Feeds = dict[str, np.ndarray]
BESIDE = "weights.bin"
"""The file of the weights of `external`."""

TOKENS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,L,8] x, bool c) => (float[N,L,8] y) {
  s = Shape(x) n = Gather(s, zero) l = Gather(s, one) nu = Unsqueeze(n, n0) lu = Unsqueeze(l, n0)
  f = Reshape(x, rows) q = Gemm(f, w, b) t = Concat<axis = 0>(nu, lu, two, four) h = Reshape(q, t)
  p = Transpose<perm = [0, 2, 1, 3]>(h) k = Transpose<perm = [0, 2, 3, 1]>(h) scores = MatMul(p, k)
  a = Softmax<axis = -1>(scores) o = MatMul(a, p) back = Transpose<perm = [0, 2, 1, 3]>(o)
  t2 = Concat<axis = 0>(nu, lu, eight) r = Reshape(back, t2)
  z = If (c) <then_branch = g1 () => (float[N,L,8] u) { u = MatMul(r, v) },
              else_branch = g2 () => (float[N,L,8] d) { d = Relu(r) }>
  e = Add(x, z) y = LayerNormalization<axis = -1>(e, g, b) }"""


def tokens() -> tuple[onnx.ModelProto, Feeds]:
    """A block of a transformer with batch and length open, and an If."""
    proto = onnx.parser.parse_model(TOKENS)
    rng = np.random.default_rng(4)
    arrays = {name: rng.normal(size=shape).astype(np.float32) * 0.4
              for name, shape in {"w": (8, 8), "v": (8, 8), "b": (8,), "g": (8,)}.items()}  # fmt: skip
    numbers = {"zero": 0, "one": 1, "n0": [0], "rows": [-1, 8], "two": [2], "four": [4], "eight": [8]}
    arrays |= {name: np.array(value, np.int64) for name, value in numbers.items()}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto, {"x": rng.normal(size=(2, 5, 8)).astype(np.float32), "c": np.array(True)}


def plain() -> tuple[onnx.ModelProto, Feeds]:
    """The convolutional network of `vision`."""
    return vision(), {"x": np.random.default_rng(1).random(size=(1, 3, 16, 16)).astype(np.float32)}


def quantized_by_another_tool() -> tuple[onnx.ModelProto, Feeds]:
    """`plain` with QuantizeLinear and DequantizeLinear around its layers."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    proto, feeds = plain()

    left = [feeds]

    class Samples(CalibrationDataReader):
        def get_next(self) -> Feeds | None:
            return left.pop() if left else None

    with TemporaryDirectory() as folder:
        onnx.save(proto, Path(folder, "a.onnx"))
        quantize_static(Path(folder, "a.onnx"), Path(folder, "b.onnx"), Samples(), quant_format=QuantFormat.QDQ,
                        per_channel=True)  # fmt: skip
        return onnx.load(Path(folder, "b.onnx")), feeds


def external() -> tuple[onnx.ModelProto, Feeds]:
    """`plain` with its weights in the file BESIDE."""
    proto, feeds = plain()
    offset = 0
    for tensor in proto.graph.initializer:
        length = len(tensor.raw_data)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": BESIDE, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensor.ClearField("raw_data")
        offset += length
    return proto, feeds


def beside() -> bytes:
    """What BESIDE holds."""
    return b"".join(tensor.raw_data for tensor in plain()[0].graph.initializer)


SOURCES: dict[str, Callable[[], tuple[onnx.ModelProto, Feeds]]] = {
    "plain": plain,
    "tokens": tokens,
    "quantized": quantized_by_another_tool,
    "external": external,
    "loop": odd_models.loop,
    "branches": odd_models.branches,
    "sequence": odd_models.sequence_output,
    "recurrent": odd_models.recurrent,
    "embedding": odd_models.embedding_and_dynamic_axes,
}


@cache
def source(kind: str) -> tuple[bytes, Feeds]:
    """The serialized model of a kind of SOURCES, and its feeds."""
    proto, feeds = SOURCES[kind]()
    return proto.SerializeToString(), feeds
