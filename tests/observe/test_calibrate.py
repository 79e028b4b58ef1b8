"""Observation of a float model: the right statistics, errors that name tensor and sample, bounded time and memory."""

from __future__ import annotations

import gc
import time
import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import CalibrationError, DataError, ModelError
from quantkit.execute.binding import NativeStatistics
from quantkit.load.specs import TensorSpec
from quantkit.observe import FloatRunner, NumpyBackend, calibrate, load_preprocess, observe, open_data, runner

SPEC = [TensorSpec("x", ("N", 4), np.dtype(np.float32))]


def small_model(weight: float = 2.0, batch: int | str = "N") -> onnx.ModelProto:
    """x [N, 4] -> doubled -> shifted (+1) -> relu -> y."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["doubled"], "mul"),
        helper.make_node("Add", ["doubled", "one"], ["shifted"], "add"),
        helper.make_node("Relu", ["shifted"], ["y"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [
            numpy_helper.from_array(np.array(weight, np.float32), "w"),
            numpy_helper.from_array(np.array(1.0, np.float32), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rows(count: int = 10) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


@pytest.mark.parametrize("form", ["proto", "bytes", "path", "ir"])
def test_inputs_intermediates_and_outputs_are_observed_in_every_form_of_model(form, tmp_path):
    proto = small_model()
    onnx.save(proto, tmp_path / "m.onnx")
    forms = {
        "proto": lambda: proto,
        "bytes": proto.SerializeToString,
        "path": lambda: tmp_path / "m.onnx",
        "ir": lambda: ir.serde.deserialize_model(proto),
    }
    before = proto.SerializeToString()
    found = observe(forms[form](), ["x", "doubled", "y"], open_data(rows(), SPEC))
    expected = {"x": rows(), "doubled": rows() * 2, "y": np.maximum(rows() * 2 + 1, 0)}
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].low, found[name].high) == (value.min(), value.max())
        assert found[name].count == found[name].counted == value.size
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_statistics_do_not_depend_on_the_batch_size(batch_size):
    whole = observe(small_model(), ["doubled"], open_data(rows(), SPEC))["doubled"]
    other = observe(small_model(), ["doubled"], open_data(rows(), SPEC, batch_size=batch_size))["doubled"]
    np.testing.assert_array_equal(whole.counts, other.counts)
    assert (whole.low, whole.high, whole.count) == (other.low, other.high, other.count)


def test_padding_of_a_static_batch_is_not_counted():
    specs = [TensorSpec("x", (4, 4), np.dtype(np.float32))]
    found = observe(small_model(batch=4), ["x", "y"], open_data(rows(9), specs))
    assert {name: entry.count for name, entry in found.items()} == {"x": 36, "y": 36}


def test_a_feed_whose_arrays_share_no_first_axis_is_counted_whole():
    proto = small_model()
    proto.graph.initializer.pop(0)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
    specs = [*SPEC, TensorSpec("w", (1,), np.dtype(np.float32))]
    data = open_data([{"x": rows(), "w": np.array([2.0], np.float32)}], specs)
    assert observe(proto, ["doubled"], data)["doubled"].count == rows().size


def test_nan_is_reported_where_it_starts():
    x = rows(6)
    x[4] = 0.0
    model = small_model()
    model.graph.node[0].op_type, model.graph.node[0].input[1] = "Div", "x"
    with pytest.raises(CalibrationError, match=r"^doubled"):
        observe(model, ["x", "doubled", "shifted", "y"], open_data(x, SPEC))


@pytest.mark.parametrize("threads", [1, 2])
def test_statistics_do_not_depend_on_the_number_of_threads(threads):
    names = ["x", "doubled", "shifted", "y"]
    expected = observe(small_model(), names, open_data(rows(), SPEC))
    found = observe(small_model(), names, open_data(rows(), SPEC), threads=threads)
    assert [entry.to_json() for entry in found.values()] == [entry.to_json() for entry in expected.values()]


@pytest.mark.parametrize("shape", [(1, 3, 224, 224), (2, 64, 112, 112), (1, 7, 40000), (3, 100003)])
def test_the_part_for_the_histogram_is_bounded_and_meets_every_column(shape):
    x = np.zeros(shape, dtype=np.float32)
    x[...] = np.arange(shape[-1])
    part, _ = calibrate._part(x, shape[0])
    assert part.shape[0] == shape[0]
    assert part.shape[1] <= calibrate.HISTOGRAM_VALUES
    assert part.shape[1] > calibrate.HISTOGRAM_VALUES / 2
    if shape[-1] < 1000:
        assert len(np.unique(part)) == shape[-1]


@pytest.mark.parametrize(("most", "at_a_time"), [(1, 1), (1 << 40, 2)])
def test_batches_with_large_activations_go_through_the_model_one_by_one(most, at_a_time, monkeypatch):
    monkeypatch.setattr("quantkit.observe.calibrate.ACTIVATIONS_MOST", most)
    running, peak = [], []
    run = FloatRunner.run

    def slow(self, feeds, names=None):
        running.append(1)
        peak.append(len(running))
        time.sleep(0.05)
        made = run(self, feeds, names)
        running.pop()
        return made

    monkeypatch.setattr(FloatRunner, "run", slow)
    observe(small_model(), ["y"], open_data(rows(8), SPEC, batch_size=1), threads=2)
    assert max(peak) == at_a_time


def test_small_tensors_go_to_the_histogram_whole():
    x = np.zeros((2, calibrate.HISTOGRAM_VALUES), np.float32)
    part, step = calibrate._part(x, 2)
    assert step == 1
    assert part.shape == x.shape


def test_an_extreme_value_that_the_histogram_part_misses_is_still_the_maximum():
    specs = [TensorSpec("x", ("N", 4), np.dtype(np.float32))]
    x = np.zeros((50_000, 4), dtype=np.float32)
    x[12_345, 2] = 7.0
    found = observe(small_model(), ["x"], open_data([x], specs))["x"]
    assert found.high == 7.0
    assert found.count == x.size


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_an_activation_names_the_tensor_and_the_sample(bad):
    x = rows(6)
    x[4] = 1e38 if bad == np.inf else 0.0
    weight = 1e30 if bad == np.inf else 2.0
    model = small_model(weight)
    if np.isnan(bad):  # 0 / 0 in sample 4 only
        model.graph.node[0].op_type = "Div"
        model.graph.node[0].input[1] = "x"
    with pytest.raises(CalibrationError, match=r"^doubled: 4 values are NaN or infinite for sample data\[4\]"):
        observe(model, ["doubled"], open_data(x, SPEC, batch_size=3))


@pytest.mark.parametrize("name", ["absent", "w"])
def test_a_tensor_that_no_node_makes_is_a_calibration_error(name):
    with pytest.raises(CalibrationError, match=name):
        observe(small_model(), [name], open_data(rows(), SPEC))


def test_data_without_a_batch_is_a_calibration_error():
    with pytest.raises(CalibrationError, match="no sample"):
        observe(small_model(), ["y"], [])


def test_progress_counts_samples_to_the_total():
    calls = []
    observe(
        small_model(),
        ["y"],
        open_data(rows(10), SPEC, batch_size=4),
        progress=lambda phase, done, total: calls.append((phase, done, total)),
    )
    assert calls == [("calibrate", 4, 10), ("calibrate", 8, 10), ("calibrate", 10, 10)]


def test_a_backend_that_is_given_does_the_work():
    class Counting(NumpyBackend):
        calls = 0

        def min_max(self, x):
            self.calls += 1
            assert x.dtype == np.float32
            assert x.flags.c_contiguous
            assert x.ndim == 1
            return super().min_max(x)

    backend = Counting()
    observe(small_model(), ["x", "y"], open_data(rows(10), SPEC, batch_size=5), backend=backend)
    assert backend.calls == 20  # 10 samples of 2 tensors


@pytest.mark.parametrize("batch_size", [1, 4, 10])
@pytest.mark.parametrize("threads", [1, 3])
def test_moving_average_is_the_mean_over_samples_whatever_the_batches_and_threads(batch_size, threads):
    found = observe(small_model(), ["x", "y"], open_data(rows(10), SPEC, batch_size=batch_size), threads=threads)
    x = rows(10).astype(np.float64)
    assert found["x"].samples == 10
    assert found["x"].mean_low == pytest.approx(x.min(axis=1).mean(), rel=1e-14)
    assert (found["x"].low, found["x"].high) == (x.min(), x.max())
    assert found["x"].mean_high == pytest.approx(x.max(axis=1).mean(), rel=1e-14)


def wide_model() -> onnx.ModelProto:
    """small_model over 5000 rows: a weight that is large enough to be stored outside the file."""
    proto = small_model()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((5000, 4), 2.0, np.float32), "w"))
    return proto


def serialized(model: onnx.ModelProto | ir.Model) -> bytes:
    return (ir.serde.serialize_model(model) if isinstance(model, ir.Model) else model).SerializeToString()


@pytest.mark.parametrize("form", ["proto", "ir"])
def test_models_too_large_for_protobuf_go_through_external_data(form, monkeypatch):
    monkeypatch.setattr(runner, "INLINE_BYTES", 10_000)
    proto = wide_model()
    model = proto if form == "proto" else ir.serde.deserialize_model(proto)
    before = serialized(model)
    x = rows(5000)
    found = observe(model, ["doubled"], open_data([x], SPEC))["doubled"]
    assert found.high == (x * 2).max()
    assert serialized(model) == before


@pytest.mark.parametrize("form", ["proto", "ir"])
def test_large_weights_are_lent_to_onnxruntime_and_outlive_the_model(form, monkeypatch):
    monkeypatch.setattr(runner, "LENT_BYTES", 10_000)
    proto = wide_model()
    model = proto if form == "proto" else ir.serde.deserialize_model(proto)
    before = serialized(model)
    lent = FloatRunner(model, 1, expose=["doubled"])
    assert serialized(model) == before
    wanted = FloatRunner(before, 1).run({"x": rows(5000)})
    del proto, model, before
    gc.collect()
    for expected, got in zip(wanted, lent.run({"x": rows(5000)}), strict=False):
        np.testing.assert_array_equal(expected, got)


@pytest.mark.parametrize("form", ["path", "ir"])
def test_weights_in_an_external_file_are_found_from_any_folder(form, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    onnx.save_model(wide_model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = tmp_path / "m.onnx" if form == "path" else ir.load(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path / "elsewhere")
    x = rows(5000)
    found = observe(model, ["doubled"], open_data([x], SPEC))["doubled"]
    assert found.high == (x * 2).max()


def test_the_runner_gives_outputs_by_name_and_translates_errors():
    float_runner = FloatRunner(small_model(), 1, expose=["doubled"])
    assert float_runner.output_names == ["y", "doubled"]
    assert float_runner.inputs == SPEC
    (doubled,) = float_runner.run({"x": rows()}, ["doubled"])
    np.testing.assert_array_equal(doubled, rows() * 2)
    with pytest.raises(DataError, match=r"x float32 \[2, 3\]"):
        float_runner.run({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(ModelError, match="cannot load"):
        FloatRunner(b"no model")


def test_memory_of_python_does_not_grow_with_the_number_of_samples():
    def peak(samples: int) -> int:
        data = open_data((np.ones((1, 4), np.float32) for _ in range(samples)), SPEC)
        gc.collect()
        tracemalloc.start()
        observe(small_model(), ["x", "doubled", "shifted", "y"], data, progress=collect)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    def collect(phase: str, done: int, total: int | None) -> None:
        if done % 20 == 0:  # garbage in cycles, whenever Python would collect it, is not what is meant
            gc.collect()

    peak(5)  # imports and caches
    assert peak(400) < peak(100) + 100_000  # keeping one batch of activations each would add 300 * 4 arrays


def lite0_setup(shared, samples):
    model = onnx.load(shared("models/efficientnet_lite0.onnx"))
    float_runner = FloatRunner(model)
    recipe = load_preprocess("efficientnet-lite")
    return (
        model,
        float_runner,
        open_data(shared("data/imagenet/calib"), float_runner.inputs, preprocess=recipe, samples=samples),
    )


def test_observation_of_lite0_takes_at_most_twice_the_plain_inference(shared):
    model, float_runner, data = lite0_setup(shared, samples=24)
    tensors = [node.output[0] for node in model.graph.node if node.op_type in ("Clip", "Add", "Gemm")]
    first = lite0_setup(shared, samples=1)[2]

    def plain() -> None:
        for batch in data:
            float_runner.run(batch.feeds)

    def observation(samples) -> None:
        observe(model, tensors, samples, backend=NativeStatistics())

    def seconds(function, *arguments) -> float:
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start

    plain()
    # One after the other, so that both sides of a ratio meet the same load of the machine; one of the lowest is
    # one with few other programs in it. What one sample takes is the start-up.
    ratios = [(seconds(observation, data) - seconds(observation, first)) / seconds(plain) for _ in range(6)]
    assert sorted(ratios)[1] < 2.0


def test_the_range_of_relu6_in_lite0_is_zero_to_six(shared):
    model, _, data = lite0_setup(shared, samples=3)
    clips = [node.output[0] for node in model.graph.node if node.op_type == "Clip"]
    found = observe(model, clips[:3], data)
    assert [(entry.low, entry.high) for entry in found.values()] == [(0.0, 6.0)] * 3
