"""Effects of means, ranks, seeds, times and exact numbers: values by hand, evidence that gives itself back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerwise.statistics import (
    ClassificationGain,
    Exact,
    Interval,
    MeanDifference,
    RankAdvantage,
    RankCorrelation,
    SeedMean,
    effect_from_evidence,
    retained,
    speedup,
)

RNG = np.random.default_rng(7)
EFFECTS = [
    MeanDifference(RNG.normal(size=(5, 30)), "NDCG@10"),
    retained(RNG.random((5, 30)), RNG.random((5, 30)), "NDCG@10"),
    speedup(30 + RNG.random(10), 8 + RNG.random(10)),
    RankCorrelation(RNG.random((5, 8)), RNG.normal(size=(5, 8, 30))),
    RankAdvantage(RNG.random((5, 8)), RNG.random((3, 5, 8)), RNG.normal(size=(5, 8, 30))),
    ClassificationGain(
        RNG.random((5, 90)), RNG.random((5, 90)), RNG.integers(2, size=90), RNG.integers(30, size=90), "f1"
    ),
    SeedMean(RNG.random(5), "Kendall's W"),
    Exact(74.8, "% of parameters removed"),
]
BY_KIND = pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.kind)


@BY_KIND
def test_evidence_gives_the_effect_back_bit_by_bit(effect):
    copy = effect_from_evidence(effect.kind, effect.evidence(), effect.text())
    assert type(copy) is type(effect)
    assert (copy.estimate, copy.unit, copy.text()) == (effect.estimate, effect.unit, effect.text())
    assert copy.interval(0.98) == effect.interval(0.98)
    assert copy.detectable(0.01) == effect.detectable(0.01)
    for name, array in effect.evidence().items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(copy.evidence()[name], array, strict=True)


@BY_KIND
def test_interval_ends_are_where_the_linear_form_just_rejects(effect):
    interval = effect.interval(0.95)
    for end in (interval.low, interval.high):
        form = effect.against(end)
        assert abs(form.mean) == pytest.approx(form.margin(0.975), rel=1e-8)


@BY_KIND
@settings(derandomize=True, deadline=None, max_examples=30)
@given(level=st.floats(0.05, 0.99), other=st.floats(0.05, 0.99))
def test_intervals_nest_with_the_level(effect, level, other):
    narrow, wide = (effect.interval(value) for value in sorted((level, other)))
    assert wide.low <= narrow.low <= effect.estimate <= narrow.high <= wide.high


def test_evidence_cannot_be_changed_from_outside():
    values = np.array([[1.0, 2.0, 3.0]])
    effect = MeanDifference(values, "NDCG@10")
    values[0, 0] = 100.0
    assert effect.estimate == 2
    with pytest.raises(ValueError, match="read-only"):
        effect.values[0, 0] = 100.0


def test_unknown_kind_or_foreign_arrays_are_refused():
    with pytest.raises(
        ValueError, match="kind must be one of classification-gain, exact, mean-difference, .* got 'ratio'"
    ):
        effect_from_evidence("ratio", {}, {})
    with pytest.raises(ValueError, match=r"\['value'\] .* is not the evidence of kind 'speedup'"):
        effect_from_evidence("speedup", {"value": np.array([1.0])}, {})
    with pytest.raises(ValueError, match="is not the evidence of kind 'exact'"):
        effect_from_evidence("exact", {}, {"unit": "layers"})


def test_mean_difference_of_one_seed_is_a_t_test_and_says_that_it_is_about_checkpoints():
    values = RNG.normal(0.01, 0.1, (1, 200))
    effect = MeanDifference(values, "NDCG@10")
    expected = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    interval = effect.interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert effect.sentence(interval).endswith("200 users, these checkpoints only)")


def test_exact_tie_has_a_point_interval_and_nothing_undetectable():
    effect = MeanDifference(np.full((5, 10), 0.1), "NDCG@10")
    assert effect.interval(0.95) == Interval(0.1, 0.1, 0.95)
    assert effect.detectable(0.01) == 0


def test_detectable_distance_by_hand():
    """Values -1 and 1, ten of each: error sqrt(20 / 19 / 20), 19 degrees; t at .99 is 2.5395 and at .8 is .8610."""
    effect = MeanDifference(np.tile([-1.0, 1.0], 10)[None], "NDCG@10")
    assert effect.detectable(0.01, power=0.8) == pytest.approx((2.5395 + 0.8610) * math.sqrt(1 / 19), rel=1e-4)
    with pytest.raises(ValueError, match="power must lie between alpha and 1"):
        effect.detectable(0.01, power=1.0)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 0.5"):
        effect.detectable(0.5)


def test_a_loss_of_the_detectable_distance_is_found_with_the_stated_power():
    """30 users, alpha .05, power .8: 2,000 simulated samples; the bound allows four standard errors (3.6 %)."""
    rng = np.random.default_rng(8)
    samples = rng.normal(size=(2000, 1, 30))
    distance = (stats.t.ppf(0.95, 29) + stats.t.ppf(0.8, 29)) / math.sqrt(30)
    found = [MeanDifference(sample - distance, "NDCG@10").interval(0.9).high < 0 for sample in samples]
    assert np.mean(found) == pytest.approx(0.8, abs=0.036)


def test_speedup_is_the_geometric_mean_of_block_ratios():
    effect = speedup([8.0, 2.0], [2.0, 2.0])
    assert effect.estimate == pytest.approx(math.sqrt(4 * 1))


def test_speedup_interval_is_the_t_interval_of_log_ratios_and_inverts_with_the_models():
    full, compact = 30 + RNG.random(12), 8 + RNG.random(12)
    expected = np.exp(stats.ttest_1samp(np.log(full / compact), 0).confidence_interval(0.95))
    forward, backward = speedup(full, compact).interval(0.95), speedup(compact, full).interval(0.95)
    assert (forward.low, forward.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert (1 / backward.high, 1 / backward.low) == pytest.approx(tuple(expected), rel=1e-12)


def test_speedup_detects_factors():
    effect = speedup(30 + RNG.random(10), 8 + RNG.random(10))
    summary = effect.summary
    expected = (stats.t.ppf(0.99, 9) + stats.t.ppf(0.8, 9)) * summary.standard_error
    assert effect.detectable(0.01) == pytest.approx(math.exp(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("full", "compact", "message"),
    [
        ([1.0, 0.0], [1.0, 1.0], "full_ms must be above 0 ms, got 0.0 in block 1"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "full_ms and compact_ms are paired"),
        ([1.0], [1.0], "full_ms needs at least 2 blocks"),
        ([[1.0, 2.0]], [1.0, 2.0], r"full_ms must be numbers of shape \[blocks\]"),
    ],
)
def test_times_that_cannot_be_used_are_refused(full, compact, message):
    with pytest.raises(ValueError, match=message):
        speedup(full, compact)


def test_exact_number_is_its_own_interval():
    effect = Exact(12, "layers")
    assert effect.interval(0.98) == Interval(12.0, 12.0, 0.98)
    assert effect.detectable(0.01) == 0
    with pytest.raises(ValueError, match="value must be finite, got nan"):
        Exact(math.nan, "layers")


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        (MeanDifference([[0.0122, 0.0124]], "NDCG@10"), "+0.0123 NDCG@10"),
        (MeanDifference([[-1.0, -1.0]], "NDCG@10"), "-1 NDCG@10"),
        (retained([[0.8, 0.824]], [[1.0, 1.0]], "NDCG@10"), "keeps 81.2 % of NDCG@10"),
        (speedup([3.71, 3.71], [1.0, 1.0]), "3.71x"),
        (SeedMean([0.8734, 0.8726], "Kendall's W"), "0.873 Kendall's W"),
        (Exact(74.8, "% of parameters removed"), "74.8 % of parameters removed"),
        (Exact(3_145_728, "parameters"), "3,145,728 parameters"),
    ],
)
def test_sentences_read_as_english(effect, sentence):
    assert effect.sentence() == sentence
