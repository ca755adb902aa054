"""Whether the nodes of a cluster share a store, and what their workers have to say.

This module runs on nodes before anything else does, so it imports nothing that takes long.
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

TOKEN, LOCK = "token", "lock"


@contextmanager
def question(root: Path) -> Iterator[Path]:
    """A folder below the root of a store, with a token in it and a lock that is held, for `answer` to look at."""
    folder = root / f".nodes-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        (folder / TOKEN).write_text(folder.name)
        with FileLock(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answer(folder: str, node: str) -> str:
    """What is wrong, seen from the node that runs this: nothing, or the end of a sentence about the node.

    Args:
        folder: As `question` yields it, elsewhere.
        node: Name of the node, under which it leaves the token.
    """
    place = Path(folder)
    try:
        (place / node).write_text((place / TOKEN).read_text())
    except FileNotFoundError:
        return f"does not see the store {place.parent}: it must be one folder, on one path, of all nodes"
    except OSError as error:
        return f"cannot write to the store {place.parent} ({error})"
    try:
        with FileLock(place / LOCK).acquire(timeout=0):
            return f"does not heed locks of others in the store {place.parent}: mount it so that flock works"
    except Timeout:
        return ""


def slots(nodes: Sequence[Mapping[str, Any]], gpus: int) -> int:
    """How many tasks of one core, and of so many GPUs, fit onto nodes at the same time.

    Args:
        nodes: As `ray.nodes` describes them; those that are not alive do not count.
        gpus: GPUs of one task, 0 or more.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    free = [[one.get("CPU", 0), *([one.get("GPU", 0) // gpus] if gpus else [])] for one in resources]
    return sum(int(min(kinds)) for kinds in free)


class Notes:
    """What workers say, until the caller fetches it; becomes an actor beside the caller."""

    def __init__(self) -> None:
        self._notes: list[Any] = []

    def put(self, note: Any) -> None:
        """Adds a note."""
        self._notes.append(note)

    def take(self) -> list[Any]:
        """All notes since the last call."""
        notes, self._notes = self._notes, []
        return notes
