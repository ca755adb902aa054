"""Runs experiments side by side on a Ray cluster that is already there.

Every node sees the store on the same path, and holds the same installation: a worker that would store a result under
another key refuses. A task asks for one core, and for one GPU where models run on GPUs. What was under way on a node or
worker that is lost is made again; the system of a dead node, or the server of the file system, frees its locks.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

import torch
from transformers.utils import logging as transformers_logging

from layerwise.data.folders import VARIABLE
from layerwise.lab.crew import News, make, make_missing
from layerwise.lab.experiments import Experiment
from layerwise.lab.lab import Lab
from layerwise.lab.nodes import Notes, answer, question, slots
from layerwise.lab.store import Store

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
except ImportError:  # the extra layerwise[ray]
    ray = None

LOSSES = 3  # times that an experiment may lose its worker before the run gives up
ANSWER_WITHIN = 120.0  # seconds that a node has to say whether it sees the store
SEEN_WITHIN = 90.0  # seconds until this machine must see what a node stored; caches of network file systems hold 60
LOST = (
    (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.LocalRayletDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    if ray
    else ()
)


def run(
    lab: Lab,
    experiments: Sequence[Experiment[Any]],
    address: str,
    workers: int | None = None,
    stream: IO[str] | None = None,
) -> None:
    """Makes what is missing, as `engine.run` does, on a cluster.

    Args:
        lab: Says what is missing and where results go; its store is a folder that all nodes share.
        experiments: Wanted results.
        address: Of the cluster, see `require`.
        workers: Tasks at the same time at most; by default as many as the cluster has room for.
        stream: Where progress is drawn; standard error by default.

    Raises:
        ImportError, ValueError, ConnectionError: See `require`.
        RuntimeError: If a node does not share the store or has other code, data or versions, if no node with room
            is left, or if an experiment lost its worker too often.
        Exception: The first error of an experiment; those under way are stopped.
    """
    require(address)
    make_missing(lab, experiments, lambda tasks: Cluster(lab, address, min(workers or tasks, tasks)), stream)


def require(address: str | None) -> None:
    """Passes where a cluster can be used.

    Args:
        address: `host:port` of its head, or `auto` on one of its nodes.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the address is missing or of another form.
        ConnectionError: If nobody listens there.
    """
    if ray is None:
        raise ImportError("the Ray engine needs Ray, which is not installed: pip install 'layerwise[ray]'")
    if address == "auto":
        return
    try:
        place = urlsplit(f"//{address or ''}")
        host, port = place.hostname, place.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ValueError(
            "the Ray engine needs the address of a cluster that is already running, host:port of its head "
            f"(--ray-address 10.0.0.1:6379) or auto on one of its nodes, got {address!r}; none is started here"
        )
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}); start one with ray start --head, or correct the address"
        ) from error


class Cluster:
    """A crew of the workers of a Ray cluster; see `Crew`."""

    def __init__(self, lab: Lab, address: str, most: int) -> None:
        self._lab, self._address, self._most = lab, address, most
        self._gpus = int(lab.device.type == "cuda")
        self._known: set[str] = set()
        self._running: dict[Any, tuple[Experiment[Any], str]] = {}
        self._done: list[Any] = []
        self._losses: Counter[Experiment[Any]] = Counter()
        self._told: list[News] = []

    def __str__(self) -> str:
        return f"{self.room()} workers on {len(self._known)} nodes of the Ray cluster {self._address}"

    def __enter__(self) -> Self:
        _join(self._address)
        try:
            here = On(ray.get_runtime_context().get_node_id(), soft=False)
            self._notes = ray.remote(Notes).options(num_cpus=0, scheduling_strategy=here).remote()
            self.room()
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for task in self._running:
            ray.cancel(task, force=True)
        ray.shutdown()

    def room(self) -> int:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._admit([node for node in nodes if node["NodeID"] not in self._known])
        places = slots(nodes, self._gpus)
        if not places and not self._running:
            asked = "a core and a GPU" if self._gpus else "a core"
            raise RuntimeError(f"no node of the Ray cluster {self._address} has {asked} to give to a task")
        return max(0, min(places, self._most) - len(self._running))

    def begin(self, experiment: Experiment[Any], key: str) -> None:
        task = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(_work)
        where = str(self._lab.store.root), str(self._lab.device), os.environ.get(VARIABLE)
        self._running[task.remote(experiment, key, *where, self._notes)] = experiment, key

    def wait(self, seconds: float) -> None:
        self._done, _ = ray.wait(list(self._running), timeout=seconds) if self._running else ([], [])

    def news(self) -> Iterator[News]:
        yield from ray.get(self._notes.take.remote())
        told, self._told = self._told, []
        yield from told

    def made(self) -> Iterator[tuple[Experiment[Any], float]]:
        for task in self._done:
            experiment, key = self._running.pop(task)
            try:
                seconds = ray.get(task)
            except LOST as loss:
                self._again(experiment, key, loss)
                continue
            _await(self._lab.store.root / experiment.kind / key)
            yield experiment, seconds

    def _again(self, experiment: Experiment[Any], key: str, loss: Exception) -> None:
        self._losses[experiment] += 1
        if self._losses[experiment] > LOSSES:
            raise RuntimeError(
                f"{experiment.describe()} lost its worker {LOSSES + 1} times, for want of memory perhaps; finished "
                "results are kept"
            ) from loss
        self._told.append(f"{experiment.describe()} lost its worker ({type(loss).__name__}) and is made again")
        self.begin(experiment, key)

    def _admit(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Asks nodes that are new whether they share the store.

        Raises:
            RuntimeError: If one does not; it is named.
        """
        if not nodes:
            return
        with question(self._lab.store.root) as folder:
            asked = {node["NodeID"]: _ask(str(folder), node["NodeID"]) for node in nodes}
            wrong = {name: _answer(reply) for name, reply in asked.items()}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # one may have been lost since
        for node in nodes:
            if wrong[node["NodeID"]] and node["NodeID"] in alive:
                name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                raise RuntimeError(f"{name} of the Ray cluster {wrong[node['NodeID']]}")
        self._known |= alive & asked.keys()


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"cannot join the Ray cluster at {address}: {error}") from error


def _ask(folder: str, node: str) -> Any:
    task = ray.remote(num_cpus=0, max_retries=0)(answer)
    return task.options(scheduling_strategy=On(node, soft=False)).remote(folder, node)


def _answer(reply: Any) -> str:
    try:
        return str(ray.get(reply, timeout=ANSWER_WITHIN))
    except ray.exceptions.RayError as error:
        return f"cannot run tasks of layerwise; is the same version installed there? {error}"


def _await(path: Path) -> None:
    """Returns when this machine sees a folder that another one made: network file systems remember absence a while.

    Raises:
        RuntimeError: If it does not within `SEEN_WITHIN`.
    """
    end = time.monotonic() + SEEN_WITHIN
    while not path.parent.exists() or path not in path.parent.iterdir():  # a listing renews what was remembered
        if time.monotonic() > end:
            raise RuntimeError(f"a node stored {path}, which is not to be seen here after {SEEN_WITHIN:.0f} s")
        time.sleep(1)


def _work(experiment: Experiment[Any], key: str, root: str, device: str, data: str | None, notes: Any) -> float:
    """Makes one experiment on a node and returns the seconds it took."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    if data is not None:
        os.environ[VARIABLE] = data
    put = notes.put.remote
    return make(Lab(Store.at(root, on_wait=put), device), experiment, key, lambda *news: put((key, *news)))
