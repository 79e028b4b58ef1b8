"""The first samples of data whose first axis is a batch, and of data where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit import Session, compare, pipeline
from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe import FloatRunner
from quantkit.observe.peek import peek
from quantkit.types import QuantConfig
from tests.graphs import model, sqnr_db

FRAMES = [TensorSpec("x", ("T", 16), np.dtype(np.float32))]
WEIGHTS = {"w": (64, 16, 5), "v": (8, 64, 3), "first": np.array([0], np.int64)}


def convolved():
    """Frames [T, 16] without a batch axis, as music taggers take them: seven frames at least."""
    body = """t = Transpose<perm = [1, 0]>(x) u = Unsqueeze(t, first) c = Conv<kernel_shape = [5]>(u, w) r = Relu(c)
    d = Conv<kernel_shape = [3]>(r, v) s = Squeeze(d, first) y = Transpose<perm = [1, 0]>(s)"""
    return model(body, WEIGHTS, inputs="float[T,16] x", outputs="float[S,8] y")


def recurrent():
    """A row alone runs, but gives something else than among the others."""
    body = """u = Unsqueeze(x, axis) h = RNN<hidden_size = 8>(u, w, r) y = Squeeze(h, axes)"""
    return model(body, {"w": (1, 8, 16), "r": (1, 8, 8), "axis": np.array([1], np.int64),
                        "axes": np.array([1, 2], np.int64)},
                 inputs="float[T,16] x", outputs="float[T,8] y")  # fmt: skip


def by_rows():
    return model("m = MatMul(x, w) y = Relu(m)", {"w": (16, 4)}, inputs="float[T,16] x", outputs="float[T,4] y")


def items(count=3, frames=40):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(frames, 16)).astype(np.float32)} for _ in range(count)]


def seen(proto, data):
    return [feeds["x"].shape for feeds in peek(data, FRAMES, open_float=lambda: FloatRunner(proto, 1))[1]]


@pytest.mark.parametrize("made", [convolved, recurrent])
def test_items_whose_rows_are_no_samples_of_their_own_stay_whole(made):
    assert seen(made(), items()) == [(40, 16)] * 3


def test_a_batch_of_samples_is_taken_apart():
    assert seen(by_rows(), items()) == [(1, 16)] * 8


def test_a_single_array_is_taken_as_many_samples():
    assert seen(by_rows(), {"x": items(1)[0]["x"]}) == [(1, 16)] * 8


def test_a_model_of_frames_without_a_batch_axis_is_quantized_and_compared():
    data, judged = items(8), items(9)[-1:]
    made = pipeline.quantize(convolved(), data, config=QuantConfig(effort="fast", keep_int8=True))
    assert made.kind == "calibrated"
    wanted = FloatRunner(convolved(), 1).run(judged[0])[0]
    assert sqnr_db(wanted, Session(made.model, threads=1).run(None, judged[0])[0]) > 25
    compared = compare(convolved(), made.model, judged, seconds=0.05, layers=False, threads=1)
    assert compared.throughput["speedup"] > 0


@pytest.mark.parametrize("frames", [1, 4])
def test_an_input_too_small_for_a_window_is_refused_by_the_name_of_the_node(frames):
    session = Session(pipeline.quantize(convolved(), items(8), config=QuantConfig(effort="fast", keep_int8=True)).model)
    with pytest.raises(DataError, match=r"inputs are too small for it, its output would be .*-"):
        session.run(None, {"x": np.zeros((frames, 16), np.float32)})
