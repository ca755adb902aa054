"""Writes the files of a report: REPORT.md, records.json and the pictures, each replaced all at once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from reports import plots, text
from reports.markdown import SUMMARY_LIMIT, render, summary
from reports.run import Run

REPORT = "REPORT.md"
TWIN = "records.json"


def publish(run: Run, folder: Path, step_summary: str | None = None) -> Path:
    """Write the report of `run` into `folder`, and append it to GitHub's step summary.

    Pictures of an earlier report in the same folder go, as far as its own list of files names them.

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
    if step_summary:
        _append(Path(step_summary), run)
    return folder / REPORT


def files_of(run: Run) -> dict[str, bytes]:
    """Path relative to the report's folder -> content; a pure function of the run."""
    paths, contents = {}, {}
    if any(decision.record and decision.record.estimate is not None for decision in run.decisions):
        paths["", "", "overview"] = "figures/overview.png"
        contents["figures/overview.png"] = plots.png(partial(plots.overview, run.decisions))
    for decision in run.decisions:
        for figure in decision.record.figures if decision.record else ():
            path = f"figures/{text.slug(decision.claim, decision.case, figure['name'])}.png"
            paths[decision.claim, decision.case, figure["name"]] = path
            contents[path] = plots.png(partial(plots.draw, figure))
    listed = replace(run, files=sorted([*contents, REPORT, TWIN]))
    twin = json.dumps(listed.as_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {**contents, TWIN: f"{twin}\n".encode(), REPORT: render(run, paths).encode()}


def _earlier(folder: Path) -> set[str]:
    """Pictures that an earlier report in this folder lists as its own."""
    try:
        listed = json.loads((folder / TWIN).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {str(name) for name in listed if str(name).startswith("figures/") and ".." not in str(name)}


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _append(path: Path, run: Run) -> None:
    used = path.stat().st_size if path.exists() else 0
    with path.open("a", encoding="utf-8") as file:
        file.write(summary(run, max(SUMMARY_LIMIT - used, 0)))
