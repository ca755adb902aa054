"""The run in the Common Test Report Format, for programs that know CTRF and nothing of claims.

The status of a case is the gate's ruling, so a claim that is known to be refuted has passed; the verdict stands in
`extra`. What is wrong with the run as a whole is a failed test of its own, because readers of this format only count.

References:
    ctrf.io, `ctrf.schema.json`, specification 1.0.0.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import Any

from reports.changes import explained
from reports.ledger import Decision
from reports.run import Run

STATUS = {"pass": "passed", "fail": "failed", "warn": "other", "not-run": "skipped"}
STATUSES = ("passed", "failed", "skipped", "pending", "other")


def ctrf(run: Run) -> bytes:
    """The content of ctrf.json; a pure function of the run."""
    tests = _whole(run) + [_test(run, decision) for decision in run.decisions] + _left_out(run)
    results = {
        "tool": {"name": "Layerwise"},
        "summary": _summary(run, Counter(test["status"] for test in tests)),
        "tests": tests,
        "environment": _environment(run),
        "extra": {"gate": run.gate, "complete": run.judgement.complete, "problems": run.problems()},
    }
    report = {"reportFormat": "CTRF", "specVersion": "1.0.0", "results": results}
    return f"{json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def _summary(run: Run, counts: Counter[str]) -> dict[str, int]:
    start = round(datetime.fromisoformat(run.context.started).timestamp() * 1000)
    numbers = {status: counts[status] for status in STATUSES}
    return {"tests": counts.total(), **numbers, "start": start, "stop": start + _milliseconds(run.context.seconds)}


def _environment(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {
        "reportName": f"Layerwise, {run.context.tier} tier",
        "testEnvironment": run.device(),
        "healthy": run.gate != "fail",
        "extra": run.environment(),
    }
    return found | ({"commit": run.context.commit} if run.context.commit else {})


def _whole(run: Run) -> list[dict[str, Any]]:
    problems = [*run.general_problems(), *run.judgement.errors]
    message = "; ".join(problems)
    return [{"name": "the run as a whole", "status": "failed", "duration": 0, "message": message}] if problems else []


def _test(run: Run, decision: Decision) -> dict[str, Any]:
    record, ruling = decision.record, decision.ruling
    test: dict[str, Any] = {
        "name": decision.name,
        "status": STATUS[ruling.gate],
        "duration": _milliseconds(record.seconds if record else 0.0),
        "suite": [decision.claim],
        "rawStatus": decision.verdict,
    }
    if ruling.gate != "pass":
        test["message"] = explained(decision)
    place = run.test_of(decision)
    if place and place.file:
        test["filePath"] = place.file
    if place and place.line is not None:
        test["line"] = place.line
    return test | {"extra": _extra(decision)}


def _extra(decision: Decision) -> dict[str, Any]:
    record, ruling = decision.record, decision.ruling
    extra: dict[str, Any] = {
        "claim": decision.claim,
        "case": decision.case,
        "verdict": decision.verdict,
        "gate": ruling.gate,
        "accepted": ruling.accepted,
        "reason": ruling.why,
    }
    if record:
        extra |= {"sentence": record.sentence, "unit": record.unit, "estimate": record.estimate}
        extra |= {"interval": [record.low, record.high]}  # 95 %; null on a side without an end
    return extra


def _left_out(run: Run) -> list[dict[str, Any]]:
    """Declared cases that nobody asked for in this run."""
    return [
        {
            "name": f"{claim}[{case}]",
            "status": "skipped",
            "duration": 0,
            "suite": [claim],
            "message": "left out of this run",
            "extra": {"claim": claim, "case": case},
        }
        for claim, case in run.judgement.unselected
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
