"""The oracle against onnxruntime's float evaluation of the function bodies (<= 1 LSB), and against hand-made values."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from quantkit.execute.oracle import run_oracle
from tests.execute.one_op import OneOp, pair, random_u8, run_onnxruntime, triple

ONE_STEP = 1
"""Largest difference between exact integers and onnxruntime's float32 evaluation of the body: a rounding tie."""

SAME_NAME = ("HardSwish", "Sigmoid", "Tanh", "Mish", "Softplus", "Softsign", "Erf", "Exp", "Abs", "Neg")
JUMPING = ("ThresholdedRelu", "Floor", "Ceil", "Round", "Sign")
"""Not continuous: one step before them may be many after, so they are compared as unary ops only."""
CLAMPING = ("", "Relu", "Clip")
ACTIVATION_BODIES = {
    "": "a = Identity(v)",
    "Relu": "a = Relu(v)",
    "Clip": "lo = Constant <value_float: float = @min> () hi = Constant <value_float: float = @max> ()"
    " a = Clip(v, lo, hi)",
    "LeakyRelu": "a = LeakyRelu <alpha: float = @alpha> (v)",
    "ThresholdedRelu": "a = ThresholdedRelu <alpha: float = @alpha> (v)",
    "Elu": "a = Elu <alpha: float = @alpha> (v)",
    "Celu": "a = Celu <alpha: float = @alpha> (v)",
    "Selu": "a = Selu(v)",
    "HardSigmoid": "a = HardSigmoid <alpha: float = @alpha, beta: float = @beta> (v)",
    "Gelu": "a = Gelu(v)",
    "GeluTanh": 'a = Gelu <approximate = "tanh"> (v)',
    "Sqrt": "a0 = Relu(v) a = Sqrt(a0)",
    "SiLU": "g = Sigmoid(v) a = Mul(v, g)",
} | {name: f"a = {name}(v)" for name in (*SAME_NAME, "Sin", "Cos", *JUMPING[1:])}
WITH_AFFINE = ("Relu", "HardSwish", "Sigmoid", "SiLU", "Tanh")
ACTIVATION_BODIES |= {
    f"{name}Affine": f"{ACTIVATION_BODIES[name].replace('a =', 'plain =')} "
    "scale = Constant <value_float: float = @scale> () shift = Constant <value_float: float = @shift> () "
    "scaled = Mul(plain, scale) a = Add(scaled, shift)"
    for name in WITH_AFFINE
}
ON_SUMS = {f"Wide{name}": ACTIVATION_BODIES[name] for name in ("HardSwish", "HardSwishAffine", "LeakyRelu")}
BY_CHANNEL = "plain = HardSwish(v) scale = Constant <value: tensor = @scale> () {} = Mul(plain, scale)"
ON_SUMS |= {
    "WideHardSwishScaled": BY_CHANNEL.format("a"),
    "WideHardSwishScaledShifted": BY_CHANNEL.format("scaled")
    + " shift = Constant <value: tensor = @shift> () a = Add(scaled, shift)",
}
"""Evaluated before anything is rounded, behind weights only."""
ACTIVATION_ATTRIBUTES = {
    "Clip": {"min": -0.5, "max": 1.5},
    "LeakyRelu": {"alpha": 0.1},
    "ThresholdedRelu": {"alpha": 0.7},
    "Elu": {"alpha": 0.8},
    "Celu": {"alpha": 1.3},
    "HardSigmoid": {"alpha": 0.15, "beta": 0.4},
    **{f"{name}Affine": {"scale": 0.8, "shift": 0.1} for name in WITH_AFFINE},
    "WideHardSwishAffine": {"scale": -0.7, "shift": 0.1},
    "WideLeakyRelu": {"alpha": 0.1},
}


def finish(activation: str) -> str:
    """From the float value v to y; a lookup activation passes through the pre pair."""
    if activation in CLAMPING or activation in ON_SUMS:
        first = "v = Identity(v0)"
    else:
        first = "p = QuantizeLinear(v0, ps, pz) v = DequantizeLinear(p, ps, pz)"
    return f"{first} {(ACTIVATION_BODIES | ON_SUMS)[activation]} y = QuantizeLinear(a, ys, yz)"


def target_pairs(activation: str, step: float) -> dict[str, np.ndarray]:
    """y (and pre) pairs: the pre step is finer than y's, so one step there is at most one step of y."""
    if activation in CLAMPING or activation in ON_SUMS:
        return pair("y", step, 117)
    return pair("p", step, 130) | pair("y", 1.25 * step, 101)


def weights(rng: np.random.Generator, shape: tuple[int, ...], channels: int, x_scale: float) -> dict[str, np.ndarray]:
    w = rng.integers(-127, 128, shape).astype(np.int8)
    w.flat[:2] = -127, 127
    ws = rng.uniform(0.001, 0.01, channels).astype(np.float32)
    bias = rng.integers(-5000, 5000, channels).astype(np.int32)
    return {
        "w": w,
        "ws": ws,
        "wz": np.zeros(channels, np.int8),
        "b": bias,
        "bs": (np.float32(x_scale) * ws).astype(np.float32),
    }


def weighted(
    name: str, x: np.ndarray, w: dict[str, np.ndarray], *, core: str, w_axis: int = 0, **options: object
) -> OneOp:
    """Q{base}[Add][activation] with the body of the file format."""
    activation, attributes = str(options.get("activation", "")), dict(options.get("attributes", {}))
    residual, step = options.get("residual"), float(options.get("step", 0.05))
    inputs = triple("x", x, 0.02, 121) | w
    body = f"xf = DequantizeLinear(x, xs, xz) wf = DequantizeLinear <axis = {w_axis}> (w, ws, wz) {core} "
    if residual is not None:
        inputs |= triple("r", residual, 0.031, 99)
        body += "rf = DequantizeLinear(r, rs, rz) v0 = Add(c, rf) "
    else:
        body += "v0 = Identity(c) "
    own = ACTIVATION_ATTRIBUTES.get(activation, {})
    if "Scaled" in activation:
        rank = w["w"].ndim - 2 if name.startswith("QConv") else 0
        numbers = np.linspace(-0.3, 1.7, w["ws"].size, dtype=np.float32).reshape(-1, *[1] * rank)
        own = {key: numpy_helper.from_array(array) for key, array in (("scale", numbers), ("shift", 0.4 - numbers))}
        own = own if "Shifted" in activation else {"scale": own["scale"]}
    return OneOp(
        name,
        body + finish(activation),
        inputs | target_pairs(activation, step),
        attributes | own,
        fed=("x",) if residual is None else ("x", "r"),
    )


CONV_CORE = (
    "bf = DequantizeLinear <axis = 0> (b, bs) c = Conv <strides: ints = @strides, pads: ints = @pads,"
    " dilations: ints = @dilations, group: int = @group> (xf, wf, bf)"
)
GEMM_CORE = "bf = DequantizeLinear <axis = 0> (b, bs) c = Gemm <transB = 1> (xf, wf, bf)"
MATMUL_CORE = "bf = DequantizeLinear <axis = 0> (b, bs) m = MatMul(xf, wf) c = Add(m, bf)"


def geometry(rank: int, **given: object) -> dict[str, object]:
    default = {"strides": [1] * rank, "pads": [0] * (2 * rank), "dilations": [1] * rank, "group": 1}
    return default | given


def assert_within_one_step(case: OneOp) -> None:
    expected = run_onnxruntime(case.model, case.feeds)
    result = run_oracle(case.model, case.feeds)
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert result[name].dtype == value.dtype
        assert result[name].shape == value.shape
        difference = np.abs(result[name].astype(int) - value.astype(int))
        assert difference.max(initial=0) <= ONE_STEP, f"{case.name} {name}: {difference.max()} steps"
        assert np.mean(difference) < 0.01, f"{case.name} {name}: differences are more than rare rounding ties"


CONVOLUTIONS = {
    "one by one": ((2, 5, 6, 7), (8, 5, 1, 1), geometry(2)),
    "three by three with asymmetric pads": ((1, 4, 9, 8), (6, 4, 3, 3), geometry(2, pads=[1, 0, 2, 1], strides=[2, 1])),
    "dilated": ((1, 3, 11, 12), (4, 3, 3, 2), geometry(2, dilations=[2, 3], pads=[2, 2, 2, 2])),
    "grouped": ((2, 6, 7, 7), (9, 2, 3, 3), geometry(2, group=3, pads=[1] * 4)),
    "depthwise with multiplier": ((1, 5, 8, 8), (10, 1, 5, 5), geometry(2, group=5, pads=[2] * 4, strides=[2, 2])),
    "one dimension": ((2, 3, 17), (4, 3, 5), geometry(1, pads=[2, 1], strides=[2])),
    "three dimensions": ((1, 2, 5, 6, 4), (3, 2, 3, 2, 1), geometry(3, pads=[1, 0, 0, 1, 1, 0])),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_agrees_with_onnxruntime(name: str) -> None:
    rng = np.random.default_rng(1)
    x_shape, w_shape, attributes = CONVOLUTIONS[name]
    w = weights(rng, w_shape, w_shape[0], 0.02)
    case = weighted("QConv", random_u8(rng, *x_shape), w, core=CONV_CORE, attributes=attributes)
    assert_within_one_step(case)


@pytest.mark.parametrize("activation", [*(a for a in ACTIVATION_BODIES if a not in JUMPING), *ON_SUMS])
@pytest.mark.parametrize("add", [False, True])
def test_conv_with_residual_and_activation_agrees_with_onnxruntime(activation: str, add: bool) -> None:
    rng = np.random.default_rng(2)
    x = random_u8(rng, 2, 4, 6, 6)
    case = weighted(
        f"QConv{'Add' if add else ''}{activation}",
        x,
        weights(rng, (5, 4, 3, 3), 5, 0.02),
        core=CONV_CORE,
        attributes=geometry(2, pads=[1] * 4),
        activation=activation,
        residual=random_u8(rng, 2, 5, 6, 6) if add else None,
    )
    assert_within_one_step(case)


GEMM_TARGETS = [(False, ""), (True, "Relu"), (False, "Gelu"), (True, "WideHardSwish")]
GEMM_TARGETS += [(False, "WideHardSwishScaled"), (True, "WideHardSwishScaledShifted")]


@pytest.mark.parametrize(("add", "activation"), GEMM_TARGETS)
def test_gemm_and_matmul_agree_with_onnxruntime(add: bool, activation: str) -> None:
    rng = np.random.default_rng(3)
    suffix = f"{'Add' if add else ''}{activation}"
    gemm = weighted(
        f"QGemm{suffix}",
        random_u8(rng, 7, 33),
        weights(rng, (10, 33), 10, 0.02),
        core=GEMM_CORE,
        activation=activation,
        residual=random_u8(rng, 7, 10) if add else None,
    )
    matmul = weighted(
        f"QMatMul{suffix}",
        random_u8(rng, 2, 3, 5, 18),
        weights(rng, (18, 9), 9, 0.02),
        core=MATMUL_CORE,
        w_axis=1,
        activation=activation,
        residual=random_u8(rng, 2, 3, 5, 9) if add else None,
    )
    assert_within_one_step(gemm)
    assert_within_one_step(matmul)


FLOAT_OUTPUTS = {
    "QConvFloat": (CONV_CORE, (1, 3, 5, 5), (4, 3, 3, 3), 0, geometry(2)),
    "QGemmFloat": (GEMM_CORE, (4, 16), (6, 16), 0, {}),
    "QMatMulFloat": (MATMUL_CORE, (2, 4, 16), (16, 6), 1, {}),
}
FLOAT_RTOL = 2e-6
"""Two float32 roundings against onnxruntime's float sums, relative to the largest output."""


@pytest.mark.parametrize("name", FLOAT_OUTPUTS)
def test_float_output_agrees_with_onnxruntime(name: str) -> None:
    rng = np.random.default_rng(4)
    core, x_shape, w_shape, w_axis, attributes = FLOAT_OUTPUTS[name]
    inputs = triple("x", random_u8(rng, *x_shape), 0.02, 121) | weights(rng, w_shape, w_shape[w_axis], 0.02)
    body = (
        f"xf = DequantizeLinear(x, xs, xz) wf = DequantizeLinear <axis = {w_axis}> (w, ws, wz) {core} y = Identity(c)"
    )
    case = OneOp(name, body, inputs, attributes, output_type=TensorProto.FLOAT)
    expected, result = run_onnxruntime(case.model, case.feeds)["y"], run_oracle(case.model, case.feeds)["y"]
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() <= FLOAT_RTOL * np.abs(expected).max()


@pytest.mark.parametrize("activation", [a for a in ACTIVATION_BODIES if a])
def test_unary_agrees_with_onnxruntime_on_all_bytes(activation: str) -> None:
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    body = f"v = DequantizeLinear(x, xs, xz) {ACTIVATION_BODIES[activation]} y = QuantizeLinear(a, ys, yz)"
    inputs = triple("x", x, 0.031, 128) | pair("y", 0.037, 77)
    assert_within_one_step(OneOp(f"Q{activation}", body, inputs, ACTIVATION_ATTRIBUTES.get(activation, {})))


@pytest.mark.parametrize("shapes", [((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 3, 4, 5), (3, 1, 1)), ((4, 1), (2, 1, 6))])
@pytest.mark.parametrize(
    ("base", "activation"), list(itertools.product(("Add", "Sub", "Mul"), ("", "Relu", "Clip", "SiLU")))
)
def test_binary_agrees_with_onnxruntime(base: str, activation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(5)
    left, right = (random_u8(rng, *shape) for shape in shapes)
    body = (
        "lf = DequantizeLinear(left, lefts, leftz) rf = DequantizeLinear(right, rights, rightz)"
        f" v0 = {base}(lf, rf) {finish(activation)}"
    )
    inputs = triple("left", left, 0.0213, 133) | triple("right", right, 0.0177, 64) | target_pairs(activation, 0.0529)
    attributes = ACTIVATION_ATTRIBUTES.get(activation, {})
    assert_within_one_step(OneOp(f"Q{base}{activation}", body, inputs, attributes, fed=("left", "right")))


POOL_GEOMETRIES = [
    {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 0], "ceil_mode": 0},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 0},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 4], "pads": [0, 0, 1, 1], "ceil_mode": 1},  # the last would start outside
]


@pytest.mark.parametrize("attributes", POOL_GEOMETRIES)
def test_max_pool_agrees_with_onnxruntime(attributes: dict[str, object]) -> None:
    rng = np.random.default_rng(6)
    inputs = triple("x", random_u8(rng, 2, 3, 9, 10), 0.02, 40) | pair("y", 0.02, 40)
    assert_within_one_step(OneOp("QMaxPool", pool_body("MaxPool", attributes), inputs, attributes))


@pytest.mark.parametrize("attributes", POOL_GEOMETRIES)
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool_agrees_with_onnxruntime(attributes: dict[str, object], count_include_pad: int) -> None:
    rng = np.random.default_rng(7)
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < (1, 24) and attributes["ceil_mode"] and count_include_pad:
        pytest.skip("onnxruntime before 1.24 divides by taps beyond the padding: onnx 1.16's definition came later")
    inputs = triple("x", random_u8(rng, 2, 3, 9, 10), 0.02, 40) | pair("y", 0.017, 33)
    attributes = attributes | {"count_include_pad": count_include_pad}
    assert_within_one_step(OneOp("QAveragePool", pool_body("AveragePool", attributes), inputs, attributes))


def pool_body(op: str, attributes: dict[str, object]) -> str:
    kinds = {name: "ints" if isinstance(value, list) else "int" for name, value in attributes.items()}
    references = ", ".join(f"{name}: {kind} = @{name}" for name, kind in kinds.items())
    return f"v = DequantizeLinear(x, xs, xz) a = {op} <{references}> (v) y = QuantizeLinear(a, ys, yz)"


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool_agrees_with_onnxruntime(op: str) -> None:
    rng = np.random.default_rng(8)
    inputs = triple("x", random_u8(rng, 2, 5, 7, 9), 0.02, 200) | pair("y", 0.02, 200)
    body = f"v = DequantizeLinear(x, xs, xz) a = {op}(v) y = QuantizeLinear(a, ys, yz)"
    assert_within_one_step(OneOp(f"Q{op}", body, inputs))


@pytest.mark.parametrize(("axes", "keepdims"), [([2, 3], 1), ([-1], 0), ([0, 1, 2, 3], 0), ([1], 1)])
def test_reduce_mean_agrees_with_onnxruntime(axes: list[int], keepdims: int) -> None:
    rng = np.random.default_rng(9)
    inputs = triple("x", random_u8(rng, 2, 5, 7, 3), 0.02, 100) | pair("y", 0.011, 90)
    mean = "axes = Constant <value_ints: ints = @axes> () a = ReduceMean <keepdims: int = @keepdims> (v, axes)"
    body = f"v = DequantizeLinear(x, xs, xz) {mean} y = QuantizeLinear(a, ys, yz)"
    assert_within_one_step(OneOp("QReduceMean", body, inputs, {"axes": axes, "keepdims": keepdims}))
