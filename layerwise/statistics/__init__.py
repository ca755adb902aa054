"""Numbers in, verdicts out: effects with intervals over seeds and users, judged against claimed regions."""

from layerwise.statistics.effects import (
    Effect,
    Exact,
    Interval,
    MeanDifference,
    RankCorrelation,
    Retention,
    Speedup,
    effect_from_evidence,
    retained,
    speedup,
)
from layerwise.statistics.two_way import TwoWay, two_way
from layerwise.statistics.verdict import Outcome, Region, Verdict, judge

__all__ = [
    "Effect",
    "Exact",
    "Interval",
    "MeanDifference",
    "Outcome",
    "RankCorrelation",
    "Region",
    "Retention",
    "Speedup",
    "TwoWay",
    "Verdict",
    "effect_from_evidence",
    "judge",
    "retained",
    "speedup",
    "two_way",
]
