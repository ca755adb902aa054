"""Shapley values of layers: against the definition by subsets, and the axioms that define them."""

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch

from layerwise.importance.removal import metric_without_layers, metric_without_sets
from layerwise.importance.shapley import layer_shapley
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

NUM_ITEMS = 12
HISTORIES = [np.array(items) for items in ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10, 11])]
TARGETS = np.array([3, 4, 6, 1, 2])


class EveryOrder:
    """In place of a random generator: all orders in turn, so that the estimate is the value itself."""

    def __init__(self):
        self.orders = permutations(range(4))

    def permutation(self, size):
        assert size == 4
        return np.array(next(self.orders))


def made(family="llama", num_layers=4):
    """Random recommender with large weights: every layer matters. T5 has layers 2 + 2."""
    recommender = build_recommender(family, NUM_ITEMS, 6, Shape(num_layers, 16, 24, 2), seed=0).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=random)
    return recommender


def judge(scores, rows):
    return scores[np.arange(len(scores)), TARGETS[rows]].astype(np.float64)


def exact(recommender):
    """Shapley's formula over subsets, each of them bypassed in a pass of its own."""
    depth = len(recommender.layers)
    worth = {
        present: metric_without_layers(recommender, set(range(depth)) - present, HISTORIES, judge)
        for size in range(depth + 1)
        for present in map(frozenset, combinations(range(depth), size))
    }
    values = np.zeros((depth, len(HISTORIES)))
    for present, value in worth.items():
        share = factorial(len(present)) * factorial(depth - len(present) - 1) if len(present) < depth else 0
        for layer in set(range(depth)) - present:
            values[layer] += share / factorial(depth) * (worth[present | {layer}] - value)
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_all_orders_give_the_values_of_the_definition(family):
    recommender = made(family)
    found = layer_shapley(recommender, HISTORIES, judge, 24, EveryOrder(), batch_size=2)

    np.testing.assert_allclose(found, exact(recommender), rtol=1e-4, atol=1e-5)
    assert (np.abs(found).max(axis=1) > 0.01).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_a_row_add_up_to_full_minus_empty_whatever_the_orders(family):
    recommender = made(family)
    found = layer_shapley(recommender, HISTORIES, judge, 1, np.random.default_rng(0))
    full, without = metric_without_sets(recommender, [range(4)], HISTORIES, judge)

    np.testing.assert_allclose(found.sum(axis=0), full - without[0], rtol=1e-12, atol=1e-12)


def test_a_dead_layer_is_worth_exactly_nothing():
    recommender = made()
    with torch.no_grad():
        for parameter in recommender.layers[2].parameters():
            parameter.zero_()
    found = layer_shapley(recommender, HISTORIES, judge, 3, np.random.default_rng(0))

    np.testing.assert_array_equal(found[2], 0)
    assert (np.abs(found[[0, 1, 3]]).max(axis=1) > 0).all()


def test_two_copies_of_a_layer_in_a_row_are_worth_the_same():
    """Whichever of the two is bypassed, the model is the same one."""
    recommender = made()
    recommender.layers[2].load_state_dict(recommender.layers[1].state_dict())
    found = layer_shapley(recommender, HISTORIES, judge, 24, EveryOrder())

    np.testing.assert_allclose(found[1], found[2], rtol=1e-10)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_the_estimate_is_unbiased_and_the_seed_matters():
    """100 estimates from one order and its reverse: their mean lies within 4 standard errors of the definition."""
    recommender = made(num_layers=3)
    estimates = np.array(
        [layer_shapley(recommender, HISTORIES, judge, 1, np.random.default_rng(seed)).mean(1) for seed in range(100)]
    )
    errors = estimates.std(axis=0, ddof=1) / 10

    assert (errors > 0).all()
    assert (np.abs(estimates.mean(axis=0) - exact(recommender).mean(axis=1)) < 4 * errors).all()


def test_an_order_counts_with_its_reverse_and_every_set_is_judged_once():
    """By hand for one order of two layers: both orders there are, hence the exact values, from all four sets."""
    recommender, judged = made(num_layers=2), []

    def counting(scores, rows):
        judged.append(rows)
        return judge(scores, rows)

    found = layer_shapley(recommender, HISTORIES, counting, 5, np.random.default_rng(0))

    np.testing.assert_allclose(found, exact(recommender), rtol=1e-4, atol=1e-5)
    assert judged == [slice(0, 5)] * 4


def test_no_order_is_an_error():
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        layer_shapley(made(), HISTORIES, judge, 0, np.random.default_rng(0))
