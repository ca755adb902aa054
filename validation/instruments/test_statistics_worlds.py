"""Worlds with a known truth: they keep the noise of the evidence and put the effect where it was asked for."""

import numpy as np
import pytest

from layerwise.statistics import (
    AllOf,
    Exact,
    MeanDifference,
    RankAdvantage,
    RankCorrelation,
    SeedMean,
    retained,
    speedup,
)
from layerwise.statistics.worlds import NoWorldError, world_at

WORLDS = 2000


def rng(seed=0):
    return np.random.default_rng(seed)


def sparse_pairs(seeds=5, users=60):
    """Full and compact models' values, mostly zero."""
    full = np.where(rng(1).random((seeds, users)) < 0.3, rng(2).random((seeds, users)), 0.0)
    return 0.7 * full * (rng(3).random((seeds, users)) < 0.9), full


def ranked(seeds=5, layers=6, users=40):
    return rng(4).random((seeds, layers)), rng(5).random((seeds, layers, users))


@pytest.mark.parametrize("truth", [0.0, -0.3])
def test_differences_scatter_around_the_truth_with_the_variance_of_seeds_and_users(truth):
    """By hand: users' means vary with the variance over users, seeds with what exceeds the users' noise in theirs."""
    values = rng().standard_normal((5, 1)) + rng(1).standard_normal((1, 50)) + rng(2).standard_normal((5, 50))
    effect, source = MeanDifference(values, "x"), rng(3)

    means = np.array([world_at(effect, truth, source).estimate for _ in range(WORLDS)])

    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    seed_variance = values.mean(axis=1).var(ddof=1) - np.square(rest).sum() / (4 * 49 * 50)
    expected = seed_variance / 5 + values.mean(axis=0).var() / 50
    assert means.mean() == pytest.approx(truth, abs=4 * np.sqrt(expected / WORLDS))
    assert means.var() == pytest.approx(expected, rel=0.15)


def test_seeds_that_agree_give_worlds_whose_seeds_agree():
    effect = MeanDifference(np.tile([0.0, 1.0, 5.0], (4, 1)), "x")

    world = world_at(effect, 0.0, rng())

    assert np.ptp(world.values, axis=0).max() == pytest.approx(0, abs=1e-12)
    assert set(world.values[0].round(9)) <= {-2.0, -1.0, 3.0}


def test_seeds_alone_give_worlds_whose_users_agree_and_whose_seeds_are_as_far_apart():
    """Two seeds at 0 and 2 have the variance 2, without the factor 1/2 of a bootstrap of two."""
    effect, source = MeanDifference(np.tile([[0.0], [2.0]], (1, 30)), "x"), rng()

    tables = np.array([world_at(effect, 0.0, source).values for _ in range(WORLDS)])

    assert np.ptp(tables, axis=2).max() == pytest.approx(0, abs=1e-12)
    assert tables[:, :, 0].var(axis=1, ddof=1).mean() == pytest.approx(2.0, rel=0.1)


def test_users_keep_both_arms_and_compact_is_shifted_as_a_whole():
    compact, full = sparse_pairs(seeds=1)
    effect = retained(compact, full, "NDCG@10")

    world = world_at(effect, 0.9, rng())

    shift = (0.9 * full - compact).mean()
    pairs = set(zip((compact[0] + shift).round(9), full[0].round(9), strict=True))
    assert set(zip(world.compact[0].round(9), world.full[0].round(9), strict=True)) <= pairs
    assert len(set(world.full[0])) < len(set(full[0]))  # drawn with replacement


@pytest.mark.parametrize("truth", [0.88, 1.15])
def test_retention_lies_where_it_was_put(truth):
    effect, source = retained(*sparse_pairs(), "NDCG@10"), rng()

    forms = np.array([world_at(effect, truth, source).against(truth).mean for _ in range(WORLDS)])

    assert abs(forms.mean()) < 4 * forms.std() / np.sqrt(WORLDS)
    assert forms.std() == pytest.approx(effect.against(truth).standard_error, rel=0.3)


def test_scores_are_dealt_to_layers_seed_by_seed_and_correlate_with_nothing():
    scores, damage = ranked()
    effect, source = RankCorrelation(scores, damage), rng()

    worlds = [world_at(effect, 0.0, source) for _ in range(300)]

    assert np.array_equal(np.sort(worlds[0].scores, axis=1), np.sort(scores, axis=1))
    assert abs(np.mean([world.per_seed for world in worlds])) < 4 / np.sqrt(5 * 300 * 5)
    orders = np.argsort(np.argsort(worlds[0].scores, axis=1), axis=1) - np.argsort(np.argsort(scores, axis=1), axis=1)
    assert len({tuple(order) for order in orders}) > 1  # not one shuffle for all seeds


def test_a_score_changes_places_with_its_rivals_within_each_seed():
    scores, damage = ranked()
    rivals = rng(6).random((3, 5, 6))
    source = rng()

    worlds = [world_at(RankAdvantage(scores, rivals, damage), 0.0, source) for _ in range(200)]

    before = np.sort(np.concatenate([scores[None], rivals]), axis=0)
    for world in worlds:
        assert np.array_equal(np.sort(np.concatenate([world.scores[None], world.rivals]), axis=0), before)
    own = np.mean([(world.scores == scores).all(axis=1) for world in worlds])
    assert own == pytest.approx(1 / 4, abs=0.06)


def test_blocks_keep_the_size_of_their_ratios_and_lose_their_direction():
    full, compact = 10 + rng().random(8), 5 + rng(1).random(8)
    source = rng(2)

    worlds = [world_at(speedup(full, compact), 3.5, source) for _ in range(WORLDS)]

    off = np.log([world.full_ms / world.compact_ms for world in worlds]) - np.log(3.5)
    size = np.abs(np.log(full / compact) - np.log(full / compact).mean())
    assert np.abs(off) == pytest.approx(np.tile(size, (WORLDS, 1)))
    assert np.abs(off.mean(axis=0)) == pytest.approx(0, abs=4 * size.max() / np.sqrt(WORLDS))


def test_one_part_of_a_joint_verdict_lies_on_its_edge_and_the_others_above():
    noisy = MeanDifference(5 + rng().standard_normal((5, 30)), "x")
    tie = MeanDifference(np.zeros((5, 30)), "x")
    effect, source = AllOf({"a": noisy, "tie": tie, "b": noisy}, {"b": 1.0}), rng(1)

    worlds = [world_at(effect, 0.0, source) for _ in range(40)]

    assert {world.weakest for world in worlds} == {"a", "b"}
    for world in worlds:
        others = [part for name, part in world.parts.items() if name != world.weakest]
        assert all(part.kind == "exact" for part in others)
        assert abs(world.parts[world.weakest].estimate - effect.edges[world.weakest]) < 2


@pytest.mark.parametrize(
    ("effect", "truth", "complaint"),
    [
        (Exact(75.0, "%"), 75.0, "without sampling error"),
        (SeedMean([0.9, 0.8, 0.7], "W"), 0.9, "3 numbers"),
        (MeanDifference(np.zeros((5, 30)), "x"), 0.0, "nothing in it varies"),
        (AllOf({"tie": MeanDifference(np.zeros((5, 30)), "x")}), 0.0, "none of its parts varies"),
        (retained(np.ones((2, 4)), np.zeros((2, 4)), "x"), 1.0, "undefined"),
        (RankCorrelation(*ranked()), 0.5, "no world for 0.5"),
    ],
)
def test_evidence_without_a_world_says_why(effect, truth, complaint):
    with pytest.raises(NoWorldError, match=complaint):
        world_at(effect, truth, rng())


def test_the_generator_decides_the_world():
    effect = retained(*sparse_pairs(), "NDCG@10")
    first, again, other = (world_at(effect, 0.9, rng(seed)).compact for seed in (0, 0, 1))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
