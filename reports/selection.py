"""Whether a run was narrowed down, so that cases which did not run were left out on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

# Options after which a run does not speak for the tier. --ignore is none of them: a declared case that it hides is
# missed and fails the run, and folders without claims may be left out.
NARROWING = {
    "keyword": "-k",
    "markexpr": "-m",
    "lf": "--lf",
    "stepwise": "--stepwise",
    "deselect": "--deselect",
    "dataset": "--dataset",
    "text_model": "--text-model",
}
WITHOUT_TESTS = ("collectonly", "setuponly", "setupplan")


def narrowed_by(config: pytest.Config) -> list[str]:
    """The options and arguments that leave out tests of the validation folder, as a user would write them."""
    found = []
    for name, option in NARROWING.items():
        value = config.getoption(name, default=None)
        if value:
            found.append(option if value is True else f"{option} {_shown(value)}")
    if not _covers(config, config.rootpath / "validation"):
        found.append(" ".join(config.args))
    return found


def runs_tests(config: pytest.Config) -> bool:
    """Whether this session runs tests at all; with --collect-only, for one, there is nothing to judge."""
    return not any(config.getoption(name, default=False) for name in WITHOUT_TESTS)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else repr(value)


def _covers(config: pytest.Config, folder: Path) -> bool:
    started_in = config.invocation_params.dir
    asked_for = [(started_in / argument).resolve() for argument in config.args if "::" not in argument]
    return any(folder.resolve().is_relative_to(path) for path in asked_for)
