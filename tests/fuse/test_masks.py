"""Masks in front of a Softmax: recognised by what they are made of, and never quantized away."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit import Session, pipeline
from quantkit.fuse.graph import Reject
from quantkit.fuse.masks import adds_a_mask
from quantkit.observe import FloatRunner
from quantkit.quantize.support import static_form
from quantkit.types import QuantConfig
from tests.fold.fold_cases import build, normal
from tests.graphs import fused

HEAD = "(float[N,T,16] x, int64[N,T] keep) => (float[N,T,T] y)"
SCORES = "a = MatMul(x, w)\n t = Transpose<perm=[0,2,1]>(x)\n s = MatMul(a, t)"
NEGATED = "k = Unsqueeze(keep, one)\n f = Cast<to=1>(k)\n z = Sub(unit, f)\n mask = Mul(z, low)"
WEIGHTS = {"w": normal(16, 16), "one": np.array([1]), "unit": np.float32(1), "low": np.float32(-10000)}


def sums(model: onnx.ModelProto) -> list[ir.Node]:
    return [node for node in ir.from_proto(model).graph if node.op_type == "Add"]


@pytest.mark.parametrize(
    "tail",
    ["m = Add(s, mask)\n y = Softmax(m)", "m = Add(mask, s)\n r = Max(m, low)\n y = Softmax(r)"],
    ids=["at once", "behind a limit"],
)
def test_a_mask_made_of_an_input_is_recognised(tail):
    (node,) = sums(build(HEAD, f"{SCORES}\n{NEGATED}\n{tail}", **WEIGHTS))
    assert adds_a_mask(node)


@pytest.mark.parametrize(
    "text",
    [
        f"{SCORES}\n m = Add(s, s)\n y = Softmax(m)\n k = Cast<to=1>(keep)",
        f"{SCORES}\n{NEGATED}\n y = Add(s, mask)",
        f"{SCORES}\n m = Add(s, low)\n y = Softmax(m)\n k = Cast<to=1>(keep)",
    ],
    ids=["scores on scores", "no softmax", "a constant"],
)
def test_other_sums_are_not_taken_for_masks(text):
    (node,) = sums(build(HEAD, text, **{name: value for name, value in WEIGHTS.items() if name in text}))
    assert not adds_a_mask(node)


ATTENTION = "float[N,8,16] x, int64[N,8] keep) => (float[N,8,16] y"
HIDDEN = {
    "by a sum": f"{NEGATED}\n m = Add(s, mask)\n p = Softmax(m)",
    "by replacing": "k = Unsqueeze(keep, one)\n c = Cast<to=9>(k)\n m = Where(c, s, low)\n p = Softmax(m)",
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_padding_stays_hidden_though_samples_of_full_length_show_no_mask(hidden):
    text = f"{SCORES}\n{HIDDEN[hidden]}\n o = MatMul(p, a)\n y = MatMul(o, w)"
    model = build(f"({ATTENTION})", text, **{name: v for name, v in WEIGHTS.items() if name in text})
    rng = np.random.default_rng(0)

    def feeds(length: int) -> dict[str, np.ndarray]:
        keep = (np.arange(8) < length).astype(np.int64)[None]
        return {"x": 0.3 * rng.normal(size=(1, 8, 16)).astype(np.float32), "keep": keep}

    config = QuantConfig(effort="fast", keep_int8=True)
    made = pipeline.quantize(model, [feeds(8) for _ in range(4)], config=config, threads=1)
    assert made.kind == "calibrated"
    padded = feeds(5)
    (wanted,), (found,) = FloatRunner(model, 1).run(padded), Session(made.model, threads=1).run(None, padded)
    assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_nothing_that_reads_masked_scores_has_an_int8_form(hidden):
    text = f"{SCORES}\n{HIDDEN[hidden]}\n o = MatMul(p, a)\n y = MatMul(o, w)"
    model = fused(build(f"({ATTENTION})", text, **{name: v for name, v in WEIGHTS.items() if name in text}))
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    with pytest.raises(Reject, match="mask"):
        static_form(softmax)
