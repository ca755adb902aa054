"""The report's Markdown out of a run; pure functions, so that the same run gives the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import text
from reports.changes import changes
from reports.figures import SLUG
from reports.ledger import Decision
from reports.records import Record, Table
from reports.run import Run, by_verdict
from reports.sections import Section, sections

SUMMARY_LIMIT = 1000 * 1024  # GitHub drops a step summary above 1024 KiB altogether
SHORT = 30  # cases that still fit the front page
SHOWN_WIDTH = 560  # pixels of a picture on a wide page, where its type is as large as the text; phones show it smaller

Pictures = Mapping[tuple[str, str, str], "Picture"]
Picture = tuple[str, str]  # paths for a light and for a dark page


def front(run: Run, pictures: Pictures) -> str:
    """REPORT.md: the decision, what changed, a line per claim, and a line per case where they are few.

    Args:
        run: What to report.
        pictures: (claim, case, figure name) -> paths from the report's folder; case and claim are empty for an
            overview of several. A picture that is not here is left out.
    """
    links = {section.claim: _link(section, page_of(section.claim)) for section in sections(run)}
    return _render("report.md.j2", run, pictures, links=links, inline=False)


def pages(run: Run, pictures: Pictures) -> dict[str, str]:
    """Path from the report's folder -> Markdown: a page for every claim that is declared."""
    upwards = {key: (f"../{light}", f"../{dark}") for key, (light, dark) in pictures.items()}
    return {
        page_of(section.claim): _render("page.md.j2", run, upwards, section=section, table=True, details=True)
        for section in sections(run)
        if section.declaration
    }


def summary(run: Run, limit: int = SUMMARY_LIMIT) -> str:
    """Front page and claims in one text without pictures, in at most `limit` bytes of UTF-8.

    What is too long loses the folded parts first and then its last lines.
    """
    links = {section.claim: _anchor(section) for section in sections(run)}
    for details in (True, False):
        report = _render("report.md.j2", run, {}, links=links, inline=True, table=not is_short(run), details=details)
        if len(report.encode()) <= limit:
            return report
    note = "\n\n(cut here; the full report is among the files of the run)\n"
    room = max(limit - len(note.encode()), 0)
    kept = report.encode()[:room].decode(errors="ignore")
    return (kept[: kept.rfind("\n")] + note) if room else ""


def is_short(run: Run) -> bool:
    """Whether every case has a line on the front page, and its interval a place in the picture there."""
    return len(run.decisions) <= SHORT


def page_of(claim: str) -> str:
    """Path of a claim's page from the report's folder."""
    return f"claims/{claim if SLUG.fullmatch(claim) else text.slug(claim)}.md"


def format_table(table: Table) -> str:
    """A Markdown table; numbers are aligned to the right and keep four digits."""
    rows = table["rows"]
    numeric = [bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(table["columns"]))]
    lines = [_row(table["columns"]), "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    return "\n".join(lines + [_row(row) for row in rows])


def format_picture(paths: Picture, words: str) -> str:
    """A picture that follows the page's background, with `words` for those who cannot see it."""
    light, dark = paths
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img alt="{text.attribute(words)}" src="{light}" width="{SHOWN_WIDTH}"></picture>'


def _row(cells: Sequence[str | int | float]) -> str:
    return "| " + " | ".join(text.escape(_cell(cell)) for cell in cells) + " |"


def _cell(cell: str | int | float) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


def _link(section: Section, target: str) -> str:
    """The claim as a link where there is something to link to."""
    return f"[{text.escape(section.claim)}]({target})" if section.declaration else text.escape(section.claim)


def _anchor(section: Section) -> str:
    """The claim as a link to its heading further down, where GitHub makes an anchor of the very same name."""
    return _link(section, f"#{section.claim}") if SLUG.fullmatch(section.claim) else text.escape(section.claim)


def _render(template: str, run: Run, pictures: Pictures, **more: Any) -> str:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # names are escaped for Markdown, one by one; HTML's rules would not protect a table
    environment.filters |= {
        "md": text.escape,
        "mark": lambda verdict: f"{text.MARKS[verdict]} {verdict}",
        "counts": _counts,
        "estimate": _estimate,
        "interval": text.interval_of,
        "detectable": text.detectable_of,
        "sample": text.sample_of,
        "needs": _needs,
        "undecided": text.undecided,
        "duration": text.duration,
        "table": format_table,
        "picture": format_picture,
        "folded": _folded,
    }
    environment.globals |= {
        "run": run,
        "pictures": pictures,
        "sections": sections(run),
        "changes": changes(run),
        "short": is_short(run),
        "tested_by": _sample_words(run),
    }
    return environment.get_template(template).render(**more)


def _counts(decisions: Sequence[Decision]) -> str:
    """How many cases have which verdict, in words."""
    return ", ".join(f"{text.MARKS[verdict]} {number} {verdict}" for verdict, number in by_verdict(decisions))


def _estimate(record: Record) -> str:
    return text.escape(f"{text.estimate_of(record)} {text.unit_of(record)}".strip())


def _needs(decision: Decision) -> str:
    if decision.declaration is None:
        return "–"
    return text.needs(decision.declaration, decision.record.unit if decision.record else "")


def _folded(record: Record, checks: Sequence[str]) -> str:
    """What the folded part of a case holds, in words; empty when there is nothing."""
    parts: list[tuple[str, Sequence[Any] | dict[str, Any]]] = [
        ("check", checks),
        ("table", record.tables),
        ("figure", record.figures),
        ("note", record.notes),
    ]
    return ", ".join(f"{len(part)} {name}{'s' * (len(part) > 1)}" for name, part in parts if part)


def _sample_words(run: Run) -> str:
    largest = max((decision.record.num_seeds for decision in run.decisions if decision.record), default=0)
    return "Seeds × users" if largest > 1 else "Sample"
