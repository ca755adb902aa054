"""The two-way standard error: worked by hand, against slow independent code, and its symmetries."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from layerwise.statistics import two_way

TABLES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(2, 12)),
    elements=st.integers(-64, 64).map(lambda value: value / 64),  # sums are exact, so that order cannot matter
)


def slow_two_way(values):
    """The same from the mean squares of an analysis of variance, cell by cell in plain Python."""
    seeds, users = len(values), len(values[0])
    grand = sum(sum(row) for row in values) / (seeds * users)
    rows = [sum(row) / users for row in values]
    columns = [sum(values[s][u] for s in range(seeds)) / seeds for u in range(users)]
    square_seeds = users * sum((row - grand) ** 2 for row in rows) / (seeds - 1)
    square_users = seeds * sum((column - grand) ** 2 for column in columns) / (users - 1)
    square_rest = sum(
        (values[s][u] - rows[s] - columns[u] + grand) ** 2 for s in range(seeds) for u in range(users)
    ) / ((seeds - 1) * (users - 1))
    vs, vu, ve = (square / (seeds * users) for square in (square_seeds, square_users, square_rest))
    variance = max(vs + vu - ve, vs, vu)
    return grand, math.sqrt(variance), variance**2 / (vs**2 / (seeds - 1) + vu**2 / (users - 1))


def test_two_seeds_by_two_users_worked_by_hand():
    """Rows 1, 3 and 5, 11: seed means 2 and 8, user means 3 and 7, all four residuals +-1."""
    vs, vu, ve = 18 / 2, 8 / 2, 4 / 1 / 4
    result = two_way([[1.0, 3.0], [5.0, 11.0]])
    assert result.mean == 5
    assert result.standard_error == pytest.approx(math.sqrt(vs + vu - ve), rel=1e-15)
    assert result.df == pytest.approx((vs + vu - ve) ** 2 / (vs**2 / 1 + vu**2 / 1), rel=1e-15)
    assert result.seed_share == pytest.approx((vs - ve) / (vs + vu - ve), rel=1e-15)


def test_one_seed_gives_scipys_one_sample_t_interval():
    values = np.random.default_rng(1).exponential(size=(1, 50))
    result = two_way(values)
    margin = result.margin(0.975)
    low, high = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    assert result.df == pytest.approx(49)
    assert (result.mean - margin, result.mean + margin) == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_agrees_with_slow_mean_squares(seeds):
    rng = np.random.default_rng(seeds)
    values = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(seeds, 30)) + 100
    mean, error, df = slow_two_way(values.tolist())
    result = two_way(values)
    assert (result.mean, result.standard_error, result.df) == pytest.approx((mean, error, df), rel=1e-10)


def test_equal_values_have_no_error_although_their_mean_rounds():
    result = two_way(np.full((3, 7), 0.1))
    assert (result.mean, result.standard_error, result.df) == (0.1, 0.0, math.inf)
    assert result.margin(0.99) == 0


def test_same_values_for_every_seed_is_the_users_t_test():
    row = np.random.default_rng(2).normal(size=40)
    result, single = two_way(np.stack([row] * 5)), two_way(row[None])
    assert (result.standard_error, result.df) == pytest.approx((single.standard_error, 39), rel=1e-12)


def test_same_values_for_every_user_is_the_seeds_t_test():
    column = np.random.default_rng(3).normal(size=(5, 1))
    result = two_way(np.repeat(column, 40, axis=1))
    assert result.standard_error == pytest.approx(column.std(ddof=1) / math.sqrt(5), rel=1e-12)
    assert result.df == pytest.approx(4, rel=1e-12)
    assert result.seed_share == pytest.approx(1, rel=1e-12)


def test_users_take_nothing_from_what_few_seeds_leave_unknown():
    """Seed means -1 and 1, user means -.1 and .1, no residual: vs 1, vu .01. t with 1 degree at .975 is 12.7062."""
    result = two_way([[-1.1, -0.9], [0.9, 1.1]])
    by_sample = stats.t.ppf(0.975, 1.01**2 / (1 + 0.01**2)) * math.sqrt(1.01)
    assert (result.seed_error, result.seed_df) == (pytest.approx(1), 1)
    assert by_sample == pytest.approx(12.193, abs=0.001)
    assert result.margin(0.975) == pytest.approx(12.7062, abs=1e-4)


@pytest.mark.parametrize("probability", [0.99, 0.998])
@pytest.mark.parametrize("seed_share", [0.9, 0.7])
def test_seeds_that_dominate_are_called_different_hardly_more_often_than_said(seed_share, probability):
    """At one-sided 1 and .2 % without the floor 1.4 and .5 % of such tables were. Four standard errors are allowed."""
    rng, tables, users = np.random.default_rng(7), 10_000, 40
    of_seeds = rng.normal(size=(tables, 5, 1)) * math.sqrt(5 * seed_share)
    of_users = rng.normal(size=(tables, 1, users)) * math.sqrt(users * (1 - seed_share))
    found = [two_way(table) for table in of_seeds + of_users]
    rate = np.mean([one.mean > one.margin(probability) for one in found])
    alpha = 1 - probability
    assert rate < 1.25 * alpha + 4 * math.sqrt(alpha / tables)


def test_cells_that_vary_around_equal_means_do_not_count_as_exact():
    """Both seeds and both users have mean 0: the residual mean square 4 over 4 cells remains, with 1 degree."""
    result = two_way([[1.0, -1.0], [-1.0, 1.0]])
    assert (result.standard_error, result.df) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"values must be numbers of shape \[seeds, units\], got shape \(2,\)"),
        (np.zeros((0, 5)), r"got shape \(0, 5\)"),
        ([[1.0]], "at least 2 units"),
        ([[1.0, 2.0], [3.0]], r"values must be numbers of shape \[seeds, units\], got list"),
        ([[1.0, math.nan]], r"values must be finite, got nan at \[0, 1\]"),
        ([[1.0, 2.0], [-math.inf, 0.0]], r"got -inf at \[1, 0\]"),
        ([["a", "b"]], "values must be numbers"),
    ],
)
def test_values_that_cannot_be_used_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        two_way(values)


@settings(derandomize=True, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_order_of_seeds_and_users_changes_nothing(values, random):
    seeds, users = (random.sample(range(length), length) for length in values.shape)
    expected, result = two_way(values), two_way(values[np.ix_(seeds, users)])
    assert result.mean == pytest.approx(expected.mean, abs=1e-12)
    assert result.standard_error == pytest.approx(expected.standard_error, abs=1e-7)


@settings(derandomize=True, deadline=None)
@given(TABLES, st.sampled_from([0.25, 2.0, 1024.0]), st.sampled_from([-8.0, 0.0, 3.0]))
def test_error_scales_with_the_values_and_ignores_their_offset(values, scale, offset):
    expected, result = two_way(values), two_way(scale * values + offset)
    assert result.standard_error == pytest.approx(scale * expected.standard_error, abs=1e-7 * scale)


@settings(derandomize=True, deadline=None)
@given(TABLES)
def test_variance_is_never_below_that_of_seeds_or_of_users_alone(values):
    variance = two_way(values).standard_error ** 2
    assert variance >= values.mean(axis=0).var(ddof=1) / values.shape[1] * (1 - 1e-9) - 1e-15
    if len(values) > 1:
        assert variance >= values.mean(axis=1).var(ddof=1) / len(values) * (1 - 1e-9) - 1e-15
