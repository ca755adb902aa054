"""The command from the outside, on interactions and a pretrained model that are small and made here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from layerwise.commands import compress, main
from layerwise.commands.compress import Compressed, checked
from layerwise.commands.inspect import heat_map
from layerwise.commands.order import Order, job_of
from layerwise.commands.recipe import recipe
from layerwise.lab.experiments import FineTuned, ScratchModel, closure, weights_digest
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import Recommender, build_recommender

USERS, ITEMS, EVENTS = 40, 25, 12


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Users who walk through the catalogue in steps of one or two."""
    rng = np.random.default_rng(0)
    walks = (rng.integers(ITEMS, size=(USERS, 1)) + rng.integers(1, 3, size=(USERS, EVENTS)).cumsum(axis=1)) % ITEMS
    rows = [(f"u{user}", f"item {item}", time) for user, walk in enumerate(walks) for time, item in enumerate(walk)]
    path = tmp_path_factory.mktemp("data") / "walks.csv"
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder with a plain checkpoint of two layers."""
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    build_recommender("llama", 60, 60, Shape(2, 8, 16, 2), seed=0).model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Results are made here: starting workers takes longer than the work."""

    def run(lab, experiments, workers=None):
        for experiment in closure(experiments):
            lab.build(experiment)

    monkeypatch.setattr(compress.engine, "run", run)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def run(events, language_model, store):
    def run(command, *more, model=None, data=None):
        given = ["--model", str(model or language_model), "--data", str(data or events), "--store", str(store)]
        return main.main([command, *given, "--epochs", "2", *map(str, more)])

    return run


def test_an_own_model_and_own_data_become_a_checkpoint_that_transformers_loads_alone(run, tmp_path):
    out = tmp_path / "compact"

    status = run("compress", "--keep", "50%", "--out", out)

    assert status == 0
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 1
    assert sorted(json.loads((out / "items.json").read_text())) == sorted(f"item {item}" for item in range(ITEMS))
    card = (out / "README.md").read_text()
    for part in ("## Verdicts", "## Quality", "## Speed and size", "walks", f"--out {out}", "from_pretrained"):
        assert part in card


def test_the_card_s_program_recommends_without_this_library(run, tmp_path):
    out = tmp_path / "compact"
    run("compress", "--keep", "50%", "--out", out)
    program = (out / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    without = "import sys\nsys.modules['layerwise'] = None\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    done = subprocess.run(
        [sys.executable, "-c", without + program], cwd=out, env=environment, capture_output=True, text=True, check=True
    )

    best = Recommender.load(out).scores([np.arange(3)])[0]
    best[:3] = -np.inf
    ids = json.loads((out / "items.json").read_text())
    assert done.stdout.strip() == str([ids[item] for item in np.argsort(-best)[:10]])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_program_asks_every_family_as_it_was_trained(family, tmp_path, capsys):
    recommender = build_recommender(family, ITEMS, 6, Shape(2, 8, 16, 2), seed=0).eval()
    with torch.no_grad():
        for parameter in recommender.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    recommender.save(tmp_path)
    (tmp_path / "items.json").write_text(json.dumps([f"i{item}" for item in range(ITEMS)]))

    exec(recipe(recommender, tmp_path), {})

    scores = recommender.scores([np.arange(3)])[0]
    scores[:3] = -np.inf
    assert capsys.readouterr().out.splitlines()[-1] == str([f"i{item}" for item in np.argsort(-scores)[:10]])


@pytest.mark.parametrize(("bound", "status"), [("ndcg@10=1%", 0), ("ndcg@10=9999%", 1), ("speedup=1000%", 1)])
def test_exit_status_says_whether_what_was_asked_for_is_shown(run, tmp_path, bound, status):
    assert run("compress", "--keep", "50%", "--out", tmp_path / "compact", "--at-least", bound) == status


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--keep", "0"], "between 0 and 1"),
        (["--keep", "99%"], "keep at least one and fewer than all"),
        (["--by", "guess"], "layers are chosen by one of fisher"),
        (["--at-least", "accuracy=95%"], "a condition is one of ndcg@5"),
        (["--epochs", "0"], "epochs must be above 0"),
        (["--data", "no/such.csv"], "no/such.csv"),
        (["--model", "no/such-model"], "no/such-model"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run, tmp_path, capsys, more, said):
    assert run("compress", "--out", tmp_path / "compact", *more) == 2

    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "compact").exists()


def test_a_folder_that_holds_something_is_never_overwritten(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")

    assert run("compress", "--out", tmp_path) == 2

    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("arguments", [["--keep", "much"], ["--at-least", "ndcg@10"], []])
def test_words_that_are_no_command_show_the_usage(run, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("compress", *arguments)

    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_an_interrupt_says_that_finished_results_are_kept(run, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress.engine, "run", interrupted)

    assert run("compress", "--keep", "50%", "--out", tmp_path / "compact") == 130
    assert "what was finished is kept" in capsys.readouterr().out


def test_a_dry_run_names_what_would_be_made_and_makes_nothing(run, tmp_path, capsys):
    assert run("compress", "--keep", "50%", "--out", tmp_path / "compact", "--dry-run", "--seeds", "3") == 0

    said = capsys.readouterr().out
    assert "tiny-llama on walks, seed 2" in said
    assert "minutes" in said
    assert not (tmp_path / "compact").exists()


def test_inspect_shows_every_layer_by_every_method(run, capsys):
    assert run("inspect", "--methods", "magnitude,block-influence") == 0

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == ["0", "1"]
    assert run("inspect", "--methods", "guess") == 2


def test_heat_map_survives_equal_scores_and_a_span_of_many_decades():
    table = heat_map({"same": np.ones(3), "wide": np.array([1e-9, 1.0, 1e3])}, "title")

    assert table.row_count == 3


def test_a_family_by_name_is_trained_from_scratch_beside_a_shallow_one(events):
    job = job_of(Order("bert", str(events), keep=0.25))

    assert job.full == [ScratchModel(job.subject, 0, 8)]
    assert job.shallow == [ScratchModel(job.subject, 0, 2)]
    assert job.subject.training.epochs > job_of(Order("llama", str(events))).subject.training.epochs


def test_another_checkpoint_at_the_same_place_is_another_model(language_model, events, tmp_path):
    order = Order(str(language_model), str(events), keep=0.5)
    (full,) = job_of(order).full
    build_recommender("llama", 60, 60, Shape(2, 8, 16, 2), seed=1).model.save_pretrained(tmp_path)

    assert isinstance(full, FineTuned)
    assert job_of(order).full == [full]
    assert weights_digest(tmp_path) != full.weights


def test_histories_are_no_longer_than_a_pretrained_model_has_positions(events, tmp_path):
    build_recommender("gpt2", 27, 15, Shape(2, 8, 16, 2), seed=0).model.save_pretrained(tmp_path)

    assert job_of(Order(str(tmp_path), str(events), keep=0.5)).subject.max_length == 15


def test_the_tiers_own_models_are_used_where_they_are_asked_for():
    job = job_of(Order("t5", "ml-100k"))

    assert (job.subject.training.epochs, job.compact[0].epochs, job.compact[0].rate) == (96, 48, 2.0)


def made_with(full, floor):
    quality = {"full": {"ndcg@10": np.array([full])}}
    floors = {"Popularity": {"ndcg@10": np.zeros(len(floor))}, "Markov": {"ndcg@10": np.array(floor)}}
    return Compressed(None, quality, floors, (), None, None, {}, 0.0)


def test_a_full_model_that_counting_beats_is_called_a_straw_man():
    weak = made_with(full=[0.0, 0.1, 0.2, 0.1], floor=[0.1, 0.1, 0.3, 0.1])
    strong = made_with(full=[0.5, 0.6, 0.7, 0.6], floor=[0.1, 0.1, 0.3, 0.1])

    assert weak.best_floor == "Markov"
    assert "0.1000 NDCG@10) is not shown to beat Markov (0.1500)" in weak.straw_man
    assert strong.straw_man is None


def test_conditions_must_name_what_is_measured():
    assert checked({"mrr": 0.9, "speedup": 3.0}) == {"mrr": 0.9, "speedup": 3.0}
    with pytest.raises(ValueError, match="got map=0.9"):
        checked({"map": 0.9})


def test_data_of_few_events_keep_one_target(tmp_path):
    rows = [(user, item, item) for user in range(9) for item in range(4)]
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv(tmp_path / "short.csv", index=False)

    subject = job_of(Order("llama", str(Path(tmp_path / "short.csv")))).subject

    assert (subject.test_targets, subject.training.epochs) == (1, 64)
