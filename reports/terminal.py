"""The verdicts as a table in the terminal, readable in a log file too."""

from __future__ import annotations

import io
import os
from itertools import groupby
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import text
from reports.ledger import Decision
from reports.run import Run

NARROWEST = 100  # columns; a log file has no width
MOST_LINES = 16
COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "not-run": "bright_black", "partial": "yellow"}


def print_summary(run: Run, report: Path | None, started_in: Path, reporter: pytest.TerminalReporter) -> None:
    """Print table, problems, decision and the report's path through pytest's reporter."""
    width = max(NARROWEST, reporter.config.get_terminal_writer().fullwidth)
    reporter.write_sep("=", f"claims, {run.context.tier} tier")
    reporter.write(format_summary(run, shown_path(report, started_in), width, reporter.hasmarkup))


def format_summary(run: Run, report: str, width: int, colour: bool = False) -> str:
    """Table in at most `width` columns; then problems, decision and path, one unbroken line each."""
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=colour, color_system="standard" if colour else None, highlight=False
    )
    if run.decisions:
        console.print(_table(run))
    lines = run.problems() + _notices(run)
    for line in lines[:MOST_LINES]:
        console.print(Text(f"- {text.one_line(line)}"), soft_wrap=True)
    if len(lines) > MOST_LINES:
        console.print(Text(f"- and {len(lines) - MOST_LINES} more; the report names them"))
    for sentence in run.context.accepted:
        console.print(Text(f"accepted {text.one_line(sentence)}"), soft_wrap=True)
    console.print(Text(run.headline(), style=f"bold {COLOURS[run.gate]}"), soft_wrap=True)
    console.print(Text(f"report {report} · wall time {text.duration(run.context.seconds)}"), soft_wrap=True)
    return out.getvalue()


def _notices(run: Run) -> list[str]:
    """What passes and still deserves a look: improvements, warnings, cases that did not run."""
    notable = [d for d in run.decisions if d.ruling.gate != "fail"]
    notable = [d for d in notable if d.ruling.gate != "pass" or d.ruling.change in ("improved", "void")]
    return [f"{d.name}: {d.ruling.why}" for d in notable]


def shown_path(path: Path | None, started_in: Path) -> str:
    """The path as one would type it from where pytest was started, when that is shorter; "none" without one."""
    if path is None:
        return "none"
    relative = os.path.relpath(path, started_in)
    return min(relative, str(path), key=len)


def _table(run: Run) -> Table:
    """One row per case; a claim with several cases has a row of its own above them."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("claim and case", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("estimate", justify="right", no_wrap=True)
    for name in ("95 % interval", "needs", "gate"):
        table.add_column(name, no_wrap=True)
    for claim, group in groupby(run.decisions, key=lambda decision: decision.claim):
        decisions, claim = list(group), text.one_line(claim)
        alone = len(decisions) == 1
        if not alone:
            table.add_row(Text(claim, style="bold"))
        for decision in decisions:
            name = Text(f"{claim} " if alone else "", style="bold")
            case = "" if alone and decision.case == "default" else text.one_line(decision.case)
            table.add_row(name.append(case if alone else f"  {case}", style="not bold"), *_cells(decision))
    return table


def _cells(decision: Decision) -> list[Text]:
    record, declaration = decision.record, decision.declaration
    cells = [
        f"{text.MARKS[decision.verdict]} {decision.verdict}",
        text.estimate_of(record) if record else "–",
        text.interval_of(record) if record else "–",
        text.needs(declaration, record.unit if record else "") if declaration else "–",
    ]
    return [Text(text.one_line(cell)) for cell in cells] + [Text(_gate(decision), style=COLOURS[decision.ruling.gate])]


def _gate(decision: Decision) -> str:
    """The gate's word with its reason: how the verdict stands to the accepted one."""
    ruling = decision.ruling
    if ruling.change == "same":
        return f"{ruling.gate}, accepted"
    words = {"worse": f"was {ruling.accepted}", "improved": f"was {ruling.accepted}", "void": "declaration changed"}
    reason = words.get(ruling.change, ruling.change.replace("-", " "))
    return ruling.gate if reason == ruling.gate.replace("-", " ") else f"{ruling.gate.replace('-', ' ')}, {reason}"
