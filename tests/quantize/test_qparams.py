"""The formulas of the numerics contract, at their edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import CalibrationError, ModelError
from quantkit.quantize.qparams import (
    params_from_range,
    quantize_array,
    quantize_weights,
    requantize_table,
    weight_scales,
)
from quantkit.types import BIAS_LIMIT, QuantParams, Range

REALS = st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=32)


@settings(max_examples=200, deadline=None)
@given(REALS, REALS)
def test_zero_is_exact_and_the_range_is_covered(a, b):
    low, high = min(a, b), max(a, b)
    p = params_from_range(Range(low, high))
    real = (np.array([0, 255]) - p.zero_point) * p.scale
    assert quantize_array(np.zeros(1, np.float32), p)[0] == p.zero_point
    slack = p.scale * 0.5000001 + 1e-38
    assert real[0] <= min(low, 0) + slack
    assert real[1] >= max(high, 0) - slack


def test_a_one_sided_range_has_its_zero_point_at_the_end():
    assert params_from_range(Range(0.0, 6.0)) == QuantParams(float(np.float32(6 / 255)), 0)
    assert params_from_range(Range(-3.0, -1.0)).zero_point == 255


def test_a_tensor_of_zeros_gets_scale_one():
    assert params_from_range(Range(0.0, 0.0)) == QuantParams(1.0, 0)


def test_denormal_ranges_do_not_give_denormal_scales():
    assert params_from_range(Range(0.0, 1e-44)).scale >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("bad", [(np.nan, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_an_impossible_range_is_refused(bad):
    with pytest.raises(CalibrationError):
        Range(*bad)


def test_quantize_rounds_ties_to_even():
    p = QuantParams(1.0, 10)
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0], np.float32)
    assert quantize_array(x, p).tolist() == [10, 12, 12, 10, 8, 255, 0]


def test_weights_are_symmetric_per_channel_and_dead_channels_have_scale_one():
    w = np.array([[1.0, -2.0], [0.0, 0.0], [0.25, 0.125]], np.float32)
    q = quantize_weights(w, np.zeros(3, np.float32), 0.1, axis=0)
    assert q.values.tolist() == [[64, -127], [0, 0], [127, 64]]
    assert q.scale[1] == 1.0
    assert np.abs(q.values.astype(int)).max() <= 127


def test_the_channel_axis_of_matmul_is_the_last():
    w = np.array([[1.0, 10.0], [-0.5, 5.0]], np.float32)
    q = quantize_weights(w, np.zeros(2, np.float32), 1.0, axis=1)
    assert q.values.tolist() == [[127, 127], [-64, 64]]
    np.testing.assert_allclose(q.scale, [1 / 127, 10 / 127], rtol=1e-6)


def test_one_scale_for_all_channels_when_asked():
    rows = np.array([[1.0], [10.0]])
    assert weight_scales(rows, per_channel=False).tolist() == pytest.approx([10 / 127] * 2)


def test_a_large_bias_raises_the_weight_scale_instead_of_being_clipped():
    w, b, x_scale = np.full((1, 4), 1e-6, np.float32), np.array([50.0], np.float32), 1e-3
    q = quantize_weights(w, b, x_scale, axis=0)
    assert abs(int(q.bias[0])) < BIAS_LIMIT
    assert float(q.bias[0]) * x_scale * float(q.scale[0]) == pytest.approx(50.0, rel=1e-6)


def test_too_many_products_for_int32_are_refused():
    with pytest.raises(ModelError, match="accumulator"):
        quantize_weights(np.ones((1, 70_000), np.float32), np.zeros(1, np.float32), 1.0, axis=0, name="fc")


def test_requantizing_to_the_same_parameters_is_the_identity():
    p = QuantParams(float(np.float32(0.037)), 91)
    assert requantize_table(p, p) == bytes(range(256))


def test_requantizing_to_a_wider_range_halves_the_steps():
    table = requantize_table(QuantParams(0.5, 0), QuantParams(1.0, 0))
    assert [table[i] for i in (0, 1, 2, 3, 255)] == [0, 0, 1, 2, 128]
