"""Verdicts computed again from stored evidence, without any model: `python -m reports.replay FOLDER ...`.

Each folder holds a report (`records.json` and `evidence/`). Several folders are the parts of one run, such as a suite
that was divided among machines, or one that ran on a GPU; they are judged together on the machine at hand. Every number
that follows from the evidence must come out as it was recorded, digit by digit; the gate then decides as in a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.accepted import read_accepted
from reports.declarations import Declaration, read_declarations
from reports.evidence import EvidenceError, path_of, read_evidence
from reports.judged import judged
from reports.ledger import TestOutcome, settle
from reports.publish import TWIN, publish
from reports.records import Record
from reports.run import Context, Run
from reports.terminal import NARROWEST, format_summary, shown_path


@dataclass(frozen=True)
class Part:
    """A report that was read back.

    Attributes:
        folder: Where it lies.
        context: Its circumstances.
        records: Its records as they were written.
        tests: How its claim tests ended.
    """

    folder: Path
    context: Context
    records: Sequence[Record]
    tests: Sequence[TestOutcome]


def read_part(folder: Path) -> Part:
    """The report in a folder.

    Raises:
        ValueError: The folder holds no report that can be read; says which and why.
    """
    try:
        twin = json.loads((folder / TWIN).read_text(encoding="utf-8"))
        found = [decision["record"] for decision in twin["decisions"] if decision["record"]]
        records = [Record.from_json(json.dumps(record)) for record in found]
        return Part(folder, Context(**twin["context"]), records, [TestOutcome(**test) for test in twin["tests"]])
    except OSError as error:
        raise ValueError(f"{folder} holds no report: {TWIN} cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / TWIN} is not a report of this version: {error}") from error


def replay(parts: Sequence[Part], root: Path) -> Run:
    """The parts as one run, every verdict computed anew.

    Args:
        parts: Reports of the same tier, at least one.
        root: The project, with its claims file and its accepted verdicts.

    Returns:
        A run that fails where a verdict comes out differently, evidence is missing, or the parts do not belong
        together, beside all that makes any run fail.
    """
    tier = parts[0].context.tier
    declared = read_declarations(root / "validation" / "claims.toml").declared(tier)
    accepted = read_accepted(root / "reports" / "accepted.toml").get(tier, {})
    records, defects = [], []
    for part in parts:
        for record in part.records:
            again, difference = rejudged(record, declared.get((record.claim, record.case)), part.folder)
            records.append(again)
            defects += [difference] if difference else []
    tests = [test for part in parts for test in part.tests]
    context = _merged([part.context for part in parts], defects)
    return Run(context, settle(declared, records, accepted, tests, demanded=True), tests=tests)


def rejudged(record: Record, declaration: Declaration | None, folder: Path) -> tuple[Record, str]:
    """The record with what follows from its evidence, and a sentence on what was recorded differently, if anything.

    What left no effect (a check failed before) and what was judged under another declaration stay as they are: the gate
    finds both invalid.
    """
    if declaration is None or record.declaration != declaration.digest:
        return record, ""
    if record.outcome == "invalid" and not record.evidence:
        return record, ""
    name = f"{record.claim}[{record.case}]"
    try:
        effect = read_evidence(folder, record.evidence, record.text, declaration.effect)
    except EvidenceError as error:
        return replace(record, outcome="invalid", reason=str(error)), f"{name} cannot be judged again: {error}"
    again = judged(record, effect, declaration)
    before, after = record.as_dict(), again.as_dict()
    changed = [f"{key} {before[key]!r}, now {after[key]!r}" for key in before if before[key] != after[key]]
    return again, f"{name} was recorded with another {'; '.join(changed)}" if changed else ""


def copy_evidence(run: Run, parts: Sequence[Part], folder: Path) -> None:
    """Puts the evidence of all records into another report's folder, so that it can be judged again too."""
    for decision in run.decisions:
        for digest in decision.record.evidence.values() if decision.record else ():
            found = [path_of(part.folder, digest) for part in parts if path_of(part.folder, digest).exists()]
            target = path_of(folder, digest)
            if found and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found[0], target)


def _merged(contexts: Sequence[Context], defects: Sequence[str]) -> Context:
    """The circumstances of the whole: parts of one commit and one tier, narrowed on purpose."""
    first = contexts[0]
    strange = []
    for key in ("tier", "commit"):
        values = dict.fromkeys(str(getattr(context, key)) for context in contexts)
        if len(values) > 1:
            strange.append(f"the parts are of different {key}s: {', '.join(values)}")
    dirty = [context.dirty for context in contexts]
    return Context(
        tier=first.tier,
        commit=first.commit,
        dirty=None if None in dirty else any(dirty),
        started=min(context.started for context in contexts),
        seconds=round(sum(context.seconds for context in contexts), 1),
        stopped="; ".join(dict.fromkeys(context.stopped for context in contexts if context.stopped)),
        other_failures=_all("other_failures", contexts),
        defects=[*strange, *_all("defects", contexts), *defects],
    )


def _all(key: str, contexts: Sequence[Context]) -> list[Any]:
    return list(dict.fromkeys(entry for context in contexts for entry in getattr(context, key)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Judges, writes the report, prints it; 0 when the gate passes, 1 when it fails, 2 without a readable report."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.replay",
        description="Compute every verdict again from stored evidence, without any model, and gate on it.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a report; several are parts of a run")
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the project (default: here)")
    parser.add_argument(
        "--report-dir",
        type=Path,
        metavar="DIR",
        help="where the report goes (default: reports/generated/verdicts of the project)",
    )
    options = parser.parse_args(arguments)
    folder = options.report_dir or options.root / "reports" / "generated" / "verdicts"
    try:
        parts = [read_part(part) for part in options.folders]
        run = replay(parts, options.root)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    copy_evidence(run, parts, folder)
    report = publish(run, folder)
    print(format_summary(run, shown_path(report, Path.cwd()), NARROWEST), end="")
    return 0 if run.gate == "pass" else 1


if __name__ == "__main__":
    sys.exit(main())
