"""Retention: its interval against closed forms and slow code, exact ties, shares that the data leave open."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerwise.statistics import Region, judge, retained, two_way


def pair_of_tables(seed, seeds=5, users=60, keep=0.85):
    """Metric of compact and full models that share users, with seed effects, shape [seeds, users] each."""
    rng = np.random.default_rng(seed)
    full = np.abs(rng.normal(1, 0.3, (1, users)) + rng.normal(0, 0.2, (seeds, users)))
    return full * (keep + rng.normal(0, 0.03, (seeds, 1)) + rng.normal(0, 0.3, (seeds, users))), full


def fieller(compact, full, level):
    """Textbook interval of a ratio of two paired means: roots of (c - r f)^2 = t^2 var(c - r f)."""
    t = stats.t.ppf((1 + level) / 2, len(full) - 1)
    cov = np.cov(compact, full) / len(full)
    c, f = compact.mean(), full.mean()
    roots = np.roots([f**2 - t**2 * cov[1, 1], -2 * (c * f - t**2 * cov[0, 1]), c**2 - t**2 * cov[0, 0]])
    return sorted(roots)


def test_estimate_is_the_ratio_of_means_not_the_mean_of_ratios():
    effect = retained([[1.0, 0.0, 2.0]], [[1.0, 2.0, 1.0]], "NDCG@10")
    assert effect.estimate == 3 / 4


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_one_seed_gives_fiellers_closed_form(level):
    compact, full = pair_of_tables(1, seeds=1)
    interval = retained(compact, full, "NDCG@10").interval(level)
    assert (interval.low, interval.high) == pytest.approx(fieller(compact[0], full[0], level), rel=1e-9)


@pytest.mark.parametrize("level", [0.9, 0.98])
@pytest.mark.parametrize("seed", range(5))
def test_ends_are_the_shares_at_which_the_linear_test_just_rejects(seed, level):
    compact, full = pair_of_tables(seed)
    interval = retained(compact, full, "NDCG@10").interval(level)
    for end in (interval.low, interval.high):
        form = two_way(compact - end * full)
        tests = [stats.t.sf(abs(form.mean) / error, df) for error, df in form.errors if error > 0]
        assert 2 * max(tests) == pytest.approx(1 - level, rel=1e-6)


def test_identical_models_keep_exactly_everything():
    _, full = pair_of_tables(2)
    effect = retained(full, full, "NDCG@10")
    interval = effect.interval(0.98)
    assert (effect.estimate, interval.low, interval.high) == (1, 1, 1)
    assert effect.detectable(0.01) == 0
    assert judge(effect, Region(low=1.0), 0.01).outcome == "supported"


def test_exact_multiple_gives_a_point_up_to_rounding():
    _, full = pair_of_tables(3)
    interval = retained(0.3 * full, full, "NDCG@10").interval(0.98)
    assert (interval.low, interval.high) == pytest.approx((0.3, 0.3), rel=1e-12)


def test_full_model_not_significantly_above_zero_leaves_every_share_open():
    """One hit in twenty users: t is 1, far from the 2.09 that 95 % ask for."""
    full = np.zeros((1, 20))
    full[0, 3] = 1.0
    compact = np.roll(full, 1)
    interval = retained(compact, full, "HR@10").interval(0.95)
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    verdict = judge(retained(compact, full, "HR@10"), Region(low=0.5), 0.025)
    assert verdict.outcome == "inconclusive"
    assert "unbounded" in verdict.reason


def test_barely_significant_full_model_still_gives_finite_ends_around_the_estimate():
    full = np.random.default_rng(4).normal(0.31, 1.0, (1, 40))
    effect = retained(full + np.random.default_rng(5).normal(0, 0.3, (1, 40)), full, "NDCG@10")
    t = two_way(full).mean / two_way(full).standard_error
    interval = effect.interval(2 * stats.t.cdf(t, 39) - 1 - 1e-4)
    assert -math.inf < interval.low < effect.estimate < interval.high < math.inf


def test_full_model_without_any_hit_has_no_retention():
    effect = retained([[0.0, 1.0]], [[0.0, 0.0]], "HR@10")
    assert math.isnan(effect.estimate)
    assert math.isnan(effect.interval(0.95).low)
    assert math.isnan(effect.detectable(0.01))
    verdict = judge(effect, Region(low=0.88), 0.01)
    assert verdict.outcome == "invalid"
    assert "full model's mean is not above 0" in verdict.reason


def test_detectable_distance_is_in_shares_of_the_full_metric():
    """One seed, 60 users: (t at .99 + t at .8) * standard error of compact - r full, over the mean of full."""
    compact, full = pair_of_tables(6, seeds=1)
    effect = retained(compact, full, "NDCG@10")
    error = (compact - effect.estimate * full)[0].std(ddof=1) / math.sqrt(60)
    expected = (stats.t.ppf(0.99, 59) + stats.t.ppf(0.8, 59)) * error / full.mean()
    assert effect.detectable(0.01) == pytest.approx(expected, rel=1e-9)


def test_tables_that_are_not_paired_are_refused():
    with pytest.raises(ValueError, match=r"compact and full are paired .* got \(1, 3\) and \(1, 2\)"):
        retained([[1.0, 2.0, 3.0]], [[1.0, 2.0]], "NDCG@10")
    with pytest.raises(ValueError, match=r"full must be numbers of shape \[seeds, users\], got list"):
        retained([[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [1.0]], "NDCG@10")
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        retained([[1.0, 2.0]], [[1.0, 2.0]], "NDCG@10").interval(95)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 0.3, 7.0, 1e4]))
def test_scaling_both_models_changes_nothing(seed, scale):
    compact, full = pair_of_tables(seed)
    expected = retained(compact, full, "NDCG@10").interval(0.95)
    interval = retained(scale * compact, scale * full, "NDCG@10").interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_order_of_seeds_and_users_changes_nothing_in_the_interval(seed, random):
    compact, full = pair_of_tables(seed)
    order = np.ix_(*(random.sample(range(length), length) for length in full.shape))
    expected = retained(compact, full, "NDCG@10").interval(0.95)
    interval = retained(compact[order], full[order], "NDCG@10").interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.5, 0.98), st.floats(0.5, 0.98))
def test_retention_intervals_nest_with_the_level(seed, seeds, level, other):
    effect = retained(*pair_of_tables(seed, seeds=seeds), "NDCG@10")
    narrow, wide = (effect.interval(value) for value in sorted((level, other)))
    assert wide.low <= narrow.low <= effect.estimate <= narrow.high <= wide.high
