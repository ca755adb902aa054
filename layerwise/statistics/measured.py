"""The kinds of effect that are measured, by name; a joint verdict is made of these."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from layerwise.statistics.base import Effect
from layerwise.statistics.classification_gain import ClassificationGain
from layerwise.statistics.exact import Exact
from layerwise.statistics.mean_difference import MeanDifference
from layerwise.statistics.rank_advantage import RankAdvantage
from layerwise.statistics.rank_correlation import RankCorrelation
from layerwise.statistics.retention import Retention
from layerwise.statistics.seed_mean import SeedMean
from layerwise.statistics.speedup import Speedup

MEASURED: Mapping[str, type[Effect]] = MappingProxyType(
    {
        effect.kind: effect
        for effect in (
            ClassificationGain,
            Exact,
            MeanDifference,
            RankAdvantage,
            RankCorrelation,
            Retention,
            SeedMean,
            Speedup,
        )
    }
)
