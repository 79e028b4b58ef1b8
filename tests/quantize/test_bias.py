"""Bias correction from channel means: the mean of every output channel stays that of FP32."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.quantize.bias import without_mean_error
from quantkit.quantize.layers import Layer, input_rows
from quantkit.quantize.qparams import quantize_weights
from quantkit.types import BIAS_LIMIT, QuantConfig
from tests.graphs import image, model, quantized, run_onnxruntime, sqnr_db

GEOMETRY = {"strides": [2, 1], "pads": [1, 2, 0, 2], "dilations": [1, 2]}


def layer(base: str = "Conv", groups: int = 1, seed: int = 0) -> Layer:
    """A convolution or MatMul of 4 input and 6 output channels, weights and bias seeded normals."""
    rng = np.random.default_rng(seed)
    shape = (6, 4 // groups, 3, 3) if base == "Conv" else (4, 6)
    weights = rng.normal(size=shape)
    return Layer("n", base, lambda: weights, rng.normal(size=6), shape, int(base == "MatMul"), groups, "x", None, "y",
                 "y", {**GEOMETRY, "group": groups})  # fmt: skip


def rounded(of: Layer, x_scale: float = 0.02):
    weights = np.moveaxis(of.weights.reshape(6, *of.shape[1:]) if of.axis == 0 else of.weights, 0, of.axis)
    return quantize_weights(weights.astype(np.float32), of.bias.astype(np.float32), x_scale, axis=of.axis)


def outputs(of: Layer, rows: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """float64 [positions, 6]: W x + b at every position."""
    grouped = weights.reshape(of.groups, -1, weights.shape[1])
    return np.einsum("grk,gck->rgc", rows, grouped).reshape(rows.shape[1], -1) + bias


@pytest.mark.parametrize(("base", "groups"), [("Conv", 1), ("Conv", 2), ("MatMul", 1)])
def test_the_mean_of_every_output_channel_is_kept_when_channels_are_constant(base, groups):
    """With channels that are constant in space, shares of padding are all that is left to chance: they are exact."""
    of = layer(base, groups)
    means = np.array([0.5, -1.0, 2.0, 0.0])
    size = (7, 9)
    x = np.broadcast_to(means[:, None, None], (1, 4, *size)) if base == "Conv" else means[None, None]
    positions = np.arange(((7 + 1 - 3) // 2 + 1) * ((9 + 4 - 5) // 1 + 1)) if base == "Conv" else np.arange(1)
    rows = input_rows(of, np.ascontiguousarray(x), positions)
    plain = rounded(of)
    fixed = without_mean_error(of, plain, means, size if base == "Conv" else None, 0.02)
    wanted = outputs(of, rows, of.weights, of.bias).mean(axis=0)

    def error(made):
        values = np.moveaxis(made.values, of.axis, 0).reshape(6, -1) * made.scale[:, None].astype(np.float64)
        return np.abs(outputs(of, rows, values, made.bias * 0.02 * made.scale.astype(np.float64)).mean(axis=0) - wanted)

    half_step = 0.5 * 0.02 * plain.scale.astype(np.float64)
    assert (error(fixed) <= half_step * 1.001 + 1e-12).all()
    assert (error(plain) > 2 * half_step).any()
    np.testing.assert_array_equal(fixed.values, plain.values)


def test_a_bias_that_would_leave_its_limit_is_left_as_it_is():
    of = layer("MatMul")
    plain = rounded(of)
    fixed = without_mean_error(of, plain, np.full(4, 1e12), None, 0.02)
    assert (np.abs(fixed.bias.astype(np.int64)) < BIAS_LIMIT).all()
    np.testing.assert_array_equal(fixed.bias, plain.bias)


def test_fast_keeps_the_means_of_fp32_with_statistics_alone(tmp_path):
    """The same table without its channel sums gives models whose mean output is off by far more."""
    proto = model("c = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x,w,b) r = Relu(c) d = Conv<kernel_shape=[1,1]>(r,v,b) "
                  "g = GlobalAveragePool(d) h = Flatten(g) y = Gemm<transB=1>(h,f,k)",
                  {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 1, 1), "f": (5, 8), "k": (5,)},
                  outputs="float[N,5] y")  # fmt: skip
    data, other, path = image(32, 3, 8, 8, seed=3) + 1, image(64, 3, 8, 8, seed=4) + 1, tmp_path / "table.json"
    config = QuantConfig(method="minmax", effort="fast")
    made = [pipeline.quantize(proto, data, config=config, table_out=path).model]
    document = json.loads(path.read_text())
    assert sum("channels" in entry for entry in document["tensors"].values()) == 3
    for entry in document["tensors"].values():
        entry.pop("channels", None)
    path.write_text(json.dumps(document))
    made.append(pipeline.quantize(proto, data, config=config, table_in=path).model)
    wanted = run_onnxruntime(proto, {"x": other})[0].mean(axis=0)
    corrected, plain = (np.abs(Session(m).run(None, {"x": other})[0].mean(axis=0) - wanted).max() for m in made)
    assert corrected < plain / 2


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_transposed_convolutions_are_quantized_by_every_effort(effort):
    proto = model("c = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x,w,b) r = Relu(c) "
                  "y = ConvTranspose<strides=[2,2],kernel_shape=[3,3],pads=[1,0,0,1],output_padding=[1,0]>(r,v,d)",
                  {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 6, 3, 3), "d": (6,)})  # fmt: skip
    other = image(4, 3, 8, 8, seed=7)
    made = quantized(proto, image(8, 3, 8, 8), effort=effort)
    assert any(node.op_type.startswith("QConvTranspose") for node in made.graph)
    assert sqnr_db(run_onnxruntime(proto, {"x": other})[0], Session(made).run(None, {"x": other})[0]) > 40.0
