"""Which layers a student is compared with, how much each pair counts, and which objectives make no sense."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.compression.objective import NOTHING_MATCHED, Matching, Objective, layer_weights, paired_ends

PAIRS = ((0, 1), (1, 2), (2, 5))  # of a teacher of six layers: runs 0-1, 2 and 3-5
FIXED_KINDS = ["uniform", "rising", "falling", "random", "importance"]


# Pairs


@pytest.mark.parametrize(
    ("depths", "kept", "ends"),
    [
        ([6], (0, 2, 4), (1, 3, 5)),  # uniform: TinyBERT's every second layer
        ([6], (0, 1, 2), (0, 1, 5)),  # the last kept layer stands for all that is missing behind it
        ([6], (3, 5), (4, 5)),  # nobody stands for what is missing at the front
        ([6], (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)),
        ([6], (2,), (5,)),
        ([3, 3], (0, 2, 3, 4), (1, 2, 3, 5)),  # two stacks: a run ends where its stack ends
        ([3, 3], (1, 4), (2, 5)),  # both stacks lack their front: the encoder's layer does not stand for layer 3
        ([3, 3], (0, 3), (2, 5)),
        ([2, 4], (1, 3, 4), (1, 3, 5)),
        ([4, 2], (0, 3, 5), (2, 3, 5)),
    ],
)
def test_kept_layer_is_paired_with_the_end_of_its_run(depths, kept, ends):
    assert paired_ends(depths, kept) == tuple(enumerate(ends))


@st.composite
def cuts(draw):
    """Depths of one or two stacks, and at least one kept layer of each."""
    depths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=2))
    starts = np.cumsum([0, *depths[:-1]])
    kept = [
        layer
        for start, depth in zip(starts, depths, strict=True)
        for layer in sorted(draw(st.sets(st.integers(int(start), int(start) + depth - 1), min_size=1)))
    ]
    return depths, kept


@settings(max_examples=60, deadline=None)
@given(cuts())
def test_runs_follow_one_another_inside_each_stack(cut):
    """Walking on from a kept layer, its pair is the last one before another kept layer or the stack's end."""
    depths, kept = cut
    last_of_stack = set(np.cumsum(depths) - 1)

    for (place, end), layer in zip(paired_ends(depths, kept), kept, strict=True):
        walked = layer
        while walked not in last_of_stack and walked + 1 not in kept:
            walked += 1
        assert (kept[place], end) == (layer, walked)


# Weights of pairs


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uniform", (1 / 3, 1 / 3, 1 / 3)),
        ("rising", (1 / 6, 2 / 6, 3 / 6)),
        ("falling", (3 / 6, 2 / 6, 1 / 6)),
        ("importance", (3 / 12, 4 / 12, 5 / 12)),
    ],
)
def test_weights_by_hand(kind, expected):
    """The importance of the runs 0-1, 2 and 3-5 is 1 + 2, 4 and 0 + 5 + 0."""
    assert layer_weights(kind, PAIRS, np.array([1.0, 2, 4, 0, 5, 0])) == pytest.approx(expected)


def test_layers_missing_at_the_front_count_for_the_first_pair():
    """Of both stacks: layers 0 and 3 are missing, and so are their pairs."""
    pairs = paired_ends([3, 3], (1, 4))

    assert layer_weights("importance", pairs, np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx((6 / 21, 15 / 21))


def test_only_pair_has_all_the_weight():
    for kind in FIXED_KINDS:
        assert layer_weights(kind, ((2, 5),), np.arange(6.0)) == pytest.approx((1.0,))


def test_learned_weights_are_not_decided_beforehand():
    assert layer_weights("learned", PAIRS) is None


@settings(max_examples=30, deadline=None)
@given(cuts(), st.sampled_from(FIXED_KINDS), st.integers(0, 1000))
def test_weights_are_not_negative_and_sum_to_one(cut, kind, seed):
    depths, kept = cut
    pairs = paired_ends(depths, kept)
    importance = np.random.default_rng(seed).exponential(size=sum(depths))
    weights = layer_weights(kind, pairs, importance, seed)

    assert len(weights) == len(kept)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    assert Matching(pairs, weights).weights == weights


def test_random_weights_are_uniform_on_the_simplex_and_decided_by_the_seed():
    """There the first of three weights has mean 1/3 and variance 2/36, the triangle's."""
    drawn = np.array([layer_weights("random", PAIRS, seed=seed) for seed in range(2000)])

    assert layer_weights("random", PAIRS, seed=7) == tuple(drawn[7])
    assert len(np.unique(drawn[:, 0])) == 2000
    assert drawn.mean(0) == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 36 / 2000))
    assert drawn.var(0) == pytest.approx(1 / 18, rel=0.15)


def test_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="uniform, rising, falling, random, importance, learned, got 'steep'"):
        layer_weights("steep", PAIRS)


@pytest.mark.parametrize(
    "importance", [None, [], [1, 2, -1, 0, 0, 0], [1, math.nan, 0, 0, 0, 0], [1, math.inf, 0, 0, 0, 0], [0] * 6]
)
def test_importance_that_is_no_share_is_refused(importance):
    with pytest.raises(ValueError, match="importance must be finite, not negative and not all zero"):
        layer_weights("importance", PAIRS, importance)


def test_importance_of_fewer_layers_than_the_teacher_has_is_refused():
    with pytest.raises(ValueError, match="a score for each of the teacher's layers, up to 5, got 5"):
        layer_weights("importance", PAIRS, np.ones(5))


# Matchings


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.3, 0.4, 0.1), ()])
def test_matching_needs_a_weight_for_each_pair(weights):
    with pytest.raises(ValueError, match="a weight for each of 3 pairs"):
        Matching(PAIRS, weights)


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (1.5, -0.5, 0.0), (math.nan, 0.5, 0.5), (0.5, 0.5, math.nan)])
def test_weights_of_a_matching_are_shares(weights):
    with pytest.raises(ValueError, match="not be negative and sum to 1"):
        Matching(PAIRS, weights)


def test_nothing_matched_holds_no_pair():
    assert NOTHING_MATCHED.pairs == ()


# Objectives


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["observed", "logits", "temperature", "states", "embeddings", "scores", "relations"])
def test_weights_of_terms_are_finite_and_not_negative(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0, got {value}"):
        Objective(**{name: value})


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Objective(temperature=0)


def test_unknown_distance_is_refused():
    with pytest.raises(ValueError, match='"relative" or "cosine", got \'euclidean\''):
        Objective(distance="euclidean")


def test_objective_without_a_term_is_refused():
    with pytest.raises(ValueError, match="a term with a weight above 0"):
        Objective(observed=0, logits=0)


@pytest.mark.parametrize(
    ("name", "layers", "attention"),
    [
        ("observed", False, False),
        ("logits", False, False),
        ("states", True, False),
        ("embeddings", True, False),
        ("scores", True, True),
        ("relations", True, True),
    ],
)
def test_what_a_term_looks_at(name, layers, attention):
    objective = Objective(**({"observed": 0, "logits": 0} | {name: 0.1}))

    assert (objective.watches_layers, objective.watches_attention) == (layers, attention)
