"""Which layers are kept: worked by hand, and what must hold for any scores."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.compression.selection import (
    number_to_keep,
    select_contiguous,
    select_first,
    select_last,
    select_layers,
    select_protected,
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


def test_last_layers_are_the_last():
    assert select_last(8, 3) == (5, 6, 7)
    assert select_last(3, 3) == (0, 1, 2)


def test_protected_ends_stay_whatever_their_score():
    scores = [0, 3, 9, 8, 1, 0]
    assert select_protected(scores, keep=3) == (0, 2, 5)
    assert select_protected(scores, keep=5, first=2, last=1) == (0, 1, 2, 3, 5)
    assert select_protected(scores, keep=4, first=0, last=2) == (2, 3, 4, 5)


def test_where_not_all_ends_can_stay_the_first_win_then_the_very_last():
    scores = [0, 0, 9, 9, 0, 0]
    assert select_protected(scores, keep=1) == (0,)
    assert select_protected(scores, keep=2) == (0, 5)
    assert select_protected(scores, keep=2, first=3, last=2) == (0, 1)
    assert select_protected(scores, keep=3, first=2, last=2) == (0, 1, 5)
    assert select_protected(scores, keep=4, first=9, last=9) == (0, 1, 2, 3)


def test_negative_number_of_protected_layers_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got 1 first and -1 last"):
        select_protected([1, 2, 3], keep=2, last=-1)


@given(st.data(), st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(0, 4), st.integers(0, 4))
def test_protected_selection_is_by_score_between_the_ends(data, scores, first, last):
    keep = data.draw(st.integers(1, len(scores)))
    kept = select_protected(scores, keep, first, last)
    ends = {*range(len(scores))[:first], *range(len(scores))[max(0, len(scores) - last) :]}

    assert list(kept) == sorted(set(kept))
    assert len(kept) == keep
    if keep > len(ends):
        inner = [index for index in range(len(scores)) if index not in ends]
        chosen = select_layers([scores[index] for index in inner], keep - len(ends))
        assert set(kept) == ends | {inner[index] for index in chosen}
    else:
        assert set(kept) <= ends
    if first == last == 0:
        assert kept == select_layers(scores, keep)


def test_most_redundant_run_goes_by_hand():
    """Runs of two among five layers can start at 0, 1, 2 or 3."""
    assert select_contiguous([0.9, 0.4, 0.1, 0.3], num_layers=5, keep=3) == (0, 1, 4)
    assert select_contiguous([0.1, 0.4, 0.9, 0.3], num_layers=5, keep=3) == (2, 3, 4)
    assert select_contiguous([0.9, 0.4, 0.3, 0.1], num_layers=5, keep=3) == (0, 1, 2)


def test_of_equally_redundant_runs_the_later_goes():
    assert select_contiguous([0.5, 0.5, 0.5], num_layers=8, keep=2) == (0, 1)
    assert select_contiguous([0.2, 0.5, 0.2, 0.5], num_layers=4, keep=3) == (0, 1, 3)


def test_no_run_goes_where_all_layers_stay():
    assert select_contiguous([0.0] * 5, num_layers=4, keep=4) == (0, 1, 2, 3)


@given(st.data(), depths())
def test_the_run_that_goes_is_one_of_the_nearest(data, depth):
    num_layers, keep = depth
    distances = data.draw(st.lists(st.floats(0, 1), min_size=keep + 1, max_size=keep + 1))
    kept = select_contiguous(distances, num_layers, keep)
    gone = sorted(set(range(num_layers)) - set(kept))

    assert list(kept) == sorted(set(kept))
    assert len(kept) == keep
    if gone:
        assert gone == list(range(gone[0], gone[0] + num_layers - keep))
        assert distances[gone[0]] == min(distances)


@pytest.mark.parametrize("distances", [[0.1, 0.2], [0.1] * 4, [0.1, 0.2, float("nan")], [[0.1, 0.2, 0.3]]])
def test_distances_that_do_not_fit_the_run_are_refused(distances):
    with pytest.raises(ValueError, match="a run of 3 of 5 layers has 3 places, each with a finite distance, got"):
        select_contiguous(distances, num_layers=5, keep=2)


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
        lambda: select_protected([1, 2, 3, 4], keep),
        lambda: select_contiguous([0.0] * max(0, keep + 1), 4, keep),
        lambda: select_first(4, keep),
        lambda: select_last(4, keep),
        lambda: select_uniform(4, keep),
        lambda: select_random(4, keep, np.random.default_rng(0)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"must lie in \[1, 4\], got {keep}"):
            call()
