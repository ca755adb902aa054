"""What the plugin and the `claim` fixture share: which case a test judges, which tier runs, where the files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.declarations import CaseKey

MARKER = "claim"
RECORD = "layerwise-record"  # user property: one record as JSON
CASE = "layerwise-case"  # user property: [claim, case] as JSON, there even when the test is skipped or fails early
DEFAULT_TIER = "quick"


def case_of(item: pytest.Item) -> CaseKey | None:
    """(claim, case) of a test; None without the marker.

    The case is the text in the brackets of the test's name, "default" for a test without parameters. A marker without
    a name gives the claim "", which nobody can declare and which therefore fails like any undeclared claim.
    """
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return None
    name = str(marker.args[0]) if marker.args else ""
    callspec = getattr(item, "callspec", None)
    return name, "default" if callspec is None else str(callspec.id)


def tier_of(config: pytest.Config) -> str:
    """The tier that was asked for, "quick" without the option."""
    return str(config.getoption("tier") or DEFAULT_TIER)


def claims_path(config: pytest.Config) -> Path:
    """The claims file of the project, wherever pytest was started."""
    return config.rootpath / "validation" / "claims.toml"


def accepted_path(config: pytest.Config) -> Path:
    """The accepted verdicts of the project."""
    return config.rootpath / "reports" / "accepted.toml"


def report_folder(config: pytest.Config) -> Path:
    """Where the report goes and evidence is stored: as asked for, seen from where pytest was started."""
    asked_for = config.getoption("report_dir")
    default = config.rootpath / "reports" / "generated" / tier_of(config)
    return config.invocation_params.dir / asked_for if asked_for else default
