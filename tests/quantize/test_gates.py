"""HardSigmoid behind weights as a clamp, and models whose HardSwish is scaled by channel, from file to engine."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit import Session, pipeline
from quantkit.execute.oracle import run_oracle
from quantkit.fuse.expand import expand
from quantkit.quantize import choose
from quantkit.quantize.choose import SAME_DB, Choice, safest
from quantkit.quantize.equalize import LAWS
from quantkit.quantize.gates import gates_as_clamps
from quantkit.report.export import FORMATS, export
from quantkit.types import QuantConfig
from tests.graphs import CONV, fused, image, model, run_onnxruntime, sqnr_db

POINT = "kernel_shape=[1,1]"
DEPTHWISE = "kernel_shape=[3,3],pads=[1,1,1,1],group=8"
GATED = (
    f"c = Conv<{CONV}>(x,w,b) r = HardSwish(c) d = Conv<{DEPTHWISE}>(r,v,b) e = HardSwish(d) h = GlobalAveragePool(e) "
    f"p = Conv<{POINT}>(h,u,b) g = HardSigmoid<alpha=0.16666667,beta=0.5>(p) o = Mul(e,g) y = Conv<{POINT}>(o,u,b)"
)
WEIGHTS = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 1, 3, 3), "u": (8, 8, 1, 1)}


def gated() -> onnx.ModelProto:
    """Channels 0.1 to 10 times as large as the first layer makes them, taken back by the depthwise one."""
    sizes = np.geomspace(0.1, 10.0, 8, dtype=np.float32)
    rng = np.random.default_rng(3)
    first = rng.normal(size=(8, 3, 3, 3)).astype(np.float32) * sizes.reshape(-1, 1, 1, 1)
    second = rng.normal(size=(8, 1, 3, 3)).astype(np.float32) / sizes.reshape(-1, 1, 1, 1)
    return model(GATED, {**WEIGHTS, "w": first, "v": second}, inputs="float[N,3,8,8] x", outputs="float[N,8,8,8] y")


def test_a_gate_becomes_a_clamp_of_the_same_value():
    proto, x = gated(), image(4, 3, 8, 8, seed=3)
    made = fused(proto)
    gates_as_clamps(made, lambda name: True)
    assert [node.op_type for node in made.graph].count("ConvClip") == 1
    assert not any("HardSigmoid" in node.op_type for node in made.graph)
    wanted = run_onnxruntime(proto, {"x": x})[0]
    np.testing.assert_allclose(run_onnxruntime(ir.to_proto(expand(made)), {"x": x})[0], wanted, atol=1e-5)


def test_a_gate_that_is_kept_in_fp32_stays():
    made = fused(gated())
    before = [node.op_type for node in made.graph]
    gates_as_clamps(made, lambda name: False)
    assert [node.op_type for node in made.graph] == before


@pytest.fixture(scope="module")
def scaled() -> onnx.ModelProto:
    """Equalized by a law that is always taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "EQUALIZE_DB", -100.0)
        patch.setattr(choose, "LAWS", {"deviations": LAWS["deviations"]})
        config = QuantConfig(method="minmax", keep_int8=True)
        made = pipeline.quantize(gated(), image(64, 3, 8, 8, seed=5), config=config).model
    return ir.to_proto(made)


def test_the_engine_gives_the_bits_of_the_oracle_for_hard_swish_scaled_by_channel(scaled):
    assert {"QConvWideHardSwishScaled"} < {node.op_type for node in scaled.graph.node}
    onnx.checker.check_model(scaled, full_check=True)
    x = image(3, 3, 8, 8, seed=6)
    (oracle,) = run_oracle(scaled, {"x": x}).values()
    for isa in ("scalar", None):
        np.testing.assert_array_equal(Session(scaled, isa=isa).run(None, {"x": x})[0], oracle)


def test_onnxruntime_runs_it_as_it_is_and_exported(scaled):
    x = image(3, 3, 8, 8, seed=6)
    got = Session(scaled).run(None, {"x": x})[0]
    assert sqnr_db(run_onnxruntime(scaled, {"x": x})[0], got) > 35.0
    for form in FORMATS:
        assert sqnr_db(run_onnxruntime(ir.to_proto(export(scaled, form)), {"x": x})[0], got) > 35.0, form


def test_equalized_channels_of_hard_swish_lose_less():
    x = image(16, 3, 8, 8, seed=7)
    wanted = run_onnxruntime(gated(), {"x": x})[0]
    plain, balanced = (
        pipeline.quantize(gated(), image(64, 3, 8, 8, seed=5), config=QuantConfig(effort=effort, keep_int8=True)).model
        for effort in ("fast", "balanced")
    )
    before, after = (sqnr_db(wanted, Session(m).run(None, {"x": x})[0]) for m in (plain, balanced))
    assert after > before + 3.0


def test_of_choices_that_measure_the_same_the_one_that_loses_least_on_changed_samples_is_taken():
    first = Choice(None, "mse", False, 30.0, 10.0)
    near = Choice(None, "minmax", False, 30.0 - 0.9 * SAME_DB, 20.0)
    far = Choice(None, "entropy", False, 30.0 - 1.1 * SAME_DB, 30.0)
    assert safest([first, near, far]) is near
