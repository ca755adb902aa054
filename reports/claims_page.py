"""Every claim's definition as a page: `python -m reports.claims_page > docs/claims.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reports.declarations import TIERS, CaseKey, Declaration, Declarations, read_declarations
from reports.text import escape, needs, undecided

HEAD = """\
# The claims

Every claim of the suite as `validation/claims.toml` declares it, controls first. This page is made from that file, by
`python -m reports.claims_page > docs/claims.md`. What was found stands in [results.md](results.md), how a verdict comes
about in [verdicts.md](verdicts.md).

| claim | what is claimed | cases by tier |
|---|---|---|
"""
# Effects whose estimates are shares or factors; the others have the unit of their metric.
UNITS = {"retention": "share of it", "speedup": "times"}


def page(declarations: Declarations) -> str:
    """The page in Markdown; the same declarations give the same bytes."""
    claims = _by_claim(declarations)
    rows = [f"| [{name}](#{name}) | {escape(_first(cases).statement)} | {_counts(cases)} |" for name, cases in claims]
    sections = [section(name, cases) for name, cases in claims]
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


Cases = Sequence[tuple[str, Declaration]]  # tier and declaration


def section(name: str, cases: Cases) -> str:
    """One claim: statement, source, what refutes it, and its cases with their regions."""
    of = _first(cases)
    facts = [
        f"- *Source:* {escape(of.source)}",
        f"- *Refuted if* {escape(of.refuted_if)}",
        f"- *Effect:* {of.effect}. Error rate {_alpha(cases):g}, split over the cases of a tier.",
        f"- *Undecided,* it {undecided(of)}.",
    ]
    if of.control:
        facts.append(f"- *Control:* the verdict must be “{of.control}”; where it is not, no verdict of the run counts.")
    table = ["| case | tiers | region | why there |", "|---|---|---|---|", *_rows(cases)]
    return "\n".join([f"## {name}", "", escape(of.statement), "", *facts, "", *table, ""])


def _rows(cases: Cases) -> Iterator[str]:
    for case in dict.fromkeys(of.case for _, of in cases):
        of = next(found for _, found in cases if found.case == case)
        tiers = ", ".join(tier for tier, found in cases if found.case == case)
        lacking = f"; needs {of.needs}" if of.needs else ""
        yield f"| {escape(case)} | {tiers} | {needs(of, UNITS.get(of.effect, ''))} | {escape(of.reason + lacking)} |"


def _by_claim(declarations: Declarations) -> list[tuple[str, Cases]]:
    found: dict[str, list[tuple[str, Declaration]]] = {}
    for tier in TIERS:
        declared: dict[CaseKey, Declaration] = dict(declarations.declared(tier))
        for (claim, _), declaration in declared.items():
            found.setdefault(claim, []).append((tier, declaration))
    return sorted(found.items(), key=lambda claim: not _first(claim[1]).control)


def _first(cases: Cases) -> Declaration:
    return cases[0][1]


def _alpha(cases: Cases) -> float:
    tier = cases[0][0]
    return round(sum(of.alpha for at, of in cases if at == tier), 12)


def _counts(cases: Cases) -> str:
    by_tier = {tier: sum(at == tier for at, _ in cases) for tier in TIERS}
    return ", ".join(f"{tier} {count}" for tier, count in by_tier.items() if count)


if __name__ == "__main__":
    sys.stdout.write(page(read_declarations(Path("validation/claims.toml"))))
