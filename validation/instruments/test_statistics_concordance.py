"""Kendall's W: by hand, against Friedman's test and the mean Spearman correlation, its ends, its invariances."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from layerwise.statistics import kendalls_w

TABLES = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 5), st.integers(3, 9)), elements=st.integers(-3, 3).map(float)
)  # small integers: many ties


def test_three_methods_on_four_layers_worked_by_hand():
    """Ranks 1234, 2143 and 1324: sums 4, 6, 9, 11 around 7.5, S = 29; W = 12 * 29 / (9 * 60)."""
    scores = [[0.1, 0.2, 0.3, 0.4], [20.0, 10.0, 40.0, 30.0], [-9.0, 0.0, -1.0, 7.0]]
    assert kendalls_w(scores) == pytest.approx(29 / 45, rel=1e-15)


def test_ties_worked_by_hand():
    """Ranks 1 2 3 and 1.5 1.5 3: sums 2.5, 3.5, 6, S = 6.5; W = 12 * 6.5 / (4 * 24 - 2 * 6)."""
    assert kendalls_w([[1.0, 2.0, 3.0], [5.0, 5.0, 6.0]]) == pytest.approx(78 / 84, rel=1e-15)


@settings(derandomize=True, deadline=None)
@given(TABLES.filter(lambda table: np.ptp(table, axis=1).any()))
def test_agrees_with_scipys_friedman_test_also_with_ties(table):
    methods, layers = table.shape
    friedman = stats.friedmanchisquare(*table.T).statistic
    assert kendalls_w(table) == pytest.approx(friedman / (methods * (layers - 1)), abs=1e-12)


@pytest.mark.parametrize("methods", [2, 3, 6])
def test_is_the_mean_spearman_correlation_of_all_pairs_where_there_are_no_ties(methods):
    scores = np.random.default_rng(methods).normal(size=(methods, 12))
    mean = np.mean([stats.spearmanr(a, b).statistic for a, b in combinations(scores, 2)])
    assert kendalls_w(scores) == pytest.approx(((methods - 1) * mean + 1) / methods, rel=1e-12)


def test_one_order_under_several_scales_agrees_exactly_and_opposite_orders_not_at_all():
    order = np.random.default_rng(1).normal(size=12)
    assert kendalls_w([order, np.exp(order), 5 * order - 3]) == 1
    assert kendalls_w([order, -order]) == 0


def test_method_without_an_opinion_counts_as_unrelated_and_none_with_one_as_undefined():
    assert kendalls_w([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]) == 1 / 2  # as for a Spearman correlation of 0
    assert math.isnan(kendalls_w(np.ones((3, 4))))


@settings(derandomize=True, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_order_of_methods_and_layers_changes_nothing(table, random):
    methods, layers = (random.sample(range(length), length) for length in table.shape)
    assert kendalls_w(table[np.ix_(methods, layers)]) == pytest.approx(kendalls_w(table), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1.0, 2.0, 3.0]], "at least 2 methods, got 1"),
        ([[1.0], [2.0]], "scores needs at least 2 layers"),
        ([1.0, 2.0], r"scores must be numbers of shape \[methods, layers\]"),
        ([[1.0, 2.0], [1.0, math.inf]], "scores must be finite"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        kendalls_w(scores)
