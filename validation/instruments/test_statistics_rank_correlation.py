"""Rank correlation of scores with removal damage: against scipy, ties, undefined cases, error rates."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from layerwise.statistics import RankCorrelation, Region, judge


def draw(rng, slope, seeds=5, layers=8, users=80, shared=False):
    """Scores and damage with a common trend over layers; shared: all seeds have the same profile of both."""
    trend = slope * np.linspace(0, 1, layers)
    own = 0.0 if shared else 1.0
    truth = trend + own * rng.normal(0, 0.5, (seeds, layers))
    scores = trend + own * rng.normal(0, 0.3, (seeds, layers)) + 0.25 * np.sin(3 * np.arange(layers)) * (1 - own)
    noise = rng.normal(0, 2, (1, layers, users)) + rng.normal(0, 2, (seeds, layers, users))
    return RankCorrelation(scores, truth[:, :, None] + noise)


def binomial_range(replicates, low, high):
    """Counts that a true rate between low and high leaves with a chance of at most .001 on either side."""
    return stats.binom.ppf(0.001, replicates, low), stats.binom.ppf(0.999, replicates, high)


def test_estimate_is_the_mean_of_scipys_spearman_also_with_ties():
    rng = np.random.default_rng(1)
    scores, damage = rng.integers(0, 4, (3, 10)).astype(float), rng.normal(size=(3, 10, 20))
    expected = [stats.spearmanr(s, d.mean(axis=1)).statistic for s, d in zip(scores, damage, strict=True)]
    assert RankCorrelation(scores, damage).estimate == pytest.approx(np.mean(expected), rel=1e-12)


def test_perfect_order_that_no_user_disturbs_is_exactly_one():
    damage = np.arange(4.0)[None, :, None] + np.zeros((2, 4, 6))
    effect = RankCorrelation(damage[:, :, 0], damage)
    interval = effect.interval(0.95)
    assert (effect.estimate, interval.low, interval.high) == (1, 1, 1)
    assert effect.sentence() == "Spearman 1.00"


def test_interval_stays_within_minus_one_and_one():
    interval = draw(np.random.default_rng(2), slope=1.0, seeds=2).interval(0.99)
    assert -1 <= interval.low <= interval.high <= 1


def test_constant_scores_have_no_correlation_and_give_an_invalid_verdict():
    effect = RankCorrelation(np.ones((2, 4)), np.random.default_rng(3).normal(size=(2, 4, 6)))
    assert math.isnan(effect.estimate)
    assert math.isnan(effect.interval(0.95).low)
    verdict = judge(effect, Region(low=0.0, open_low=True), 0.01)
    assert verdict.outcome == "invalid"
    assert "scores or all damages of a seed are equal" in verdict.reason


def test_damage_seen_by_a_single_user_leaves_the_correlation_open():
    """Where a draw misses that user, all damages are 0: the data do not say how the layers rank."""
    damage = np.zeros((1, 4, 10))
    damage[0, :, 0] = [0.0, 1.0, 2.0, 3.0]
    effect = RankCorrelation(np.arange(4.0)[None], damage)
    interval = effect.interval(0.95)
    assert (effect.estimate, interval.low, interval.high) == (1, -1, 1)
    assert effect.detectable(0.01) == math.inf
    assert judge(effect, Region(low=0.0), 0.01).outcome == "inconclusive"


def test_one_seed_has_the_error_of_a_plain_bootstrap_over_users():
    """400 fixed draws against 1,500 others: both estimate one standard error, to 4 % and 2 %."""
    effect = draw(np.random.default_rng(4), slope=1.0, seeds=1)
    rng, users = np.random.default_rng(5), effect.num_units
    picks = [effect.damage[0][:, rng.integers(users, size=users)].mean(axis=1) for _ in range(1500)]
    expected = np.std([stats.spearmanr(effect.scores[0], pick).statistic for pick in picks])
    assert effect.summary.standard_error == pytest.approx(expected, rel=0.15)
    assert effect.summary.df == pytest.approx(users - 1)


def test_seeds_with_the_same_evidence_count_as_one():
    one = draw(np.random.default_rng(6), slope=1.0, seeds=1)
    five = RankCorrelation(np.repeat(one.scores, 5, axis=0), np.repeat(one.damage, 5, axis=0))
    assert five.summary.standard_error == pytest.approx(one.summary.standard_error, rel=1e-9)


def test_order_of_seeds_and_layers_changes_nothing():
    effect = draw(np.random.default_rng(7), slope=1.0)
    seeds, layers = [3, 1, 0, 4, 2], [5, 0, 7, 1, 2, 6, 4, 3]
    other = RankCorrelation(effect.scores[seeds][:, layers], effect.damage[seeds][:, layers])
    assert other.interval(0.95).low == pytest.approx(effect.interval(0.95).low, rel=1e-9)


@pytest.mark.parametrize(
    ("scores", "damage", "message"),
    [
        (np.zeros((2, 4)), np.zeros((2, 5, 6)), r"must agree in seeds and layers, got \(2, 4\) and \(2, 5, 6\)"),
        (np.zeros((2, 2)), np.zeros((2, 2, 6)), "at least 3 layers, got 2"),
        (np.zeros((2, 4)), np.zeros((2, 4)), r"damage must be numbers of shape \[seeds, layers, users\]"),
        (np.zeros((2, 4)), np.zeros((2, 4, 1)), "damage needs at least 2 users"),
        (np.full((2, 4), np.nan), np.zeros((2, 4, 6)), "scores must be finite"),
    ],
)
def test_evidence_that_does_not_fit_is_refused(scores, damage, message):
    with pytest.raises(ValueError, match=message):
        RankCorrelation(scores, damage)


def test_unrelated_scores_are_rarely_called_related():
    """Scores and damage without a relation, 5 seeds: one-sided 5 % test at most 6 %, coverage 93 to 98 %.

    Each bound allows the .001 quantile of the binomial at 400 replicates; 2,000 gave 3.5 % and 97.0 %.
    """
    rng = np.random.default_rng(8)
    effects = [draw(rng, slope=0.0) for _ in range(400)]
    false = sum(effect.interval(0.9).low > 0 for effect in effects)
    covered = sum(effect.interval(0.95).low <= 0 <= effect.interval(0.95).high for effect in effects)
    assert false <= binomial_range(400, 0.0, 0.06)[1]
    low, high = binomial_range(400, 0.93, 0.98)
    assert low <= covered <= high


def orders_of(values):
    return np.array(list(itertools.permutations(values)))


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [0, 0, 0, 0, 1]], ids=["no-ties", "pairs", "one"])
def test_variance_of_pure_chance_is_that_over_all_orders_of_the_layers(values):
    """All 120 orders, by scipy; with ties too."""
    scores = [0.0, 1.0, 1.0, 3.0, 7.0]
    everywhere = [stats.spearmanr(scores, order).statistic for order in orders_of(values)]
    effect = RankCorrelation([scores] * 3, np.random.default_rng(10).random((3, 5, 4)))
    assert np.mean(everywhere) == pytest.approx(0, abs=1e-12)
    assert effect.chance_variance == pytest.approx([np.var(everywhere)] * 3)
    assert effect.against(0.0).chance == pytest.approx(np.sqrt(np.var(everywhere) / 3))


def alike(seeds=5, sign=1):
    """Every seed has the same Spearman correlation of three layers, .5, and no user disturbs it."""
    damage = np.tile(np.array([1.0, 0, 2])[None, :, None], (seeds, 1, 6))
    return RankCorrelation(sign * np.tile(np.arange(3.0), (seeds, 1)), damage)


@pytest.mark.parametrize("sign", [1, -1])
def test_seeds_that_agree_on_what_chance_gives_decide_nothing(sign):
    """By hand: the mean of five correlations of three layers scatters by 1 / sqrt(10), 2.3263 of which are .7357."""
    effect = alike(sign=sign)
    interval = effect.interval(0.98)
    assert (effect.estimate, effect.summary.standard_error) == (sign * 0.5, 0)
    assert sorted([sign * interval.low, sign * interval.high]) == pytest.approx([-0.2357, 1], abs=1e-4)
    assert judge(effect, Region(low=0.0, open_low=True), 0.01).outcome == "inconclusive"
    assert effect.detectable(0.01) == pytest.approx(0.7357, abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_beyond_chance_the_interval_is_that_of_t_alone(sign):
    """32 seeds: chance scatters by 1 / 8, 2.33 of which are .29."""
    effect = alike(32, sign)
    assert (effect.interval(0.98).low, effect.interval(0.98).high) == (sign * 0.5, sign * 0.5)
    outcome = judge(effect, Region(low=0.0, open_low=True), 0.01).outcome
    assert outcome == ("supported" if sign > 0 else "refuted")


def test_chance_is_known_at_0_only():
    assert alike().against(0.1).chance == 0


def test_interval_covers_the_expected_correlation_when_seeds_share_their_profile():
    """Users are the only sample that matters here; the expectation is the mean over all replicates."""
    rng = np.random.default_rng(9)
    effects = [draw(rng, slope=1.0, shared=True) for _ in range(300)]
    truth = np.mean([effect.estimate for effect in effects])
    covered = sum(effect.interval(0.95).low <= truth <= effect.interval(0.95).high for effect in effects)
    low, high = binomial_range(300, 0.93, 0.97)
    assert low <= covered <= high
