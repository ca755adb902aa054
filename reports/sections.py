"""A run claim by claim: the cases of each, and the instrument checks that several of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.declarations import Declaration
from reports.ledger import Decision
from reports.records import Record
from reports.run import Run


@dataclass(frozen=True)
class Shared:
    """Checks that passed in the same cases, said once for all of them."""

    cases: Sequence[str]
    sentences: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A claim with its cases, in the order of the claims file; without a declaration where it is no longer declared."""

    claim: str
    declaration: Declaration | None
    decisions: Sequence[Decision]

    def shared(self) -> list[Shared]:
        """Checks that passed in more than one case, those of the most cases first."""
        together: dict[tuple[str, ...], list[str]] = {}
        for sentence, cases in self._passed().items():
            if len(cases) > 1:
                together.setdefault(cases, []).append(sentence)
        found = [Shared(cases, sentences) for cases, sentences in together.items()]
        return sorted(found, key=lambda shared: -len(shared.cases))

    def own_checks(self, record: Record) -> list[str]:
        """Checks that passed in this case only."""
        passed = self._passed()
        return [str(sentence) for ok, sentence in record.checks if ok and len(passed[str(sentence)]) == 1]

    def _passed(self) -> dict[str, tuple[str, ...]]:
        """Sentence of a check that passed -> cases in which it did."""
        found: dict[str, dict[str, None]] = {}
        for decision in self.decisions:
            for ok, sentence in decision.record.checks if decision.record else ():
                if ok:
                    found.setdefault(str(sentence), {})[decision.case] = None
        return {sentence: tuple(cases) for sentence, cases in found.items()}


def sections(run: Run) -> list[Section]:
    """The decisions by claim; a case that is no longer declared stands behind those that are."""
    grouped: dict[str, list[Decision]] = {}
    for decision in run.decisions:
        grouped.setdefault(decision.claim, []).append(decision)
    return [Section(claim, decisions[0].declaration, decisions) for claim, decisions in grouped.items()]
