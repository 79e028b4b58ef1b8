"""Detectors pick boxes inside the graph: which, and how many, jumps with the last bit. So errors are judged before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantkit import Session, pipeline
from quantkit.fuse.judged import judged_tensors
from quantkit.types import QuantConfig
from tests.graphs import CONV, fused, image, model

FAST = QuantConfig(method="minmax", effort="fast")
BACKBONE = f"""
    a = Conv <{CONV}> (x, w1, b1)
    b = Relu (a)
    c = Conv <{CONV}> (b, w2)
    d = Relu (c)
    e = Conv <kernel_shape = [1, 1]> (d, w3)
    flat = Reshape (e, cells)
    scores_raw, boxes = Split <axis = 1> (flat, parts)
    scores = Sigmoid (scores_raw)
"""
WEIGHTS = {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3), "w3": (6, 32, 1, 1)}
CONSTANTS = {
    "cells": np.array([1, 6, 4096], np.int64),
    "parts": np.array([2, 4], np.int64),
    "k": np.array([20], np.int64),
    "most": np.array([50], np.int64),
    "overlap": np.array([0.5], np.float32),
    "least": np.array([0.5], np.float32),
    "column": np.array(2, np.int64),
}
TAILS = {
    "top_k": "best, which = TopK <axis = 2> (scores, k)  picked = Gather <axis = 2> (boxes, which)",
    "suppressed": """
        corners = Transpose <perm = [0, 2, 1]> (boxes)
        found = NonMaxSuppression (corners, scores, most, overlap, least)
        which = Gather <axis = 1> (found, column)
        picked = Gather <axis = 2> (boxes, which)""",
    "over_threshold": """
        sure = Greater (scores, least)
        where = NonZero (sure)
        rows = Transpose <perm = [1, 0]> (where)
        picked = GatherND (scores, rows)""",
}
JUDGED = {"top_k": {"scores", "boxes"}, "suppressed": {"scores", "boxes", "corners"}, "over_threshold": {"scores"}}


def detector(tail: str) -> onnx.ModelProto:
    proto = model(BACKBONE + TAILS[tail], WEIGHTS, inputs="float[1,3,64,64] x", outputs="float[A,B,C] picked")
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in CONSTANTS.items())
    return proto


@pytest.mark.parametrize("tail", TAILS)
def test_a_detector_is_judged_by_what_its_tail_reads(tail):
    judged = set(judged_tensors(fused(detector(tail)).graph))
    assert judged
    assert judged <= JUDGED[tail]


def test_a_model_without_such_a_tail_is_judged_by_its_outputs():
    proto = model(
        BACKBONE, WEIGHTS, inputs="float[1,3,64,64] x", outputs="float[1,2,4096] scores, float[1,4,4096] boxes"
    )
    proto.graph.initializer.extend(numpy_helper.from_array(CONSTANTS[name], name) for name in ("cells", "parts"))
    assert judged_tensors(fused(proto).graph) == ["scores", "boxes"]


def test_an_output_beside_the_tail_stands_for_itself():
    proto = detector("top_k")
    proto.graph.output.append(onnx.helper.make_tensor_value_info("scores_raw", onnx.TensorProto.FLOAT, [1, 2, 4096]))
    assert "scores_raw" in judged_tensors(fused(proto).graph)


@pytest.mark.parametrize("tail", TAILS)
def test_the_backbone_of_a_detector_is_quantized_and_compared_before_boxes_are_picked(tail):
    proto = detector(tail)
    samples = [{"x": image(1, 3, 64, 64, seed=seed)} for seed in range(3)]
    result = pipeline.quantize(proto, samples, config=FAST)
    assert result.kind == "calibrated"
    convolutions = [p for p in Session(result.model, threads=1).plan if "Conv" in p.op]
    assert len(convolutions) == 3
    assert all(p.kernel != "onnxruntime" for p in convolutions)
    compared = pipeline.compare(proto, result, samples, seconds=0)
    assert set(compared.measured_at) <= JUDGED[tail]
    assert compared.sqnr_db > 20.0
    assert compared.to_json()["measured_at"] == compared.measured_at
    assert "before boxes or classes are picked" in compared.to_text()
