"""From interval and region to verdict: every outcome, open bounds, advice, sentences, monotony."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.statistics import Exact, Interval, MeanDifference, Outcome, Region, judge, retained, speedup

DIFFERENCES = MeanDifference(np.random.default_rng(1).normal(0.02, 0.1, (5, 400)), "NDCG@10")
RETENTION = retained([[0.80, 0.82, 0.816]], [[1.0, 1.0, 1.0]], "NDCG@10")
BOUNDS = st.integers(-40, 80).map(lambda value: value / 1000)


def region_from(bounds):
    low, high = sorted(bounds)
    return Region(low, high)


@pytest.mark.parametrize(
    ("region", "outcome"),
    [
        (Region(low=-0.05), Outcome.SUPPORTED),
        (Region(low=0.1), Outcome.REFUTED),
        (Region(high=-0.05), Outcome.REFUTED),
        (Region(high=0.1), Outcome.SUPPORTED),
        (Region(low=-0.05, high=0.1), Outcome.SUPPORTED),
        (Region(low=0.1, high=0.2), Outcome.REFUTED),
        (Region(low=DIFFERENCES.estimate), Outcome.INCONCLUSIVE),
        (Region(low=-0.05, high=DIFFERENCES.estimate + 1e-4), Outcome.INCONCLUSIVE),
    ],
)
def test_outcome_follows_from_where_the_deciding_interval_lies(region, outcome):
    assert judge(DIFFERENCES, region, 0.01).outcome is outcome


def test_verdict_keeps_both_intervals_and_what_was_declared():
    region = Region(low=0.0)
    verdict = judge(DIFFERENCES, region, 0.01)
    assert verdict.interval == DIFFERENCES.interval(0.95)
    assert verdict.deciding == DIFFERENCES.interval(0.98)
    assert (verdict.alpha, verdict.region, verdict.estimate) == (0.01, region, DIFFERENCES.estimate)
    assert verdict.detectable == DIFFERENCES.detectable(0.01)


@pytest.mark.parametrize(
    ("region", "outcome"),
    [
        (Region(low=0.0), Outcome.SUPPORTED),
        (Region(low=0.0, open_low=True), Outcome.REFUTED),
        (Region(high=0.0), Outcome.SUPPORTED),
        (Region(high=0.0, open_high=True), Outcome.REFUTED),
        (Region(low=-0.01), Outcome.SUPPORTED),
        (Region(low=0.0, high=0.0), Outcome.SUPPORTED),
    ],
)
def test_exact_tie_supports_no_loss_and_refutes_a_gain(region, outcome):
    assert judge(MeanDifference(np.zeros((5, 10)), "NDCG@10"), region, 0.01).outcome is outcome


@pytest.mark.parametrize(("value", "outcome"), [(75.0, "supported"), (74.99, "refuted"), (80, "supported")])
def test_exact_number_is_judged_by_the_closed_region(value, outcome):
    assert judge(Exact(value, "% of parameters removed"), Region(low=75.0), 0.01).outcome == outcome


@pytest.mark.parametrize(
    ("effect", "region", "sentence"),
    [
        (
            RETENTION,
            Region(low=0.88),
            "refuted: keeps 81.2 % of NDCG@10 (95 % CI 78.6 to 83.8, 3 users, these checkpoints only), needs 88 %",
        ),
        (
            speedup([4.0, 4.0], [1.0, 1.0]),
            Region(low=3.0, open_low=True),
            "supported: 4.00x (95 % CI 4.00 to 4.00, 2 blocks), needs more than 3x",
        ),
        (
            MeanDifference(np.full((5, 10), -0.25), "NDCG@10"),
            Region(high=0.0, open_high=True),
            "supported: -0.25 NDCG@10 (95 % CI -0.25 to -0.25, 5 seeds x 10 users), needs less than 0 NDCG@10",
        ),
        (
            Exact(74.8, "% of parameters removed"),
            Region(low=70.0, high=80.0),
            "supported: 74.8 % of parameters removed, needs 70 % to 80 %",
        ),
        (Exact(3, "layers"), Region(high=2.0), "refuted: 3 layers, needs at most 2"),
    ],
)
def test_sentence_says_outcome_estimate_interval_sample_and_need(effect, region, sentence):
    assert judge(effect, region, 0.01).sentence == sentence


def test_reason_names_the_deciding_interval():
    """.812 +- 6.9646 (t at .99, 2 degrees) * sqrt(112e-6 / 3)."""
    reason = judge(RETENTION, Region(low=0.5), 0.01).reason
    assert reason == "the deciding 98 % interval 76.9 to 85.5 lies inside the claimed region"


def test_inconclusive_says_how_much_more_data_would_decide():
    """Estimate 1, error 1 over 100 users: at alpha .01 the margin is 2.3646, so 2.3646^2 = 5.6 times the sample."""
    values = np.tile([-1.0, 1.0], 50) * math.sqrt(99)
    verdict = judge(MeanDifference(values[None] + 1.0, "NDCG@10"), Region(low=0.0), 0.01)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "about 5.6 times the sample (100 users, these checkpoints only) would decide" in verdict.reason


def test_inconclusive_with_several_seeds_says_what_seeds_contribute():
    column = np.linspace(-1, 1, 5)[:, None] + np.zeros((5, 10))
    reason = judge(MeanDifference(column + 0.3, "NDCG@10"), Region(low=0.0), 0.01).reason
    assert "(5 seeds x 10 users) would decide" in reason
    assert reason.endswith("100 % of the variance shrinks with more seeds only")


def test_advice_suffices_when_the_sample_really_grows_by_that_factor():
    """Repeating the users keeps the estimate where it is and divides the squared error."""
    effect, region = MeanDifference(DIFFERENCES.values[:1], "NDCG@10"), Region(low=0.015)
    factor = effect.growth(region.low, 0.01)
    assert judge(effect, region, 0.01).outcome is Outcome.INCONCLUSIVE
    for times, decided in ((math.floor(0.9 * factor), False), (math.ceil(factor), True)):
        grown = MeanDifference(np.tile(effect.values, (1, times)), "NDCG@10")
        assert (judge(grown, region, 0.01).outcome is not Outcome.INCONCLUSIVE) is decided


def test_estimate_on_the_edge_is_said_to_be_undecidable():
    reason = judge(DIFFERENCES, Region(low=DIFFERENCES.estimate), 0.01).reason
    assert "sits on the edge" in reason
    assert "no practical sample would decide" in reason


@pytest.mark.parametrize("bounds", [{}, {"low": math.nan}, {"low": 1.0, "high": 0.0}, {"low": math.nan, "high": 1.0}])
def test_region_that_claims_nothing_is_refused(bounds):
    with pytest.raises(ValueError, match="claimed region needs"):
        Region(**bounds)


def test_region_of_one_open_point_is_refused():
    with pytest.raises(ValueError, match="needs values between its bounds"):
        Region(1.0, 1.0, open_low=True)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1, 5, math.nan])
def test_alpha_that_is_no_one_sided_error_rate_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must lie between 0 and 0.5"):
        judge(DIFFERENCES, Region(low=0.0), alpha)


@settings(derandomize=True, deadline=None)
@given(st.tuples(BOUNDS, BOUNDS), st.tuples(BOUNDS, BOUNDS), st.sampled_from([0.001, 0.01, 0.05, 0.4]))
def test_wider_region_never_turns_support_away_nor_refutes_more(bounds, others, alpha):
    inner = region_from(bounds)
    outer = Region(min(inner.low, *others), max(inner.high, *others))
    narrow, wide = judge(DIFFERENCES, inner, alpha).outcome, judge(DIFFERENCES, outer, alpha).outcome
    assert narrow is not Outcome.SUPPORTED or wide is Outcome.SUPPORTED
    assert wide is not Outcome.REFUTED or narrow is Outcome.REFUTED


@settings(derandomize=True, deadline=None)
@given(st.tuples(BOUNDS, BOUNDS), st.floats(0.001, 0.4), st.floats(0.001, 0.4))
def test_smaller_alpha_never_reverses_a_verdict_only_withholds_it(bounds, alpha, other):
    strict, lenient = (judge(DIFFERENCES, region_from(bounds), value).outcome for value in sorted((alpha, other)))
    assert strict in (lenient, Outcome.INCONCLUSIVE)


@settings(derandomize=True, deadline=None)
@given(st.tuples(BOUNDS, BOUNDS), st.tuples(BOUNDS, BOUNDS), st.tuples(st.booleans(), st.booleans()))
def test_no_interval_is_both_inside_and_outside(bounds, ends, opened):
    low, high = sorted(bounds)
    region = Region(low, high, *opened) if low < high else Region(low, high)
    interval = Interval(*sorted(ends), 0.95)
    assert not (region.contains(interval) and region.excludes(interval))
