"""Calibration of the verdicts: `python -m reports.calibration [FOLDER ...]`.

Each folder holds a report with its evidence. Every case is judged again in worlds that are made of its own evidence and
in which the truth is known; what is supported with the truth on the edge of the region is a false verdict.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from rich.progress import Progress

from layerwise.statistics import Effect
from layerwise.statistics.worlds import NoWorldError, world_at
from reports.calibration_page import Calibration, Left, publish, summary
from reports.declarations import TIERS, CaseKey, Declaration, read_declarations
from reports.error_rates import (
    BOOTSTRAPPING,
    PLANTED_WORLDS,
    CaseRates,
    TimingRates,
    by_claim,
    case_rates,
    margin_of,
    timing_rates,
)
from reports.evidence import read_evidence
from reports.judged import region_of
from reports.provenance import Provenance, provenance
from reports.records import Record
from reports.replay import Part, read_part
from reports.run import Context

PUBLISHED = ("standard-cpu", "layers-cpu", "ablation-cpu", "rivals-cpu", "quick-cpu")
WORLDS = 1000  # per case, at least, where a world takes 1 ms
LEAST = 4000  # per claim: with fewer, a true rate of 1 % can hardly be told from 1.6 %


@dataclass(frozen=True)
class Work:
    """A case that can be calibrated, with the alpha of its whole claim and its number of worlds."""

    tier: str
    declaration: Declaration
    effect: Effect
    alpha: float
    worlds: int

    @property
    def total(self) -> int:
        """Number of worlds, those with a planted loss included."""
        edge = region_of(self.declaration).nearest_edge(self.effect.estimate)
        return self.worlds + 2 * PLANTED_WORLDS * bool(margin_of(self.effect, edge))

    def rates(self, tick: Callable[[], None]) -> CaseRates:
        """The rates of the case; `tick` is called after every world."""
        return case_rates(self.tier, self.declaration, self.effect, self.alpha, self.worlds, tick)


def planned(parts: Sequence[Part], claims: Path) -> tuple[list[Work], list[Left]]:
    """What can be calibrated of these reports, and what is left out, with the reason.

    Evidence is only what worlds are made of. The region and what an undecided verdict does are those of the claims file
    as it is, so that evidence from before a change of a declaration serves, too.

    Args:
        parts: Reports with evidence. A case whose evidence an earlier one holds too is not repeated.
        claims: The claims file.

    Raises:
        ValueError: Evidence is missing or damaged.
    """
    work: list[Work] = []
    left: list[Left] = []
    seen: set[str] = set()
    for part in parts:
        fresh = [record for record in part.records if _fingerprint(record) not in seen]
        seen |= {_fingerprint(record) for record in fresh}
        declared = _declared(claims, part.context.tier, {(record.claim, record.case) for record in part.records})
        found: dict[CaseKey, Effect] = {}
        for record in fresh:
            declaration = declared.get((record.claim, record.case))
            effect, reason = _evidence_of(record, declaration, part.folder)
            if effect is None:
                left.append(Left(part.context.tier, record.claim, record.case, reason))
            else:
                found[record.claim, record.case] = effect
        work += _shared_out(part.context.tier, declared, found)
    return work, left


def _declared(claims: Path, tier: str, found: Set[CaseKey]) -> Mapping[CaseKey, Declaration]:
    """The cases of a tier; of a claim that it judged once, those of the tier that judges most of the found ones now."""
    file = read_declarations(claims)
    declared = dict(file.declared(tier))
    for claim in {claim for claim, _ in found} - {claim for claim, _ in declared}:
        by_tier = [{key: case for key, case in file.declared(other).items() if key[0] == claim} for other in TIERS]
        now = max(by_tier, key=lambda cases: len(found & cases.keys()))
        declared.update(now)
    return declared


def _fingerprint(record: Record) -> str:
    return repr((record.claim, record.case, sorted(record.evidence.items())))


def _evidence_of(record: Record, declaration: Declaration | None, folder: Path) -> tuple[Effect | None, str]:
    """The effect of a case that can be calibrated, or None and the reason."""
    if declaration is None:
        return None, "no longer declared in claims.toml"
    if declaration.control:
        return None, "a control: its verdict is known beforehand"
    effect = read_evidence(folder, record.evidence, record.text, declaration.effect)
    try:
        world_at(effect, region_of(declaration).nearest_edge(effect.estimate), np.random.default_rng(0))
    except NoWorldError as error:
        return None, str(error)
    return effect, ""


def _shared_out(tier: str, declared: Mapping[CaseKey, Declaration], found: Mapping[CaseKey, Effect]) -> list[Work]:
    """The cases with the number of worlds that each gets of its claim's."""
    shares, cases = (Counter(claim for claim, _ in keys) for keys in (declared, found))
    return [
        Work(tier, declared[key], effect, declared[key].alpha * shares[key[0]], _worlds(effect, cases[key[0]]))
        for key, effect in found.items()
    ]


def _worlds(effect: Effect, cases: int) -> int:
    share = math.ceil(LEAST / cases)
    return share if isinstance(effect, BOOTSTRAPPING) else max(WORLDS, share)


def calibrated(work: Sequence[Work]) -> list[CaseRates]:
    """The rates of all cases, with a bar that shows how far it is."""
    with Progress() as progress:
        bar = progress.add_task("worlds", total=sum(entry.total for entry in work))
        rates = []
        for entry in work:
            progress.update(bar, description=f"{entry.tier}, {entry.declaration.claim}")
            rates.append(entry.rates(lambda: progress.advance(bar)))
    return rates


def made_with(parts: Sequence[Part], timing: TimingRates | None, root: Path) -> dict[str, str]:
    """Commits of the code and of the evidence, versions, and what the timings say of their machine."""
    facts = {"code": _source(provenance(root))}
    for part in parts:
        facts[f"evidence of the {part.context.tier} tier"] = _source(part.context)
    facts |= {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    return facts | {f"timing, {name}": words for name, words in (timing.setting.items() if timing else ())}


def _source(of: Provenance | Context) -> str:
    state = {True: "with changes", False: "clean", None: "state unknown"}[of.dirty]
    return f"{of.commit or 'unknown'} ({state})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrates, writes the page and prints the limits; 1 where one is exceeded, 2 without readable evidence."""
    parser = argparse.ArgumentParser(prog="python -m reports.calibration", description="How often verdicts are wrong.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="reports (default: the published ones)")
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the project (default: here)")
    parser.add_argument("--timing", type=Path, metavar="FILE", help="what layerwise.lab.same_model wrote")
    parser.add_argument("--report-dir", type=Path, metavar="DIR", help="default: reports/generated/calibration")
    options = parser.parse_args(arguments)
    folders = options.folders or [options.root / "reports" / "published" / name for name in PUBLISHED]
    try:
        parts = [read_part(folder) for folder in folders]
        work, left = planned(parts, options.root / "validation" / "claims.toml")
        timing = timing_rates(options.timing) if options.timing else None
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    undecided_fails = {
        (entry.tier, entry.declaration.claim) for entry in work if entry.declaration.on_inconclusive != "warn"
    }
    result = Calibration(
        by_claim(calibrated(work), undecided_fails), left, timing, made_with(parts, timing, options.root)
    )
    page = publish(result, options.report_dir or options.root / "reports" / "generated" / "calibration")
    print(summary(result, page), end="")
    return 1 if result.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
