"""What differs from the accepted verdicts, most urgent first, and a sentence that says why."""

from __future__ import annotations

from reports.ledger import Decision
from reports.run import Run

CHANGES = {  # in the order of urgency
    "invalid": "Invalid",
    "missing": "Missing",
    "gone": "Gone",
    "worse": "Worse",
    "same": "As accepted",  # only where its test failed beside the verdict
    "not-run": "Not run",
    "void": "Accepted for an older declaration",
    "improved": "Improved",
    "new": "New",
}


def changes(run: Run) -> list[tuple[str, list[Decision]]]:
    """What differs from the accepted verdicts, or fails all the same, most urgent first: (heading, decisions)."""
    found = []
    for change, heading in CHANGES.items():
        decisions = [decision for decision in run.decisions if decision.ruling.change == change]
        if change == "same":
            decisions = [decision for decision in decisions if decision.ruling.gate == "fail"]
        if decisions:
            found.append((heading, decisions))
    return found


def explained(decision: Decision) -> str:
    """The verdict with its numbers and what the gate makes of it, in one sentence."""
    said, why = decision.record.sentence if decision.record else "", decision.ruling.why
    return why if not said else said if why in said else f"{said} ({why})"
