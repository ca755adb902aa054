"""Many effects at once: which of them are shown to lie below an edge, with the share of false alarms under control."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

from layerwise.statistics.base import Effect


def p_below(effect: Effect, edge: float) -> float:
    """One-sided p value of the hypothesis that an effect lies at an edge or above it; small where it lies below.

    By the t tests of `Effect.against`, all of which must find it there, as for every verdict. Without error, 0 below
    the edge and 1 elsewhere.
    """
    form = effect.against(edge)
    tests = [stats.t.cdf(form.mean / error, df) for error, df in form.errors if error > 0]
    return float(max(tests, default=form.mean >= 0))


def adjusted_below(effects: Mapping[str, Effect], edge: float) -> dict[str, float]:
    """Values of `p_below`, adjusted for their number: name -> smallest false discovery rate at which it is named.

    Args:
        effects: By name, in any dependence on each other: they may share users and models. Empty gives nothing.
        edge: The value that they should not lie below.

    References:
        Benjamini & Yekutieli 2001, through `scipy.stats.false_discovery_control`.
    """
    if not effects:
        return {}
    values = [p_below(effect, edge) for effect in effects.values()]
    adjusted = np.asarray(stats.false_discovery_control(values, method="by"))
    return dict(zip(effects, adjusted.tolist(), strict=True))
