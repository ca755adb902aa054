"""Joint verdict: agrees with the parts' own verdicts, exact and undefined parts, evidence, advice, sentences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerwise.statistics import (
    AllOf,
    Exact,
    MeanDifference,
    RankAdvantage,
    RankCorrelation,
    Region,
    SeedMean,
    effect_from_evidence,
    judge,
    retained,
    speedup,
)

ABOVE = Region(low=0.0, open_low=True)
RNG = np.random.default_rng(1)
KINDS = {
    "band removal": MeanDifference(RNG.normal(0.02, 0.1, (5, 40)), "NDCG@10"),
    "retention": retained(0.9 + 0.2 * RNG.random((5, 30)), 1 + 0.2 * RNG.random((5, 30)), "NDCG@10"),
    "speed": speedup(30 + RNG.random(10), 8 + RNG.random(10)),
    "trend": RankCorrelation(RNG.random((5, 8)), RNG.normal(size=(5, 8, 30))),
    "advantage": RankAdvantage(RNG.random((5, 8)), RNG.random((2, 5, 8)), RNG.normal(size=(5, 8, 30))),
    "agreement": SeedMean([0.7, 0.8, 0.9], "Kendall's W"),
    "size": Exact(75.0, "% of parameters removed"),
}
EDGES = {"retention": 0.88, "speed": 3.0, "size": 70.0}


def sampled(distance, users=20, unit="NDCG@10"):
    """A mean that lies exactly this many standard errors above 0, one seed."""
    values = RNG.normal(size=(1, users))
    values -= values.mean()
    return MeanDifference(values + distance * values.std(ddof=1) / math.sqrt(users), unit)


def parts_of(distances):
    return {f"part {index}": sampled(distance) for index, distance in enumerate(distances)}


def test_estimate_is_the_smallest_distance_in_standard_errors_and_names_its_part():
    effect = AllOf({"near": sampled(1.5), "far": sampled(-2.5), "middle": sampled(0.5)})
    assert effect.estimate == pytest.approx(-2.5, rel=1e-12)
    assert effect.weakest == "far"


@pytest.mark.parametrize("sign", [1, -1])
def test_part_whose_seeds_agree_on_what_chance_gives_decides_nothing(sign):
    """Five correlations of .5 over three layers, no error: chance scatters by 1 / sqrt(10), and .5 is 1.58 of that."""
    damage = np.tile(np.array([1.0, 0, 2])[None, :, None], (5, 1, 6))
    trend = RankCorrelation(sign * np.tile(np.arange(3.0), (5, 1)), damage)
    effect = AllOf({"trend": trend, "far": Exact(1.0, "x")})
    assert effect.forms["trend"].mean == pytest.approx(sign * 0.5 * math.sqrt(10))
    assert judge(effect, ABOVE, 0.01).outcome == "inconclusive"


def test_interval_ends_by_hand():
    """Distances 3 (4 users) and 2 (20 users): t at .95 with 3 and 19 degrees below, at .975 above."""
    interval = AllOf({"few": sampled(3, users=4), "many": sampled(2, users=20)}).interval(0.9)
    assert interval.low == pytest.approx(min(3 - stats.t.ppf(0.95, 3), 2 - stats.t.ppf(0.95, 19)), rel=1e-9)
    assert interval.high == pytest.approx(min(3 + stats.t.ppf(0.975, 3), 2 + stats.t.ppf(0.975, 19)), rel=1e-9)


def test_one_part_has_the_verdict_of_its_own_test():
    for name, part in KINDS.items():
        alone = judge(part, Region(low=EDGES.get(name, 0.0), open_low=True), 0.01).outcome
        edges = {name: EDGES[name]} if name in EDGES else {}
        assert judge(AllOf({name: part}, edges), ABOVE, 0.01).outcome is alone


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=5), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_supported_when_all_parts_are_and_refuted_when_one_is_at_its_share_of_alpha(distances, alpha):
    parts = parts_of(distances)
    supported = all(judge(part, ABOVE, alpha).outcome == "supported" for part in parts.values())
    refuted = any(judge(part, ABOVE, alpha / len(parts)).outcome == "refuted" for part in parts.values())
    expected = "supported" if supported else "refuted" if refuted else "inconclusive"
    assert judge(AllOf(parts), ABOVE, alpha).outcome == expected


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=4), st.floats(0.05, 0.99), st.floats(0.05, 0.99))
def test_intervals_nest_with_the_level_and_hold_the_estimate(distances, level, other):
    effect = AllOf(parts_of(distances))
    narrow, wide = (effect.interval(value) for value in sorted((level, other)))
    assert wide.low <= narrow.low <= effect.estimate <= narrow.high <= wide.high


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=4), st.floats(-6, 6))
def test_one_more_part_never_helps_a_claim(distances, further):
    parts = parts_of(distances)
    fewer, more = AllOf(parts), AllOf({**parts, "further": sampled(further)})
    assert more.estimate <= fewer.estimate
    assert more.interval(0.9).low <= fewer.interval(0.9).low


@pytest.mark.parametrize(
    ("value", "outcome", "estimate"), [(70.5, "supported", 5.0), (70.0, "refuted", 0.0), (69.5, "refuted", -1000.0)]
)
def test_exact_part_counts_by_its_side_only(value, outcome, estimate):
    parts = {"sampled": sampled(5.0), "exact": Exact(value, "% of parameters removed")}
    effect = AllOf(parts, {"exact": 70.0})
    assert effect.estimate == pytest.approx(estimate, rel=1e-12)
    assert judge(effect, ABOVE, 0.01).outcome == outcome


def test_exact_parts_alone_have_finite_points_and_nothing_undetectable():
    effect = AllOf({"one": Exact(1, "layers"), "two": Exact(2, "layers")}, {"one": 1.0, "two": 1.0})
    interval = effect.interval(0.98)
    assert (effect.estimate, interval.low, interval.high, effect.detectable(0.01)) == (0, 0, 0, 0)
    assert judge(effect, ABOVE, 0.01).outcome == "refuted"
    assert judge(effect, Region(low=0.0), 0.01).outcome == "supported"
    above = AllOf({"one": Exact(1, "layers"), "two": Exact(2, "layers")})
    assert (above.estimate, above.interval(0.98).high) == (1000, 1000)


def test_two_seeds_far_from_the_edge_are_not_cut_off_before_their_margin():
    """Distance 5,000, t at .0001 with one degree 3,183: supported, although both are beyond what is shown."""
    effect = AllOf({"agreement": SeedMean([4999.0, 5001.0], "Kendall's W")})
    assert effect.estimate == 1000
    assert judge(effect, ABOVE, 0.0001).outcome == "supported"


def test_part_that_says_nothing_leaves_the_claim_open_unless_another_part_is_refuted():
    """Damage seen by one user has an infinite error."""
    damage = np.zeros((1, 4, 10))
    damage[0, :, 0] = [0.0, 1.0, 2.0, 3.0]
    silent = RankCorrelation(np.arange(4.0)[None], damage)
    for distance, outcome in ((8.0, "inconclusive"), (-8.0, "refuted")):
        effect = AllOf({"silent": silent, "sampled": sampled(distance)})
        assert judge(effect, ABOVE, 0.01).outcome == outcome
        assert math.isfinite(effect.estimate)


def test_retention_is_tested_at_its_edge_although_its_interval_is_unbounded():
    """A full model with one hit keeps far more than nothing when the compact one hits for every user."""
    full = np.zeros((1, 20))
    full[0, 3] = 1.0
    part = retained(1.0 + full, full, "HR@10")
    assert judge(part, ABOVE, 0.01).outcome == "inconclusive"
    assert judge(AllOf({"part": part}), ABOVE, 0.01).outcome == "supported"


@pytest.mark.parametrize("first", [True, False])
def test_undefined_part_makes_the_verdict_invalid_and_is_named(first):
    undefined = {"trend": RankCorrelation(np.ones((2, 4)), np.random.default_rng(3).normal(size=(2, 4, 6)))}
    rest = {"sampled": sampled(-8.0)}
    effect = AllOf({**undefined, **rest} if first else {**rest, **undefined})
    verdict = judge(effect, ABOVE, 0.01)
    assert verdict.outcome == "invalid"
    assert "weakest: trend, Spearman undefined" in verdict.reason


def test_evidence_gives_all_parts_back_bit_by_bit():
    effect = AllOf({**KINDS, **{f"more {index}": sampled(index) for index in range(5)}}, EDGES)  # ten and more parts
    copy = effect_from_evidence(effect.kind, effect.evidence(), effect.text())
    assert list(copy.parts) == list(effect.parts)
    assert (dict(copy.edges), copy.text(), copy.sentence()) == (dict(effect.edges), effect.text(), effect.sentence())
    assert (copy.estimate, copy.interval(0.98)) == (effect.estimate, effect.interval(0.98))
    assert copy.detectable(0.01) == effect.detectable(0.01)
    assert set(copy.evidence()) == set(effect.evidence())
    for name, array in effect.evidence().items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(copy.evidence()[name], array, strict=True)


def test_evidence_without_a_part_is_refused():
    effect = AllOf(KINDS, EDGES)
    arrays = {name: array for name, array in effect.evidence().items() if not name.startswith("3.")}
    with pytest.raises(ValueError, match="is not the evidence of kind 'all-of'"):
        effect_from_evidence("all-of", arrays, effect.text())


def test_supporting_needs_the_sample_of_the_part_that_needs_most_and_refuting_that_of_the_first():
    """Supporting: t at .99 is 4.541 with 3 degrees, so (4.541 / 2.5)^2 = 3.3, more than (2.539 / 2)^2 = 1.6."""
    above = AllOf({"many": sampled(2.0, users=20), "few": sampled(2.5, users=4)})
    assert above.growth(0.0, 0.01) == pytest.approx((stats.t.ppf(0.99, 3) / 2.5) ** 2, rel=1e-9)
    below = AllOf({"a": sampled(-1.0, users=20), "b": sampled(-1.5, users=20), "c": sampled(9.0)})
    assert below.growth(0.0, 0.01) == pytest.approx((stats.t.ppf(1 - 0.01 / 3, 19) / 1.5) ** 2, rel=1e-9)
    reason = judge(above, ABOVE, 0.01).reason
    assert "about 3.3 times the sample (of each of 2 parts) would decide" in reason


def test_detectable_distance_is_that_of_the_part_with_fewest_degrees():
    effect = AllOf({"many": sampled(2.0, users=20), "few": sampled(2.5, users=4)})
    assert effect.detectable(0.01) == pytest.approx(stats.t.ppf(0.99, 3) + stats.t.ppf(0.8, 3), rel=1e-9)


def test_sentence_counts_parts_and_shows_the_weakest_in_its_own_unit():
    parts = {
        "band removal": MeanDifference(np.full((5, 10), -0.0441), "NDCG@10"),
        "agreement": SeedMean([0.7, 0.8, 0.9], "Kendall's W"),
        "speed": speedup([4.0, 4.0], [1.0, 1.0]),
    }
    effect = AllOf(parts, {"speed": 3.0})
    assert effect.sentence() == (
        "2 of 3 parts above their edges; weakest: band removal, -0.0441 NDCG@10 against 0 NDCG@10"
    )
    assert judge(effect, ABOVE, 0.01).sentence == (
        "refuted: 2 of 3 parts above their edges; weakest: band removal, -0.0441 NDCG@10 (95 % CI -0.0441 to -0.0441, "
        "5 seeds x 10 users) against 0 NDCG@10, needs more than 0 standard errors in every part"
    )
    assert (effect.num_seeds, effect.num_units) == (5, 10)


def test_parts_cannot_be_changed_from_outside():
    parts = {"one": sampled(1.0)}
    effect = AllOf(parts)
    parts["two"] = sampled(-9.0)
    assert list(effect.parts) == ["one"]
    with pytest.raises(TypeError):
        effect.parts["two"] = sampled(-9.0)


@pytest.mark.parametrize(
    ("parts", "edges", "error", "message"),
    [
        ({}, {}, ValueError, r"edges must name some of the parts \[\], at least one"),
        ({"a": Exact(1, "layers")}, {"b": 1.0}, ValueError, r"edges must name some of the parts \['a'\]"),
        ({"a": Exact(1, "layers")}, {"a": math.inf}, ValueError, "edges must be finite"),
        ({"a": AllOf({"b": Exact(1, "layers")})}, {}, TypeError, "part 'a' must be one of .*exact, .* got 'all-of'"),
    ],
)
def test_parts_and_edges_that_make_no_joint_claim_are_refused(parts, edges, error, message):
    with pytest.raises(error, match=message):
        AllOf(parts, edges)
