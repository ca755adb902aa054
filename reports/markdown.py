"""REPORT.md out of a run; a pure function, so that the same run gives the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import text
from reports.declarations import Declaration
from reports.ledger import Decision
from reports.records import SLUG, Record, Table
from reports.run import Run, by_verdict

SUMMARY_LIMIT = 1000 * 1024  # GitHub drops a step summary above 1024 KiB altogether
CHANGES = {  # in the order of urgency
    "invalid": "Invalid",
    "missing": "Missing",
    "gone": "Gone",
    "worse": "Worse",
    "not-run": "Not run",
    "void": "Accepted for an older declaration",
    "improved": "Improved",
    "new": "New",
}


@dataclass(frozen=True)
class Section:
    """A claim with its cases, in the order of the claims file."""

    claim: str
    declaration: Declaration | None
    decisions: Sequence[Decision]


def render(run: Run, pictures: Mapping[tuple[str, str, str], str], details: bool = True) -> str:
    """The report as Markdown.

    Args:
        run: What to report.
        pictures: (claim, case, figure name) -> path of the picture; the overview is ("", "", "overview"). A picture
            that is not here is left out, as in a step summary, which cannot show files.
        details: Whether to write the folded parts.
    """
    template = _environment().get_template("report.md.j2")
    return template.render(
        run=run,
        sections=sections(run),
        changes=changes(run),
        pictures=pictures,
        details=details,
        tested_by=_sample_words(run),
    )


def summary(run: Run, limit: int = SUMMARY_LIMIT) -> str:
    """The report without pictures in at most `limit` bytes of UTF-8: first without folded parts, then cut at a line."""
    for details in (True, False):
        report = render(run, {}, details)
        if len(report.encode()) <= limit:
            return report
    note = "\n\n(cut here; the full report is among the files of the run)\n"
    room = max(limit - len(note.encode()), 0)
    kept = report.encode()[:room].decode(errors="ignore")
    return (kept[: kept.rfind("\n")] + note) if room else ""


def sections(run: Run) -> list[Section]:
    """The decisions grouped by claim."""
    grouped = groupby(run.decisions, key=lambda decision: decision.claim)
    lists = [(claim, list(decisions)) for claim, decisions in grouped]
    return [Section(claim, decisions[0].declaration, decisions) for claim, decisions in lists]


def changes(run: Run) -> list[tuple[str, list[Decision]]]:
    """What differs from the accepted verdicts, most urgent first: (heading, decisions)."""
    found = []
    for change, heading in CHANGES.items():
        decisions = [decision for decision in run.decisions if decision.ruling.change == change]
        if decisions:
            found.append((heading, decisions))
    return found


def format_table(table: Table) -> str:
    """A Markdown table; numbers are aligned to the right and keep four digits."""
    rows = table["rows"]
    numeric = [bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(table["columns"]))]
    lines = [_row(table["columns"]), "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    return "\n".join(lines + [_row(row) for row in rows])


def _row(cells: Sequence[str | int | float]) -> str:
    return "| " + " | ".join(text.escape(_cell(cell)) for cell in cells) + " |"


def _cell(cell: str | int | float) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # names are escaped for Markdown, one by one; HTML's rules would not protect a table
    environment.filters |= {
        "md": text.escape,
        "anchor": _anchor,
        "mark": lambda verdict: f"{text.MARKS[verdict]} {verdict}",
        "estimate": _estimate,
        "interval": text.interval_of,
        "detectable": text.detectable_of,
        "sample": text.sample_of,
        "needs": _needs,
        "by_verdict": by_verdict,
        "duration": text.duration,
        "table": format_table,
        "folded": _folded,
    }
    return environment


def _anchor(claim: str) -> str:
    return f"[{claim}](#{claim})" if SLUG.fullmatch(claim) else text.escape(claim)


def _estimate(record: Record) -> str:
    return text.escape(f"{text.estimate_of(record)} {text.unit_of(record)}".strip())


def _needs(decision: Decision) -> str:
    if decision.declaration is None:
        return "–"
    return text.needs(decision.declaration, decision.record.unit if decision.record else "")


def _folded(record: Record) -> str:
    """What the folded part of a case holds, in words; empty when there is nothing."""
    parts: list[tuple[str, Sequence[Any] | dict[str, Any]]] = [
        ("check", record.checks),
        ("table", record.tables),
        ("figure", record.figures),
        ("note", record.notes),
    ]
    return ", ".join(f"{len(part)} {name}{'s' * (len(part) > 1)}" for name, part in parts if part)


def _sample_words(run: Run) -> str:
    largest = max((decision.record.num_seeds for decision in run.decisions if decision.record), default=0)
    return "Seeds × users" if largest > 1 else "Sample"
