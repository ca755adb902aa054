"""Numbers in, verdicts out: effects with intervals over seeds and users, judged against claimed regions."""

from layerwise.statistics.concordance import kendalls_w
from layerwise.statistics.consistency import kuncheva_index
from layerwise.statistics.effects import (
    AllOf,
    ClassificationGain,
    Effect,
    Exact,
    Interval,
    MeanDifference,
    RankAdvantage,
    RankCorrelation,
    Retention,
    SeedMean,
    Speedup,
    effect_from_evidence,
    retained,
    speedup,
)
from layerwise.statistics.s_shape import s_shape_gain
from layerwise.statistics.two_way import TwoWay, two_way
from layerwise.statistics.verdict import Outcome, Region, Verdict, judge

__all__ = [
    "AllOf",
    "ClassificationGain",
    "Effect",
    "Exact",
    "Interval",
    "MeanDifference",
    "Outcome",
    "RankAdvantage",
    "RankCorrelation",
    "Region",
    "Retention",
    "SeedMean",
    "Speedup",
    "TwoWay",
    "Verdict",
    "effect_from_evidence",
    "judge",
    "kendalls_w",
    "kuncheva_index",
    "retained",
    "s_shape_gain",
    "speedup",
    "two_way",
]
