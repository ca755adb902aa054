"""A run as reports see it: the judgement and the circumstances. Everything rendered follows from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reports.ledger import Decision, Judgement, TestOutcome


@dataclass(frozen=True)
class Context:
    """Circumstances of a run that no record holds.

    Attributes:
        commit: Of the working tree, None where git cannot tell; `dirty` likewise.
        started: Date and time in UTC.
        seconds: Wall time of the whole session.
        narrowed: Options that left tests out, as they were given.
        stopped: Why the session ended early; empty where it did not.
        other_failures: Failed tests outside the claims: instruments and the like.
        defects: What else is wrong with the run as a whole, one sentence each.
        accepted: One sentence per verdict that this run accepted.
        refused: Why accepting was refused.
    """

    tier: str
    commit: str | None
    dirty: bool | None
    started: str
    seconds: float
    narrowed: Sequence[str] = ()
    stopped: str = ""
    other_failures: Sequence[str] = ()
    defects: Sequence[str] = ()
    accepted: Sequence[str] = ()
    refused: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """Circumstances and judgement of one session."""

    context: Context
    judgement: Judgement
    tests: Sequence[TestOutcome] = ()
    files: Sequence[str] = ()

    @property
    def decisions(self) -> Sequence[Decision]:
        """Every case that was demanded or reached."""
        return self.judgement.decisions

    def problems(self) -> list[str]:
        """One sentence for everything that makes the run fail."""
        return self.general_problems() + self.judgement.problems(stopped=bool(self.context.stopped))

    def general_problems(self) -> list[str]:
        """What is wrong with the run as a whole, instruments first."""
        found = [f"the run ended early: {self.context.stopped}"] if self.context.stopped else []
        failures = self.context.other_failures
        if failures:
            more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
            found.append(f"claims count only when all other tests pass: {failures[0]}{more} failed")
        if self.context.refused:
            found.append("nothing was accepted: " + "; ".join(self.context.refused))
        return found + list(self.context.defects)

    @property
    def gate(self) -> Literal["pass", "fail", "partial"]:
        """The decision: "partial" when nothing failed but not every declared case was asked for."""
        if self.problems():
            return "fail"
        return "pass" if self.judgement.complete else "partial"

    def device(self) -> str:
        """Where the run took place, in a few words."""
        facts = self.environment()
        names = (facts.get("device"), facts.get("accelerator") or facts.get("processor"))
        return ", ".join(filter(None, names)) or "device unknown"

    def headline(self) -> str:
        """The gate's decision with the counts, in one line."""
        claims = [decision for decision in self.decisions if not decision.is_control]
        counts = ", ".join(f"{number} {verdict}" for verdict, number in by_verdict(claims)) or "no verdict"
        total = len(self.decisions) + len(self.judgement.unselected)
        scope = "complete" if self.judgement.complete else f"partial: {self.judged} of {total} cases judged"
        return f"gate {self.gate.upper()} · {self.context.tier} tier · {counts} · {scope}"

    def test_of(self, decision: Decision) -> TestOutcome | None:
        """How the test of a case ended, where there was one."""
        key = (decision.claim, decision.case)
        return next((test for test in self.tests if (test.claim, test.case) == key), None)

    @property
    def judged(self) -> int:
        """Number of cases that left a verdict."""
        return sum(decision.record is not None for decision in self.decisions)

    def environment(self) -> dict[str, str]:
        """What all records say about the machine and the software; differing values stand side by side."""
        merged: dict[str, list[str]] = {}
        for decision in self.decisions:
            for key, value in decision.record.environment.items() if decision.record else ():
                if value not in merged.setdefault(key, []):
                    merged[key].append(value)
        return {key: " / ".join(sorted(values)) for key, values in sorted(merged.items())}

    def remarks(self) -> list[str]:
        """What readers must know beside the verdicts, each sentence once."""
        found = (remark for decision in self.decisions if decision.record for remark in decision.record.remarks)
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        """The machine-readable twin of the report: plain JSON."""
        return {
            "schema": 2,
            "gate": self.gate,
            "complete": self.judgement.complete,
            "problems": self.problems(),
            "context": asdict(self.context),
            "decisions": [_plain(decision) for decision in self.decisions],
            "tests": [asdict(test) for test in self.tests],
            "unselected": [list(key) for key in self.judgement.unselected],
            "files": list(self.files),
        }


def by_verdict(decisions: Iterable[Decision]) -> list[tuple[str, int]]:
    """(verdict, number of cases), best first, without zeros."""
    order = ("supported", "inconclusive", "refuted", "invalid", "not-run", "missing")
    found = Counter(decision.verdict for decision in decisions)
    return [(verdict, found[verdict]) for verdict in order if found[verdict]]


def _plain(decision: Decision) -> dict[str, Any]:
    plain = asdict(decision)
    return {"gate": plain["ruling"]["gate"], **plain}


def refusals(run: Run, settled: Judgement) -> list[str]:
    """Why the verdicts of `run` cannot be accepted; empty when they can.

    Args:
        run: The run as it came out.
        settled: Its judgement if they were accepted; what fails even then is wrong for another reason.
    """
    context, reasons = run.context, []
    if context.dirty is None:
        reasons.append("git cannot tell which commit this is")
    elif context.dirty:
        reasons.append("the working tree has changes that are not committed, or changed during the run")
    if context.narrowed or context.stopped or not run.judgement.complete:
        left_out = len(run.judgement.unselected) + len(run.judgement.missing())
        causes = [*context.narrowed, *filter(None, [context.stopped])]
        because = f" ({', '.join(causes)})" if causes else ""
        reasons.append(f"the run is partial{because}; declared cases without a verdict: {left_out}")
    if context.other_failures:
        reasons.append(f"tests outside the claims failed, such as {context.other_failures[0]}")
    left = [d.name for d in settled.decisions if d.ruling.gate == "fail" and d.ruling.change != "missing"]
    if left or settled.errors:
        reasons.append(f"invalid whatever is accepted: {', '.join(left) or settled.errors[0]}")
    return reasons + list(context.defects)
