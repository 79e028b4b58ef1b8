"""Session: equal to the oracle on every ISA, for any threads and batch; clear errors; the calls of onnxruntime."""

import threading

import numpy as np
import onnx
import pytest

from quantkit import Session, pipeline
from quantkit.errors import DataError, EngineError, QuantkitError, UsageError
from quantkit.execute.binding import available_isas
from quantkit.execute.oracle import run_oracle
from tests.graphs import CONV, image, model, quantized, run_onnxruntime

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
DEPTHWISE = "kernel_shape = [3, 3], pads = [0, 0, 1, 1], strides = [2, 2], dilations = [1, 1], group = 8"
GROUPED = "kernel_shape = [3, 3], pads = [2, 2, 2, 2], strides = [1, 1], dilations = [2, 2], group = 2"
ISAS = [isa for isa, there in available_isas().items() if there]
F32 = np.float32

W = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 1, 1), "d": (8, 1, 3, 3), "g": (8, 4, 3, 3), "f": (10, 8), "h": (10,)}
NETWORKS = {
    "residual": f"c = Conv<{CONV}>(x, w, b) r = Relu(c) q = Conv<{POINT}>(r, v) a = Add(q, r) y = Relu(a)",
    "depthwise and grouped": f"c = Conv<{CONV}>(x, w, b) r = Clip(c, zero, six) d1 = Conv<{DEPTHWISE}>(r, d) "
                             f"y = Conv<{GROUPED}>(d1, g)",
    "squeeze and excite": f"c = Conv<{CONV}>(x, w, b) p = GlobalAveragePool(c) q = Conv<{POINT}>(p, v) "
                          f"s = HardSigmoid(q) m = Mul(c, s) y = Conv<{POINT}>(m, v)",
    "pools and concat": f"c = Conv<{CONV}>(x, w, b) m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) "
                        f"a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) k = Concat<axis=1>(m, a, c) "
                        f"u, t, e = Split<axis=1>(k) l = LeakyRelu(t) n = Add(u, l) o = Mul(n, e) "
    f"y = Conv<{POINT}>(o, v)",
    "classifier": f"c = Conv<{CONV}>(x, w, b) t = Tanh(c) p = GlobalAveragePool(t) k = Flatten(p) "
                  f"y = Gemm<transB=1>(k, f, h)",
    "a float op in the middle": f"c = Conv<{CONV}>(x, w, b) s = LogSoftmax<axis=1>(c) "
                                f"q = Conv<{POINT}>(s, v) y = Relu(q)",
    "resize and pad": f"c = Conv<{CONV}>(x, w, b) p = Pad(c, pads) e = Resize<mode=\"nearest\", "
                      f"coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">(p, , scales) "
                      f"y = Conv<{POINT}>(e, v)",
}  # fmt: skip
CONSTANTS = {
    "zero": np.array(0, F32), "six": np.array(6, F32), "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64),
    "scales": np.array([1, 1, 2, 2], F32),
}  # fmt: skip


def network(name):
    body = NETWORKS[name]
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    weights = {**W, **CONSTANTS}
    return model(
        body, {key: value for key, value in weights.items() if key in words}, outputs="float[..] y".replace("[..]", "")
    )


@pytest.fixture(scope="module")
def calibrated():
    return {name: quantized(network(name)) for name in NETWORKS}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_engine_equals_the_oracle(calibrated, name, isa):
    x = image(3, 3, 8, 8) * 2
    session = Session(calibrated[name], threads=2, isa=isa)
    assert session.isa == isa
    got, expected = session.run(None, {"x": x})[0], run_oracle(calibrated[name], {"x": x})["y"]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["residual", "pools and concat", "classifier"])
def test_results_do_not_depend_on_threads_or_batch(calibrated, name):
    x = image(8, 3, 8, 8)
    whole = Session(calibrated[name], threads=1).run(None, {"x": x})[0]
    for threads in (2, 3):
        np.testing.assert_array_equal(Session(calibrated[name], threads=threads).run(None, {"x": x})[0], whole)
    session = Session(calibrated[name], threads=1)
    singles = [session.run(None, {"x": x[i : i + 1]})[0] for i in range(8)]
    np.testing.assert_array_equal(np.concatenate(singles), whole)


def test_everything_of_a_plain_network_runs_natively(calibrated):
    plan = Session(calibrated["residual"]).plan
    assert {row.runs_on for row in plan} == {"native"}
    macs = {row.name: row.macs for row in plan}
    assert sum(macs.values()) == 64 * 8 * 27 + 64 * 8 * 8


def test_a_float_op_runs_in_onnxruntime_and_says_why(calibrated):
    rows = {row.op: row for row in Session(calibrated["a float op in the middle"]).plan}
    assert rows["LogSoftmax"].runs_on == "onnxruntime"
    assert "float32" in rows["LogSoftmax"].reason


def test_an_fp32_model_runs_as_in_onnxruntime():
    proto, x = network("residual"), image(2, 3, 8, 8)
    np.testing.assert_array_equal(
        Session(proto, threads=1).run(["y"], {"x": x})[0], run_onnxruntime(proto, {"x": x}, True)[0]
    )


def test_a_converted_model_runs():
    converted, x = pipeline.convert(network("residual")), image(2, 3, 8, 8)
    got = Session(converted.model, threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, run_onnxruntime(converted.proto, {"x": x})[0], atol=1e-5)


def test_image_sizes_may_change_from_run_to_run():
    proto = model(NETWORKS["residual"], {k: W[k] for k in "wbv"}, inputs="float[N,3,H,W] x")
    calibrated = quantized(proto)
    session = Session(calibrated, threads=1)
    for size in [(8, 8), (9, 5), (16, 3), *((i, i) for i in range(4, 16))]:
        x = image(1, 3, *size)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], run_oracle(calibrated, {"x": x})["y"])


def test_a_non_contiguous_input_is_taken():
    x = image(1, 8, 8, 3).transpose(0, 3, 1, 2)
    calibrated = quantized(network("residual"))
    session = Session(calibrated)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], session.run(None, {"x": np.ascontiguousarray(x)})[0])


def test_many_threads_may_share_a_session(calibrated):
    session = Session(calibrated["pools and concat"], threads=2)
    inputs = [image(2, 3, 8, 8, seed=i) for i in range(4)]
    expected = [session.run(None, {"x": x})[0] for x in inputs]
    wrong = []

    def work(i):
        for _ in range(50):
            if not np.array_equal(session.run(None, {"x": inputs[i]})[0], expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_inputs_and_outputs_are_described_as_in_onnxruntime(calibrated):
    session = Session(calibrated["classifier"])
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type) == ("x", ["N", 3, 8, 8], "tensor(float)")
    assert (y.name, y.type) == ("y", "tensor(float)")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "'x' is missing"),
        ({"x": image(1, 3, 8, 8), "z": 1}, "'z' is unknown"),
        ({"x": image(1, 3, 8, 8).astype(np.float64)}, "float64"),
        ({"x": image(1, 4, 8, 8)}, r"\[1, 4, 8, 8\]"),
        ({"x": image(3, 8, 8)}, r"\[3, 8, 8\]"),
        ({"x": image(0, 3, 8, 8)}, "empty"),
    ],
)
def test_a_wrong_feed_is_a_data_error_that_names_it_also_after_a_right_one(calibrated, feeds, message):
    session = Session(calibrated["residual"])
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            session.run(None, feeds)
        session.run(None, {"x": image(1, 3, 8, 8)})


def test_wrong_settings_are_refused(calibrated, monkeypatch):
    with pytest.raises(UsageError, match="no output"):
        Session(calibrated["residual"]).run(["nope"], {"x": image(1, 3, 8, 8)})
    with pytest.raises(EngineError, match="neon"):
        Session(calibrated["residual"], isa="neon")
    with pytest.raises(UsageError, match="threads"):
        Session(calibrated["residual"], threads=0)
    monkeypatch.setenv("QUANTKIT_NUM_THREADS", "many")
    with pytest.raises(UsageError, match="QUANTKIT_NUM_THREADS"):
        Session(calibrated["residual"])


def test_the_isa_can_be_forced_by_the_environment(calibrated, monkeypatch):
    monkeypatch.setenv("QUANTKIT_ISA", "scalar")
    session = Session(calibrated["residual"])
    assert session.isa == "scalar"
    assert all("scalar" in row.kernel for row in session.plan if row.op.startswith("QConv"))


def test_a_broken_file_is_a_quantkit_error(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(QuantkitError):
        Session(tmp_path / "m.onnx")


def test_inner_tensors_can_be_read_dequantized(calibrated):
    session = Session(calibrated["residual"])
    x = image(1, 3, 8, 8)
    inner = session.run_intermediate(["r_quantized", "absent"], {"x": x})
    assert list(inner) == ["r_quantized"]
    reference = network("residual")
    reference.graph.output.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None))
    expected = run_onnxruntime(reference, {"x": x})[1]
    assert np.abs(inner["r_quantized"] - expected).max() < 0.1


def test_a_profile_names_every_node_that_did_work(calibrated):
    rows = Session(calibrated["residual"]).profile({"x": image(4, 3, 8, 8)})
    assert {row[1] for row in rows} >= {"QConvRelu", "QConvAddRelu", "QuantizeLinear", "DequantizeLinear"}
    assert all(row[3] > 0 for row in rows)


def test_what_a_stage_returned_can_be_used_as_a_model():
    proto, x = network("residual"), image(2, 3, 8, 8)
    result = pipeline.calibrate(pipeline.convert(proto), [{"x": image(4, 3, 8, 8)}])
    np.testing.assert_array_equal(Session(result).run(None, {"x": x})[0], run_oracle(result.model, {"x": x})["y"])


def test_threads_that_meet_new_shapes_at_once_get_right_results():
    proto = model(NETWORKS["residual"], {k: W[k] for k in "wbv"}, inputs="float[N,3,H,W] x")
    calibrated = quantized(proto)
    session, reference = Session(calibrated, threads=1), Session(calibrated, threads=1)
    sizes = [(4 + i, 4 + (i * 5) % 7) for i in range(24)]
    expected = {size: reference.run(None, {"x": image(1, 3, *size)})[0] for size in sizes}
    wrong = []

    def work(start):
        for size in sizes[start:] + sizes[:start]:
            if not np.array_equal(session.run(None, {"x": image(1, 3, *size)})[0], expected[size]):
                wrong.append(size)

    workers = [threading.Thread(target=work, args=(i * 3,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
