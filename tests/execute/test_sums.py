"""Residual sums in float32: native, exact, as ONNX means them, and only where they are measured to pay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from quantkit import pipeline
from quantkit.cli import cli
from quantkit.execute import Session
from quantkit.execute.oracle import run_oracle
from quantkit.execute.sums import with_float_sums
from quantkit.fuse.graph import quantkit_name
from quantkit.fuse.stream import sums_in_float
from quantkit.quantize.select import select
from quantkit.report.export import export
from quantkit.types import QuantConfig
from tests.graphs import model, quantized, run_onnxruntime, sqnr_db
from tests.kernels.engine import ISAS, isa_name
from tests.native_model import assert_ops_agree_with_onnxruntime

WIDTH = 32
RNG = np.random.default_rng(8)
LOUD = np.arange(WIDTH) % 16 == 3
"""A few channels of the sums are as large as in a trained transformer, and hardly count behind the normalization."""
X = RNG.normal(size=(6, 10, WIDTH)).astype(np.float32)
BIAS = np.where(LOUD, 200.0, RNG.normal(size=WIDTH)).astype(np.float32)
GAIN = (RNG.normal(1, 0.2, WIDTH) * np.where(LOUD, 0.001, 8.0)).astype(np.float32)
WEIGHTS = {
    "w1": (WIDTH, WIDTH),
    "b1": BIAS,
    "b2": (WIDTH,),
    "w2": (WIDTH, 48),
    "w3": (48, WIDTH),
    "w4": (WIDTH, 8),
    "g": GAIN,
}
NO_PREPARATION: dict[str, object] = {"inputs": f"float[N,T,{WIDTH}] x", "outputs": "float[N,T,8] y"}


def block(norm: str = "LayerNormalization", bias: str = ", b2", opset: int = 17) -> onnx.ModelProto:
    """Two residual sums before two normalizations: a block that normalizes first."""
    body = (
        f"p = MatMul(x, w1) q = Add(p, b1) s = Add(q, x) n = {norm}(s, g{bias}) h = MatMul(n, w2) r = Relu(h) "
        f"m = MatMul(r, w3) t = Add(m, s) o = {norm}(t, g{bias}) y = MatMul(o, w4)"
    )
    return model(body, WEIGHTS, opset=opset, **NO_PREPARATION)


def normalized_last() -> onnx.ModelProto:
    """The normalized sum is what is added to: a block of BERT."""
    body = (
        "p = MatMul(x, w1) s = Add(x, p) n = LayerNormalization(s, g, b2) h = MatMul(n, w2) r = Relu(h) "
        "m = MatMul(r, w3) t = Add(n, m) o = LayerNormalization(t, g) y = MatMul(o, w4)"
    )
    return model(body, WEIGHTS, opset=17, **NO_PREPARATION)


def in_float(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Quantized with its sums in float32, whatever that gains."""
    monkeypatch.setattr("quantkit.execute.sums.ENOUGH_DB", np.inf)
    monkeypatch.setattr("quantkit.execute.sums.GAIN_DB", -np.inf)
    return ir.to_proto(quantized(proto, X))


def ops_of(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(
    ("proto", "norm"),
    [
        (block(), "QLayerNormalizationFloat"),
        (block(bias=""), "QLayerNormalizationFloat"),
        (block("RMSNormalization", "", 23), "QRMSNormalizationFloat"),
        (normalized_last(), "QLayerNormalizationFloat"),
    ],
    ids=["pre-norm", "no-bias", "rms", "post-norm"],
)
def test_engine_oracle_and_onnxruntime_agree(proto, norm, monkeypatch):
    made = in_float(proto, monkeypatch)
    onnx.checker.check_model(made, full_check=True)
    assert ops_of(made).count("QAddFloat") == ops_of(made).count(norm) == 2
    unseen = np.random.default_rng(99).permuted(X, axis=1)
    assert_ops_agree_with_onnxruntime(made, unseen)
    expected = run_oracle(made, {"x": unseen})["y"]
    for isa in ISAS:
        for threads in (1, 3):
            session = Session(made, threads=threads, isa=isa_name(isa))
            assert {row.runs_on for row in session.plan} == {"native"}
            np.testing.assert_array_equal(session.run(None, {"x": unseen})[0], expected, err_msg=isa_name(isa))


def test_sums_are_nearer_to_fp32_in_float(monkeypatch):
    wanted = run_onnxruntime(block(), {"x": X})[0]
    monkeypatch.setattr("quantkit.execute.sums.ENOUGH_DB", -np.inf)
    in_u8 = ir.to_proto(quantized(block(), X))
    db = [sqnr_db(wanted, Session(made).run(None, {"x": X})[0]) for made in (in_u8, in_float(block(), monkeypatch))]
    assert db[1] > db[0] + 3.0


def test_float_is_chosen_where_a_few_channels_are_loud_and_said_so():
    config = QuantConfig("minmax", effort="fast", keep_int8=True)
    result = pipeline.quantize(block(bias=""), [{"x": x[None]} for x in X], config=config)
    assert "QAddFloat" in [node.op_type for node in result.model.graph]
    assert any("2 residual sums are float32" in decision.detail for decision in result.decisions)


def test_what_is_near_enough_in_u8_stays_in_u8(monkeypatch):
    fused, _ = pipeline.fused_model(block())
    samples = [{"x": X}]
    assert with_float_sums(fused, select(fused), lambda name: False, samples, QuantConfig("minmax")) is not None
    monkeypatch.setattr("quantkit.execute.sums.ENOUGH_DB", 20.0)
    assert with_float_sums(fused, select(fused), lambda name: False, samples, QuantConfig("minmax")) is None


def test_a_network_without_normalizations_has_no_such_sums():
    body = "p = MatMul(x, w1) s = Add(p, x) h = MatMul(s, w2) r = Relu(h) m = MatMul(r, w3) y = Add(m, s)"
    proto = model(body, WEIGHTS, opset=17, inputs=f"float[N,T,{WIDTH}] x", outputs=f"float[N,T,{WIDTH}] y")
    fused, _ = pipeline.fused_model(proto)
    before = [node.op_type for node in fused.graph]
    assert sums_in_float(fused) == 0
    assert [node.op_type for node in fused.graph] == before


@pytest.mark.parametrize("shape", [(1, 10, WIDTH), (6, 1, WIDTH), (1, 1, WIDTH), (6, 10, WIDTH)])
@pytest.mark.parametrize("first", ["p", "z"])
def test_one_side_of_a_sum_may_be_repeated(shape, first, monkeypatch):
    second = "z" if first == "p" else "p"
    body = f"p = MatMul(x, w1) s = Add({first}, {second}) n = LayerNormalization(s, g, b2) y = MatMul(n, w4)"
    inputs = f"float[N,T,{WIDTH}] x, float[A,B,{WIDTH}] z"
    proto = model(body, WEIGHTS, opset=17, inputs=inputs, outputs="float[N,T,8] y")
    monkeypatch.setattr("quantkit.execute.sums.ENOUGH_DB", np.inf)
    monkeypatch.setattr("quantkit.execute.sums.GAIN_DB", -np.inf)
    feeds = {"x": X, "z": (BIAS * X[:1, :1] + X)[: shape[0], : shape[1]]}
    config = QuantConfig("minmax", effort="fast", keep_int8=True)
    made = ir.to_proto(pipeline.quantize(proto, [feeds], config=config).model)
    assert "QAddFloat" in ops_of(made)
    session = Session(made)
    assert {row.runs_on for row in session.plan} == {"native"}
    np.testing.assert_array_equal(session.run(None, feeds)[0], run_oracle(made, feeds)["y"])


@pytest.mark.parametrize("operands", ["p, places", "places, p"])
def test_one_side_of_a_sum_may_be_constant(operands, monkeypatch):
    body = f"p = MatMul(x, w1) s = Add({operands}) n = LayerNormalization(s, g, b2) y = MatMul(n, w4)"
    weights = {**WEIGHTS, "places": (BIAS * X[:1] + X[1:2]).astype(np.float32)}
    made = in_float(model(body, weights, opset=17, **NO_PREPARATION), monkeypatch)
    assert ops_of(made).count("QAddFloat") == 1
    assert_ops_agree_with_onnxruntime(made, X)
    expected = run_oracle(made, {"x": X})["y"]
    for isa in ISAS:
        session = Session(made, isa=isa_name(isa))
        assert {row.runs_on for row in session.plan} == {"native"}
        np.testing.assert_array_equal(session.run(None, {"x": X})[0], expected, err_msg=isa_name(isa))


def joined(axis: int) -> onnx.ModelProto:
    """A faint class token in front of the others (axis 1), or a few faint channels beside them (axis 2); the first
    normalization reads them as they are, the second one their sum with what is made of them."""
    token = 0.02 * np.random.default_rng(1).normal(size=(1, 1, WIDTH) if axis == 1 else (1, 10, 4))
    width = WIDTH if axis == 1 else WIDTH + 4
    body = (
        f"p = MatMul(x, w1) c = Concat<axis = {axis}>(token, p) n = LayerNormalization(c, one) h = MatMul(n, v) "
        "s = Add(h, c) o = LayerNormalization(s, one) y = MatMul(o, v)"
    )
    weights = {"w1": WEIGHTS["w1"], "v": (width, width), "token": token.astype(np.float32),
               "one": np.ones(width, np.float32)}  # fmt: skip
    outputs = f"float[1,{11 if axis == 1 else 10},{width}] y"
    return model(body, weights, opset=17, inputs=f"float[1,10,{WIDTH}] x", outputs=outputs)


def test_a_faint_token_in_front_of_others_keeps_its_values(monkeypatch):
    monkeypatch.setattr("quantkit.execute.sums.GAIN_DB", -np.inf)
    proto, samples = joined(1), [{"x": 3 * x[None]} for x in X]
    config = QuantConfig("minmax", effort="fast", keep_int8=True)
    db = []
    for enough in (-np.inf, np.inf):
        monkeypatch.setattr("quantkit.execute.sums.ENOUGH_DB", enough)
        made = pipeline.quantize(proto, samples[:4], config=config).model
        pairs = [(run_onnxruntime(proto, feeds)[0], Session(made).run(None, feeds)[0]) for feeds in samples[4:]]
        db.append(min(sqnr_db(a[:, 0], b[:, 0]) for a, b in pairs))
    assert {"Concat", "LayerNormalization", "QLayerNormalizationFloat"} <= set(ops_of(ir.to_proto(made)))
    assert db[1] > db[0] + 6.0


def test_channels_that_are_joined_for_a_sum_stay_in_u8(monkeypatch):
    monkeypatch.setattr("quantkit.execute.sums.GAIN_DB", -np.inf)
    monkeypatch.setattr("quantkit.execute.sums.ENOUGH_DB", np.inf)
    config = QuantConfig("minmax", effort="fast", keep_int8=True)
    made = pipeline.quantize(joined(2), [{"x": x[None]} for x in X], config=config).model
    assert {"QAddFloat", "QConcat2"} <= set(ops_of(ir.to_proto(made)))


@pytest.mark.parametrize(("in_u8", "in_float32", "taken"),
                         [(3.9, 3.6, True), (3.9, 2.7, False), (9.9, 10.1, False), (12.0, 12.5, False),
                          (12.0, 13.5, True)])  # fmt: skip
def test_where_something_else_spoils_the_outputs_sums_are_taken_unless_they_lose(in_u8, in_float32, taken, monkeypatch):
    measured = iter([in_u8, in_float32])
    monkeypatch.setattr("quantkit.execute.sums.db_by_extremes", lambda *args: next(measured))
    fused, _ = pipeline.fused_model(block())
    found = with_float_sums(fused, select(fused), lambda name: False, [{"x": X}], QuantConfig("minmax"))
    assert (found is not None) == taken


def test_sums_of_different_widths_stay_as_they_are():
    body = "p = MatMul(x, w1) s = Add(p, z) n = LayerNormalization(s, g, b2) y = MatMul(n, w4)"
    inputs = f"float[N,T,{WIDTH}] x, float[N,T,1] z"
    fused, _ = pipeline.fused_model(model(body, WEIGHTS, opset=17, inputs=inputs, outputs="float[N,T,8] y"))
    assert sums_in_float(fused) == 0


def test_a_sum_keeps_its_name_and_the_layer_its_own():
    fused, _ = pipeline.fused_model(block())
    layers = {node.name for node in fused.graph if (name := quantkit_name(node)) is not None and name.is_weighted}
    sums_in_float(fused)
    assert {node.outputs[0].name for node in fused.graph if node.op_type == "AddFloat"} == {"s", "t"}
    assert layers <= {node.name for node in fused.graph}
    assert len({node.name for node in fused.graph}) == len(list(fused.graph))


@pytest.mark.parametrize("exact", [False, True])
def test_exports_hold_standard_operators_alone(exact, monkeypatch, tmp_path):
    """onnxruntime's normalization rounds otherwise in float32: a step of u8 behind it, here and there."""
    made = in_float(block(), monkeypatch)
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(made, source)
    runner = CliRunner().invoke(cli, ["export", str(source), "-o", str(target), *([] if exact else ["--fusable"])])
    assert runner.exit_code == 0, runner.output
    written = onnx.load(target)
    assert {node.domain for node in written.graph.node} == {""}
    expected = run_oracle(made, {"x": X})["y"]
    assert sqnr_db(expected, run_onnxruntime(written, {"x": X})[0]) > 40


@pytest.mark.parametrize(("fails", "noted"), [(1, False), (2, True)])
def test_what_fails_with_float_sums_alone_is_noted_and_what_fails_anyway_is_left_to_the_trial(fails, noted,
                                                                                            monkeypatch):  # fmt: skip
    calls = []

    def db_by_extremes(*args):
        calls.append(1)
        if len(calls) == fails:
            raise ValueError("no kernel")
        return 10.0

    monkeypatch.setattr("quantkit.execute.sums.db_by_extremes", db_by_extremes)
    config = QuantConfig("minmax", effort="fast", keep_int8=True)
    result = pipeline.quantize(block(), [{"x": x[None]} for x in X], config=config)
    undone = [(d.node, d.detail) for d in result.decisions if d.action == "undone"]
    assert undone == ([("residual sums in float32", "ValueError: no kernel")] if noted else [])
    assert result.kind == "calibrated"


def test_the_qoperator_form_leaves_float_sums_as_the_standard_operators_that_they_are(monkeypatch):
    made = in_float(block(), monkeypatch)
    written = ir.to_proto(export(made, "qoperator"))
    assert {"Add", "LayerNormalization"} <= set(ops_of(written))
    wanted = Session(made, threads=1).run(None, {"x": X})[0]
    assert sqnr_db(wanted, run_onnxruntime(written, {"x": X})[0]) > 30
