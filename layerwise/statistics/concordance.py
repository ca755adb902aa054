"""How far several methods agree on the order of the layers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from layerwise.statistics.tables import as_table


def kendalls_w(scores: npt.ArrayLike) -> float:
    """Kendall's coefficient of concordance between methods that score the same layers.

    Without ties it is a mean Spearman correlation r over all pairs of m methods, moved to W = ((m - 1) r + 1) / m.

    Args:
        scores: shape [methods, layers], finite, at least two of each; only their order within a method counts.

    Returns:
        0 (no agreement) to 1 (one order). A method that gives all layers the same score counts as unrelated to the
        others; nan where every method does.

    Raises:
        ValueError: another shape, fewer than two methods or layers, or a score that is not finite.

    References:
        Kendall and Babington Smith (1939), with the correction for ties of Kendall (1948, chapter 6):
        W = 12 S / (m^2 (n^3 - n) - m T), S the squared deviations of the layers' rank sums from their mean, T the
        sum of t^3 - t over all groups of t equal scores of a method. m (n - 1) W is Friedman's chi squared.
    """
    table = as_table("scores", scores, axes=("methods", "layers"))
    methods, layers = table.shape
    if methods < 2:
        raise ValueError(f"an agreement needs at least 2 methods, got {methods}")
    sums = rankdata(table, axis=1).sum(axis=0)
    groups = np.concatenate([np.unique(row, return_counts=True)[1] for row in table])
    most = methods**2 * (layers**3 - layers) - methods * int((groups**3 - groups).sum())
    return float(12 * np.square(sums - methods * (layers + 1) / 2).sum() / most) if most else math.nan
