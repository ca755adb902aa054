"""Where a run comes from: commit, state of the working tree, person. Everything is "unknown" without git."""

from __future__ import annotations

import getpass
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Provenance:
    """A commit and whether the working tree differs from it; None for both where git cannot tell."""

    commit: str | None
    dirty: bool | None

    def until(self, later: Provenance) -> Provenance:
        """This state with everything that changed by `later`: a tree that moved during a run counts as dirty."""
        if self == later:
            return self
        return Provenance(self.commit, None if self.dirty is None else True)


def provenance(root: Path) -> Provenance:
    """The state of the working tree at `root`; files that git does not know and does not ignore make it dirty."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    return Provenance(commit, None if status is None or commit is None else bool(status))


def who(root: Path) -> str:
    """The name git knows, or the one of the account."""
    name = _git(root, "config", "user.name")
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "unknown"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
