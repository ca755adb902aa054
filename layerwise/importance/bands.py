"""The outer bands of a model: its first and its last layers."""

from collections.abc import Sequence


def outer_bands(depths: Sequence[int], share: float = 0.3) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The bottom and the top band: the first and the last layers of every stack.

    An encoder-decoder has a bottom and a top in each of its stacks, so that both bands hold equal parts of both.

    Args:
        depths: Number of layers of each stack.
        share: Share of a stack's layers in a band, in (0, 0.5]; rounded, at least one layer.

    Returns:
        Indices of both bands, increasing, counted through all stacks.

    Raises:
        ValueError: If the share is out of range, or a stack has fewer than two layers, so that bands would overlap.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"the share of a band must lie in (0, 0.5], got {share}")
    if min(depths) < 2:
        raise ValueError(f"bands need at least 2 layers in every stack, got depths {list(depths)}")
    bottom: list[int] = []
    top: list[int] = []
    start = 0
    for depth in depths:
        size = min(max(1, round(share * depth)), depth // 2)
        bottom += range(start, start + size)
        top += range(start + depth - size, start + depth)
        start += depth
    return tuple(bottom), tuple(top)
