"""The gate: compares verdicts with the accepted ones and finds what is missing. Pure; no files, no pytest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from reports.accepted import ACCEPTABLE, Accepted
from reports.declarations import CaseKey, Declaration
from reports.records import Record

Gate = Literal["pass", "warn", "fail", "not-run"]
Change = Literal["same", "new", "worse", "improved", "void", "invalid", "missing", "gone", "not-run"]

NO_RECORD = "no record arrived: its test was renamed, removed, deselected or stopped, or its worker died"
NAMED = 3  # cases that a sentence on many of them names
ORDER = {verdict: place for place, verdict in enumerate(ACCEPTABLE)}  # from best to worst


@dataclass(frozen=True)
class Ruling:
    """What the gate makes of one verdict, how it relates to the accepted one, and why."""

    gate: Gate
    change: Change
    accepted: str | None
    why: str


@dataclass(frozen=True)
class TestOutcome:
    """How the test of a case ended: "passed", "failed" or "skipped", with pytest's message and where it stands.

    Attributes:
        file: Path from the project's root; empty where unknown.
        line: Counted from 1; None where unknown.
    """

    __test__ = False  # not a class of tests, whatever its name begins with

    nodeid: str
    claim: str
    case: str
    outcome: str
    message: str = ""
    file: str = ""
    line: int | None = None


Entry = TypeVar("Entry", Record, TestOutcome)


@dataclass(frozen=True)
class Decision:
    """A case of the run: its verdict ("missing" without one), the ruling, and what they rest on."""

    claim: str
    case: str
    verdict: str
    ruling: Ruling
    declaration: Declaration | None = None
    record: Record | None = None

    @property
    def name(self) -> str:
        """The case as it is said in sentences."""
        return f"{self.claim}[{self.case}]"

    @property
    def is_control(self) -> bool:
        """Whether its verdict was known beforehand."""
        return self.declaration is not None and bool(self.declaration.control)


@dataclass(frozen=True)
class Judgement:
    """The decisions of a run in the order of the claims file, and what is wrong beyond them.

    Attributes:
        unselected: Declared cases that nobody asked for in this run.
        errors: Records and tests that no declaration covers.
    """

    decisions: Sequence[Decision]
    unselected: Sequence[CaseKey]
    errors: Sequence[str]

    def missing(self) -> list[Decision]:
        """Declared cases that were demanded and left no verdict."""
        return [decision for decision in self.decisions if decision.ruling.change == "missing"]

    def problems(self, stopped: bool = False) -> list[str]:
        """One sentence for everything that makes the gate fail.

        Args:
            stopped: The run ended early, so that one sentence does for all cases that it did not reach.
        """
        failed = [decision for decision in self.decisions if decision.ruling.gate == "fail"]
        unreached = [decision.name for decision in failed if decision.ruling.why == NO_RECORD]
        if not stopped or len(unreached) < 2:
            unreached = []
        more = f" and {len(unreached) - NAMED} more" if len(unreached) > NAMED else ""
        said = [f"{len(unreached)} cases were not reached: {', '.join(unreached[:NAMED])}{more}"] if unreached else []
        own = [f"{decision.name}: {decision.ruling.why}" for decision in failed if decision.name not in unreached]
        return list(self.errors) + own + said

    @property
    def complete(self) -> bool:
        """Whether every declared case left a verdict or said why it did not run."""
        return not self.unselected and not self.missing()


def rule(verdict: str, declaration: Declaration, entry: Accepted | None, estimate: float | None = None) -> Ruling:
    """The ruling on one verdict.

    Without an accepted verdict for exactly this declaration, "supported" is expected: nobody is surprised in silence.

    Args:
        verdict: "supported", "inconclusive", "refuted" or "invalid".
        declaration: What was judged.
        entry: The accepted verdict of the case, if there is one; void when it was given for another declaration.
        estimate: What was measured; it decides where an undecided verdict fails outside the region only. None counts as
            outside.
    """
    accepted = standing(entry, declaration)
    if declaration.control and verdict != "invalid":
        return _control(verdict, declaration)
    if verdict == "invalid":
        return Ruling("fail", "invalid", accepted, "an instrument check failed, so there is no verdict")
    change: Change = "void" if entry else "new"
    why = "its declaration changed since it was accepted" if entry else "not accepted yet"
    if accepted:
        change = "same" if verdict == accepted else "worse" if _worse(verdict, accepted) else "improved"
        why = f"accepted as {accepted}"
    if not _worse(verdict, accepted or "supported"):
        hint = "; accept it with --accept-verdicts" if change == "improved" else ""
        return Ruling("pass", change, accepted, f"{verdict}, {why}{hint}")
    if verdict == "inconclusive" and declaration.on_inconclusive == "warn":
        return Ruling("warn", change, accepted, f"{verdict}, {why}; declared to warn only")
    if verdict == "inconclusive" and declaration.on_inconclusive == "fail-outside":
        if declaration.allows(estimate):
            return Ruling("warn", change, accepted, f"{verdict}, {why}; its estimate lies in the region")
        why += "; its estimate lies outside the region"
    return Ruling("fail", change, accepted, f"{verdict}, {why}")


def _control(verdict: str, declaration: Declaration) -> Ruling:
    """A control is held to the verdict that is known beforehand; nobody can accept another one."""
    known = declaration.control
    if verdict == known:
        return Ruling("pass", "same", known, f"{verdict}, as it must be")
    return Ruling(
        "fail", "invalid", known, f"{verdict}, but it must be {known}: the instruments of this run are broken"
    )


def standing(entry: Accepted | None, declaration: Declaration) -> str | None:
    """The accepted verdict, or None where none was given for this very declaration."""
    return entry.verdict if entry and entry.declaration == declaration.digest else None


def _worse(verdict: str, expected: str) -> bool:
    return ORDER[verdict] > ORDER[expected]


def settle(
    declared: Mapping[CaseKey, Declaration],
    records: Sequence[Record],
    accepted: Mapping[CaseKey, Accepted],
    tests: Sequence[TestOutcome],
    demanded: bool,
) -> Judgement:
    """Decide every case of a tier.

    Args:
        declared: The cases of the tier.
        records: What arrived, in any order.
        accepted: Accepted verdicts of the tier.
        tests: How the claim tests ended.
        demanded: Whether the run had to judge every declared case; a run that was narrowed down did not.

    Returns:
        A decision for every declared case that was demanded or reached, and for accepted ones that were removed.
    """
    records_of, tests_of = _by_case(records), _by_case(tests)
    decisions, unselected = [], []
    for key, declaration in declared.items():
        entry = accepted.get(key)
        if key in records_of:
            decisions.append(_judged(declaration, records_of[key], tests_of[key], entry))
        elif key in tests_of or demanded:
            decisions.append(_unjudged(declaration, tests_of[key], entry, demanded))
        else:
            unselected.append(key)
    if demanded:
        decisions += [_gone(key, entry) for key, entry in accepted.items() if key not in declared]
    decisions = _voided(decisions)
    stray = sorted((records_of.keys() | tests_of.keys()) - declared.keys())
    errors = [f"{claim}[{case}] is not declared for this tier in claims.toml" for claim, case in stray]
    return Judgement(decisions, unselected, errors)


def _voided(decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions as they are when the controls came out right; else none of the others counts."""
    broken = [decision for decision in decisions if _is_broken(decision)]
    return [_without_trust(decision, broken[0]) if broken else decision for decision in decisions]


def _is_broken(decision: Decision) -> bool:
    """Whether a control was measured and came out wrong."""
    return decision.is_control and decision.record is not None and decision.ruling.gate == "fail"


def _without_trust(decision: Decision, control: Decision) -> Decision:
    if decision.record is None or _is_broken(decision):
        return decision
    why = f"the control {control.name} came out wrong, so that no verdict of this run counts"
    return replace(decision, verdict="invalid", ruling=Ruling("fail", "invalid", decision.ruling.accepted, why))


def _by_case(things: Sequence[Entry]) -> defaultdict[CaseKey, list[Entry]]:
    grouped: defaultdict[CaseKey, list[Entry]] = defaultdict(list)
    for thing in things:
        grouped[thing.claim, thing.case].append(thing)
    return grouped


def _judged(
    declaration: Declaration, records: Sequence[Record], tests: Sequence[TestOutcome], entry: Accepted | None
) -> Decision:
    record = records[0]
    ruling = rule(record.outcome, declaration, entry, record.estimate)
    verdict, accepted = "invalid" if ruling.change == "invalid" else record.outcome, ruling.accepted
    failed = [test for test in tests if test.outcome == "failed"]
    if why := _why_void(records, declaration):
        verdict, ruling = "invalid", Ruling("fail", "invalid", accepted, why)
        record = replace(record, outcome="invalid", reason=why)
    elif record.outcome == "invalid":
        ruling = Ruling("fail", "invalid", accepted, record.reason)
    elif failed and ruling.gate != "fail":
        ruling = Ruling("fail", ruling.change, accepted, f"its test failed beside the verdict: {failed[0].message}")
    return Decision(declaration.claim, declaration.case, verdict, ruling, declaration, record)


def _why_void(records: Sequence[Record], declaration: Declaration) -> str:
    """Why records cannot count, whatever they say; empty where they can."""
    if len(records) > 1:
        return f"recorded {len(records)} times; a case is judged once, by one test, without retries"
    if records[0].declaration != declaration.digest:
        return "judged under another declaration than the one in claims.toml; run it again"
    return ""


def _unjudged(
    declaration: Declaration, tests: Sequence[TestOutcome], entry: Accepted | None, demanded: bool
) -> Decision:
    accepted = standing(entry, declaration)
    verdict = "missing"
    if not tests:
        ruling = Ruling("fail", "missing", accepted, NO_RECORD)
    elif tests[0].outcome == "skipped":
        verdict, why = "not-run", f"not run: {tests[0].message}"
        ruling = Ruling("not-run", "not-run", accepted, why)
        if accepted and demanded and not declaration.needs:
            ruling = Ruling("fail", "not-run", accepted, f"{why}; but it is accepted as {accepted}")
    elif tests[0].outcome == "passed":
        ruling = Ruling("fail", "missing", accepted, "its test passed without a verdict; it must call claim.judge")
    else:
        ruling = Ruling("fail", "missing", accepted, f"its test failed before a verdict: {tests[0].message}")
    return Decision(declaration.claim, declaration.case, verdict, ruling, declaration)


def _gone(key: CaseKey, entry: Accepted) -> Decision:
    why = f"accepted as {entry.verdict}, but no longer declared in claims.toml; --accept-verdicts accepts its removal"
    return Decision(*key, "missing", Ruling("fail", "gone", entry.verdict, why))


def accept(
    declared: Mapping[CaseKey, Declaration],
    decisions: Sequence[Decision],
    accepted: Mapping[CaseKey, Accepted],
    by: str,
    commit: str,
    date: str,
) -> dict[CaseKey, Accepted]:
    """The accepted verdicts after somebody accepted these decisions.

    An entry that says the same for the same declaration stays as it is, with its author and date; so does the entry of
    a case that did not run. Entries of cases that are no longer declared go.
    """
    kept = {key: entry for key, entry in accepted.items() if key in declared}
    for decision in decisions:
        record = decision.record
        if record is None or decision.verdict not in ACCEPTABLE or decision.ruling.change == "same":
            continue
        device = record.environment.get("device", "unknown")
        kept[decision.claim, decision.case] = Accepted(decision.verdict, record.declaration, by, commit, date, device)
    return kept
