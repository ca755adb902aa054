"""Kuncheva's index: worked by hand, and 0 on average over everything that could have been chosen."""

from itertools import combinations
from math import isnan

import pytest

from layerwise.statistics import kuncheva_index


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((0, 1, 2, 3), (0, 1, 2, 3), 1.0),
        ((0, 1, 2, 3), (3, 2, 1, 7), (3 * 8 - 16) / (4 * 4)),
        ((0, 1, 2, 3), (0, 1, 4, 5), 0.0),
        ((0, 1, 2, 3), (4, 5, 6, 7), -1.0),
        ((0, 1), (0, 4), 1 / 3),
        ((0, 1), (2, 4), -1 / 3),
    ],
)
def test_index_by_hand(left, right, expected):
    assert kuncheva_index(left, right, 8) == kuncheva_index(right, left, 8) == pytest.approx(expected)


@pytest.mark.parametrize("keep", [1, 2, 4, 5])
def test_chance_is_0(keep):
    sets = list(combinations(range(6), keep))

    assert sum(kuncheva_index(sets[0], other, 6) for other in sets) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kept", [(), (0, 1, 2)])
def test_without_a_choice_it_is_undefined(kept):
    assert isnan(kuncheva_index(kept, kept, 3))


@pytest.mark.parametrize(("left", "right"), [((0,), (0, 1)), ((0, 0), (0, 1)), ((0, 3), (0, 1)), ((-1, 0), (0, 1))])
def test_what_are_no_two_selections_of_a_size_is_refused(left, right):
    with pytest.raises(ValueError, match=r"two sets of equally many different layers in \[0, 3\)"):
        kuncheva_index(left, right, 3)
