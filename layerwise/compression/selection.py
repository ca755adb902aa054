"""Which layers to keep: numbers in, indices out. Knows neither models nor data."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def number_to_keep(num_layers: int, share: float) -> int:
    """Number of layers that a share of a model stands for: rounded, at least one.

    Args:
        num_layers: Depth of the full model.
        share: Share of the layers to keep, in (0, 1].

    Raises:
        ValueError: If the share lies outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of layers to keep must lie in (0, 1], got {share}")
    return max(1, round(num_layers * share))


def select_layers(scores: ArrayLike, keep: int) -> tuple[int, ...]:
    """The `keep` layers with the largest scores, in their order in the model.

    Args:
        scores: One importance per layer, *num_layers*; larger means more important.
        keep: Number of layers to keep, in [1, num_layers].

    Returns:
        Strictly increasing indices. Of equal scores the earlier layer is kept.

    Raises:
        ValueError: If `keep` is out of range or a score is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    _check_keep(len(values), keep)
    if not np.isfinite(values).all():
        raise ValueError(f"layer scores must be finite, got {values.tolist()}")
    return tuple(sorted(int(index) for index in np.argsort(-values, kind="stable")[:keep]))


def select_first(num_layers: int, keep: int) -> tuple[int, ...]:
    """The first `keep` layers (SLMRec's rule)."""
    _check_keep(num_layers, keep)
    return tuple(range(keep))


def select_uniform(num_layers: int, keep: int) -> tuple[int, ...]:
    """`keep` layers at equal distances, the first among them (DistilBERT's rule)."""
    _check_keep(num_layers, keep)
    return tuple(index * num_layers // keep for index in range(keep))


def select_random(num_layers: int, keep: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`keep` layers drawn without replacement."""
    _check_keep(num_layers, keep)
    return tuple(sorted(int(index) for index in rng.choice(num_layers, keep, replace=False)))


def select_within(
    depths: Sequence[int], share: float, select: Callable[[slice, int], Sequence[int]]
) -> tuple[int, ...]:
    """Layers selected in each stack by itself, so that an encoder-decoder keeps the same share of both.

    Args:
        depths: Number of layers of each stack.
        share: Share of each stack's layers to keep, in (0, 1].
        select: From a stack's place among all layers and the number of its layers to keep, to indices in the stack.

    Returns:
        Strictly increasing indices, counted through all stacks.
    """
    kept: list[int] = []
    start = 0
    for depth in depths:
        place = slice(start, start + depth)
        kept += (start + index for index in select(place, number_to_keep(depth, share)))
        start += depth
    return tuple(kept)


def _check_keep(num_layers: int, keep: int) -> None:
    if not 1 <= keep <= num_layers:
        raise ValueError(f"the number of layers to keep must lie in [1, {num_layers}], got {keep}")
