"""How often the intervals are wrong, by simulation: false alarms, coverage, power, where users and seeds both vary.

A rate is judged by its count: it fails when a true rate at the bound would exceed the count with a chance of at
most .001 (binomial). Seed noise is given as the variance of the seeds' effect on the mean over the variance of
the rest of the mean: users and the interaction of seeds and users.
"""

import numpy as np
import pytest
from scipy import stats

from layerwise.statistics import AllOf, MeanDifference, retained, speedup, two_way

SEEDS, USERS = 5, 400
REPLICATES, SPARSE_REPLICATES, JOINT_REPLICATES = 8000, 2000, 1000
GAINS = 1 / np.log2(np.arange(1, 11) + 1)  # NDCG of ranks 1 to 10
TRUE_RETENTION, CLAIMED = 0.82, 0.88  # a loss of 18 % against a margin of 12 %: 1.5 margins


def most(replicates, rate):
    """Largest count that is compatible with a true rate of at most this."""
    return stats.binom.ppf(0.999, replicates, rate)


def least(replicates, rate):
    """Smallest count that is compatible with a true rate of at least this."""
    return stats.binom.ppf(0.001, replicates, rate)


def normal_tables(seed_noise, interaction, seeds=SEEDS, replicates=REPLICATES):
    """Tables [seeds, users] of true mean 0: seed effects + user effects of variance 1 + interaction."""
    rng = np.random.default_rng([seeds, int(10 * seed_noise), int(10 * interaction)])
    seed_variance = seed_noise * seeds * (1 + interaction / seeds) / USERS
    for _ in range(replicates // 200):
        by_seed = np.sqrt(seed_variance) * rng.standard_normal((200, seeds, 1))
        by_cell = np.sqrt(interaction) * rng.standard_normal((200, seeds, USERS))
        yield from by_seed + rng.standard_normal((200, 1, USERS)) + by_cell


def sparse_pairs(seed_noise, targets=5, users=943):
    """Pairs of NDCG@10 tables, compact and full, mostly zero: users differ in how predictable they are.

    Seeds agree on 70 % of the targets; the compact model loses hits and gains a few at rank 10. Seed noise is
    the standard deviation of the factors by which seeds change the chances of a hit and of keeping it. By
    linearity the retention in expectation is TRUE_RETENTION.
    """
    rng = np.random.default_rng([7, int(100 * seed_noise)])
    chance, new_hit = 0.1, 0.005  # mean of .9 * Beta(.5, 4), chance of a hit that the full model did not have
    kept = TRUE_RETENTION - (1 - chance) * new_hit * GAINS[-1] / (chance * GAINS.mean())
    for _ in range(SPARSE_REPLICATES // 50):
        hit_chance = 0.9 * rng.beta(0.5, 4, (50, 1, users)) * (1 + seed_noise * rng.standard_normal((50, SEEDS, 1)))
        keep_chance = kept + seed_noise * rng.standard_normal((50, SEEDS, 1))
        full, compact = np.zeros((2, 50, SEEDS, users))
        for _ in range(targets):
            cells = (50, SEEDS, users)
            luck = np.where(rng.random(cells) < 0.7, rng.random((50, 1, users)), rng.random(cells))
            hit, gain, fate = luck < hit_chance, GAINS[rng.integers(0, 10, cells)], rng.random(cells)
            full += hit * gain / targets
            compact += np.where(hit, (fate < keep_chance) * gain, (fate < new_hit) * GAINS[-1]) / targets
        yield from zip(compact, full, strict=True)


def rejections(tables):
    """Counts of tables whose true mean 0 is rejected: two-sided 5 %, from above at 5 % and at 1 %."""
    forms = [two_way(table) for table in tables]
    t = np.array([form.mean / form.standard_error for form in forms])
    df = np.array([form.df for form in forms])
    return np.sum(abs(t) > stats.t.ppf(0.975, df)), np.sum(t > stats.t.ppf(0.95, df)), np.sum(t > stats.t.ppf(0.99, df))


@pytest.mark.parametrize("interaction", [1.0, 4.0], ids="interaction{:g}".format)
@pytest.mark.parametrize("seed_noise", [0.0, 0.36, 4.4], ids=["no-seed-noise", "balanced", "large-seed-noise"])
def test_five_seeds_keep_false_alarms_below_6_percent_and_coverage_between_93_and_97(seed_noise, interaction):
    """Nominal 5 %, whether the noise of the seeds is absent, some or dominant. Coverage is 1 - two-sided rate.

    At a nominal 1 %, one-sided, the bound is 1 % without seed noise or with little, but 1.5 % where it dominates:
    degrees estimated from five seeds are too many when the seeds happen to agree (100,000 replicates: 1.4 %).
    """
    both, above, above_1 = rejections(normal_tables(seed_noise, interaction))
    assert both <= most(REPLICATES, 0.06)
    assert above <= most(REPLICATES, 0.06)
    assert least(REPLICATES, 0.03) <= both <= most(REPLICATES, 0.07)
    assert above_1 <= most(REPLICATES, 0.015 if seed_noise > 1 else 0.01)


def test_three_seeds_are_too_few_when_seed_noise_dominates():
    """The limit of the method, kept in sight: about 7.5 % false alarms at nominal 5 %."""
    both, *_ = rejections(normal_tables(4.4, 1.0, seeds=3))
    assert most(REPLICATES, 0.06) < both <= most(REPLICATES, 0.085)


def test_users_as_only_unit_give_false_alarms_in_a_third_of_all_cases():
    """What the two-way error protects from: averaging the seeds first and testing over users."""
    averaged = (table.mean(axis=0, keepdims=True) for table in normal_tables(4.4, 1.0, replicates=2000))
    both, *_ = rejections(averaged)
    assert both >= least(2000, 0.3)


def joint_ends(seed_noise, offsets):
    """Ends of the 90 and 98 % intervals of joint claims, shape [replicates, 2, 2]; a part's true mean is its offset."""
    tables = normal_tables(seed_noise, 1.0, replicates=JOINT_REPLICATES * len(offsets))
    groups = zip(*[tables] * len(offsets), strict=True)
    named = (zip("abc", offsets, group, strict=True) for group in groups)
    joint = (AllOf({name: MeanDifference(table + off, "NDCG@10") for name, off, table in parts}) for parts in named)
    return np.array([[(i.low, i.high) for i in map(effect.interval, (0.90, 0.98))] for effect in joint])


@pytest.mark.parametrize("seed_noise", [0.0, 0.36, 4.4], ids=["no-seed-noise", "balanced", "large-seed-noise"])
def test_joint_claim_with_one_part_on_its_edge_is_supported_at_that_parts_rate(seed_noise):
    """Two parts far above their edges: nothing is added to the false alarms of the third, and nothing taken off."""
    above_5, above_1 = np.sum(joint_ends(seed_noise, (0.0, 1.0, 1.0))[..., 0] > 0, axis=0)
    assert least(JOINT_REPLICATES, 0.03) <= above_5 <= most(JOINT_REPLICATES, 0.06)
    assert above_1 <= most(JOINT_REPLICATES, 0.015 if seed_noise > 1 else 0.01)


@pytest.mark.parametrize("seed_noise", [0.0, 0.36, 4.4], ids=["no-seed-noise", "balanced", "large-seed-noise"])
def test_joint_claim_with_every_part_on_its_edge_is_seldom_refuted_and_hardly_ever_supported(seed_noise):
    """Three unrelated parts, any of which could refute: 6 and 1.5 %, but 8 and 3 % where seed noise dominates.

    The cause is the single part: five seeds at alpha / 3 have more false alarms than that, see `two_way`.
    """
    ends = joint_ends(seed_noise, (0.0, 0.0, 0.0))
    below_5, below_1 = np.sum(ends[..., 1] < 0, axis=0)
    assert below_5 <= most(JOINT_REPLICATES, 0.08 if seed_noise > 1 else 0.06)
    assert below_1 <= most(JOINT_REPLICATES, 0.03 if seed_noise > 1 else 0.015)
    assert np.sum(ends[:, 0, 0] > 0) <= most(JOINT_REPLICATES, 0.05**3)


@pytest.fixture(scope="module", params=[0.0, 0.02, 0.08], ids="seed-noise{:g}".format)
def sparse(request):
    """Seed noise and, for every replicate, the ends of the 90, 95 and 98 % intervals, shape [3, replicates, 2]."""
    effects = [retained(compact, full, "NDCG@10") for compact, full in sparse_pairs(request.param)]
    levels = [[effect.interval(level) for effect in effects] for level in (0.90, 0.95, 0.98)]
    return request.param, np.array([[(i.low, i.high) for i in intervals] for intervals in levels])


def test_retention_of_sparse_ndcg_is_covered(sparse):
    """943 users, 5 seeds, last-five targets: coverage 93 to 97 % as soon as seeds differ.

    Without any seed noise the interval is too wide (98 %): five seeds cannot tell that the seed variance is zero
    when the interaction of seeds and users is most of what there is. It errs on the safe side.
    """
    seed_noise, (_, shown, _) = sparse
    covered = np.sum((shown[:, 0] <= TRUE_RETENTION) & (shown[:, 1] >= TRUE_RETENTION))
    assert covered >= least(SPARSE_REPLICATES, 0.93)
    assert covered <= most(SPARSE_REPLICATES, 0.97 if seed_noise else 0.985)


def test_claim_at_the_edge_is_rarely_supported(sparse):
    """Truth on the region's edge: supported in at most 6 % at alpha 5 %.

    At alpha 1 % in at most 1 %, but 1.5 % where seeds differ by 8 % (see the normal cells for the reason).
    """
    seed_noise, (at_5, _, at_1) = sparse
    assert np.sum(at_5[:, 0] >= TRUE_RETENTION) <= most(SPARSE_REPLICATES, 0.06)
    assert np.sum(at_1[:, 0] >= TRUE_RETENTION) <= most(SPARSE_REPLICATES, 0.015 if seed_noise > 0.05 else 0.01)
    assert np.sum(at_5[:, 1] < TRUE_RETENTION) <= most(SPARSE_REPLICATES, 0.06)


def test_loss_of_one_and_a_half_margins_is_refuted(sparse):
    """At alpha 1 % in 95 % of cases without seed noise and 79 % when seeds differ by 2 %.

    When they differ by 8 %, five seeds find it in 12 % only: such a claim needs more seeds. Never supported.
    """
    seed_noise, (_, _, deciding) = sparse
    refuted = np.sum(deciding[:, 1] < CLAIMED)
    assert refuted >= least(SPARSE_REPLICATES, {0.0: 0.9, 0.02: 0.75, 0.08: 0.1}[seed_noise])
    assert np.sum(deciding[:, 0] >= CLAIMED) == 0


def test_timing_the_same_model_twice_is_rarely_called_a_speedup():
    """Ten blocks of equal latency with 3 % noise: 5 % one-sided, exact for log-normal times."""
    rng = np.random.default_rng(11)
    times = 10 * np.exp(0.03 * rng.standard_normal((2000, 2, 10)))
    false = sum(speedup(full, compact).interval(0.90).low > 1 for full, compact in times)
    assert least(2000, 0.05) <= false <= most(2000, 0.05)
