"""The lab: the same results whatever makes them, nothing lost when killed, and progress that can be read."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock

from layerwise.compression.distill import Distillation
from layerwise.lab import engine
from layerwise.lab.crew import make_missing
from layerwise.lab.experiments import (
    CompactModel,
    HealedModel,
    LayerScores,
    PointerChain,
    Quality,
    RemovalDamage,
    ScratchModel,
    closure,
)
from layerwise.lab.lab import Lab
from layerwise.lab.progress import Board, Task
from layerwise.lab.store import Store
from layerwise.lab.study import Study
from layerwise.lab.tiers import TIERS, Subject, Tier
from layerwise.models.families import Shape
from layerwise.models.training import Recipe


@pytest.fixture
def subject(tmp_path):
    """A tiny dataset in a file, and a recipe that takes a second."""
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        start = rng.integers(20)
        rows += [f"{user},{(start + step) % 20},{step}" for step in range(12)]
    path = tmp_path / "toy.csv"
    path.write_text("\n".join(rows))
    recipe = Recipe(epochs=2, learning_rate=1e-2, batch_size=16, evaluate_every=1)
    return Subject(str(path), 2, "llama", Shape(3, 16, 32, 2), 6, 0.1, recipe, recipe, Distillation())


@pytest.fixture
def wanted(subject):
    full = ScratchModel(subject, 0, 3)
    healed = HealedModel(CompactModel(full, "empirical-fisher", 1 / 3))
    return [Quality(full), Quality(healed), RemovalDamage(full), Quality(CompactModel(full, "random", 1 / 3))]


def test_results_do_not_depend_on_the_number_of_workers(tmp_path, wanted):
    alone, together = Lab(Store(tmp_path / "alone")), Lab(Store(tmp_path / "together"))
    here = {experiment: alone.build(experiment).digest for experiment in closure(wanted)}

    engine.run(together, wanted, workers=2, stream=io.StringIO())

    assert not together.missing(closure(wanted))
    assert {experiment: together.build(experiment).digest for experiment in closure(wanted)} == here


def test_an_experiment_stands_after_what_it_needs(wanted):
    order = closure(wanted)

    assert len(order) == len(set(order))
    for position, experiment in enumerate(order):
        assert set(experiment.needs()) <= set(order[:position])


def test_every_setting_and_the_data_decide_the_place_in_the_store(tmp_path, subject):
    lab = Lab(Store(tmp_path / "store"))
    variants = [
        ScratchModel(subject, 0, 3),
        ScratchModel(subject, 1, 3),
        ScratchModel(subject, 0, 2),
        ScratchModel(replace(subject, training=replace(subject.training, learning_rate=2e-2)), 0, 3),
        ScratchModel(replace(subject, test_targets=3), 0, 3),
    ]

    assert len({lab.store.path_of(lab.spec(variant)) for variant in variants}) == len(variants)


def test_an_unknown_method_is_an_error_and_what_was_finished_stays(tmp_path, subject):
    lab, full = Lab(Store(tmp_path / "store")), ScratchModel(subject, 0, 3)

    with pytest.raises(ValueError, match="unknown method 'tea-leaves'"):
        engine.run(lab, [LayerScores(full, "tea-leaves")], workers=1, stream=io.StringIO())

    assert lab.has(full)


def test_a_run_that_waits_for_another_one_says_so_and_goes_on(tmp_path, subject):
    lab, model = Lab(Store(tmp_path / "store")), ScratchModel(subject, 0, 3)
    key = lab.store.path_of(lab.spec(model)).name
    (tmp_path / "store" / "locks").mkdir(parents=True)
    stream = io.StringIO()

    with ThreadPoolExecutor() as threads, FileLock(tmp_path / "store" / "locks" / f"{key}.lock") as held:
        running = threads.submit(engine.run, lab, [model], 1, stream)
        _until(lambda: "waiting for another worker" in stream.getvalue() or running.done())
        held.release()
        running.result()

    assert "waiting for another worker that makes llama with 3 layers, seed 0" in stream.getvalue()
    assert lab.has(model)


def test_workers_take_turns_on_the_gpus_that_are_seen_and_share_one_that_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert engine.default_workers(torch.device("cuda")) == 2
    assert engine.places(torch.device("cuda"), 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert engine.default_workers(torch.device("cuda:1")) == 1
    assert engine.places(torch.device("cuda:1"), 2) == ["cuda:1", "cuda:1"]
    assert engine.places(torch.device("cpu"), 2) == ["cpu", "cpu"]


def test_a_worker_runs_on_the_device_of_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "places", lambda *_: ["cpu:0"])
    with engine.Processes(Lab(Store(tmp_path)), 1) as crew:
        assert crew._executor.submit(device_of_worker).result() == "cpu:0"


def device_of_worker():
    return str(engine._LAB.device)


def test_a_killed_run_loses_no_finished_training(tmp_path, subject):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
            from layerwise.compression.distill import Distillation
            from layerwise.lab import engine
            from layerwise.lab.experiments import ScratchModel
            from layerwise.lab.lab import Lab
            from layerwise.lab.store import Store
            from layerwise.lab.tiers import Subject
            from layerwise.models.families import Shape
            from layerwise.models.training import Recipe

            if __name__ == "__main__":
                short = {subject!r}
                long = {replace(subject, training=replace(subject.training, epochs=100_000, patience=100_000))!r}
                lab = Lab(Store({str(tmp_path / "store")!r}))
                engine.run(lab, [ScratchModel(short, 0, 3), ScratchModel(long, 0, 3)], workers=1)
        """)
    )
    lab, short = Lab(Store(tmp_path / "store")), ScratchModel(subject, 0, 3)
    running = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        _until(lambda: lab.has(short))
    finally:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()

    assert not lab.build(short).fresh
    assert len(list((tmp_path / "store" / "model").iterdir())) == 1  # nothing of the one that was under way


def test_workers_end_when_their_parent_is_killed(tmp_path, subject):
    script = tmp_path / "run.py"
    long = replace(subject, training=replace(subject.training, epochs=100_000, patience=100_000))
    script.write_text(
        textwrap.dedent(f"""
            import sys
            from layerwise.compression.distill import Distillation
            from layerwise.lab import engine
            from layerwise.lab.experiments import ScratchModel
            from layerwise.lab.lab import Lab
            from layerwise.lab.store import Store
            from layerwise.lab.tiers import Subject
            from layerwise.models.families import Shape
            from layerwise.models.training import Recipe

            if __name__ == "__main__":
                engine.run(Lab(Store({str(tmp_path / "store")!r})), [ScratchModel({long!r}, 0, 3)], workers=1)
        """)
    )
    running = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL, start_new_session=True)
    _until(lambda: _temporaries(tmp_path / "store"))

    running.kill()
    running.wait()

    _until(lambda: not _alive(running.pid))


def _temporaries(store):
    return list((store / "temporary").glob("*")) if (store / "temporary").exists() else []


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened within {seconds} s"
        time.sleep(0.05)


def test_study_stacks_seeds_and_users(tmp_path, subject):
    lab = Lab(Store(tmp_path / "store"))
    study = Study(Tier("toy", subject, (0, 1), 0.34, "empirical-fisher"), lab, lambda _: None)

    quality = study.quality(study.full())

    assert quality["ndcg@10"].shape == (2, 30)
    assert study.keep == 1
    assert study.layer_scores("block-influence").shape == (2, 3)
    assert not np.array_equal(*quality["ndcg@10"])  # the seed matters


class ChainsOf:
    """A lab whose controls have so many users, one number per seed; values count the users."""

    def __init__(self, *users):
        self.users = users

    def get(self, control):
        values = np.arange(self.users[control.seed], dtype=float)
        return {"full": values, "compact": values / 2}


def test_control_uses_as_many_users_of_every_seed_as_it_is_told(subject):
    study = Study(Tier("toy", subject, (0, 1), 0.34, "empirical-fisher"), ChainsOf(5, 4), lambda _: None)

    arms = study.control(PointerChain, 3)

    np.testing.assert_array_equal(arms["full"], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(arms["compact"], [[0, 0.5, 1], [0, 0.5, 1]])


def test_control_with_too_few_users_in_a_seed_is_refused(subject):
    study = Study(Tier("toy", subject, (0, 1), 0.34, "empirical-fisher"), ChainsOf(5, 4), lambda _: None)

    with pytest.raises(ValueError, match="positive control, seed 1 needs 5 users, got 4"):
        study.control(PointerChain, 5)


def test_data_that_cannot_be_ranked_is_left_out_and_counted(tmp_path, subject):
    path = tmp_path / "repeats.csv"
    rows = [f"{user},{item},{time}" for user in range(5) for time, item in enumerate([1, 2, 1, 3, 4, 5])]
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows, "short,1,0", "short,2,1"]))

    split = Lab(Store(tmp_path / "store")).split(replace(subject, dataset=str(path)))

    assert split.table.num_users == 5
    assert split.table.num_events == 25  # one of six events repeats an item
    assert sum(split.table.dropped.values()) == 5 + 2


def test_every_tier_keeps_fewer_layers_than_it_has():
    for tier in TIERS.values():
        study = Study(tier, Lab(Store("unused")), lambda _: None)
        assert 1 <= study.keep < study.depth
        assert len(tier.seeds) >= 5


def test_board_prints_a_line_for_what_is_done_and_what_is_left():
    stream = io.StringIO()
    board = Board({"a": Task("first", 3.0), "b": Task("trifle", 1.0), "c": Task("second", 1.0)}, stream)

    board.finish("a", 12.0)
    board.finish("b", 0.1)
    board.finish("c", 40.0)

    assert stream.getvalue().splitlines() == ["layerwise [1/3] first: 12 s", "layerwise [3/3] second: 40 s"]


class Quick:
    """A crew of one that notes what it is given and says that each took ten seconds."""

    def __init__(self):
        self.begun = []

    def __str__(self):
        return "one who is quick"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def room(self):
        return 1

    def begin(self, experiment, key):
        self.begun = [(experiment, key)]

    def wait(self, seconds):
        pass

    def news(self):
        return [(key, 0.5, "half") for _, key in self.begun]

    def made(self):
        return [(experiment, 10.0) for experiment, _ in self.begun]


def test_results_on_two_datasets_are_counted_and_named_apart(tmp_path, subject):
    (tmp_path / "other.csv").write_text((tmp_path / "toy.csv").read_text())
    models = [ScratchModel(replace(subject, dataset=str(tmp_path / name)), 0, 3) for name in ("toy.csv", "other.csv")]
    stream = io.StringIO()

    make_missing(Lab(Store(tmp_path / "store")), models, lambda _: Quick(), stream)

    assert [line.partition(":")[0] for line in stream.getvalue().splitlines()[1:]] == [
        "layerwise [1/2] llama with 3 layers, seed 0, on toy",
        "layerwise [2/2] llama with 3 layers, seed 0, on other",
    ]


def test_board_forecasts_from_the_work_that_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("layerwise.lab.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    board = Board({"a": Task("first", 30.0), "b": Task("second", 10.0)}, stream)
    now[0] = 60.0

    board.update("a", 0.5, "epoch 2 of 4")

    # 15 of 40 done in 60 s: 100 s are left
    assert stream.getvalue() == "layerwise [0/2] first: epoch 2 of 4, about 2 min left\n"
