"""Mean of one number per training: the t test over trainings, equal values, what it says of its sample."""

import numpy as np
import pytest
from scipy import stats

from layerwise.statistics import Interval, Region, SeedMean, judge


@pytest.mark.parametrize("seeds", [2, 5])
def test_interval_is_scipys_one_sample_t_interval_over_seeds(seeds):
    values = np.random.default_rng(seeds).normal(0.7, 0.1, seeds)
    effect = SeedMean(values, "Kendall's W")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = effect.interval(0.95)
    assert effect.estimate == pytest.approx(values.mean(), rel=1e-15)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12)
    assert effect.summary.df == pytest.approx(seeds - 1)


def test_equal_values_are_an_exact_point():
    effect = SeedMean(np.full(5, 0.1), "Kendall's W")
    assert effect.interval(0.98) == Interval(0.1, 0.1, 0.98)
    assert effect.detectable(0.01) == 0
    assert judge(effect, Region(low=0.1), 0.01).outcome == "supported"
    assert judge(effect, Region(low=0.1, open_low=True), 0.01).outcome == "refuted"


def test_sentence_counts_seeds_and_no_users():
    """.8 +- 4.3027 (t at .975, 2 degrees) * .1 / sqrt(3) = .248."""
    verdict = judge(SeedMean([0.7, 0.8, 0.9], "Kendall's W"), Region(low=0.5), 0.025)
    assert verdict.sentence == "supported: 0.8 Kendall's W (95 % CI 0.552 to 1.05, 3 seeds), needs 0.5 Kendall's W"


def test_inconclusive_mean_asks_for_more_seeds_and_for_nothing_else():
    """At alpha .01 the margin is 6.9646 * .0577 = .402, four times the distance .1: 16.2 times the sample."""
    reason = judge(SeedMean([0.7, 0.8, 0.9], "Kendall's W"), Region(low=0.7), 0.01).reason
    assert "about 16.2 times the sample (3 seeds) would decide" in reason
    assert reason.endswith("100 % of the variance shrinks with more seeds only")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.7], "values needs at least 2 seeds to have an error"),
        ([[0.7, 0.8]], r"values must be numbers of shape \[seeds\]"),
        ([0.7, np.nan], "values must be finite, got nan"),
    ],
)
def test_values_that_cannot_be_used_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SeedMean(values, "Kendall's W")
