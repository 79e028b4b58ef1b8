"""Equalization: the function stays, what may not be scaled is left alone, outlier channels stop to hurt."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.fuse.expand import expand
from quantkit.quantize import choose
from quantkit.quantize.channel_ids import ChannelIds
from quantkit.quantize.channel_values import ChannelObserver
from quantkit.quantize.equalize import EQUALIZED_KEY, LAWS, Affine, equalize, from_json, to_json
from quantkit.quantize.replay import halves
from quantkit.report.layers import layer_errors
from quantkit.types import QuantConfig
from tests.graphs import CONV, fused, image, model, run_onnxruntime, sqnr_db

POINT = "kernel_shape=[1,1]"
WEIGHTS = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 1, 3, 3), "u": (8, 8, 1, 1), "t": (8, 8, 1, 1), "g": (8, 2, 3, 3),
           "s": (8,), "m": (8, 6)}  # fmt: skip
DEPTHWISE = "kernel_shape=[3,3],pads=[1,1,1,1],group=8"
GROUPED = "kernel_shape=[3,3],pads=[1,1,1,1],group=4"
HEAD = f"c = Conv<{CONV}>(x,w,b) "
NETWORKS = {
    "conv, ReLU, depthwise, ReLU, conv": f"r = Relu(c) d = Conv<{DEPTHWISE}>(r,v) e = Relu(d) y = Conv<{POINT}>(e,u)",
    "grouped": f"r = Relu(c) d = Conv<{GROUPED}>(r,g,b) e = Relu(d) y = Conv<{POINT}>(e,u)",
    "linear stream with two readers": f"p = Conv<{POINT}>(c,u,b) q = Conv<{POINT}>(p,t) a = Add(q,p) "
    f"y = Conv<{POINT}>(a,t,b)",
    "leaky activation": f"r = LeakyRelu<alpha=0.1>(c) y = Conv<{POINT}>(r,u)",
    "one slope a channel": f"r = PRelu(c,slope) y = Conv<{POINT}>(r,u)",
    "pools and a classifier": "r = Relu(c) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r) "
    "q = AveragePool<kernel_shape=[2,2],strides=[2,2],pads=[1,1,1,1],count_include_pad=1>(p) "
    "h = GlobalAveragePool(q) f = Flatten(h) y = MatMul(f,m)",
    "split, shuffle and concat": "r = Relu(c) r1,r2 = Split<axis=1>(r,half) "
    f"d = Conv<{POINT}>(r2,k) z = Concat<axis=1>(r1,d) "
    "o = Reshape(z,wide) i = Transpose<perm=[0,2,1,3,4]>(o) n = Reshape(i,narrow) "
    f"y = Conv<{POINT}>(n,u)",
    "gate": f"r = Relu(c) h = GlobalAveragePool(r) q = Conv<{POINT}>(h,u) e = Sigmoid(q) o = Mul(r,e) "
    f"y = Conv<{POINT}>(o,t)",
    "HardSwish before a depthwise layer": f"r = HardSwish(c) d = Conv<{DEPTHWISE}>(r,v) e = HardSwish(d) "
    f"y = Conv<{POINT}>(e,u)",
    "HardSwish with a scale and a shift": f"h = HardSwish(c) l = Mul(h,one) r = Add(l,one) y = Conv<{POINT}>(r,u)",
    "HardSwish of a sum": f"p = Conv<{POINT}>(c,u) a = Add(p,c) r = HardSwish(a) y = Conv<{POINT}>(r,t)",
    "HardSwish behind a matrix": "r = Relu(c) h = GlobalAveragePool(r) f = Flatten(h) z = MatMul(f,square) "
    "q = HardSwish(z) y = MatMul(q,m)",
    "padding by an op of its own": f"r = Relu(c) p = Pad(r,pads) y = Conv<{POINT}>(p,u)",
}  # fmt: skip


def network(body: str, outputs: str = "y") -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    slope = rng.uniform(0.1, 0.5, size=(8, 1, 1)).astype(np.float32)
    extra = {"half": np.array([4, 4]), "wide": np.array([0, 2, 4, 8, 8]), "narrow": np.array([0, 8, 8, 8]),
             "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "slope": slope, "k": (4, 4, 1, 1),
             "wider": (8, 16, 1, 1), "square": (8, 8), "one": np.array(-0.6, np.float32)}  # fmt: skip
    used = {name: value for name, value in {**WEIGHTS, **extra}.items() if f"{name})" in body or f"{name}," in body}
    shapes = {"MatMul": "float[N,6] y"}
    output = next((shape for op, shape in shapes.items() if op in body), "float[N,C,H,W] y")
    return model(body, used, outputs=output)


def outputs(of: ir.Model, x: np.ndarray) -> np.ndarray:
    return run_onnxruntime(ir.to_proto(expand(of)), {"x": x})[0]


def equalized(proto: onnx.ModelProto, law: str) -> tuple[ir.Model, dict[str, Affine]]:
    made = fused(proto)
    return made, equalize(made, ChannelObserver([({"x": image(6, 3, 8, 8, seed=2)}, 6)], 1), law)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("body", NETWORKS.values(), ids=NETWORKS.keys())
def test_the_function_stays_and_something_is_scaled(body, law):
    proto = network(HEAD + body)
    made, done = equalized(proto, law)
    assert any(np.ptp(entry.scale) > 0.01 for entry in done.values())
    x = image(4, 3, 8, 8, seed=3)
    wanted = run_onnxruntime(proto, {"x": x})[0]
    np.testing.assert_allclose(outputs(made, x), wanted, atol=1e-5 * np.abs(wanted).max())


def test_hard_swish_on_sums_takes_the_factors_behind_it():
    """The rows of the weights stay, as they are inside; scaled twice, its numbers are multiplied."""
    proto = network(HEAD + NETWORKS["HardSwish with a scale and a shift"])
    made, done = equalized(proto, "activations")
    (node,) = (n for n in made.graph if n.op_type == "ConvHardSwishScaledShifted")
    np.testing.assert_array_equal(
        node.inputs[1].const_value.numpy(), fused(proto).graph[0].inputs[1].const_value.numpy()
    )
    scale, shift = (node.attributes[key].as_tensor().numpy() for key in ("scale", "shift"))
    assert scale.shape == shift.shape == (8, 1, 1)
    np.testing.assert_allclose(scale.reshape(-1), -0.6 * done["r"].scale, rtol=1e-6)
    again = equalize(made, ChannelObserver([({"x": image(6, 3, 8, 8, seed=2)}, 6)], 1), "smooth")
    assert np.ptp(again["r"].scale) > 0.01
    x = image(4, 3, 8, 8, seed=3)
    wanted = run_onnxruntime(proto, {"x": x})[0]
    np.testing.assert_allclose(outputs(made, x), wanted, atol=1e-5 * np.abs(wanted).max())


REFUSED = {
    "HardSwish without weights before": f"p = MaxPool<kernel_shape=[1,1]>(x) r = HardSwish(p) y = Conv<{CONV}>(r,w)",
    "SiLU": f"g0 = Sigmoid(c) r = Mul(c,g0) y = Conv<{POINT}>(r,u)",
    "ReLU6": "zero = Constant<value_float=0.0>() six = Constant<value_float=6.0>() r = Clip(c,zero,six) "
    f"y = Conv<{POINT}>(r,u)",
    "a constant is added": "r = Relu(c) o = Constant<value_float=0.5>() a = Add(r,o) q = Sigmoid(a) "
    f"y = Conv<{POINT}>(q,u)",
    "softmax over channels": f"r = Softmax<axis=1>(c) y = Conv<{POINT}>(r,u)",
    "the input is read as it is": f"p = MaxPool<kernel_shape=[1,1]>(x) y = Conv<{CONV}>(p,w)",
}  # fmt: skip


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_homogeneous_is_left_alone(body):
    head = "" if "(x)" in body else HEAD
    assert equalized(network(head + body), "activations")[1] == {}


def test_a_graph_output_is_left_alone_and_so_is_what_is_added_to_it():
    proto = network(HEAD + f"p = Conv<{POINT}>(c,u) y = Add(p,c)")
    assert equalized(proto, "smooth")[1] == {}


def test_shared_weights_are_scaled_for_each_layer_alone():
    proto = network(HEAD + f"r = Relu(c) d = Conv<{POINT}>(r,u) e = Relu(d) y = Conv<{POINT}>(e,u)")
    made, _ = equalized(proto, "activations")
    x = image(2, 3, 8, 8, seed=3)
    np.testing.assert_allclose(outputs(made, x), run_onnxruntime(proto, {"x": x})[0], atol=1e-5)


def test_only_tensors_that_nobody_pads_with_zeros_are_shifted():
    """c feeds a padded depthwise convolution and stays; p feeds a 1x1 convolution and is centred."""
    proto = network(HEAD + f"d = Conv<{DEPTHWISE}>(c,v) p = Conv<{POINT}>(d,u,b) y = Conv<{POINT}>(p,t)")
    made, done = equalized(proto, "activations")
    assert not done["c"].shift.any()
    assert done["p"].shift.any()
    x = image(6, 3, 8, 8, seed=2)
    values = run_onnxruntime(_exposed(made, "p"), {"x": x})[1]
    low, high = values.min(axis=(0, 2, 3)), values.max(axis=(0, 2, 3))
    np.testing.assert_allclose(low, -high, rtol=1e-3)
    np.testing.assert_allclose(high, 1.0, rtol=1e-3)


def _exposed(of: ir.Model, name: str) -> onnx.ModelProto:
    proto = ir.to_proto(expand(of))
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return proto


def test_channels_that_share_an_add_share_a_factor_and_concat_keeps_those_of_its_parts():
    made = fused(network(HEAD + f"r = Relu(c) p = Conv<{POINT}>(r,u) a = Add(p,r) z = Concat<axis=1>(a,r) "
                         f"y = Conv<{POINT}>(z,wider)"))  # fmt: skip
    ids = ChannelIds(made)
    by_name = {value.name: ids.of(value) for value in ids.tensors}
    np.testing.assert_array_equal(by_name["a"], by_name["r"])
    np.testing.assert_array_equal(by_name["z"], np.concatenate([by_name["a"], by_name["r"]]))
    assert len(set(by_name["a"])) == 8


def test_the_record_reads_back_equal():
    done = {"a/b": Affine(1, np.float32([1.5, 2.0]), np.float32([0.0, -3.25]))}
    again = from_json(to_json(done))
    assert again["a/b"].axis == 1
    np.testing.assert_array_equal(again["a/b"].scale, done["a/b"].scale)
    np.testing.assert_array_equal(again["a/b"].shift, done["a/b"].shift)


def spread(seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).uniform(-2, 2, size=8)).astype(np.float32)


def depthwise_outliers() -> onnx.ModelProto:
    """Channels of 0.14 to 7 times the size, taken back by the depthwise weights."""
    rng, size = np.random.default_rng(0), spread()
    weights = {name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
               for name, shape in (("w", (8, 3, 3, 3)), ("v", (8, 1, 3, 3)), ("u", (8, 8, 1, 1)))}  # fmt: skip
    weights["w"] *= size.reshape(-1, 1, 1, 1)
    weights["v"] /= size.reshape(-1, 1, 1, 1)
    weights["b"] = rng.normal(size=8).astype(np.float32) * size
    return model(HEAD + f"r = Relu(c) d = Conv<{DEPTHWISE}>(r,v) e = Relu(d) y = Conv<{POINT}>(e,u)", weights)


def outlying_tokens() -> onnx.ModelProto:
    """A LayerNormalization that makes 2 of 32 channels 60 times as large, as transformers do."""
    rng, size = np.random.default_rng(0), np.ones(32, np.float32)
    size[[3, 17]] = 60.0
    weights = {"g": size, "z": np.zeros(32, np.float32), "b": rng.normal(size=64).astype(np.float32),
               "w": (rng.normal(size=(32, 64)) / 6 / size[:, None]).astype(np.float32)}  # fmt: skip
    return model("n = LayerNormalization(x,g,z) m = MatMul(n,w) y = Add(m,b)", weights, inputs="float[N,10,32] x",
                 outputs="float[N,10,64] y")  # fmt: skip


OUTLIERS = {
    "depthwise, one scale for all weights": (depthwise_outliers, False, (3, 8, 8)),
    "depthwise, a scale for each channel": (depthwise_outliers, True, (3, 8, 8)),
    "tokens": (outlying_tokens, True, (10, 32)),
}


@pytest.mark.parametrize(("make", "per_channel", "shape"), OUTLIERS.values(), ids=OUTLIERS.keys())
def test_outlier_channels_cost_balanced_10_db_less_than_fast(make, per_channel, shape):
    proto, data, other = make(), image(128, *shape, seed=3), image(32, *shape, seed=4)
    wanted, found = run_onnxruntime(proto, {"x": other})[0], {}
    for effort in ("fast", "balanced"):
        config = QuantConfig(method="minmax", effort=effort, per_channel=per_channel)
        result = pipeline.quantize(proto, data, config=config)
        found[effort] = sqnr_db(wanted, Session(result.model).run(None, {"x": other})[0])
    assert found["balanced"] > found["fast"] + 10.0
    assert any("equalized by" in d.detail for d in result.decisions)
    assert EQUALIZED_KEY in result.model.metadata_props


def test_layer_errors_of_an_equalized_model_compare_like_with_like():
    proto, x = depthwise_outliers(), image(128, 3, 8, 8, seed=3)
    made = pipeline.quantize(proto, x, config=QuantConfig(method="minmax")).model
    plain, shown = (layer_errors(pipeline.fused_float(proto, like), made, [{"x": x}]) for like in (None, made))
    worst = [min(entry.sqnr_db for entry in entries if entry.sqnr_db is not None) for entries in (plain, shown)]
    assert worst[0] < 10.0
    assert worst[1] > 25.0


def test_a_network_that_gains_too_little_is_not_equalized(monkeypatch):
    monkeypatch.setattr(choose, "EQUALIZE_DB", 90.0)
    proto = network(HEAD + f"r = Relu(c) y = Conv<{POINT}>(r,u)")
    result = pipeline.quantize(proto, image(64, 3, 8, 8), config=QuantConfig(method="minmax"))
    assert any("equalized by none" in d.detail for d in result.decisions)
    assert EQUALIZED_KEY not in result.model.metadata_props


def test_an_equalized_model_has_the_same_bits_for_any_number_of_threads():
    proto, x = depthwise_outliers(), image(32, 3, 8, 8, seed=3)
    made = [pipeline.quantize(proto, x, config=QuantConfig(method="minmax"), threads=threads).proto
            for threads in (1, 2)]  # fmt: skip
    assert made[0].SerializeToString(deterministic=True) == made[1].SerializeToString(deterministic=True)


def test_halves_are_of_batches_or_of_the_rows_of_one():
    batches = [({"x": np.arange(6.0)}, 6)]
    first, second = halves(batches, cut=True)
    assert (first[0][1], second[0][1]) == (3, 3)
    np.testing.assert_array_equal(second[0][0]["x"], [3.0, 4.0, 5.0])
    assert halves(batches, cut=False) == (batches, [])
    assert halves([({"x": np.arange(6.0)}, 4)], cut=True)[1] == []
    assert [len(half) for half in halves(batches * 5, cut=False)] == [3, 2]
