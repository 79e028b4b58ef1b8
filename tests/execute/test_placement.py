"""The reasons that `inspect` gives for nodes outside the engine are true, and say more than that they are outside."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit import Session, pipeline
from quantkit.execute.placement import FORM_UNUSED
from quantkit.types import QuantConfig
from tests.graphs import image, model

BODY = """c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w) s = Sin(c) r = Relu(s)
d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r, v) n = Shape(x) k = Gather(n, zero) j = ArgMax<axis = 1>(d)"""


@pytest.fixture(scope="module")
def reasons():
    proto = model(BODY, {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "zero": np.array(0, np.int64)},
                  outputs="float[N,8,8,8] d, int64 k, int64[N,1,8,8] j")  # fmt: skip
    for node in proto.graph.node:
        node.name = node.output[0]
    config = QuantConfig(method="minmax", effort="fast", keep_int8=True, keep_fp32=("^d$",))
    session = Session(pipeline.quantize(proto, [{"x": image(2, 3, 8, 8)}], config=config).model, threads=1)
    return {node.name: node.reason for node in session.plan if node.runs_on != "native"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("d", f"Conv runs in float32: {FORM_UNUSED}"),
        ("s", "Sin runs in float32: no INT8 form"),
        ("n", "Shape gives int64, which is not quantized"),
        ("k", "Gather gives int64, which is not quantized"),
        ("j", "ArgMax runs in float32: it compares values, which 8 bits may make equal"),
    ],
)
def test_a_node_outside_the_engine_says_why(reasons, name, words):
    assert reasons[name] == words
