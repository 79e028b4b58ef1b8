"""One small FP32 model for each op that has a u8 form, and its calibrated form with every such op in u8."""

from __future__ import annotations

from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.execute.binding import NativeStatistics
from quantkit.pipeline import fused_model
from quantkit.quantize import select as selecting
from quantkit.quantize.calibration import calibrate_fused
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model

W = {"w": (8, 4, 3, 3), "b": (8,)}
I64 = np.int64
LOOKUPS = {"Sigmoid": "Sigmoid(t)", "Tanh": "Tanh(t)", "LeakyRelu": "LeakyRelu<alpha = 0.2>(t)", "Elu": "Elu(t)"}


def one(body: str, *, x: str = "float[N,4,8,8] x", opset: int = 17, **weights) -> onnx.ModelProto:
    proto = model(body, weights, inputs=x, outputs="float y", opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def conv(after: str, **more) -> onnx.ModelProto:
    return one(f"t = Conv<{CONV}>(x, w, b) {after}", **W, **more)


def pool(op: str, **attributes: object) -> onnx.ModelProto:
    given = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], **attributes}
    return one(f"y = {op}<{', '.join(f'{key} = {value}' for key, value in given.items())}>(x)")


def turned(group: int, **attributes: object) -> onnx.ModelProto:
    given = "".join(f", {key} = {value}" for key, value in attributes.items())
    body = f"t = ConvTranspose<kernel_shape = [3, 3], strides = [2, 2], group = {group}{given}>(x, w, b) y = Relu(t)"
    return one(body, w=(4, 8 // group, 3, 3), b=(8,))


def resize(mode: str, sizes: bool = False) -> onnx.ModelProto:
    target = "x, , , k" if sizes else "x, , k"
    k = np.array([1, 4, 12, 16], I64) if sizes else np.array([1, 1, 2, 2], np.float32)
    rounding = "asymmetric" if mode == "nearest" else "half_pixel"
    return one(
        f'y = Resize<mode = "{mode}", coordinate_transformation_mode = "{rounding}", nearest_mode = "floor">({target})',
        k=k, x="float[1,4,8,8] x" if sizes else "float[N,4,8,8] x",
    )  # fmt: skip


def resize_like() -> onnx.ModelProto:
    body = (
        "zs = Shape(z) hw = Slice(zs, two, four, axis) xs = Shape(x) nc = Slice(xs, axis, two, axis) "
        's = Concat<axis = 0>(nc, hw) y = Resize<mode = "linear">(x, , , s)'
    )
    numbers = {"axis": np.array([0], I64), "two": np.array([2], I64), "four": np.array([4], I64)}
    return one(body, x="float[N,4,A,B] x, float[N,4,P,Q] z", **numbers)


EVERY_OP: dict[str, onnx.ModelProto] = {
    "Conv": conv("y = Transpose<perm = [0, 2, 3, 1]>(t)"),
    "Conv Relu": conv("y = Relu(t)"),
    "Conv Clip": conv("y = Clip(t, lo, hi)", lo=np.array(-0.4, np.float32), hi=np.array(0.7, np.float32)),
    "Conv depthwise": one(f"t = Conv<{CONV[:-1]}4>(x, w) y = Flatten(t)", w=(4, 1, 3, 3)),
    "Conv residual": conv("c = Conv<kernel_shape = [1, 1]>(x, v) s = Add(t, c) y = Relu(s)", v=(8, 4, 1, 1)),
    **{f"Conv {name}": conv(f"y = {call}") for name, call in LOOKUPS.items()},
    "Conv HardSwish": conv("y = HardSwish(t)"),
    "Conv HardSwish with an affine": conv("s = HardSwish(t) d = Mul(s, k) y = Sub(d, l)", k=(1,), l=(1,)),
    "Conv 1D": one("t = Conv<kernel_shape = [3]>(x, w) y = Flatten(t)", x="float[N,4,16] x", w=(8, 4, 3)),
    "Conv then a float op": conv("y = Atan(t)"),
    "ConvTranspose": turned(1, output_padding=[1, 1]),
    "ConvTranspose grouped": turned(2, pads=[1, 1, 0, 0]),
    "Gemm": one("f = Flatten(x) y = Gemm<transB = 1>(f, w, b)", w=(10, 256), b=(10,)),
    "Gemm Relu": one("f = Flatten(x) t = Gemm<transB = 1>(f, w, b) y = Relu(t)", w=(10, 256), b=(10,)),
    "Gemm then a float op": one("f = Flatten(x) t = Gemm<transB = 1>(f, w, b) y = Atan(t)", w=(10, 256), b=(10,)),
    "MatMul": one("t = MatMul(x, w) y = Flatten(t)", w=(8, 6)),
    "MatMul with a bias": one("t = MatMul(x, w) s = Add(t, b) y = Relu(s)", w=(8, 6), b=(6,)),
    "MatMul then a float op": one("t = MatMul(x, w) s = Add(t, b) y = Atan(s)", w=(8, 6), b=(6,)),
    "MatMul of activations": one("t = Transpose<perm = [0, 1, 3, 2]>(x) y = MatMul(x, t)"),
    "Add": one("t = Relu(x) y = Add(x, t)"),
    "Add of a constant": one("y = Add(x, k)", k=(1, 4, 1, 1)),
    "Add Relu": one("t = Sigmoid(x) s = Add(x, t) y = Relu(s)"),
    "Add SiLU": one("t = Relu(x) s = Add(x, t) g = Sigmoid(s) y = Mul(s, g)"),
    "Sub": one("t = Relu(x) y = Sub(x, t)"),
    "Mul": one("t = Sigmoid(z) y = Mul(x, t)", x="float[N,4,8,8] x, float[N,4,1,1] z"),
    "MaxPool": pool("MaxPool"),
    "AveragePool": pool("AveragePool"),
    "AveragePool with its padding": pool("AveragePool", count_include_pad=1),
    "AveragePool rounded up": pool("AveragePool", ceil_mode=1),
    "GlobalAveragePool": one("y = GlobalAveragePool(x)"),
    "GlobalMaxPool": one("y = GlobalMaxPool(x)"),
    "ReduceMean": one("y = ReduceMean<axes = [2, 3], keepdims = 0>(x)"),
    "ReduceMean with dimensions kept": one("y = ReduceMean<axes = [2, 3]>(x)"),
    "ReduceMean 18": one("y = ReduceMean<keepdims = 0>(x, k)", k=np.array([3], I64), opset=18),
    "Reshape": one("y = Reshape(x, k)", k=np.array([0, 2, -1], I64)),
    "Flatten": one("y = Flatten(x)"),
    "Transpose": one("y = Transpose<perm = [0, 2, 3, 1]>(x)"),
    "Unsqueeze Squeeze": one("u = Unsqueeze(x, k) s = Relu(u) y = Squeeze(s, k)", k=np.array([1], I64)),
    "Slice": one(
        "y = Slice(x, a, e, k, s)",
        a=np.array([1], I64), e=np.array([7], I64), k=np.array([2], I64), s=np.array([2], I64),
    ),
    "Split": one("a, c = Split<axis = 1>(x, k) y = Mul(a, c)", k=np.array([2, 2], I64)),
    "Pad": one("y = Pad(x, k)", k=np.array([0, 0, 1, 2, 0, 0, 0, 1], I64)),
    "Concat": one("t = Relu(x) y = Concat<axis = 1>(x, t)"),
    "DepthToSpace": one("y = DepthToSpace<blocksize = 2>(x)"),
    "Gather": one("y = Gather<axis = 1>(x, k)", k=np.array([3, 0], I64)),
    "Gather of one behind Concat": one("u = Unsqueeze(x, a) c = Concat<axis = 1>(u, u, u) y = Gather<axis = 2>(c, k)",
                                       x="float[N,6] x", a=np.array([1], I64), k=np.array(4, I64)),
    "Resize nearest": resize("nearest"),
    "Resize linear": resize("linear"),
    "Resize to sizes": resize("nearest", sizes=True),
    "Resize to the size of another tensor": resize_like(),
    "PRelu": one("y = PRelu(x, k)", k=np.array([0.1, 0.2, 0.3, -0.1], np.float32).reshape(4, 1, 1)),
    "Softmax": one("y = Softmax<axis = 3>(x)"),
    "LayerNormalization": one("y = LayerNormalization(x, g, h)", g=(8,), h=(8,)),
    "LayerNormalization over axes": one("y = LayerNormalization<axis = 2>(x, g, h)", g=(8, 8), h=(8, 8)),
    "RMSNormalization": one("y = RMSNormalization(x, g)", g=(8,), opset=23),
    "GroupNormalization": one("y = GroupNormalization<num_groups = 2>(x, g, h)", g=(4,), h=(4,), opset=21),
    "InstanceNormalization": one("y = InstanceNormalization(x, g, h)", g=(4,), h=(4,)),
    "LRN": one("y = LRN<size = 3, alpha = 0.5>(x)"),
    "Sigmoid": one("y = Sigmoid(x)"),
    "HardSwish": one("y = HardSwish(x)"),
    "HardSwish with an affine": one("h = HardSwish(x) s = Mul(h, a) y = Add(s, b)", a=(1,), b=(1,)),
    "Conv Sigmoid with an affine": conv("s = Sigmoid(t) d = Mul(s, k) y = Sub(d, l)", k=(1,), l=(1,)),
    "Gelu": one("y = Gelu(x)", opset=20),
    "Clip": one("y = Clip(x, lo)", lo=np.array(0.5, np.float32)),
}  # fmt: skip


def calibrated(proto: onnx.ModelProto, **config: bool) -> ir.Model:
    """Every node that has a u8 form in u8, whether that would pay or not; ranges are those of `feeds_of`."""
    fused, _ = fused_model(proto)
    with mock.patch.object(selecting, "_grow", lambda graph, candidates: set(candidates)):
        selection = selecting.select(fused)
        settings = QuantConfig(method="minmax", effort="fast", **config)
        return calibrate_fused(fused, selection, [feeds_of(proto)], settings, backend=NativeStatistics()).model


def feeds_of(proto: onnx.ModelProto, batch: int = 2) -> dict[str, np.ndarray]:
    """Seeded inputs; dynamic dimensions are `batch`."""
    given = {}
    for seed, value in enumerate(proto.graph.input):
        dims = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        given[value.name] = image(*dims, seed=seed)
    return given
