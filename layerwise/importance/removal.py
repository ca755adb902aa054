"""Removal damage: what really happens to the scores when layers are bypassed. The truth that importances face."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.layers import bypassed, resumed, traced
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender

Judge = Callable[[FloatArray, slice], FloatArray]
"""From scores *rows x num_items* and the rows they belong to, to one value per row; larger is better."""


def metric_without_each_layer(
    recommender: Recommender,
    histories: Sequence[IntArray],
    judge: Judge,
    batch_size: int = 128,
) -> tuple[FloatArray, FloatArray]:
    """The metric of the full model and with each single layer bypassed.

    Each forward pass starts at the removed layer, from the recorded state: all L removals cost about L / 2 passes.

    Args:
        recommender: The full model; it is left as it was.
        histories: One per row, item codes, oldest first.
        judge: Turns scores of some rows into one metric value per row.
        batch_size: Rows per pass.

    Returns:
        Full model, *rows*; and without each layer, *num_layers x rows*.
    """
    num_layers = len(recommender.layers)
    full = np.empty(len(histories))
    without = np.empty((num_layers, len(histories)))
    with evaluating(recommender), torch.inference_mode():
        for rows in _slices(len(histories), batch_size):
            batch = recommender.batch(histories[rows])
            with traced(recommender) as trace:
                full[rows] = judge(recommender(**batch).cpu().numpy(), rows)
            for index in range(num_layers):
                with resumed(recommender, index, trace):
                    without[index, rows] = judge(recommender(**batch).cpu().numpy(), rows)
    return full, without


def metric_without_layers(
    recommender: Recommender,
    removed_layers: Iterable[int],
    histories: Sequence[IntArray],
    judge: Judge,
    batch_size: int = 128,
) -> FloatArray:
    """The metric with a whole set of layers bypassed, *rows*; arguments as above."""
    values = np.empty(len(histories))
    with bypassed(recommender, list(removed_layers)):
        for rows in _slices(len(histories), batch_size):
            values[rows] = judge(recommender.scores(histories[rows], batch_size), rows)
    return values


def _slices(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
