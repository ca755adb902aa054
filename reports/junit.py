"""What a JUnit file says of claims: a few short properties per test, and the gate's decision on the suite."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from reports.cases import CASE, RECORD
from reports.run import Run

NUMBERS = ("estimate", "low", "high")  # low and high are the ends of the 95 % interval

Properties = Sequence[tuple[str, object]]


def tidy(properties: Properties) -> list[tuple[str, object]]:
    """User properties of a test as other reporters should show them.

    Args:
        properties: With the case and the record as JSON, as they travel from the test to the controller.

    Returns:
        The same, with short properties in place of the JSON: claim, case, verdict, unit, estimate, low and high,
        as far as they are known. Whatever depends on accepted verdicts is left to the suite.
    """
    found: list[tuple[str, object]] = []
    for name, value in properties:
        if name == CASE:
            found += zip(("claim", "case"), json.loads(str(value)), strict=True)
        elif name == RECORD:
            found += _measured(str(value))
        else:
            found.append((name, value))
    return found


def _measured(text: str) -> Properties:
    try:
        record = json.loads(text)
        numbers = [(name, record[name]) for name in NUMBERS if record[name] is not None]
        return [("verdict", record["outcome"]), ("unit", record["unit"]), *numbers]
    except (ValueError, KeyError, TypeError):  # the report names a record that cannot be read
        return []


def describe_suite(config: pytest.Config, run: Run) -> None:
    """Add tier, commit and decision to the JUnit file that pytest is about to write, if it writes one."""
    facts = {"tier": run.context.tier, "commit": run.context.commit or "unknown", "gate": run.headline()}
    for plugin in config.pluginmanager.get_plugins():
        add = getattr(plugin, "add_global_property", None)  # the JUnit writer is the only plugin that has it
        if add is not None:
            for name, value in facts.items():
                add(name, value)
