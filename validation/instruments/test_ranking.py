"""Ranking metrics: by hand, against outside programs, under ties, and on broken input."""

import itertools

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from layerwise.evaluation.ranking import CHUNK, mean_by_user, ranking_metrics, ranks

NOTHING = np.empty(0, dtype=np.int64)


def unseen(n):
    return [NOTHING] * n


@st.composite
def rankings(draw):
    """Scores with many ties, a target per row, and a history that leaves it out."""
    n, num_items = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = random.integers(0, draw(st.integers(1, 6)), (n, num_items)).astype(np.float32)
    targets = random.integers(0, num_items, n)
    seen = [np.setdiff1d(random.integers(0, num_items, random.integers(0, num_items)), [t]) for t in targets]
    return scores, targets, seen


def tie_free(n=40, num_items=60, seed=0):
    random = np.random.default_rng(seed)
    scores = np.array([random.permutation(num_items) for _ in range(n)], dtype=np.float64)
    targets = random.integers(0, num_items, n)
    seen = [np.setdiff1d(random.integers(0, num_items, 20), [t]) for t in targets]
    return scores, targets, seen


def expected_by_enumeration(scores, target, seen, metric):
    """Mean of a metric of the target's rank over every order of the candidates that agrees with the scores."""
    candidates = [item for item in range(len(scores)) if item not in seen]
    found = [
        metric(order.index(target) + 1)
        for order in itertools.permutations(candidates)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(found) / len(found)


def test_metrics_of_one_target_at_rank_three_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])

    metrics = ranking_metrics(scores, np.array([2]), unseen(1), ks=(2, 3))

    assert {name: float(value[0]) for name, value in metrics.items()} == pytest.approx(
        {
            "ndcg@2": 0,
            "ndcg@3": 1 / 2,  # 1 / log2(3 + 1)
            "hr@2": 0,
            "hr@3": 1,
            "precision@2": 0,
            "precision@3": 1 / 3,
            "mrr": 1 / 3,
        },
        abs=1e-15,
    )


def test_seen_items_do_not_count_as_better():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32)

    found = ranks(scores, np.array([2]), [np.array([0, 0, 3])])

    assert (found.better[0], found.tied[0]) == (1, 0)


def test_tied_target_shares_the_ranks_of_its_group():
    """One better item and two tied: ranks 2, 3 and 4 are equally likely."""
    metrics = ranking_metrics(np.array([[5.0, 1.0, 1.0, 1.0, 0.0]]), np.array([2]), unseen(1), ks=(3,))

    assert metrics["hr@3"][0] == pytest.approx(2 / 3, abs=1e-15)
    assert metrics["ndcg@3"][0] == pytest.approx((1 / np.log2(3) + 1 / np.log2(4)) / 3, abs=1e-15)
    assert metrics["mrr"][0] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3, abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(rankings().filter(lambda case: case[0].shape[1] <= 6))
def test_expected_value_over_ties_equals_enumeration_of_all_orders(case):
    scores, targets, seen = case
    metrics = ranking_metrics(scores, targets, seen, ks=(2,))

    by_rank = {
        "ndcg@2": lambda rank: 1 / np.log2(rank + 1) if rank <= 2 else 0,
        "hr@2": lambda rank: rank <= 2,
        "precision@2": lambda rank: (rank <= 2) / 2,
        "mrr": lambda rank: 1 / rank,
    }
    for name, metric in by_rank.items():
        slow = [expected_by_enumeration(s, t, h, metric) for s, t, h in zip(scores, targets, seen, strict=True)]
        np.testing.assert_allclose(metrics[name], slow, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(rankings())
def test_expected_ndcg_over_ties_equals_scikit_learn(case):
    """Its ndcg_score averages ties; the seen items are taken out of its list of candidates."""
    scores, targets, seen = case
    metrics = ranking_metrics(scores, targets, seen, ks=(3,))

    for row, target in enumerate(targets):
        candidates = np.setdiff1d(np.arange(scores.shape[1]), seen[row])
        if len(candidates) > 1:  # it refuses a single candidate
            expected = ndcg_score([candidates == target], [scores[row][candidates]], k=3)
            assert metrics["ndcg@3"][row] == pytest.approx(expected, abs=1e-12)


def test_tie_free_metrics_equal_ir_measures():
    scores, targets, seen = tie_free()
    metrics = ranking_metrics(scores, targets, seen, ks=(5, 10))

    qrels = {str(row): {f"d{target}": 1} for row, target in enumerate(targets)}
    run = {
        str(row): {f"d{item}": float(scores[row, item]) for item in np.setdiff1d(np.arange(60), seen[row])}
        for row in range(len(targets))
    }
    names = {"nDCG": "ndcg", "Success": "hr", "P": "precision"}
    measures = {ir_measures.parse_measure(f"{m}@{k}"): f"{ours}@{k}" for m, ours in names.items() for k in (5, 10)}
    measures[ir_measures.RR] = "mrr"
    found = list(ir_measures.iter_calc(list(measures), qrels, run))

    assert len(found) == len(measures) * len(targets)
    for value in found:
        ours = metrics[measures[value.measure]][int(value.query_id)]
        assert ours == pytest.approx(value.value, abs=1e-12)


def test_tie_free_ndcg_equals_scikit_learn():
    scores, targets, _ = tie_free()

    ours = ranking_metrics(scores, targets, unseen(40))["ndcg@10"]

    expected = [ndcg_score([np.arange(60) == t], [s], k=10) for s, t in zip(scores, targets, strict=True)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("num_items", [10, 16, 17, 1000])
@pytest.mark.parametrize("constant", [0.0, -3.5])
def test_constant_scores_get_the_expectation_of_a_random_ranking(num_items, constant):
    """Sizes on both sides of where sorting algorithms change; an optimistic rank would give 1.0 everywhere."""
    scores, targets = (
        np.full((4, num_items), constant, dtype=np.float32),
        np.array([0, 1, num_items // 2, num_items - 1]),
    )

    metrics = ranking_metrics(scores, targets, [np.array([2])] * 4)

    candidates = num_items - 1
    ranked = np.arange(1, candidates + 1)
    np.testing.assert_allclose(metrics["hr@5"], 5 / candidates, atol=1e-12)
    np.testing.assert_allclose(metrics["ndcg@10"], (1 / np.log2(ranked[:10] + 1)).sum() / candidates, atol=1e-12)
    np.testing.assert_allclose(metrics["mrr"], (1 / ranked).sum() / candidates, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(rankings(), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_how_items_are_numbered(case, shuffle):
    scores, targets, seen = case
    order = list(range(scores.shape[1]))
    shuffle.shuffle(order)
    new_codes = np.argsort(order)

    before = ranking_metrics(scores, targets, seen, ks=(1, 3))
    after = ranking_metrics(scores[:, order], new_codes[targets], [new_codes[history] for history in seen], ks=(1, 3))

    assert all(np.array_equal(before[name], after[name]) for name in before)


@settings(max_examples=60, deadline=None)
@given(rankings())
def test_metrics_depend_on_the_order_of_scores_only_and_lie_in_0_1(case):
    scores, targets, seen = case

    before = ranking_metrics(scores, targets, seen)
    after = ranking_metrics(np.exp(scores.astype(np.float64)) * 3 - 7, targets, seen)

    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(((value >= 0) & (value <= 1)).all() for value in before.values())


def test_rows_are_ranked_alike_in_one_chunk_and_in_many():
    num_items = CHUNK // 3
    random = np.random.default_rng(0)
    scores = random.integers(0, 50, (7, num_items)).astype(np.float32)
    targets = random.integers(0, num_items, 7)
    seen = [np.setdiff1d(random.integers(0, num_items, 9), [t]) for t in targets]

    together = ranking_metrics(scores, targets, seen)
    apart = [ranking_metrics(scores[[i]], targets[[i]], [seen[i]]) for i in range(7)]

    assert all(np.array_equal(together[name], [row[name][0] for row in apart]) for name in together)


def test_scores_are_left_as_they_were():
    scores, targets, seen = tie_free()
    scores.flags.writeable = False

    ranking_metrics(scores, targets, seen)

    assert np.isfinite(scores).all()


def test_float32_and_float64_rank_alike():
    scores, targets, seen = tie_free()

    single = ranking_metrics(scores.astype(np.float32), targets, seen)

    assert all(np.array_equal(v, ranking_metrics(scores, targets, seen)[name]) for name, v in single.items())
    assert {value.dtype for value in single.values()} == {np.dtype(np.float64)}


def test_no_rows_give_empty_metrics():
    metrics = ranking_metrics(np.empty((0, 5)), np.empty(0, dtype=np.int64), [])

    assert all(value.shape == (0,) for value in metrics.values())


def test_cutoff_beyond_the_catalogue_counts_every_rank():
    scores, targets, seen = tie_free()

    assert (ranking_metrics(scores, targets, seen, ks=(1000,))["hr@1000"] == 1).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_fail_loudly_and_name_the_row(wrong):
    num_items = CHUNK // 4
    scores = np.zeros((9, num_items), dtype=np.float32)
    scores[7, 3] = wrong  # not in the first chunk

    with pytest.raises(ValueError, match=rf"scores must be finite, got {wrong} in row 7, item 3"):
        ranks(scores, np.zeros(9, dtype=np.int64), unseen(9))


def test_a_broken_score_of_a_seen_item_fails_too():
    with pytest.raises(ValueError, match="must be finite"):
        ranks(np.array([[0.0, np.nan, 1.0]]), np.array([0]), [np.array([1])])


def test_target_in_the_history_is_refused_by_row():
    with pytest.raises(ValueError, match="target of row 1, item 2, is in its history"):
        ranks(np.zeros((2, 4)), np.array([2, 2]), [np.array([1]), np.array([0, 2])])


@pytest.mark.parametrize("dtype", [np.float16, np.int64, bool, object])
def test_scores_of_other_kinds_are_refused(dtype):
    with pytest.raises(TypeError, match="scores must be float32 or float64"):
        ranks(np.zeros((1, 4), dtype=dtype), np.array([2]), unseen(1))


@pytest.mark.parametrize(
    ("targets", "seen", "message"),
    [
        (np.array([1.0]), [NOTHING], "targets must be whole-number item codes, got float64"),
        (np.array([True]), [NOTHING], "targets must be whole-number item codes, got bool"),
        (np.array([1]), [np.array([0.0])], "seen must hold whole-number item codes, got float64"),
        (np.array([1]), [np.array([True])], "seen must hold whole-number item codes, got bool"),
    ],
)
def test_codes_of_other_kinds_are_refused(targets, seen, message):
    with pytest.raises(TypeError, match=message):
        ranks(np.zeros((1, 4)), targets, seen)


@pytest.mark.parametrize(
    ("scores", "targets", "seen", "message"),
    [
        (np.zeros(4), [1], [NOTHING], r"shape \[n, num_items\], got \(4,\)"),
        (np.zeros((1, 0)), [0], [NOTHING], r"shape \[n, num_items\], got \(1, 0\)"),
        (np.zeros((2, 4)), [1], [NOTHING] * 2, r"one target and one history per row .* got \(1,\) targets"),
        (np.zeros((2, 4)), [1, 1], [NOTHING], "1 histories for 2 rows"),
        (np.zeros((1, 4)), [4], [NOTHING], r"targets must be item codes in \[0, 4\), got 4"),
        (np.zeros((1, 4)), [-1], [NOTHING], r"targets must be item codes in \[0, 4\), got -1"),
        (np.zeros((1, 4)), [1], [np.array([-1])], r"seen must be item codes in \[0, 4\), got -1"),
    ],
)
def test_shapes_and_codes_outside_the_catalogue_are_refused(scores, targets, seen, message):
    with pytest.raises(ValueError, match=message):
        ranks(scores, np.array(targets), seen)


@pytest.mark.parametrize("ks", [(0,), (-5,), (10, 2.5), (True,)])
def test_cutoffs_other_than_whole_numbers_from_one_are_refused(ks):
    with pytest.raises(ValueError, match="ks must be whole numbers from 1"):
        ranking_metrics(np.zeros((1, 4)), np.array([1]), unseen(1), ks)


def test_mean_by_user_weighs_targets_within_users_only():
    means = mean_by_user(np.array([1.0, 0.0, 0.5, 0.0, 0.0, 1.0]), np.array([7, 7, 3, 9, 9, 9]))

    np.testing.assert_allclose(means, [1 / 2, 1 / 2, 1 / 3], atol=1e-15)


@pytest.mark.parametrize("users", [np.array([1]), np.array([[1, 2]])])
def test_mean_by_user_refuses_unequal_lengths(users):
    with pytest.raises(ValueError, match=r"must both have shape \[n\]"):
        mean_by_user(np.array([1.0, 2.0]), users)
