"""QDQ models: every op natively, equal to the contract in numpy and to the oracle, at most a step from onnxruntime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from quantkit import Session
from quantkit.execute.binding import available_isas
from tests.foreign.build import Builder, check_native, reals, weights
from tests.graphs import run_onnxruntime

X_SCALE, Y_SCALE = 0.0157, 0.0213
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
KINDS = {"u8": (np.uint8, 117, 131), "s8": (np.int8, -9, 4), "symmetric s8": (np.int8, 0, 0)}


def conv(b, x, *, per_channel=True, bias="int32", **attributes):
    group = attributes.get("group", 1)
    scale = np.linspace(0.002, 0.009, 4) if per_channel else 0.004
    w = b.weight(weights(4, 4 // group, 3, 3), scale, **({"axis": 0} if per_channel else {}))
    inputs = [x, w]
    if bias == "int32":
        unit = np.float32(X_SCALE) * np.asarray(scale, np.float32)
        inputs.append(b.weight(weights(4, limit=9000, dtype=np.int32), unit, **({"axis": 0} if per_channel else {})))
    elif bias == "float":
        inputs.append(b.constant(reals(4)))
    return b.node("Conv", inputs, **WINDOW, **attributes)


def conv_transpose(b, x, shape, scale, *, axis=None, group=1, **attributes):
    """shape: [C_in, C_out / group, kernel, kernel]."""
    out_c = shape[1] * group
    w = b.weight(weights(*shape), scale, **({"axis": axis} if axis is not None else {}))
    return b.node("ConvTranspose", [x, w, b.constant(reals(out_c))], group=group, **attributes)


def gemm(b, x, *, transposed, bias=True):
    q = weights(10, 256)
    scale = np.linspace(0.0005, 0.003, 10)
    w = b.weight(q if transposed else np.ascontiguousarray(q.T), scale, axis=0 if transposed else 1)
    flat = b.through(b.node("Flatten", [x]), X_SCALE, b.x_zero_point, b.dtype)
    inputs = [flat, w, b.constant(reals(10))] if bias else [flat, w]
    return b.node("Gemm", inputs, transB=int(transposed))


def matmul(b, x):
    return b.node("MatMul", [x, b.weight(weights(8, 6), np.linspace(0.002, 0.006, 6), axis=1)])


def matmul_of_a_transposed_weight(b, x):
    w = b.weight(weights(6, 8), np.linspace(0.002, 0.006, 6), axis=0)
    return b.node("Add", [b.node("MatMul", [x, b.node("Transpose", [w], perm=[1, 0])]), b.constant(reals(6))])


def second(b):
    return b.through("z", 0.011, b.x_zero_point, b.dtype)


CASES = {
    "Conv": conv,
    "Conv per tensor": lambda b, x: conv(b, x, per_channel=False),
    "Conv with a float bias": lambda b, x: conv(b, x, bias="float"),
    "Conv without a bias": lambda b, x: conv(b, x, bias=None),
    "Conv depthwise": lambda b, x: conv(b, x, group=4, strides=[2, 2]),
    "Conv grouped": lambda b, x: conv(b, x, group=2, dilations=[2, 2]),
    "Conv and Relu": lambda b, x: b.node("Relu", [conv(b, x)]),
    "Conv, residual and Relu": lambda b, x: b.node("Relu", [b.node("Add", [conv(b, x), second(b)])]),
    "ConvTranspose": lambda b, x: conv_transpose(b, x, (4, 5, 2, 2), 0.004, strides=[2, 2]),
    "ConvTranspose by output channel": lambda b, x: conv_transpose(
        b, x, (4, 5, 3, 3), np.linspace(0.001, 0.004, 5), axis=1, strides=[2, 2], pads=[1, 1, 0, 1]
    ),
    "ConvTranspose grouped": lambda b, x: conv_transpose(b, x, (4, 3, 3, 3), [0.004, 0.002, 0.003], axis=1, group=2),
    "ConvTranspose depthwise": lambda b, x: conv_transpose(
        b, x, (4, 1, 3, 3), np.linspace(0.002, 0.009, 4), axis=0, group=4, strides=[2, 2], output_padding=[1, 1]
    ),
    "ConvTranspose and Relu": lambda b, x: b.node("Relu", [conv_transpose(b, x, (4, 5, 2, 2), 0.004, strides=[2, 2])]),
    "Gemm": lambda b, x: gemm(b, x, transposed=True),
    "Gemm not transposed": lambda b, x: gemm(b, x, transposed=False),
    "Gemm without a bias": lambda b, x: gemm(b, x, transposed=True, bias=False),
    "MatMul": matmul,
    "MatMul of a transposed weight": matmul_of_a_transposed_weight,
    "MatMul of two activations": lambda b, x: b.node("MatMul", [x, second(b)]),
    "Add": lambda b, x: b.node("Add", [x, second(b)]),
    "Sub": lambda b, x: b.node("Sub", [x, second(b)]),
    "Mul": lambda b, x: b.node("Mul", [x, second(b)]),
    "Mul by a number": lambda b, x: b.node("Mul", [x, b.constant(-0.37, np.float32)]),
    "Add of a constant": lambda b, x: b.node("Add", [x, b.weight(weights(1, 4, 1, 1), 0.01)]),
    "Relu": lambda b, x: b.node("Relu", [x]),
    "Sigmoid": lambda b, x: b.node("Sigmoid", [x]),
    "SiLU": lambda b, x: b.node("Mul", [x, b.node("Sigmoid", [x])]),
    "LeakyRelu": lambda b, x: b.node("LeakyRelu", [x], alpha=0.1),
    "LRN": lambda b, x: b.node("LRN", [x], size=3, alpha=0.5),
    "InstanceNormalization": lambda b, x: b.node(
        "InstanceNormalization", [x, b.constant(reals(4)), b.constant(reals(4))]
    ),
    "MaxPool": lambda b, x: b.node("MaxPool", [x], **WINDOW, strides=[2, 2]),
    "AveragePool": lambda b, x: b.node("AveragePool", [x], **WINDOW),
    "GlobalAveragePool": lambda b, x: b.node("GlobalAveragePool", [x]),
    "ReduceMean": lambda b, x: b.node("ReduceMean", [x], axes=[2, 3], keepdims=0),
    "Concat": lambda b, x: b.node("Concat", [x, second(b)], axis=1),
    "Reshape": lambda b, x: b.node("Reshape", [x, b.constant([0, 2, -1], np.int64)]),
    "Transpose": lambda b, x: b.node("Transpose", [x], perm=[0, 2, 3, 1]),
    "Pad": lambda b, x: b.node("Pad", [x, b.constant([0, 0, 1, 2, 0, 0, 0, 1], np.int64)]),
}


def model_of(case, kind):
    """One op between quantized activations."""
    b = Builder()
    b.dtype, b.x_zero_point, y_zero_point = KINDS[kind]
    y = CASES[case](b, b.through("x", X_SCALE, b.x_zero_point, b.dtype))
    y = b.through(y, Y_SCALE, y_zero_point, b.dtype)
    used = {name for node in b.nodes for name in node.input}
    inputs = {name: ["N", 4, 8, 8] for name in ("x", "z") if name in used}
    return b.model(inputs, {y: TensorProto.FLOAT})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_an_op_between_quantized_activations_runs_natively(case, kind):
    check_native(model_of(case, kind), Y_SCALE)


def contract_conv(x, q, bias, zero_point, multiplier, y_zero_point):
    """Conv 3x3, stride 1, pad 1, in int64, requantized as docs/numerics.md says. x: u8 NCHW, q: s8 [M, C, 3, 3]."""
    padded = np.pad(x.astype(np.int64) - zero_point, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    acc = np.einsum("nchwij,mcij->nmhw", windows, q.astype(np.int64)) + bias[:, None, None]
    real = np.rint(acc.astype(np.float32) * multiplier.astype(np.float32)[:, None, None])
    return np.clip(real + y_zero_point, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extreme", [False, True])
def test_a_convolution_equals_the_contract_bit_for_bit_even_with_weights_of_minus_128(kind, extreme):
    dtype, x_zp, y_zp = KINDS[kind]
    shift = 128 if dtype == np.int8 else 0
    q = np.full((8, 16, 3, 3), -128) if extreme else np.random.default_rng(0).integers(-128, 128, (8, 16, 3, 3))
    q = q.astype(np.int8)
    scale = np.linspace(2e-5, 9e-5, 8).astype(np.float32)
    bias = weights(8, limit=50000, dtype=np.int32)
    y_scale = 0.13 if extreme else 0.003
    b = Builder()
    unit = np.float32(X_SCALE) * scale
    y = b.node("Conv", [b.through("x", X_SCALE, x_zp, dtype), b.weight(q, scale, axis=0),
                        b.weight(bias, unit, axis=0)], **WINDOW)  # fmt: skip
    out = b.quantize(y, y_scale, y_zp, dtype)
    proto = b.model({"x": [1, 16, 9, 9]}, {out: TensorProto.INT8 if shift else TensorProto.UINT8})
    low, high = ((np.iinfo(dtype).min - x_zp) * X_SCALE, (np.iinfo(dtype).max - x_zp) * X_SCALE)
    x = reals(1, 16, 9, 9, low=low, high=high) if not extreme else np.full((1, 16, 9, 9), high, np.float32)
    x_q = np.clip(np.rint(x / np.float32(X_SCALE)) + x_zp + shift, 0, 255)
    multiplier = np.float64(np.float32(X_SCALE)) * scale.astype(np.float64) / np.float64(np.float32(y_scale))
    expected = contract_conv(x_q, q, bias, x_zp + shift, multiplier, y_zp + shift)
    for isa in (None, "scalar"):
        got = Session(proto, threads=1, isa=isa).run(None, {"x": x})[0]
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(np.int32) + shift, expected)
    assert len(np.unique(expected)) > (1 if extreme else 100)


def test_u8_weights_around_128_are_shifted_and_others_stay_in_onnxruntime_with_the_reason():
    b = Builder()
    x = b.through("x", X_SCALE, 120)
    u8 = weights(4, 4, 3, 3, limit=100).astype(np.int16) + 128
    first = b.node("Conv", [x, b.weight(u8.astype(np.uint8), 0.004, np.array(128, np.uint8))], **WINDOW)
    middle = b.through(first, Y_SCALE, 128)
    skewed = np.arange(144).reshape(4, 4, 3, 3).astype(np.uint8)
    second_conv = b.node("Conv", [middle, b.weight(skewed, 0.004, np.array(3, np.uint8))], **WINDOW)
    out = b.through(second_conv, 0.1, 128)
    proto = b.model({"x": ["N", 4, 8, 8]}, {out: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    rows = [row for row in session.plan if row.op in ("QConv", "Conv")]
    assert [row.runs_on for row in rows] == ["native", "onnxruntime"]
    assert "zero point 3" in rows[1].reason
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 0.1001


def test_a_transposed_convolution_quantized_by_input_channel_stays_in_onnxruntime_with_the_reason():
    b = Builder()
    y = conv_transpose(b, b.through("x", X_SCALE, 120), (4, 5, 2, 2), np.linspace(0.002, 0.009, 4), axis=0)
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 128): TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    (row,) = (row for row in session.plan if row.op == "ConvTranspose")
    assert row.runs_on == "onnxruntime"
    assert "along axis 0, not the output channels" in row.reason
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 1.001 * Y_SCALE


def test_a_transposed_convolution_of_a_float_stays_one_op():
    b = Builder()
    y = conv_transpose(b, b.node("Sin", [conv(b, b.through("x", X_SCALE, 120))]), (4, 5, 2, 2), 0.004, strides=[2, 2])
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 128): TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    lone = ["QuantizeLinear", "DequantizeLinear"]
    assert [row.op for row in session.plan if row.runs_on == "onnxruntime"] == ["Sin", "ConvTranspose", *lone]
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 1.001 * Y_SCALE


def test_a_float_op_in_the_middle_stays_in_onnxruntime_and_says_why():
    b = Builder()
    x = b.through("x", X_SCALE, 120)
    y = b.node("Conv", [b.node("Sin", [conv(b, x)]), b.constant(reals(4, 4, 1, 1))])
    proto = b.model({"x": ["N", 4, 8, 8]}, {y: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    rows = {row.op: row for row in session.plan}
    assert rows["QConvFloat"].runs_on == "native"
    assert "no INT8 form" in rows["Sin"].reason
    assert "not quantized" in rows["Conv"].reason
    np.testing.assert_allclose(session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0], atol=1e-4)


def test_an_activation_without_parameters_before_it_runs_in_float_after_a_native_convolution():
    b = Builder()
    x = b.through("x", X_SCALE, 120)
    out = b.through(b.node("Tanh", [conv(b, x)]), 0.008, 128)
    proto = b.model({"x": ["N", 4, 8, 8]}, {out: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    assert [(r.op, r.runs_on) for r in session.plan if r.op not in ("QuantizeLinear", "DequantizeLinear")] == [
        ("QConvFloat", "native"), ("Tanh", "onnxruntime"),
    ]  # fmt: skip
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 0.00801


def test_an_output_read_both_quantized_and_as_float_stays_exact():
    b = Builder()
    y = conv(b, b.through("x", X_SCALE, 120))
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, Y_SCALE, 128): TensorProto.FLOAT, y: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    for got, expected, step in zip(session.run(None, feeds), run_onnxruntime(proto, feeds), (Y_SCALE, 0), strict=True):
        assert np.abs(got - expected).max() <= 1.001 * step + 1e-5


def test_float_weights_behind_fake_quantization_are_integers():
    b = Builder()
    real, scale = reals(4, 4, 3, 3), np.linspace(0.011, 0.016, 4)
    q = b.quantize(b.constant(real), scale, [0] * 4, np.int8, axis=0)
    w = b.dequantize(q, scale, [0] * 4, np.int8, axis=0)
    out = b.through(b.node("Conv", [b.through("x", X_SCALE, 0, np.int8), w], **WINDOW), 0.1, 0, np.int8)
    proto = b.model({"x": ["N", 4, 8, 8]}, {out: TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    assert all(row.runs_on == "native" for row in session.plan)
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 0.1001


@pytest.mark.parametrize(
    ("bias_scale", "reason"), [(1.0, ""), (3.7, ""), (2.0**-21, ""), (2.0**12, "does not fit 32 bits")]
)
def test_a_bias_in_another_scale_is_converted_or_refused_with_the_reason(bias_scale, reason):
    b = Builder()
    w = b.weight(weights(4, 4, 3, 3), 0.004)
    bias = weights(4, limit=2**20, dtype=np.int32)
    bias_node = b.weight(bias, np.float32(X_SCALE) * np.float32(0.004) * bias_scale)
    y = b.node("Conv", [b.through("x", X_SCALE, 120), w, bias_node], **WINDOW)
    step = float(np.abs(bias).max() * X_SCALE * 0.004 * bias_scale / 100 + 0.02)
    proto = b.model({"x": ["N", 4, 8, 8]}, {b.through(y, step, 128): TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 4, 8, 8)}
    (row,) = [row for row in session.plan if row.op in ("QConv", "Conv")]
    assert row.runs_on == ("onnxruntime" if reason else "native")
    assert reason in row.reason
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 1.001 * step


def test_a_channel_whose_huge_bias_decides_its_output_keeps_the_convolution_native():
    b = Builder()
    q = weights(4, 16, 3, 3, limit=127)
    scale = np.array([0.001, 0.001, 2e-9, 0.001], np.float32)
    bias = np.array([5, -7, -(2**31) + 2000, 9], np.int32)
    y = b.node("Conv", [b.through("x", X_SCALE, 120), b.weight(q, scale, axis=0),
                        b.weight(bias, np.float32(X_SCALE) * scale, axis=0)], **WINDOW)  # fmt: skip
    proto = b.model({"x": [1, 16, 8, 8]}, {b.through(y, 2e-4, 0): TensorProto.FLOAT})
    session, feeds = Session(proto), {"x": reals(1, 16, 8, 8)}
    assert all(row.runs_on == "native" for row in session.plan)
    assert np.abs(session.run(None, feeds)[0] - run_onnxruntime(proto, feeds)[0]).max() <= 2.01e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_8_bit_inputs_and_outputs_of_the_graph_keep_dtype_and_values(dtype):
    zero_point = 3 if dtype == np.int8 else 120
    b = Builder()
    x = b.dequantize("x", X_SCALE, zero_point, dtype)
    out = b.quantize(b.node("MaxPool", [conv(b, x)], **WINDOW), Y_SCALE, zero_point, dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = b.model({"x": ["N", 4, 8, 8]}, {out: kind}, input_type=kind)
    x = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (2, 4, 8, 8)).astype(dtype)
    got, expected = Session(proto).run(None, {"x": x})[0], run_onnxruntime(proto, {"x": x})[0]
    assert got.dtype == dtype
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_importing_changes_neither_names_nor_shapes_of_inputs_and_outputs():
    proto = model_of("Conv", "s8")
    session = Session(proto)
    assert [a.name for a in session.get_inputs()] == [i.name for i in proto.graph.input]
    assert [a.name for a in session.get_outputs()] == [o.name for o in proto.graph.output]


@pytest.mark.parametrize("seed", range(2))
def test_weights_of_minus_128_give_the_same_bits_on_every_isa_also_in_large_images(seed):
    rng = np.random.default_rng(seed)
    q = rng.choice([-128, 127], (64, 64, 3, 3)) if seed else np.full((64, 64, 3, 3), -128)
    b = Builder()
    w = b.weight(q.astype(np.int8), 1e-4)
    y = b.node("Conv", [b.through("x", X_SCALE, 128 * seed), w], **WINDOW)
    proto = b.model({"x": [1, 64, 56, 56]}, {b.quantize(y, 0.02 if seed else 0.2, 128): TensorProto.UINT8})
    x = rng.choice(np.array([-9.0, 9.0, 0.1, 1.0, -1.0], np.float32), (1, 64, 56, 56))
    expected = Session(proto, isa="scalar").run(None, {"x": x})[0]
    assert len(np.unique(expected)) > 20
    for isa in [isa for isa, there in available_isas().items() if there]:
        np.testing.assert_array_equal(Session(proto, isa=isa).run(None, {"x": x})[0], expected)
