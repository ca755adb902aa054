"""Greedy removal and search over kept layers: exact where that is known, and never over budget."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.compression.search import greedy_removal, search

WORTHS = (5.0, 1.0, 0.5, 4.0, 0.25, 3.0)
"""What each layer contributes by itself."""


class Counted:
    """A function of kept layers that remembers what it was asked."""

    def __init__(self, value):
        self.value, self.asked = value, []

    def __call__(self, kept):
        self.asked.append(kept)
        return self.value(kept)


def separable(worths):
    return Counted(lambda kept: sum(worths[layer] for layer in kept))


def optimum(value, num_layers, keep):
    return max(combinations(range(num_layers), keep), key=value)


def test_greedy_removal_by_hand():
    evaluate = separable([3.0, 1.0, 2.0])
    found = greedy_removal(evaluate, num_layers=3, keep=1)

    assert found.kept_layers == (0,)
    assert found.trace == ((1, 5.0), (2, 3.0))
    assert found.evaluations == 5
    assert sorted(evaluate.asked) == [(0,), (0, 1), (0, 2), (1, 2), (2,)]


def test_greedy_removal_evaluates_again_after_each_step():
    """Layers 1 and 2 can stand in for one another: alone each is worth nothing, without both the rest is lost."""

    def value(kept):
        return 1.0 * (0 in kept) + 4.0 * (1 in kept or 2 in kept) + 0.5 * (3 in kept)

    found = greedy_removal(value, num_layers=4, keep=2)

    assert [layer for layer, _ in found.trace] == [2, 3]
    assert found.kept_layers == (0, 1)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=7), st.data())
def test_greedy_removal_is_optimal_where_layers_do_not_interact(worths, data):
    keep = data.draw(st.integers(1, len(worths)))
    evaluate = separable(worths)
    found = greedy_removal(evaluate, len(worths), keep)

    assert evaluate.value(found.kept_layers) == evaluate.value(optimum(evaluate.value, len(worths), keep))
    assert found.evaluations == len(evaluate.asked) == len(set(evaluate.asked)) == sum(range(keep + 1, len(worths) + 1))
    assert {layer for layer, _ in found.trace} | set(found.kept_layers) == set(range(len(worths)))
    assert found.trace == () or found.trace[-1][1] == evaluate.value(found.kept_layers)


def test_of_equally_dispensable_layers_the_last_goes():
    assert greedy_removal(lambda kept: 0.0, num_layers=4, keep=2).kept_layers == (0, 1)


def test_search_finds_the_interaction_that_greedy_removal_misses():
    """Without layer 4 the pair is free to act, but one step earlier no single removal shows it."""

    def value(kept):
        together = {3, 5} <= set(kept) and len(kept) == 3
        return sum(WORTHS[layer] for layer in kept if layer not in (3, 5)) + 20.0 * together

    greedy = greedy_removal(value, num_layers=6, keep=3)
    found = search(value, 6, 3, budget=20, rng=np.random.default_rng(0), start=greedy.kept_layers)

    assert optimum(value, 6, 3) == (0, 3, 5)
    assert value(greedy.kept_layers) < found.value
    assert (found.kept_layers, found.value) == ((0, 3, 5), 25.0)


def test_search_leaves_a_local_optimum_by_a_restart():
    """From (0, 1) every single swap is worse; the optimum (4, 5) is two swaps away."""

    def value(kept):
        return {(0, 1): 1.0, (4, 5): 2.0}.get(kept, 0.0)

    found = search(value, 6, 2, budget=15, rng=np.random.default_rng(0), start=(0, 1))

    assert found.kept_layers == (4, 5)
    assert next(iter(found.course)) == (0, 1)


def test_search_climbs_with_far_fewer_evaluations_than_there_are_sets():
    """Of 10 million kept sets a separable value needs only swaps from the worst to the best."""
    worths = np.random.default_rng(3).normal(size=32)
    evaluate = separable(worths)
    worst = tuple(sorted(np.argsort(worths)[:8].tolist()))
    found = search(evaluate, 32, 8, budget=1500, rng=np.random.default_rng(0), start=worst)

    assert found.kept_layers == tuple(sorted(np.argsort(worths)[-8:].tolist()))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.data(), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_search_spends_its_budget_and_no_more(num_layers, data, budget, seed):
    keep = data.draw(st.integers(1, num_layers))
    sets = list(combinations(range(num_layers), keep))
    start = data.draw(st.sampled_from(sets))
    values = dict(zip(sets, np.random.default_rng(seed).integers(0, 4, len(sets)).tolist(), strict=True))
    evaluate = Counted(values.__getitem__)

    found = search(evaluate, num_layers, keep, budget, np.random.default_rng(seed), start)

    assert len(evaluate.asked) == len(set(evaluate.asked)) == min(budget, len(sets))
    assert list(found.course) == evaluate.asked
    assert evaluate.asked[0] == start
    assert found.value == values[found.kept_layers] == max(map(values.__getitem__, evaluate.asked))
    if budget >= len(sets):
        assert found.value == max(values.values())


def test_search_is_decided_by_its_generator():
    def course(seed):
        return search(separable(WORTHS), 6, 3, 12, np.random.default_rng(seed), (1, 2, 4)).course

    assert list(course(0).items()) == list(course(0).items())
    assert list(course(0)) != list(course(1))


def test_each_stack_keeps_its_own_number_of_layers():
    """All worth lies in the second stack, yet two layers of the first stay."""
    worths = [0.1, 0.2, 0.3, 5.0, 6.0, 7.0, 8.0]
    evaluate = separable(worths)
    allowed = {first + second for first, second in product(combinations(range(3), 2), combinations(range(3, 7), 1))}

    greedy = greedy_removal(evaluate, (3, 4), (2, 1))
    found = search(evaluate, (3, 4), (2, 1), 100, np.random.default_rng(0), start=(0, 1, 3))

    assert greedy.kept_layers == found.kept_layers == (1, 2, 6)
    assert set(found.course) == allowed
    assert all(sum(layer < 3 for layer in kept) >= 2 and max(kept) >= 3 for kept in evaluate.asked)


@pytest.mark.parametrize("keep", [0, 5, (2, 2)])
def test_number_of_layers_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match="must lie in"):
        greedy_removal(separable([1, 2, 3, 4]), 4, keep)
    with pytest.raises(ValueError, match="must lie in"):
        search(separable([1, 2, 3, 4]), 4, keep, 1, np.random.default_rng(0), (0,))


@pytest.mark.parametrize("start", [(0,), (0, 0), (1, 0), (0, 4), (-1, 0), (0, 1, 4)])
def test_start_that_is_none_of_the_sets_is_refused(start):
    with pytest.raises(ValueError, match=r"start must increase and keep \(2,\) of the stacks \(4,\), got"):
        search(separable([1, 2, 3, 4]), 4, 2, 5, np.random.default_rng(0), start)


def test_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one evaluation, got 0"):
        search(separable([1, 2]), 2, 1, 0, np.random.default_rng(0), (0,))


def test_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"finite number, got nan for kept layers \(1, 2\)"):
        greedy_removal(lambda kept: float("nan") if kept == (1, 2) else 1.0, 3, 1)
