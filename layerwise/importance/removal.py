"""Removal damage: what really happens to the scores when layers are bypassed. The truth that importances face."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, combinations, pairwise

import numpy as np
import torch
from torch import Tensor

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.layers import Trace, bypassed, resumed, stacks_of, traced
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender

Judge = Callable[[FloatArray, slice], FloatArray]
"""From scores *rows x num_items* and the rows they belong to, to one value per row; larger is better."""

Removed = tuple[int, ...]
"""Layers of the full model that are bypassed."""


def single_layers(num_layers: int) -> list[Removed]:
    """Each layer by itself."""
    return [(index,) for index in range(num_layers)]


def pairs(num_layers: int) -> list[Removed]:
    """Every two layers, (0, 1) first, then (0, 2)."""
    return list(combinations(range(num_layers), 2))


def bands(num_layers: int, size: int) -> list[Removed]:
    """Every run of `size` layers that follow each other, the lowest first.

    Layers are counted through both stacks of an encoder-decoder, so that some of its bands lie across.

    Raises:
        ValueError: If `size` lies outside [1, num_layers].
    """
    if not 1 <= size <= num_layers:
        raise ValueError(f"the size of a band must lie in [1, {num_layers}], got {size}")
    return [tuple(range(start, start + size)) for start in range(num_layers - size + 1)]


def metric_without_sets(
    recommender: Recommender,
    removed_sets: Sequence[Iterable[int]],
    histories: Sequence[IntArray],
    judge: Judge,
    batch_size: int = 128,
) -> tuple[FloatArray, FloatArray]:
    """The metric of the full model and with each set of layers bypassed.

    What two sets have in common below the first layer in which they differ is computed once. So all L single layers
    cost about L / 2 passes and all pairs L^2 / 6; equal sets are evaluated once.

    Args:
        recommender: The full model; it is left as it was.
        removed_sets: Indices of layers, in any order; also none or all of them.
        histories: One per row, item codes, oldest first.
        judge: Turns scores of some rows into one metric value per row. It sees each block of rows once per different
            set, in no particular order of sets.
        batch_size: Rows per pass.

    Returns:
        Full model, *rows*; and without each set, *len(removed_sets) x rows*.

    Raises:
        ValueError: If an index lies outside [0, num_layers).
    """
    values = _metrics(recommender, [(), *removed_sets], histories, judge, batch_size)
    return values[0], values[1:]


def metric_without_each_layer(
    recommender: Recommender,
    histories: Sequence[IntArray],
    judge: Judge,
    batch_size: int = 128,
) -> tuple[FloatArray, FloatArray]:
    """The metric of the full model, *rows*, and with each single layer bypassed, *num_layers x rows*."""
    return metric_without_sets(recommender, single_layers(len(recommender.layers)), histories, judge, batch_size)


def metric_without_layers(
    recommender: Recommender,
    removed_layers: Iterable[int],
    histories: Sequence[IntArray],
    judge: Judge,
    batch_size: int = 128,
) -> FloatArray:
    """The metric with one set of layers bypassed, *rows*; histories are batched by length, which saves padding."""
    values = np.empty(len(histories))
    with bypassed(recommender, list(removed_layers)):
        for rows in _slices(len(histories), batch_size):
            values[rows] = judge(recommender.scores(histories[rows], batch_size), rows)
    return values


def greedy_removal(
    recommender: Recommender,
    histories: Sequence[IntArray],
    judge: Judge,
    num_removed: int,
    batch_size: int = 128,
) -> tuple[Removed, FloatArray]:
    """Removes, step by step, the layer that is missed least now that the earlier ones are gone.

    Every step evaluates every layer that is left, by the mean over rows; let `judge` weigh its values where another
    mean is to decide. The last layer of a stack stays, since a compact model needs one in each. What decides also
    flatters: judge the result on other histories.

    Args:
        recommender: The full model; it is left as it was.
        histories: One per row, item codes, oldest first; at least one.
        judge: Turns scores of some rows into one metric value per row.
        num_removed: Number of layers to remove, in [0, num_layers - number of stacks].
        batch_size: Rows per pass.

    Returns:
        The removed layers in order of removal, of equally dispensable ones the last first; and the metric of the full
        model and after each step, *num_removed + 1 x rows*.

    Raises:
        ValueError: If `num_removed` is out of range, there is no history, or a mean is not finite.

    References:
        Song et al. 2024 (SLEB), algorithm 1.
    """
    depths = [len(layers) for layers in stacks_of(recommender).values()]
    if not 0 <= num_removed <= sum(depths) - len(depths):
        raise ValueError(f"num_removed must lie in [0, {sum(depths) - len(depths)}], got {num_removed}")
    if not len(histories):
        raise ValueError("greedy removal needs at least one history to decide by")
    removed: Removed = ()
    course = [_metrics(recommender, [removed], histories, judge, batch_size)[0]]
    for _ in range(num_removed):
        removable = list(_removable(depths, removed))
        values = _metrics(recommender, [(*removed, index) for index in removable], histories, judge, batch_size)
        means = values.mean(axis=1)
        if not np.isfinite(means).all():
            raise ValueError(f"the metric must be finite, got {means.tolist()} without one of {removable}")
        _, best = max(zip(means, range(len(means)), strict=True))
        removed = (*removed, removable[best])
        course.append(values[best])
    return removed, np.array(course)


def _removable(depths: Sequence[int], removed: Removed) -> Iterator[int]:
    """Layers of the stacks that have more than one left."""
    for start, stop in pairwise(accumulate(depths, initial=0)):
        left = [index for index in range(start, stop) if index not in removed]
        yield from left if len(left) > 1 else ()


def _metrics(
    recommender: Recommender,
    removed_sets: Sequence[Iterable[int]],
    histories: Sequence[IntArray],
    judge: Judge,
    batch_size: int,
) -> FloatArray:
    """The metric with each set bypassed, *len(removed_sets) x rows*.

    As in a sorted dictionary, sets with a common beginning stand together, and from one to the next the first
    difference is a layer that is kept and then removed: just where `resumed` can start.
    """
    masks = [_mask(removed, len(recommender.layers)) for removed in removed_sets]
    values = {mask: np.empty(len(histories)) for mask in sorted(set(masks))}
    with evaluating(recommender), torch.inference_mode():
        for rows in _slices(len(histories), batch_size):
            batch = recommender.batch(histories[rows])
            before: tuple[tuple[bool, ...], Trace] | None = None
            for mask, found in values.items():
                scores, trace = _run(recommender, batch, mask, before)
                found[rows] = judge(scores.cpu().numpy(), rows)
                before = mask, trace
    return np.array([values[mask] for mask in masks]).reshape(len(masks), len(histories))


def _mask(removed: Iterable[int], num_layers: int) -> tuple[bool, ...]:
    """Which layers are removed, *num_layers*."""
    indices = set(removed)
    if outside := sorted(index for index in indices if not 0 <= index < num_layers):
        raise ValueError(f"removed layers must lie within [0, {num_layers}), got {outside}")
    return tuple(index in indices for index in range(num_layers))


def _run(
    recommender: Recommender,
    batch: Mapping[str, Tensor],
    mask: tuple[bool, ...],
    before: tuple[tuple[bool, ...], Trace] | None,
) -> tuple[Tensor, Trace]:
    """Scores and states without some layers, from where they differ from the set before."""
    removed = [index for index, is_removed in enumerate(mask) if is_removed]
    if before is None:
        with bypassed(recommender, removed), traced(recommender) as trace:
            return recommender(**batch), trace
    other, known = before
    first = next(index for index, (here, there) in enumerate(zip(mask, other, strict=True)) if here != there)
    later = [index for index in removed if index > first]
    with bypassed(recommender, later), resumed(recommender, first, known), traced(recommender) as rest:
        scores = recommender(**batch)
    inputs = known.inputs[: first + 1] + rest.inputs[first + 1 :]  # what was skipped has no states in `rest`
    return scores, Trace(inputs, known.outputs[:first] + rest.outputs[first:])


def _slices(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
