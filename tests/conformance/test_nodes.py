"""ONNX's own node tests through Session: whatever onnxruntime passes must pass. A quarter of them every day."""

import warnings

import pytest
from onnx.backend.test.loader import load_model_tests

from quantkit import Session
from quantkit.errors import ModelError
from tests.conformance.backend import OnnxruntimeBackend, QuantkitBackend, passes

EXCLUDED = dict.fromkeys(
    ("test_not_2d", "test_not_3d", "test_not_4d"), "opset 1; quantkit reads opset 7 and later and says so"
)
"""Case -> why quantkit does not run it, though onnxruntime does."""
EVERYDAY, ALWAYS = 4, ("quantize", "qlinear", "integer", "sequence", "optional", "scan", "loop", "empty")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the cases compute log(0) and the like on purpose
    CASES = {case.name: case for case in load_model_tests(kind="node")}


def daily(index, name):
    return index % EVERYDAY == 0 or any(word in name for word in ALWAYS)


PARAMETERS = [
    pytest.param(name, marks=[] if daily(i, name) else [pytest.mark.slow])
    for i, name in enumerate(CASES)
    if name not in EXCLUDED
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_node_test_passes_if_onnxruntime_passes_it(name):
    reason = passes(OnnxruntimeBackend, CASES[name])
    if reason:
        pytest.skip(f"onnxruntime: {reason[:80]}")
    assert passes(QuantkitBackend, CASES[name]) == ""


@pytest.mark.parametrize("name", [name for name in EXCLUDED if name in CASES])
def test_an_excluded_case_is_refused_for_the_reason_given(name):
    with pytest.raises(ModelError, match="older than 7"):
        Session(CASES[name].model)


def test_onnxruntime_passes_most_cases_so_that_this_proves_something():
    sample = list(CASES.values())[::20]
    assert sum(not passes(OnnxruntimeBackend, case) for case in sample) > len(sample) // 2
