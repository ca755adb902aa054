"""Runs experiments side by side in worker processes of one machine.

Each worker holds one torch thread: two threads that compete for a busy core are many times slower than one.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import IO, Any

import torch
from transformers.utils import logging as transformers_logging

from layerwise.lab.experiments import Experiment, closure
from layerwise.lab.lab import Lab
from layerwise.lab.progress import Board
from layerwise.lab.store import Store

News = str | tuple[str, float, str]  # a sentence, or the name of a task with the share done and a word on how it goes
MOST_WORKERS = 10  # a tier has no more long trainings that are independent, and each worker holds about 1 GB


def run(
    lab: Lab,
    experiments: Sequence[Experiment[Any]],
    workers: int | None = None,
    stream: IO[str] | None = None,
) -> None:
    """Makes what is missing of the experiments and all they need, in the order given as far as needs allow.

    Results do not depend on the number of workers. Whatever was finished stays in the store when the run is
    interrupted or killed.

    Args:
        lab: Says what is missing and where results go.
        experiments: Wanted results.
        workers: Processes; by default one per core that this process may use, at most 10.
        stream: Where progress is drawn; standard error by default.

    Raises:
        BrokenProcessPool: If a worker was killed, for instance for want of memory.
        Exception: The first error of an experiment; those under way are stopped.
    """
    missing = lab.missing(closure(experiments))
    if not missing:
        return
    workers = min(workers or default_workers(), len(missing))
    board = Board({experiment.describe(): experiment.effort() for experiment in missing}, stream)
    board.note(f"makes {len(missing)} results with {workers} workers; finished ones are kept in {lab.store.root}")
    try:
        _Pool(lab, missing, workers, board).run()
    finally:
        board.close()


def default_workers() -> int:
    """One worker per core that this process may use, at most 10."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


class _Pool:
    """Hands experiments to workers as soon as what they need is there."""

    def __init__(self, lab: Lab, missing: Sequence[Experiment[Any]], workers: int, board: Board) -> None:
        self._lab = lab
        self._waiting = list(missing)
        self._missing = set(missing)
        self._board = board
        self._running: dict[Future[float], Experiment[Any]] = {}
        self._workers = workers
        context = multiprocessing.get_context("spawn")
        self._news: multiprocessing.Queue[News] = context.Queue()
        self._executor = ProcessPoolExecutor(
            workers, context, _start, (str(lab.store.root), str(lab.device), self._news)
        )

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                self._submit()
                done, _ = wait(self._running, timeout=0.2, return_when=FIRST_COMPLETED)
                self._tell()
                for future in done:
                    experiment = self._running.pop(future)
                    self._board.finish(experiment.describe(), future.result())
                    self._missing.discard(experiment)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            self._executor.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        for experiment in list(self._waiting):
            if len(self._running) == self._workers:
                return
            if self._missing.isdisjoint(experiment.needs()):
                self._waiting.remove(experiment)
                key = self._lab.store.path_of(self._lab.spec(experiment)).name
                self._running[self._executor.submit(_work, experiment, key)] = experiment

    def _tell(self) -> None:
        while True:
            try:
                news = self._news.get_nowait()
            except queue.Empty:
                return
            if isinstance(news, str):
                self._board.note(news)
            else:
                self._board.update(*news)


_LAB: Lab
_NEWS: "multiprocessing.Queue[News]"


def _start(root: str, device: str, news: "multiprocessing.Queue[News]") -> None:
    """Prepares a worker: one thread, no reaction to Ctrl-C (the parent decides), no life after the parent."""
    global _LAB, _NEWS
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _NEWS = news
    _LAB = Lab(Store.at(root, on_wait=news.put), device)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(experiment: Experiment[Any], key: str) -> float:
    """Makes one experiment and returns the seconds it took.

    Raises:
        RuntimeError: If this worker would store the result elsewhere than its parent looks for it.
    """
    name = experiment.describe()
    if _LAB.store.path_of(_LAB.spec(experiment)).name != key:
        raise RuntimeError(f"code, data or versions changed while the run was under way ({name}); start it again")
    return _LAB.build(experiment, lambda share, words: _NEWS.put((name, share, words))).seconds
