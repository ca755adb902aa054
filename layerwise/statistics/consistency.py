"""How far two selections of equal size agree beyond chance."""

from __future__ import annotations

from collections.abc import Collection


def kuncheva_index(left: Collection[int], right: Collection[int], num_layers: int) -> float:
    """Overlap of two sets of kept layers, moved and scaled so that chance is 0 and the same set is 1.

    Args:
        left: Kept layers, different ones.
        right: As many others of the same model.
        num_layers: Number of layers that both were chosen from.

    Returns:
        (r n - k^2) / (k (n - k)) for r common ones of k out of n; at least -1, at k = n / 2 without a common one. nan
        where nothing was left to choose, at k = 0 and k = n.

    Raises:
        ValueError: Sets of different size, a layer twice, or one outside [0, num_layers).

    References:
        Kuncheva (2007), "A stability index for feature selection": the consistency index, equation 3.
    """
    sets = [set(left), set(right)]
    if not len(left) == len(right) == len(sets[0]) == len(sets[1]) or not all(
        0 <= layer < num_layers for layer in sets[0] | sets[1]
    ):
        raise ValueError(
            f"need two sets of equally many different layers in [0, {num_layers}), got {sorted(left)} and "
            f"{sorted(right)}"
        )
    kept, common = len(left), len(sets[0] & sets[1])
    if kept in (0, num_layers):
        return float("nan")
    return (common * num_layers - kept**2) / (kept * (num_layers - kept))
