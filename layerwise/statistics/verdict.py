"""From an effect and a claimed region to a verdict: supported, refuted or inconclusive, with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from layerwise.statistics.base import Effect, Interval, check_alpha

SHOWN_LEVEL = 0.95  # what readers expect beside an estimate; the deciding interval follows alpha
HOPELESS = 1000.0  # growth beyond which a number of samples is no advice


class Outcome(StrEnum):
    """What can become of a claim; the first three come from `judge`, not-run only from the suite."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    NOT_RUN = "not-run"


@dataclass(frozen=True)
class Region:
    """The values that a claim allows, on the effect's displayed scale.

    Bounds belong to the region unless they are open. That matters only for effects without spread: an exact
    tie supports "at least 0" and refutes "above 0".

    Args:
        low: lower bound; -inf for none.
        high: upper bound; inf for none.
        open_low: True leaves the lower bound itself out ("above").
        open_high: True leaves the upper bound itself out ("below").

    Raises:
        ValueError: no finite bound, nan, or bounds that leave nothing between them.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) or math.isfinite(self.high)):
            raise ValueError(f"a claimed region needs a finite bound, got {self.low} to {self.high}")
        empty = self.low == self.high and (self.open_low or self.open_high)
        if not self.low <= self.high or empty:
            raise ValueError(f"a claimed region needs values between its bounds, got {self}")

    def contains(self, interval: Interval) -> bool:
        """True when every value of the interval is claimed."""
        above = interval.low > self.low if self.open_low else interval.low >= self.low
        below = interval.high < self.high if self.open_high else interval.high <= self.high
        return above and below

    def excludes(self, interval: Interval) -> bool:
        """True when no value of the interval is claimed."""
        under = interval.high <= self.low if self.open_low else interval.high < self.low
        over = interval.low >= self.high if self.open_high else interval.low > self.high
        return under or over

    def nearest_edge(self, value: float) -> float:
        """The finite bound closest to a value."""
        bounds = [bound for bound in (self.low, self.high) if math.isfinite(bound)]
        return min(bounds, key=lambda bound: abs(value - bound))


@dataclass(frozen=True)
class Verdict:
    """What the evidence says about a claim.

    Attributes:
        outcome: see `Outcome`.
        estimate: the effect's value on its displayed scale; nan when undefined (then the outcome is invalid).
        interval: 95 % interval, shown to readers.
        deciding: interval at level 1 - 2 alpha, which decides: each bound is tested one-sided at alpha.
        alpha: nominal chance of a false "supported" (and of a false "refuted") per bound.
        region: the claimed values.
        detectable: see `Effect.detectable`, at 80 % power.
        reason: why this outcome; when inconclusive, what would decide.
        sentence: the verdict in one line.
    """

    outcome: Outcome
    estimate: float
    interval: Interval
    deciding: Interval
    alpha: float
    region: Region
    detectable: float
    reason: str
    sentence: str


def judge(effect: Effect, region: Region, alpha: float) -> Verdict:
    """The verdict on the claim that an effect lies in a region.

    Args:
        effect: what was measured.
        region: what was claimed, declared beforehand.
        alpha: one-sided error rate per bound, above 0 and below 0.5.

    Returns:
        supported when the interval at level 1 - 2 alpha lies inside the region, refuted when outside,
        inconclusive when across an edge; invalid when the estimate is undefined.

    Raises:
        ValueError: alpha out of range.
    """
    deciding = effect.interval(1 - 2 * check_alpha(alpha))
    outcome = _outcome(effect, region, deciding)
    shown = effect.interval(SHOWN_LEVEL)
    return Verdict(
        outcome=outcome,
        estimate=effect.estimate,
        interval=shown,
        deciding=deciding,
        alpha=alpha,
        region=region,
        detectable=effect.detectable(alpha),
        reason=_reason(outcome, effect, region, deciding, alpha),
        sentence=f"{outcome}: {effect.sentence(shown)}, needs {_needs(effect, region)}",
    )


def _outcome(effect: Effect, region: Region, deciding: Interval) -> Outcome:
    if math.isnan(effect.estimate):
        return Outcome.INVALID
    if region.contains(deciding):
        return Outcome.SUPPORTED
    return Outcome.REFUTED if region.excludes(deciding) else Outcome.INCONCLUSIVE


def _reason(outcome: Outcome, effect: Effect, region: Region, deciding: Interval, alpha: float) -> str:
    if outcome is Outcome.INVALID:
        return f"nothing to judge: {effect.describe()}"
    ends = f"{effect.number(deciding.low)} to {effect.number(deciding.high)}"
    interval = f"the deciding {100 * deciding.level:.4g} % interval {ends}"
    if outcome is Outcome.INCONCLUSIVE:
        advice = _advice(effect, region, deciding, alpha)
        return f"{interval} reaches across an edge of the claimed region; {advice}"
    return f"{interval} lies {'inside' if outcome is Outcome.SUPPORTED else 'outside'} the claimed region"


def _advice(effect: Effect, region: Region, deciding: Interval, alpha: float) -> str:
    """What would decide an inconclusive claim."""
    if math.isinf(deciding.low) or math.isinf(deciding.high):
        return "the data leave the effect unbounded: its reference is not significantly above 0"
    edge = region.nearest_edge(effect.estimate)
    growth = effect.growth(edge, alpha)
    if growth > HOPELESS:
        return f"the estimate sits on the edge {effect.edge(edge)}: no practical sample would decide"
    share = effect.against(edge).seed_share
    seeds = f"; {100 * share:.0f} % of the variance shrinks with more seeds only" if effect.num_seeds > 1 else ""
    return (
        f"about {max(growth, 1.0):.1f} times the sample ({effect.sample()}) would decide, "
        f"if the estimate stays where it is{seeds}"
    )


def _needs(effect: Effect, region: Region) -> str:
    low, high = effect.edge(region.low), effect.edge(region.high)
    if math.isinf(region.high):
        return f"more than {low}" if region.open_low else low
    if math.isinf(region.low):
        return f"less than {high}" if region.open_high else f"at most {high}"
    return f"{low} to {high}"
