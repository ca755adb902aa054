"""What a person sees while experiments run: what is done, what is under way, how long it may still take."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import IO

LINE_EVERY = 15.0  # seconds between lines where there is no terminal to redraw
WORTH_A_LINE = 5.0  # seconds that a task must take for its end to be told


@dataclass(frozen=True)
class Task:
    """What a person calls it, and its effort in any common unit; only ratios matter."""

    name: str
    effort: float


@dataclass(frozen=True)
class Stage:
    """Where a task under way stands: the share done and a word on how it goes."""

    share: float
    words: str


class Board:
    """Draws one line that is renewed on a terminal, or prints a line now and then elsewhere.

    Args:
        tasks: By a key of the caller's; names may be the same.
        stream: Where to draw; standard error by default.
    """

    def __init__(self, tasks: Mapping[str, Task], stream: IO[str] | None = None) -> None:
        self._tasks = dict(tasks)
        self._finished: set[str] = set()
        self._stages: dict[str, Stage] = {}
        self._stream = stream or sys.stderr
        self._start = self._drawn = time.monotonic()

    def update(self, key: str, share: float, words: str) -> None:
        """Notes where a task stands; news of a finished one, which come late from another machine, are passed over."""
        if key in self._finished:
            return
        self._stages[key] = Stage(share, words)
        self._draw()

    def finish(self, key: str, seconds: float) -> None:
        """Notes that a task is done, and says so unless it was a trifle."""
        self._stages.pop(key, None)
        self._finished.add(key)
        if seconds >= WORTH_A_LINE:
            self._say(f"{self._count()} {self._tasks[key].name}: {seconds:.0f} s{self._forecast()}")

    def note(self, sentence: str) -> None:
        """Prints a sentence of its own."""
        self._say(sentence)

    def close(self) -> None:
        """Ends the renewed line."""
        if self._stream.isatty():
            self._write("\r\x1b[K")

    def _count(self) -> str:
        return f"[{len(self._finished)}/{len(self._tasks)}]"

    def _forecast(self) -> str:
        done = sum(self._tasks[key].effort for key in self._finished)
        done += sum(self._tasks[key].effort * stage.share for key, stage in self._stages.items())
        total = sum(task.effort for task in self._tasks.values())
        elapsed = time.monotonic() - self._start
        if done < 0.02 * total or elapsed < 5 or done >= total:
            return ""
        left = elapsed * (total - done) / done
        return f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"

    def _draw(self) -> None:
        terminal = self._stream.isatty()
        if time.monotonic() - self._drawn < (0.2 if terminal else LINE_EVERY):
            return
        stages = " | ".join(f"{self._tasks[key].name}: {stage.words}" for key, stage in self._stages.items())
        line = f"{self._count()} {stages}{self._forecast()}"
        if terminal:
            self._write(f"\r\x1b[K{line[: _width()]}")
        else:
            self._write(f"layerwise {line}\n")
        self._drawn = time.monotonic()

    def _say(self, line: str) -> None:
        start = "\r\x1b[K" if self._stream.isatty() else ""
        self._write(f"{start}layerwise {line}\n")
        self._drawn = time.monotonic()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _width() -> int:
    return get_terminal_size((120, 24)).columns - 1
