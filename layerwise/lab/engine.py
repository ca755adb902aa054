"""Runs experiments side by side in worker processes of one machine.

Each worker holds one torch thread: two threads that compete for a busy core are many times slower than one.
"""

import multiprocessing
import os
import queue
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.queues import SimpleQueue
from typing import IO, Any, Self

import torch
from transformers.utils import logging as transformers_logging

from layerwise.lab.crew import News, make, make_missing
from layerwise.lab.experiments import Experiment
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store

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
        workers: Processes; by default as many as `default_workers` says. On GPUs they take turns among those that this
            process sees.
        stream: Where progress is drawn; standard error by default.

    Raises:
        BrokenProcessPool: If a worker was killed, for instance for want of memory.
        Exception: The first error of an experiment; those under way are stopped.
    """
    wanted = workers or default_workers(lab.device)
    make_missing(lab, experiments, lambda tasks: Processes(lab, min(wanted, tasks)), stream)


def default_workers(device: torch.device) -> int:
    """One worker per GPU that this process sees, or on the CPU per core that it may use, at most 10."""
    if device.type == "cuda":
        return len(_gpus(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def places(device: torch.device, workers: int) -> list[str]:
    """The device of each worker: on GPUs, those that this process sees in turn, unless one of them was named."""
    found = _gpus(device) if device.type == "cuda" else [str(device)]
    return [found[worker % len(found)] for worker in range(workers)]


def _gpus(device: torch.device) -> list[str]:
    if str(device) != "cuda":
        return [str(device)]
    return [f"cuda:{index}" for index in range(max(1, torch.cuda.device_count()))]


class Processes:
    """A crew of processes of this machine; see `Crew`."""

    def __init__(self, lab: Lab, workers: int) -> None:
        self._workers = workers
        self._running: dict[Future[float], Experiment[Any]] = {}
        self._done: set[Future[float]] = set()
        context = multiprocessing.get_context("spawn")
        self._news: multiprocessing.Queue[News] = context.Queue()
        devices = context.SimpleQueue()  # each worker takes one
        for place in places(lab.device, workers):
            devices.put(place)
        self._executor = ProcessPoolExecutor(workers, context, _start, (str(lab.store.root), devices, self._news))

    def __str__(self) -> str:
        return f"{self._workers} workers"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            for process in multiprocessing.active_children():
                process.terminate()
        self._executor.shutdown(cancel_futures=True)

    def room(self) -> int:
        return self._workers - len(self._running)

    def begin(self, experiment: Experiment[Any], key: str) -> None:
        self._running[self._executor.submit(_work, experiment, key)] = experiment

    def wait(self, seconds: float) -> None:
        self._done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)

    def news(self) -> Iterator[News]:
        while True:
            try:
                yield self._news.get_nowait()
            except queue.Empty:
                return

    def made(self) -> Iterator[tuple[Experiment[Any], float]]:
        for future in self._done:
            yield self._running.pop(future), future.result()


_LAB: Lab
_NEWS: "multiprocessing.Queue[News]"


def _start(root: str, devices: "SimpleQueue[str]", news: "multiprocessing.Queue[News]") -> None:
    """Prepares a worker: one thread, no reaction to Ctrl-C (the parent decides), no life after the parent."""
    global _LAB, _NEWS
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the report of a fresh head on every load is no news
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft still asks it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _NEWS = news
    _LAB = Lab(Store.at(root, on_wait=news.put), devices.get())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(experiment: Experiment[Any], key: str) -> float:
    """Makes one experiment and returns the seconds it took."""
    return make(_LAB, experiment, key, lambda share, words: _NEWS.put((key, share, words)))
