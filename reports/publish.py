"""Writes the files of a report: REPORT.md, a page per claim, what programs read, and pictures, each replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from reports import looks, text
from reports.ctrf import ctrf
from reports.evidence import remove_unnamed
from reports.ledger import Decision
from reports.markdown import SUMMARY_LIMIT, front, is_short, pages, summary
from reports.overview import overview, verdicts
from reports.plots import draw
from reports.run import Run
from reports.sections import sections

REPORT = "REPORT.md"
TWIN = "records.json"
CTRF = "ctrf.json"

Key = tuple[str, str, str]


def publish(run: Run, folder: Path, step_summary: str | None = None) -> Path:
    """Write the report of `run` into `folder`, and append it to GitHub's step summary.

    Pictures and pages of an earlier report in the same folder go, as far as its own list of files names them.

    Args:
        run: What to report.
        folder: Made when it does not exist.
        step_summary: File that GitHub shows on the page of the run, if there is one.

    Returns:
        The path of REPORT.md.
    """
    contents = files_of(run)
    for name in _earlier(folder) - contents.keys():
        (folder / name).unlink(missing_ok=True)
    for name, content in contents.items():
        _replace(folder / name, content)
    remove_unnamed(folder, [decision.record for decision in run.decisions if decision.record])
    if step_summary:
        _append(Path(step_summary), run)
    return folder / REPORT


def files_of(run: Run) -> dict[str, bytes]:
    """Path relative to the report's folder -> content; a pure function of the run."""
    drawings = _drawings(run)
    paths = {key: _paths(key) for key in drawings}
    images = {
        path: looks.png(drawings[key], look)
        for key, both in paths.items()
        for path, look in zip(both, looks.LOOKS, strict=True)
    }
    texts = {REPORT: front(run, paths), **pages(run, paths)}
    listed = replace(run, files=sorted([*images, *texts, TWIN, CTRF]))
    twin = json.dumps(listed.as_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    written = {**texts, TWIN: f"{twin}\n"}  # what links to pictures is written after them
    return {**images, **{path: content.encode() for path, content in written.items()}, CTRF: ctrf(run)}


def _drawings(run: Run) -> dict[Key, Callable[[], Figure]]:
    """(claim, case, figure name) -> what draws it; an overview of several cases or claims leaves their names empty."""
    found: dict[Key, Callable[[], Figure]] = {}
    whole = sections(run)
    if any(map(_measured, run.decisions)):
        everything = partial(overview, run.decisions) if is_short(run) else partial(verdicts, whole)
        found["", "", "overview"] = everything
    for section in whole:
        if section.declaration and any(map(_measured, section.decisions)):
            found[section.claim, "", "overview"] = partial(overview, section.decisions)
    for decision in run.decisions:
        for figure in decision.record.figures if decision.record else ():
            found[decision.claim, decision.case, figure["name"]] = partial(draw, figure)
    return found


def _measured(decision: Decision) -> bool:
    return decision.record is not None and decision.record.estimate is not None


def _paths(key: Key) -> tuple[str, str]:
    """Where the picture goes, for a light and for a dark page."""
    stem = text.slug(*key) if any(key[:2]) else key[2]
    light, dark = (f"figures/{stem}{look.suffix}.png" for look in looks.LOOKS)
    return light, dark


def _earlier(folder: Path) -> set[str]:
    """Pictures and pages that an earlier report in this folder lists as its own."""
    try:
        listed = json.loads((folder / TWIN).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {str(name) for name in listed if str(name).startswith(("figures/", "claims/")) and ".." not in str(name)}


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _append(path: Path, run: Run) -> None:
    used = path.stat().st_size if path.exists() else 0
    with path.open("a", encoding="utf-8") as file:
        file.write(summary(run, max(SUMMARY_LIMIT - used, 0)))
