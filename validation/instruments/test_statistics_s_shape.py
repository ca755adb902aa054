"""Logistic against line: steep S, straight line, pure noise; AICc by hand; what must not change the gain."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from layerwise.statistics import s_shape_gain

DEPTH = np.arange(12.0)


def logistic(x, low, height, middle, width):
    return low + height / (1 + np.exp(-(x - middle) / width))


def noisy(seed, curve, scale=0.05):
    return curve + np.random.default_rng(seed).normal(0, scale, len(curve))


def aicc(squares, layers, parameters):
    correction = 2 * parameters * (parameters + 1) / (layers - parameters - 1)
    return layers * math.log(squares / layers) + 2 * parameters + correction


@pytest.mark.parametrize("seed", range(4))
def test_gain_is_the_difference_of_aicc_between_polyfit_and_curve_fit(seed):
    """scipy's curve_fit, started at the truth, fits all four parameters together."""
    values = noisy(seed, logistic(DEPTH, 0.2, 1.0, 5.3, 0.9))
    line = np.polyval(np.polyfit(DEPTH, values, 1), DEPTH)
    curve = logistic(DEPTH, *curve_fit(logistic, DEPTH, values, p0=(0.2, 1.0, 5.3, 0.9))[0])
    squares = [np.square(values - fit).sum() for fit in (line, curve)]
    assert s_shape_gain(DEPTH, values) == pytest.approx(aicc(squares[0], 12, 3) - aicc(squares[1], 12, 5), abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1], ids=["rising", "falling"])
def test_steep_s_beats_the_line_mostly(sign):
    gains = [s_shape_gain(DEPTH, noisy(seed, sign * logistic(DEPTH, 0, 1, 5.5, 0.6))) for seed in range(30)]
    assert np.mean(np.array(gains) > 0) > 0.9


def test_line_beats_the_s_on_average_and_nearly_always():
    """The gain is no test of its own: 1 to 2 % of noisy lines of 12 layers seem curved, 5 to 10 % of 24 layers."""
    gains = np.array([s_shape_gain(DEPTH, noisy(seed, DEPTH / 12)) for seed in range(60)])
    assert gains.mean() < -5
    assert np.mean(gains > 0) < 0.1


def test_eight_layers_need_residuals_33_times_smaller():
    """28 units of AICc for two parameters: an S seen through 5 % noise is not enough, through 1 % it is."""
    depth = np.arange(8.0)
    curve = logistic(depth, 0, 1, 3.5, 0.4)
    assert np.mean([s_shape_gain(depth, noisy(seed, curve, 0.05)) for seed in range(10)]) < 5
    assert min(s_shape_gain(depth, noisy(seed, curve, 0.01)) for seed in range(10)) > 5


def test_perfect_fits_have_finite_gains():
    """A straight line is fitted to the bound of a thousandth of its spread; equal values by both curves alike."""
    penalties = 2 * 5 * (1 + 6 / 6) - 2 * 3 * (1 + 4 / 8)
    assert s_shape_gain(DEPTH, np.full(12, 0.1)) == pytest.approx(-penalties, rel=1e-15)
    assert -math.inf < s_shape_gain(DEPTH, 3 * DEPTH) < -penalties
    perfect = logistic(DEPTH, 0, 1, 5.3, 0.9)
    line = np.square(perfect - np.polyval(np.polyfit(DEPTH, perfect, 1), DEPTH)).mean()
    assert s_shape_gain(DEPTH, perfect) == pytest.approx(12 * math.log(line / (1e-6 * perfect.var())) - penalties)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-3, 7.0, 1e4]),
    st.sampled_from([-1, 1]),
    st.sampled_from([-5.0, 0.0, 100.0]),
)
def test_unit_offset_and_sign_of_the_values_and_unit_of_depth_change_nothing(seed, scale, sign, offset):
    values = noisy(seed, logistic(DEPTH, 0, 1, 6, 2), 0.1)
    other = s_shape_gain(scale * DEPTH + offset, sign * scale * (values + offset))
    assert other == pytest.approx(s_shape_gain(DEPTH, values), abs=1e-3)


@pytest.mark.parametrize(
    ("depth", "values", "message"),
    [
        (np.arange(7.0), np.zeros(7), "at least 8 layers, got 7"),
        (np.arange(8.0), np.zeros(9), "depth and values are paired and need the same shape"),
        (np.ones(8), np.zeros(8), "depth must increase strictly"),
        (np.arange(8.0), np.full(8, np.nan), "values must be finite"),
    ],
)
def test_curves_that_cannot_be_compared_are_refused(depth, values, message):
    with pytest.raises(ValueError, match=message):
        s_shape_gain(depth, values)
