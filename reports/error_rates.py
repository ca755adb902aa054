"""How often a case's verdict is wrong in worlds where the truth is known. Numbers only; no files."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from layerwise.statistics import (
    AllOf,
    ClassificationGain,
    Effect,
    RankAdvantage,
    RankCorrelation,
    Region,
    Retention,
    Verdict,
    judge,
    speedup,
)
from layerwise.statistics.worlds import world_at
from reports.accepted import Accepted
from reports.declarations import Declaration
from reports.judged import region_of
from reports.ledger import rule

MARGINS = 1.5  # size of a planted loss; with a margin of 12 %, 18 % are lost
PLANTED_WORLDS = 200  # per case
SEED = 20_260_117
BOOTSTRAPPING = (RankCorrelation, RankAdvantage, ClassificationGain, AllOf)  # judged in 10 to 25 ms instead of 1


@dataclass(frozen=True)
class Rate:
    """How often something happened in independent trials."""

    events: int
    trials: int

    @property
    def share(self) -> float:
        """Events per trial; nan without trials."""
        return self.events / self.trials if self.trials else math.nan

    @property
    def upper(self) -> float:
        """One-sided 95 % limit of the true rate (Clopper and Pearson 1934); 1 without trials."""
        if self.events == self.trials:
            return 1.0
        return float(stats.beta.ppf(0.95, self.events + 1, self.trials - self.events))

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.events + other.events, self.trials + other.trials)


@dataclass(frozen=True)
class Planted:
    """What became of a loss of `MARGINS` margins.

    Attributes:
        unsupported: The claim is not supported: the loss does not pass.
        red: The gate fails, where the accepted verdict was "supported".
        refuted: The loss is proven.
        alarm: The gate fails although nothing is lost, where the accepted verdict was "supported".
        more: Factor by which the sample must grow for a proof in 80 of 100 runs.
    """

    unsupported: Rate
    red: Rate
    refuted: Rate
    alarm: Rate
    more: float


@dataclass(frozen=True)
class CaseRates:
    """Error rates of one case.

    Attributes:
        supported: False "supported" at the claim's whole alpha, the truth lying on the edge; `refuted` likewise.
        split_supported: Whether each world gave a false "supported" at the case's share of alpha; `split_refuted`
            likewise.
        planted: None where the claim has no margin.
    """

    tier: str
    claim: str
    case: str
    supported: Rate
    refuted: Rate
    split_supported: tuple[bool, ...]
    split_refuted: tuple[bool, ...]
    planted: Planted | None


@dataclass(frozen=True)
class ClaimRates:
    """Error rates of a claim over its cases, each of which has worlds of its own."""

    tier: str
    claim: str
    fails_undecided: bool
    cases: Sequence[CaseRates]

    @property
    def supported(self) -> Rate:
        """False "supported" of a single test at the claim's alpha."""
        return sum((case.supported for case in self.cases), Rate(0, 0))

    @property
    def refuted(self) -> Rate:
        """False "refuted" of a single test at the claim's alpha."""
        return sum((case.refuted for case in self.cases), Rate(0, 0))

    @property
    def any_supported(self) -> Rate:
        """Runs with at least one false "supported" at split alpha, if every case lay on its edge.

        The cases' worlds are drawn one by one; real ones share models and users, which lets errors fall into the same
        runs and makes such runs rarer.
        """
        return _any([case.split_supported for case in self.cases])

    @property
    def any_refuted(self) -> Rate:
        """Runs with at least one false "refuted", likewise."""
        return _any([case.split_refuted for case in self.cases])

    @property
    def planted(self) -> Planted | None:
        """Over the cases that have a margin; `more` is what suffices for each of them; None without such cases."""
        found = [case.planted for case in self.cases if case.planted]
        if not found:
            return None
        none = Rate(0, 0)
        return Planted(
            unsupported=sum((entry.unsupported for entry in found), none),
            red=sum((entry.red for entry in found), none),
            refuted=sum((entry.refuted for entry in found), none),
            alarm=sum((entry.alarm for entry in found), none),
            more=max(entry.more for entry in found),
        )


def _any(cases: Sequence[Sequence[bool]]) -> Rate:
    runs = np.any(cases, axis=0)
    return Rate(int(runs.sum()), len(runs))


def by_claim(cases: Sequence[CaseRates], undecided_fails: Collection[tuple[str, str]]) -> list[ClaimRates]:
    """The cases grouped by tier and claim, in their order.

    Args:
        cases: Rates of all cases.
        undecided_fails: (tier, claim) of those for which an inconclusive verdict fails.
    """
    grouped: dict[tuple[str, str], list[CaseRates]] = {}
    for case in cases:
        grouped.setdefault((case.tier, case.claim), []).append(case)
    return [ClaimRates(*key, key in undecided_fails, found) for key, found in grouped.items()]


@dataclass(frozen=True)
class TimingRates:
    """How often a model was called faster, or slower, than its own copy.

    Attributes:
        factor: Mean speedup.
        setting: Clock, device, versions and what else the instrument says of the first run.
    """

    faster: Rate
    slower: Rate
    factor: float
    blocks: int
    calls: int
    setting: Mapping[str, str]


def timing_rates(path: Path, alpha: float = 0.01) -> TimingRates:
    """The rates from what `layerwise.lab.same_model` wrote, each run judged against "above 1"."""
    with np.load(path, allow_pickle=False) as times:
        effects = [speedup(full, compact) for full, compact in zip(times["full_ms"], times["compact_ms"], strict=True)]
        calls, setting = int(times["calls"]), json.loads(str(times["setting"]))
    outcomes = [judge(effect, Region(low=1.0, open_low=True), alpha).outcome.value for effect in effects]
    factor = math.exp(float(np.mean([effect.summary.mean for effect in effects])))
    faster, slower = _count("supported", outcomes), _count("refuted", outcomes)
    return TimingRates(faster, slower, factor, effects[0].num_units, calls, setting)


def case_rates(
    tier: str,
    declaration: Declaration,
    effect: Effect,
    alpha: float,
    worlds: int,
    tick: Callable[[], None] = lambda: None,
) -> CaseRates:
    """The rates of a case from worlds that are made of its own evidence.

    Args:
        tier: Where the case was judged.
        declaration: Region and share of alpha.
        effect: The stored evidence.
        alpha: Of the whole claim, before it is split over its cases.
        worlds: Number of worlds with the truth on the edge of the region.
        tick: Called after every world.

    Raises:
        NoWorldError: No world can be made of this evidence; the message says why.
    """
    region = region_of(declaration)
    edge = region.nearest_edge(effect.estimate)
    rng = np.random.default_rng([SEED, zlib.crc32(f"{declaration.claim}[{declaration.case}]".encode())])
    whole, split = [], []
    for _ in range(worlds):
        world = world_at(effect, edge, rng)
        whole.append(judge(world, region, alpha).outcome.value)
        split.append(judge(world, region, declaration.alpha).outcome.value)
        tick()
    return CaseRates(
        tier=tier,
        claim=declaration.claim,
        case=declaration.case,
        supported=_count("supported", whole),
        refuted=_count("refuted", whole),
        split_supported=tuple(outcome == "supported" for outcome in split),
        split_refuted=tuple(outcome == "refuted" for outcome in split),
        planted=_planted(effect, declaration, edge, rng, tick),
    )


def margin_of(effect: Effect, edge: float) -> float:
    """The loss that a claim accepts, as a share; 0 where it names none: a direction or an advantage only."""
    return max(1.0 - edge, 0.0) if isinstance(effect, Retention) else 0.0


def _planted(
    effect: Effect, declaration: Declaration, edge: float, rng: np.random.Generator, tick: Callable[[], None]
) -> Planted | None:
    margin = margin_of(effect, edge)
    if not margin:
        return None
    lost = [_judged_at(effect, declaration, 1.0 - MARGINS * margin, rng, tick) for _ in range(PLANTED_WORLDS)]
    kept = [_judged_at(effect, declaration, 1.0, rng, tick) for _ in range(PLANTED_WORLDS)]
    outcomes = [verdict.outcome.value for verdict in lost]
    return Planted(
        unsupported=Rate(len(outcomes) - outcomes.count("supported"), len(outcomes)),
        red=_red(lost, declaration),
        refuted=_count("refuted", outcomes),
        alarm=_red(kept, declaration),
        more=float(np.median([verdict.detectable for verdict in lost]) / ((MARGINS - 1) * margin)) ** 2,
    )


def _judged_at(
    effect: Effect, declaration: Declaration, truth: float, rng: np.random.Generator, tick: Callable[[], None]
) -> Verdict:
    tick()
    return judge(world_at(effect, truth, rng), region_of(declaration), declaration.alpha)


def _red(verdicts: Sequence[Verdict], declaration: Declaration) -> Rate:
    """How often the gate fails where the accepted verdict was "supported"."""
    accepted = Accepted("supported", declaration.digest, "", "", "", "")
    red = [rule(one.outcome.value, declaration, accepted, one.estimate).gate == "fail" for one in verdicts]
    return Rate(sum(red), len(red))


def _count(outcome: str, outcomes: list[str]) -> Rate:
    return Rate(outcomes.count(outcome), len(outcomes))
