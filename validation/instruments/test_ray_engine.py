"""The Ray engine: the same results as here, nothing lost but what ran on a lost node, clear words without a cluster."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from filelock import FileLock

from layerwise.compression.distill import Distillation
from layerwise.lab import cluster, nodes
from layerwise.lab.experiments import LayerScores, Quality, RemovalDamage, ScratchModel, closure
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import Subject
from layerwise.models.families import Shape
from layerwise.models.training import Recipe

needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'layerwise[ray]'")
NODE = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A tiny dataset in a file, and a recipe that takes seconds."""
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        start = rng.integers(20)
        rows += [f"{user},{(start + step) % 20},{step}" for step in range(12)]
    path = tmp_path_factory.mktemp("data") / "toy.csv"
    path.write_text("\n".join(rows))
    recipe = Recipe(epochs=60, learning_rate=1e-2, batch_size=16, evaluate_every=20)
    return Subject(str(path), 2, "llama", Shape(3, 16, 32, 2), 6, 0.1, recipe, recipe, Distillation())


@pytest.fixture(scope="module")
def ray_cluster():
    """Two nodes of one core each on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    made.add_node(**NODE)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def interrupted(ray_cluster, subject, tmp_path_factory):
    """A run of whose two nodes one is killed as soon as both are at work: experiments, lab, what was said."""
    fulls = [ScratchModel(subject, seed, 3) for seed in (0, 1)]
    wanted = closure([*map(Quality, fulls), *map(RemovalDamage, fulls)])
    lab, stream = Lab(Store(tmp_path_factory.mktemp("shared"))), io.StringIO()
    with ThreadPoolExecutor() as threads:
        running = threads.submit(cluster.run, lab, wanted, ray_cluster.address, None, stream)
        _until(lambda: running.done() or len(_temporaries(lab)) == 2)
        ray_cluster.remove_node(_not_of_the_caller(ray_cluster), allow_graceful=False)
        running.result()
    return wanted, lab, stream.getvalue()


def _not_of_the_caller(ray_cluster):
    import ray

    mine = ray.get_runtime_context().get_node_id()
    (other,) = (node for node in ray_cluster.list_all_nodes() if node.node_id != mine)
    return other


def _temporaries(lab):
    return list((lab.store.root / "temporary").glob("*"))


def _until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened within {seconds} s"
        time.sleep(0.02)


@needs_ray
def test_results_are_those_of_this_machine_to_the_byte(interrupted, tmp_path):
    wanted, shared, _ = interrupted
    alone = Lab(Store(tmp_path / "alone"))

    here = {experiment: alone.build(experiment) for experiment in wanted}

    for experiment, expected in here.items():
        found = shared.build(experiment)
        assert not found.fresh
        assert (found.key, found.digest) == (expected.key, expected.digest)


@needs_ray
def test_what_ran_on_a_killed_node_is_made_again_and_nothing_else_is_lost(interrupted):
    wanted, lab, said = interrupted

    assert "2 workers on 2 nodes" in said
    assert said.count("lost its worker") == 1
    assert not lab.missing(wanted)
    assert not _temporaries(lab)
    assert not list(lab.store.root.glob(".nodes-*"))


@needs_ray
def test_an_error_reaches_the_caller_and_an_interrupted_run_stops_its_tasks(interrupted, ray_cluster, subject):
    (full, *_), lab, _ = interrupted
    wrong = LayerScores(full, "tea-leaves")
    long = ScratchModel(replace(subject, training=replace(subject.training, epochs=10**6, patience=10**6)), 0, 3)
    keys = {experiment: lab.store.path_of(lab.spec(experiment)).name for experiment in (wrong, long)}

    with suppress(KeyboardInterrupt), cluster.Cluster(lab, ray_cluster.address, 1) as crew:
        crew.begin(wrong, keys[wrong])
        with pytest.raises(ValueError, match="unknown method 'tea-leaves'"):
            _until(lambda: crew.wait(1) or list(crew.made()))
        crew.begin(long, keys[long])
        _until(lambda: _temporaries(lab))
        raise KeyboardInterrupt

    FileLock(lab.store.root / "locks" / f"{keys[long]}.lock").acquire(timeout=30).lock.release()  # no maker
    assert not lab.has(long)


@needs_ray
def test_a_node_that_does_not_see_the_store_is_named(ray_cluster, tmp_path, monkeypatch):
    @contextmanager
    def elsewhere(root):
        yield root / "on another machine"

    monkeypatch.setattr(cluster, "question", elsewhere)

    said = rf"node .+ of the Ray cluster does not see the store {tmp_path}: it must be one folder"
    with pytest.raises(RuntimeError, match=said), cluster.Cluster(Lab(Store(tmp_path)), ray_cluster.address, 1):
        pass


@needs_ray
@pytest.mark.parametrize("address", [None, "", "local", "10.0.0.1", "head:many", "ray://"])
def test_an_address_that_is_none_is_refused_and_nothing_is_started(address):
    with pytest.raises(ValueError, match="needs the address of a cluster that is already running"):
        cluster.require(address)


@needs_ray
def test_an_address_where_nobody_listens_is_named():
    with pytest.raises(ConnectionError, match="no Ray cluster answers at 127.0.0.1:1 "):
        cluster.require("127.0.0.1:1")


def test_without_ray_the_engine_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cluster, "ray", None)

    with pytest.raises(ImportError, match=r"pip install 'layerwise\[ray\]'"):
        cluster.require("127.0.0.1:6379")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray-address=here:1"], "ERROR: --ray-address here:1 is for --engine ray, and the engine is local"),
        pytest.param(["--engine=ray"], "ERROR: the Ray engine needs the address of a cluster*", marks=needs_ray),
    ],
)
def test_a_run_that_cannot_use_its_cluster_ends_with_one_sentence(pytester, options, said):
    pytester.makeconftest('pytest_plugins = ["fixtures.lab"]')

    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_an_experiment_that_loses_its_worker_again_and_again_ends_the_run(subject, tmp_path, monkeypatch):
    crew, begun = cluster.Cluster(Lab(Store(tmp_path)), "head:1", 1), []
    monkeypatch.setattr(crew, "begin", lambda *experiment: begun.append(experiment))
    for _ in range(cluster.LOSSES):
        crew._again(ScratchModel(subject, 0, 3), "key", OSError("gone"))

    with pytest.raises(RuntimeError, match="llama with 3 layers, seed 0 lost its worker 4 times"):
        crew._again(ScratchModel(subject, 0, 3), "key", OSError("gone"))

    assert len(begun) == cluster.LOSSES


def test_a_result_that_another_machine_stored_is_awaited_and_missed(tmp_path, monkeypatch):
    (tmp_path / "model" / "key").mkdir(parents=True)
    cluster._await(tmp_path / "model" / "key")
    monkeypatch.setattr(cluster, "SEEN_WITHIN", 0.0)

    for missing in (tmp_path / "model" / "other", tmp_path / "nothing" / "key"):
        with pytest.raises(RuntimeError, match="not to be seen here after 0 s"):
            cluster._await(missing)


def test_answer_of_a_node_that_shares_the_store_is_nothing(tmp_path):
    with nodes.question(tmp_path) as folder:
        assert nodes.answer(str(folder), "node") == ""
    assert not list(tmp_path.iterdir())


def test_answer_of_a_node_that_sees_another_folder_or_heeds_no_locks_says_so(tmp_path):
    assert "does not see the store" in nodes.answer(str(tmp_path / "folder"), "node")

    (tmp_path / nodes.TOKEN).write_text("as if the lock were held")
    assert "does not heed locks" in nodes.answer(str(tmp_path), "node")


@pytest.mark.parametrize(("gpus", "expected"), [(0, 5), (1, 3), (2, 2)])
def test_slots_count_tasks_that_fit_onto_living_nodes(gpus, expected):
    resources = [{"CPU": 2.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0}, {}]
    alive = [{"Alive": True, "Resources": one} for one in resources]

    assert nodes.slots([*alive, {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}}], gpus) == expected


def test_a_store_in_object_storage_is_refused():
    with pytest.raises(ValueError, match=r"object storage is not supported.*s3://bucket/store"):
        Store("s3://bucket/store")
