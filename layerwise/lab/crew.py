"""Hands experiments to workers as soon as what they need is there, wherever the workers are."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol, Self

from layerwise.lab.experiments import Experiment, Report, closure
from layerwise.lab.lab import Lab
from layerwise.lab.progress import Board, Task

News = str | tuple[str, float, str]  # a sentence, or the key of a task with the share done and a word on how it goes
PATIENCE = 0.2  # seconds between looks at the news


class Crew(AbstractContextManager["Crew"], Protocol):
    """Workers that make experiments side by side. Leaving the context by an error stops what is under way."""

    def __enter__(self) -> Self:
        """Gets ready."""

    def room(self) -> int:
        """How many more experiments can be begun now."""

    def begin(self, experiment: Experiment[Any], key: str) -> None:
        """Begins an experiment whose needs are made; `key` is where its result belongs."""

    def wait(self, seconds: float) -> None:
        """Returns when an experiment is made, and after so many seconds anyway."""

    def news(self) -> Iterable[News]:
        """What the workers had to say since they were last asked."""

    def made(self) -> Iterable[tuple[Experiment[Any], float]]:
        """Experiments that were made at the end of the last `wait`, with the seconds that each took.

        Raises:
            Exception: The first error of an experiment, or of a worker.
        """


def make_missing(
    lab: Lab, experiments: Sequence[Experiment[Any]], hire: Callable[[int], Crew], stream: IO[str] | None = None
) -> None:
    """Makes what is missing of the experiments and all they need, in the order given as far as needs allow.

    Args:
        lab: Says what is missing and where results go.
        experiments: Wanted results.
        hire: From the number of missing results to a crew, whose `str` says who works.
        stream: Where progress is drawn; standard error by default.

    Raises:
        Exception: The first error of an experiment or of the crew; what was finished stays in the store.
    """
    missing = lab.missing(closure(experiments))
    if not missing:
        return
    keys = {experiment: lab.store.path_of(lab.spec(experiment)).name for experiment in missing}
    names = _names(missing)
    board = Board({keys[one]: Task(names[one], one.effort()) for one in missing}, stream)
    try:
        with hire(len(missing)) as crew:
            board.note(f"makes {len(missing)} results with {crew}; finished ones are kept in {lab.store.root}")
            _work_off(keys, crew, board)
    finally:
        board.close()


def _names(experiments: Sequence[Experiment[Any]]) -> dict[Experiment[Any], str]:
    """What they are called, with their dataset where there are several."""
    if len({experiment.subject.dataset for experiment in experiments}) == 1:
        return {experiment: experiment.describe() for experiment in experiments}
    return {experiment: f"{experiment.describe()}, on {experiment.subject.data_name}" for experiment in experiments}


def _work_off(keys: Mapping[Experiment[Any], str], crew: Crew, board: Board) -> None:
    waiting, unmade = list(keys), set(keys)
    while unmade:
        ready = [experiment for experiment in waiting if unmade.isdisjoint(experiment.needs())]
        for experiment in ready[: crew.room()] if ready else ():
            waiting.remove(experiment)
            crew.begin(experiment, keys[experiment])
        crew.wait(PATIENCE)
        for news in crew.news():
            board.note(news) if isinstance(news, str) else board.update(*news)
        for experiment, seconds in crew.made():
            board.finish(keys[experiment], seconds)
            unmade.discard(experiment)


def make(lab: Lab, experiment: Experiment[Any], key: str, report: Report) -> float:
    """Makes one experiment in a worker and returns the seconds it took.

    Raises:
        RuntimeError: If this worker would store the result elsewhere than its caller looks for it.
    """
    if lab.store.path_of(lab.spec(experiment)).name != key:
        raise RuntimeError(
            f"code, data or versions of the worker on {platform.node()} are not those that the run began with "
            f"({experiment.describe()}); make them the same there, and start it again"
        )
    return lab.build(experiment, report).seconds
