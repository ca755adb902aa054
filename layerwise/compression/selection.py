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
    return tuple(sorted(_by_score(scores, keep)[:keep]))


def select_protected(scores: ArrayLike, keep: int, first: int = 1, last: int = 1) -> tuple[int, ...]:
    """The first and last layers, and of the others those with the largest scores; in their order in the model.

    Args:
        scores: One importance per layer, *num_layers*; larger means more important.
        keep: Number of layers to keep, in [1, num_layers].
        first: Number of layers protected at the start, not negative.
        last: Number of layers protected at the end, not negative.

    Returns:
        Strictly increasing indices, always `keep` of them. Where `keep` is less than `first + last`, the first layers
        win, in their order, then the last layers from the very last inwards. Of equal scores the earlier is kept.

    Raises:
        ValueError: If `keep` is out of range, a score is not finite, or `first` or `last` is negative.

    References:
        Kim et al. 2024 (Shortened LLaMA), the "+" of Mag+ and Taylor+: the first four and last two blocks are never
        pruned, though their scores are low. Here one of each by default, since recommenders have fewer layers.
    """
    if first < 0 or last < 0:
        raise ValueError(f"the numbers of protected layers must not be negative, got {first} first and {last} last")
    ranked = _by_score(scores, keep)
    layers = range(len(ranked))
    ends = [*layers[:first], *reversed(layers[max(0, len(layers) - last) :])]
    return tuple(sorted(list(dict.fromkeys(ends + ranked))[:keep]))


def select_contiguous(window_distances: ArrayLike, num_layers: int, keep: int) -> tuple[int, ...]:
    """All layers but the one run of neighbours across which the state changes least.

    Args:
        window_distances: For each place of a run of `num_layers - keep` layers, from the front, the distance between
            the states that enter and leave it, such as the angular distance; *keep + 1*, smaller is more redundant.
        num_layers: Depth of the full model, or of one stack: a run never reaches from encoder to decoder.
        keep: Number of layers to keep, in [1, num_layers].

    Returns:
        Strictly increasing indices. Of equally redundant runs the later goes, so that earlier layers are kept.

    Raises:
        ValueError: If `keep` is out of range, or the distances are not `keep + 1` finite numbers.

    References:
        Gromov et al. 2024 (The Unreasonable Ineffectiveness of the Deeper Layers), section 3.2, without its healing.
    """
    _check_keep(num_layers, keep)
    distances = np.asarray(window_distances, dtype=np.float64)
    removed = num_layers - keep
    if distances.shape != (keep + 1,) or not np.isfinite(distances).all():
        raise ValueError(
            f"a run of {removed} of {num_layers} layers has {keep + 1} places, "
            f"each with a finite distance, got {distances.tolist()}"
        )
    start = keep - int(np.argmin(distances[::-1]))
    return (*range(start), *range(start + removed, num_layers))


def select_first(num_layers: int, keep: int) -> tuple[int, ...]:
    """The first `keep` layers (SLMRec's rule)."""
    _check_keep(num_layers, keep)
    return tuple(range(keep))


def select_last(num_layers: int, keep: int) -> tuple[int, ...]:
    """The last `keep` layers: the control that shows what the first ones are worth."""
    _check_keep(num_layers, keep)
    return tuple(range(num_layers - keep, num_layers))


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


def _by_score(scores: ArrayLike, keep: int) -> list[int]:
    """All layers, from the largest score to the smallest."""
    values = np.asarray(scores, dtype=np.float64)
    _check_keep(len(values), keep)
    if not np.isfinite(values).all():
        raise ValueError(f"layer scores must be finite, got {values.tolist()}")
    return [int(index) for index in np.argsort(-values, kind="stable")]


def _check_keep(num_layers: int, keep: int) -> None:
    if not 1 <= keep <= num_layers:
        raise ValueError(f"the number of layers to keep must lie in [1, {num_layers}], got {keep}")
