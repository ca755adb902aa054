"""The kinds of effect by name, and how to build one again from its stored evidence."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from layerwise.statistics.all_of import AllOf
from layerwise.statistics.base import Effect, Interval
from layerwise.statistics.classification_gain import ClassificationGain
from layerwise.statistics.exact import Exact
from layerwise.statistics.mean_difference import MeanDifference
from layerwise.statistics.measured import MEASURED
from layerwise.statistics.rank_advantage import RankAdvantage
from layerwise.statistics.rank_correlation import RankCorrelation
from layerwise.statistics.retention import Retention, retained
from layerwise.statistics.seed_mean import SeedMean
from layerwise.statistics.speedup import Speedup, speedup
from layerwise.statistics.tables import FloatArray

__all__ = [
    "KINDS",
    "AllOf",
    "ClassificationGain",
    "Effect",
    "Exact",
    "Interval",
    "MeanDifference",
    "RankAdvantage",
    "RankCorrelation",
    "Retention",
    "SeedMean",
    "Speedup",
    "effect_from_evidence",
    "retained",
    "speedup",
]

KINDS: Mapping[str, type[Effect]] = MappingProxyType({**MEASURED, AllOf.kind: AllOf})


def effect_from_evidence(kind: str, arrays: Mapping[str, FloatArray], text: Mapping[str, str]) -> Effect:
    """The effect that gave this evidence, so that its verdict can be computed again, bit for bit.

    Args:
        kind: one of `KINDS`, the effect's `kind`.
        arrays: what its `evidence()` returned.
        text: what its `text()` returned.

    Returns:
        The effect.

    Raises:
        ValueError: unknown kind, or arrays that are not its evidence.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    try:
        return KINDS[kind].from_evidence(arrays, text)
    except (KeyError, TypeError) as error:
        given = f"{sorted(arrays)} with {dict(text)}"
        raise ValueError(f"{given} is not the evidence of kind {kind!r}: {error}") from error
