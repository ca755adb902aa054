"""Failures and warnings as GitHub's workflow commands, which show them beside the line of the claim's test.

References:
    Escaping as in `@actions/core`, `command.ts`; GitHub shows ten annotations per kind and step and drops the rest
    without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.changes import changes, explained
from reports.ledger import Decision
from reports.run import Run

MOST = 10


def commands(run: Run) -> list[str]:
    """One line per annotation, errors before warnings, each kind in the order of urgency and at most ten."""
    whole = [_command("error", "claims", problem) for problem in [*run.general_problems(), *run.judgement.errors]]
    decisions = [decision for _, group in changes(run) for decision in group]
    failing = [_of_case("error", run, decision) for decision in decisions if decision.ruling.gate == "fail"]
    notable = [_of_case("warning", run, decision) for decision in decisions if _is_notable(decision)]
    return _shortened("error", whole + failing) + _shortened("warning", notable)


def _is_notable(decision: Decision) -> bool:
    """Whether a case warns, or passes and still deserves a look."""
    ruling = decision.ruling
    return ruling.gate == "warn" or (ruling.gate == "pass" and ruling.change in ("improved", "void"))


def _of_case(kind: str, run: Run, decision: Decision) -> str:
    test = run.test_of(decision)
    place = {"file": test.file, "line": test.line} if test and test.file else {}
    return _command(kind, decision.name, explained(decision), **place)


def _shortened(kind: str, found: Sequence[str]) -> list[str]:
    """All of them, or the first nine and one that says how many more there are."""
    if len(found) <= MOST:
        return list(found)
    more = len(found) - MOST + 1
    return [*found[: MOST - 1], _command(kind, "claims", f"and {more} more; the report names them")]


def _command(kind: str, title: str, message: str, **place: str | int | None) -> str:
    properties = {"title": title, **place}
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value is not None)
    return f"::{kind} {shown}::{_data(message)}"


def _data(text: object) -> str:
    return str(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: object) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
