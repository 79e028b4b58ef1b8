"""Weights are rounded once for all models that are made of the same FP32 tensors."""

from __future__ import annotations

import gc

import numpy as np
import onnx_ir as ir
import pytest

from quantkit.quantize import qparams, rounded
from quantkit.quantize.bias import expected_row, mean_error
from quantkit.quantize.qparams import quantize_weights
from quantkit.quantize.rounded import rounded_weights
from tests.graphs import image
from tests.quantize.test_bias import layer

X_SCALES = (0.02, 0.05, 1e-9)
"""With the last one, biases raise the scales of weights."""


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("per_channel", [True, False])
def test_shared_weights_are_those_of_quantize_weights_for_every_scale_of_the_input(axis, per_channel):
    weights = image(6, 5, 3, 3) if axis == 0 else image(5, 6)
    tensor, bias = ir.Tensor(weights), image(6)
    for x_scale in (*X_SCALES, *X_SCALES):
        one = rounded_weights(tensor, bias, x_scale, axis=axis, per_channel=per_channel, shared=True)
        got = one.with_bias(bias, x_scale, name="n")
        wanted = quantize_weights(weights, bias, x_scale, axis=axis, per_channel=per_channel)
        for ours, theirs in zip(vars(got).values(), vars(wanted).values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def test_weights_are_rounded_once_while_their_scale_stays_and_let_go_with_the_tensor(monkeypatch):
    gc.collect()
    calls, known = [], len(rounded._KNOWN)
    round_rows = qparams.rounded_rows
    monkeypatch.setattr(qparams, "rounded_rows", lambda *a, **k: calls.append(1) or round_rows(*a, **k))
    tensor, bias = ir.Tensor(image(4, 3, 3, 3)), np.zeros(4, np.float32)
    first, second = (rounded_weights(tensor, bias, s, axis=0, per_channel=True, shared=True) for s in (0.1, 0.2))
    assert first is second
    assert len(calls) == 1
    with pytest.raises(ValueError, match="read-only"):
        first.values[...] = 0
    assert rounded_weights(tensor, bias, 0.1, axis=0, per_channel=False, shared=True) is not first
    del tensor
    gc.collect()
    assert len(rounded._KNOWN) == known


def test_nothing_is_kept_of_weights_that_are_not_shared():
    tensor, bias = ir.Tensor(image(4, 3)), np.zeros(4, np.float32)
    made = [rounded_weights(tensor, bias, 0.1, axis=0, per_channel=True, shared=False) for _ in range(2)]
    assert made[0] is not made[1]
    assert tensor not in rounded._KNOWN


def test_what_rounding_shifts_is_worked_out_anew_where_the_means_of_the_input_are_others():
    of = layer()
    weights = of.weights.reshape(of.shape).astype(np.float32)
    one = rounded_weights(ir.Tensor(weights), np.zeros(6, np.float32), 0.1, axis=0, per_channel=True, shared=False)
    plain = one.with_bias(np.zeros(6, np.float32), 0.1, name="n")
    for seed in (1, 1, 2):
        expected = expected_row(of, np.random.default_rng(seed).normal(size=4), None)
        np.testing.assert_array_equal(one.mean_error(of, expected), mean_error(of, plain, expected))
