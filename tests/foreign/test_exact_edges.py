"""The QuantizeLinear of FP32 values in the exact form: ties as the engine rounds them, in every runtime."""

import numpy as np
import pytest

from quantkit import Session
from quantkit.foreign.exact_edges import thresholds
from quantkit.load import to_proto
from quantkit.report.export import export
from quantkit.types import QuantParams
from tests.every_op import EVERY_OP, calibrated
from tests.foreign.test_exact import LEVELS, in_onnxruntime
from tests.foreign.test_export import in_openvino


def test_each_threshold_is_the_least_float32_that_becomes_its_byte():
    rng = np.random.default_rng(0)
    bytes_ = np.arange(1, 256)
    for _ in range(300):
        scale, zero_point = np.float32(10 ** rng.uniform(-20, 10)), int(rng.integers(0, 256))
        found = thresholds(QuantParams(float(scale), zero_point))[1:]
        at, before = (
            np.clip(np.rint(x / scale) + zero_point, 0, 255) for x in (found, np.nextafter(found, np.float32(-np.inf)))
        )
        assert (at >= bytes_).all()
        assert (before < bytes_).all()


@pytest.fixture(scope="module")
def transposed():
    """(model, its export, inputs that lie on ties of the first QuantizeLinear, next to them, and beyond the range)."""
    model = calibrated(EVERY_OP["Transpose"])
    scale = next(node for node in model.graph if node.op_type == "QuantizeLinear").inputs[1].const_value.numpy()
    ties = ((np.arange(256).reshape(1, 4, 8, 8) - 128) + 0.5).astype(np.float32) * scale
    beside = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    beyond = np.resize(np.float32([np.inf, -np.inf, 1e30, -1e30]), (1, 4, 8, 8))
    return model, to_proto(export(model)), np.concatenate([ties, *beside, beyond])


def test_ties_of_the_input_are_rounded_as_the_engine_rounds_them(transposed):
    model, exported, x = transposed
    wanted = Session(model, threads=1).run(None, {"x": x})[0]
    for level in LEVELS:
        np.testing.assert_array_equal(in_onnxruntime(exported, {"x": x}, level), wanted)
    step = np.abs(wanted).max() / 255
    assert np.abs(in_openvino(exported, {"x": x}) - wanted).max() < 0.01 * step


def test_not_a_number_is_the_largest_byte(transposed):
    model, exported, _ = transposed
    x = np.full((1, 4, 8, 8), np.nan, np.float32)
    wanted = Session(model, threads=1).run(None, {"x": x})[0]
    np.testing.assert_array_equal(in_onnxruntime(exported, {"x": x}, "off"), wanted)


@pytest.mark.parametrize("case", ["Reshape", "Transpose", "Slice", "Split", "Concat", "Gather", "MaxPool",
                                  "Resize nearest", "DepthToSpace"])  # fmt: skip
def test_what_moves_values_moves_bytes(case):
    graph = export(calibrated(EVERY_OP[case])).graph
    moved = [node for node in graph if node.op_type == case.split()[0] and node.inputs[0].const_value is None]
    assert moved
    assert {node.inputs[0].dtype.name for node in moved} == {"UINT8"}
