"""Tuning on small networks: what it gains, what it must not change."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit import pipeline
from quantkit.execute import Session
from quantkit.quantize import choose, frontier, tune
from quantkit.quantize.rounding import factor
from quantkit.quantize.sampling import reads_same_rows
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model, quantized, run_onnxruntime, sqnr_db

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
DEPTHWISE = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 8"
NETWORK = (
    f"c = Conv<{CONV}>(x, w, b) r = Relu(c) d = Conv<{DEPTHWISE}>(r, v, b) e = Relu(d) p = Conv<{POINT}>(e, u) "
    "a = Add(p, r) s = Relu(a) g = GlobalAveragePool(s) h = Flatten(g) y = Gemm<transB=1>(h, f, k)"
)
WEIGHTS = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 1, 3, 3), "u": (8, 8, 1, 1), "f": (10, 8), "k": (10,)}
DATA, OTHER = image(32, 3, 8, 8, seed=3), image(32, 3, 8, 8, seed=4)


def network():
    return model(NETWORK, WEIGHTS, outputs="float[N,10] y")


def fidelity(proto, quantized_model, x=OTHER):
    return sqnr_db(run_onnxruntime(proto, {"x": x})[0], Session(quantized_model).run(None, {"x": x})[0])


def redundant(rows: int, seed: int) -> np.ndarray:
    """float32 [rows, 128] of -1 and 1 in 16 runs of equal columns: errors of rounding can make up for each other."""
    signs = np.random.default_rng(seed).integers(0, 2, size=(rows, 16)) * 2 - 1
    return np.repeat(signs, 8, axis=1).astype(np.float32)


def test_balanced_beats_fast_by_3_db_on_rows_it_has_not_seen():
    proto = model("y = Gemm<transB=1>(x, w, b)", {"w": (64, 128), "b": (64,)}, inputs="float[N,128] x",
                  outputs="float[N,64] y")  # fmt: skip
    made = (quantized(proto, redundant(256, 3), effort=effort) for effort in ("fast", "balanced"))
    fast, balanced = (fidelity(proto, m, redundant(256, 4)) for m in made)
    assert balanced > fast + 3.0


def test_the_same_seed_gives_the_same_file_for_any_number_of_threads():
    proto = network()
    made = []
    for threads in (1, 2, 2):
        result = pipeline.quantize(proto, DATA, config=QuantConfig(seed=5), threads=threads)
        made.append(result.proto.SerializeToString(deterministic=True))
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("agree", [True, False], ids=["agree", "differ"])
def test_the_bias_takes_off_the_mean_errors_on_which_samples_agree_and_leaves_the_others(agree):
    """16 rows of 8 samples, whose targets are off by 0.5, or by as much either way for every sample of its own."""
    rng = np.random.default_rng(7)
    w, x = rng.normal(size=(32, 8)).astype(np.float32), rng.random((1, 128, 8)).astype(np.float32)
    layer = tune.Layer("fc", "Gemm", lambda: w, np.zeros(32), (32, 8), 0, 1, "x", None, "y", "y", {})
    signs = np.ones((8, 32)) if agree else rng.choice([-1.0, 1.0], (8, 32))
    off = np.repeat(0.5 * signs, 16, axis=0).astype(np.float32)
    made, _ = tune.rounded(layer, tune.Inputs(x, 8), x[0] @ w.T + off, 0.01, True)
    rows = made.values.astype(np.float64) * made.scale[:, None]
    error = (x[0] @ (rows - w).T).mean(axis=0) + made.bias * 0.01 * made.scale
    wanted = 0.5 if agree else 0.0
    assert np.sqrt(np.square(error - wanted).mean()) < (0.01 if agree else 0.3 * np.abs(off.mean(axis=0)).mean())


def test_a_tuned_model_is_valid_and_onnxruntime_agrees_with_the_engine():
    proto = ir.to_proto(quantized(network(), DATA, effort="balanced"))
    onnx.checker.check_model(proto, full_check=True)
    got = Session(proto).run(None, {"x": OTHER})[0]
    assert sqnr_db(run_onnxruntime(proto, {"x": OTHER})[0], got) > 40.0


def test_dead_channels_and_constant_inputs_pass_through_tuning():
    weights = dict(WEIGHTS, w=np.zeros((8, 3, 3, 3), np.float32))
    proto = model(NETWORK, weights, outputs="float[N,10] y")
    expected = run_onnxruntime(proto, {"x": OTHER})[0]
    got = Session(quantized(proto, DATA, effort="balanced")).run(None, {"x": OTHER})[0]
    assert np.allclose(got, expected, atol=1e-2)


def test_every_tuned_layer_is_reported_with_its_error_before_and_after():
    decisions = pipeline.quantize(network(), DATA).decisions
    assert sum(d.action == "tuned" and "dB" in d.detail for d in decisions) == 4


def test_one_sample_is_enough():
    proto = network()
    assert fidelity(proto, quantized(proto, DATA[:1], effort="balanced")) > 15.0


@pytest.mark.parametrize("batch", [3, 32])
def test_how_the_samples_are_batched_hardly_matters(batch, monkeypatch):
    monkeypatch.setattr(choose, "LAWS", {})  # other halves may take another law, for 6 dB
    proto = network()
    config = QuantConfig(method="minmax")
    alone, together = (pipeline.quantize(proto, DATA, config=config, batch_size=size).model for size in (1, batch))
    assert fidelity(proto, together) == pytest.approx(fidelity(proto, alone), abs=1.5)


def test_a_static_batch_is_filled_up_and_the_filling_does_not_count():
    proto = model(NETWORK, WEIGHTS, inputs="float[4,3,8,8] x", outputs="float[4,10] y")
    result = pipeline.quantize(proto, DATA[:6], config=QuantConfig(method="minmax"))
    whole = [Session(result.model).run(None, {"x": OTHER[i : i + 4]})[0] for i in (0, 4)]
    expected = run_onnxruntime(network(), {"x": OTHER[:8]})[0]
    assert sqnr_db(expected, np.concatenate(whole)) > 20.0


def test_best_is_the_nearest_of_several_tuned_models():
    proto = network()
    result = pipeline.quantize(proto, DATA, config=QuantConfig(effort="best"))
    balanced = pipeline.quantize(proto, DATA, config=QuantConfig(effort="balanced"))
    assert fidelity(proto, result.model, DATA) >= fidelity(proto, balanced.model, DATA)
    assert any(d.detail.startswith("nearest of the tuned models") for d in result.decisions)


def test_best_without_time_is_balanced():
    """The first model is that of balanced; the budget is over before another is begun."""
    proto = network()
    made = []
    for effort in ("best", "balanced"):
        config = QuantConfig(effort=effort, time_budget=1e-9)
        result = pipeline.quantize(proto, DATA, config=config)
        made.append({node.name: node.inputs[3].const_value.numpy() for node in result.model.graph
                     if node.op_type.startswith(("QConv", "QGemm"))})  # fmt: skip
    assert made[0].keys() == made[1].keys() != set()
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


def test_layers_that_read_the_same_tensor_come_out_as_if_each_read_its_own():
    """Query, key and value: the moments of their input are worked out once."""
    weights = {"q": (8, 8), "k": (8, 8), "v": (8, 8)}
    body = "a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v) d = Add(a, b) y = Add(d, c)"
    proto = model(body, weights, inputs="float[N,8] x", outputs="float[N,8] y")
    data, made = redundant(64, 3)[:, ::16], []
    for same in (reads_same_rows, lambda a, b: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tune, "reads_same_rows", same)
            factors = []
            patch.setattr(tune, "factor", lambda h, seen=factors: seen.append(h) or factor(h))
            tuned = quantized(proto, data, effort="balanced")
        made.append(([n.inputs[3].const_value.numpy() for n in tuned.graph if "MatMul" in n.op_type], len(factors)))
    assert [count for _, count in made] == [1, 3]
    assert all(np.array_equal(a, b) for a, b in zip(made[0][0], made[1][0], strict=True))


def test_tuning_gives_the_same_model_where_nothing_may_be_kept_between_layers(monkeypatch):
    made = []
    for kept in (frontier.KEPT_BYTES, 0):
        monkeypatch.setattr(frontier, "KEPT_BYTES", kept)
        tuned = pipeline.quantize(network(), [DATA[:16], DATA[16:]], config=QuantConfig(method="minmax"))
        made.append(tuned.proto.SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_a_channel_of_weights_near_zero_whose_mean_is_off_keeps_a_bias_that_32_bits_hold():
    rng = np.random.default_rng(6)
    w = rng.normal(size=(4, 8)).astype(np.float32)
    w[2] = 1e-18
    layer = tune.Layer("fc", "Gemm", lambda: w, np.zeros(4), (4, 8), 0, 1, "x", None, "y", "y", {})
    x = rng.random((1, 64, 8)).astype(np.float32)
    wanted = (x[0] @ w.T + np.float32(0.005)).astype(np.float32)
    made, _ = tune.rounded(layer, tune.Inputs(x, 1), wanted, 0.01, True)
    assert made.bias[2] == 0
    assert np.allclose(made.bias[[0, 1, 3]] * 0.01 * made.scale[[0, 1, 3]], 0.005, atol=0.02)


@pytest.mark.parametrize(("width", "copies"), [(24, False), (4, True)])
def test_nodes_that_share_weights_get_their_own_only_where_the_model_hardly_grows(width, copies):
    body = f"a = Conv<{CONV}>(x,s) b = Relu(a) c = Conv<{CONV}>(b,s) d = Relu(c) y = Conv<{CONV}>(d,o)"
    shape = f"float[N,{width},8,8] x"
    proto = model(body, {"s": (width, width, 3, 3), "o": (128, width, 3, 3)}, inputs=shape)
    made = pipeline.quantize(proto, image(8, width, 8, 8, seed=1), config=QuantConfig(keep_int8=True), threads=1)
    stored = [value for value in made.model.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    assert len([value for value in stored if len(value.shape) == 4]) == (3 if copies else 2)


def test_a_network_whose_branches_read_values_from_outside_is_tuned():
    branches = (
        "then_branch = one () => (float[N,8,8,8] p) { p = Add(r, r) }, "
        "else_branch = two () => (float[N,8,8,8] q) { q = Neg(r) }"
    )
    body = (
        f"c = Conv<{CONV}>(x,w,b) r = Relu(c) m = ReduceMax<keepdims=0>(r) l = Less(m, t) i = If(l) <{branches}> "
        f"y = Conv<{CONV}>(i,v)"
    )
    weights = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "t": np.array(3.0, np.float32)}
    proto = model(body, weights, outputs="float[N,8,8,8] y")
    made = pipeline.quantize(proto, DATA, config=QuantConfig(keep_int8=True), threads=1)
    actions = {decision.action for decision in made.decisions}
    assert "tuned" in actions
    assert "undone" not in actions
    assert fidelity(proto, made.model) > 25.0
