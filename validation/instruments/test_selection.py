"""Which layers are kept: worked by hand, and what must hold for any scores."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.compression.selection import (
    number_to_keep,
    select_first,
    select_layers,
    select_random,
    select_uniform,
)


@st.composite
def depths(draw):
    """A depth and a number of layers to keep."""
    num_layers = draw(st.integers(1, 48))
    return num_layers, draw(st.integers(1, num_layers))


@pytest.mark.parametrize(
    ("num_layers", "share", "expected"),
    [(8, 0.25, 2), (32, 0.25, 8), (12, 0.25, 3), (6, 0.25, 2), (10, 0.25, 2), (3, 0.1, 1), (8, 1, 8), (1, 0.01, 1)],
)
def test_share_of_layers_is_rounded_to_at_least_one(num_layers, share, expected):
    assert number_to_keep(num_layers, share) == expected


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"must lie in \(0, 1\], got {share}"):
        number_to_keep(8, share)


@given(depths(), st.floats(0.001, 1))
def test_number_to_keep_lies_within_the_model(depth, share):
    assert 1 <= number_to_keep(depth[0], share) <= depth[0]


def test_largest_scores_are_kept_in_model_order():
    assert select_layers([0.1, 5.0, 3.0, 4.0], keep=2) == (1, 3)
    assert select_layers([0.1, 5.0, 3.0, 4.0], keep=3) == (1, 2, 3)
    assert select_layers(np.array([-1.0, -3.0, -2.0]), keep=1) == (0,)


def test_of_equal_scores_the_earlier_layer_is_kept():
    assert select_layers([1, 1, 1, 1], keep=2) == (0, 1)
    assert select_layers([2, 1, 3, 1, 1], keep=3) == (0, 1, 2)
    assert select_layers([0.0, -0.0], keep=1) == (0,)


@given(st.data(), st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_kept_layers_increase_and_none_left_out_scores_more(data, scores):
    keep = data.draw(st.integers(1, len(scores)))
    kept = select_layers(scores, keep)
    left_out = set(range(len(scores))) - set(kept)

    assert list(kept) == sorted(set(kept))
    assert len(kept) == keep
    assert all(type(index) is int for index in kept)
    for out in left_out:
        for index in kept:
            assert (scores[index], -index) > (scores[out], -out)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_keeping_more_layers_keeps_those_already_kept(scores):
    kept = [set(select_layers(scores, keep)) for keep in range(1, len(scores) + 1)]
    assert all(fewer < more for fewer, more in pairwise(kept))
    assert kept[-1] == set(range(len(scores)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="layer scores must be finite, got"):
        select_layers([1.0, bad, 2.0], keep=1)


def test_uniform_selection_by_hand():
    assert select_uniform(12, 6) == (0, 2, 4, 6, 8, 10)
    assert select_uniform(12, 3) == (0, 4, 8)
    assert select_uniform(8, 3) == (0, 2, 5)
    assert select_uniform(5, 5) == (0, 1, 2, 3, 4)


@given(depths())
def test_uniform_distances_differ_by_at_most_one(depth):
    num_layers, keep = depth
    kept = select_uniform(num_layers, keep)
    gaps = np.diff([*kept, num_layers])

    assert kept[0] == 0
    assert len(kept) == keep
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_first_layers_are_the_first():
    assert select_first(8, 3) == (0, 1, 2)


@given(depths(), st.integers(0, 2**32 - 1))
def test_random_selection_is_a_set_of_layers_decided_by_the_generator(depth, seed):
    kept = select_random(*depth, np.random.default_rng(seed))

    assert list(kept) == sorted(set(kept))
    assert len(kept) == depth[1]
    assert set(kept) <= set(range(depth[0]))
    assert kept == select_random(*depth, np.random.default_rng(seed))


def test_random_selection_draws_every_set_equally_often():
    """Six pairs of four layers; 600 draws, chi-square with 5 degrees of freedom stays under its 99.9 % point."""
    rng = np.random.default_rng(0)
    drawn = [select_random(4, 2, rng) for _ in range(600)]
    counts = np.array([drawn.count((i, j)) for i in range(4) for j in range(i + 1, 4)])

    assert counts.sum() == 600
    assert ((counts - 100) ** 2 / 100).sum() < 20.5


@pytest.mark.parametrize("keep", [0, -1, 5])
def test_number_of_layers_out_of_range_is_refused(keep):
    calls = [
        lambda: select_layers([1, 2, 3, 4], keep),
        lambda: select_first(4, keep),
        lambda: select_uniform(4, keep),
        lambda: select_random(4, keep, np.random.default_rng(0)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"must lie in \[1, 4\], got {keep}"):
            call()
