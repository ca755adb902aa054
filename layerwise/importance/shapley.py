"""Shapley values of the layers: each one's fair share of the metric, over all orders in which layers could come."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.importance.removal import Judge, metric_without_sets
from layerwise.models.recommender import Recommender


def layer_shapley(
    recommender: Recommender,
    histories: Sequence[IntArray],
    judge: Judge,
    permutations: int,
    rng: np.random.Generator,
    batch_size: int = 128,
) -> FloatArray:
    """Shapley values of the layers, from random orders; a layer's share is what it adds to those before it.

    The worth of a set of layers is the metric with all others bypassed. The estimate is unbiased, and whatever the
    orders, the layers' values of a row add up to the metric of the full model minus that of the empty one. Removing a
    single layer asks only what it adds to all others, and misses layers that stand in for each other.

    Args:
        recommender: The full model; it is left as it was.
        histories: One per row, item codes, oldest first.
        judge: Turns scores of some rows into one metric value per row; means over rows can wait, as the values are
            linear in the metric.
        permutations: Number of random orders, at least 1. Each counts together with its reverse (antithetic
            sampling): a layer that comes early in one comes late in the other. At most `2 x permutations x
            (num_layers - 1) + 2` sets are evaluated, each once.
        rng: Draws the orders.
        batch_size: Rows per pass.

    Returns:
        *num_layers x rows*, in the unit of the metric.

    Raises:
        ValueError: If `permutations` is less than 1.

    References:
        Shapley 1953; Castro, Gómez and Tejada 2009 (sampled orders); Mitchell et al. 2022, section 4 (antithetic
        orders); Zhang, Dong and Kawaguchi 2024, arXiv 2409.14381 (layers of language models as players).
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    num_layers = len(recommender.layers)
    drawn = [tuple(int(index) for index in rng.permutation(num_layers)) for _ in range(permutations)]
    orders = [order for one in drawn for order in (one, one[::-1])]
    absent = {frozenset(order[size:]) for order in orders for size in range(num_layers + 1)}
    _, without = metric_without_sets(recommender, list(absent), histories, judge, batch_size)
    worth = dict(zip(absent, without, strict=True))
    values = np.zeros((num_layers, len(histories)))
    for order in orders:
        steps = [worth[frozenset(order[size:])] for size in range(num_layers + 1)]
        for index, (before, after) in zip(order, pairwise(steps), strict=True):
            values[index] += after - before
    return values / len(orders)
