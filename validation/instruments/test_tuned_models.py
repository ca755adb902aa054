"""Models with a rate of their own: what is stored is the training that validation prefers, and none is made twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from layerwise.compression.distill import Distillation
from layerwise.lab.experiments import ModelQuality, ScratchModel, TunedModel, closure
from layerwise.lab.experiments.tuned import RATES
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import Subject
from layerwise.models.families import Shape
from layerwise.models.training import Recipe


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        start = rng.integers(20)
        rows += [f"{user},{(start + step) % 20},{step}" for step in range(12)]
    path = tmp_path_factory.mktemp("data") / "toy.csv"
    path.write_text("\n".join(rows))
    recipe = Recipe(epochs=4, learning_rate=2e-3, batch_size=16, evaluate_every=1)
    return Subject(str(path), 2, "llama", Shape(2, 16, 32, 2), 6, 0.0, recipe, recipe, Distillation())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(Store(tmp_path_factory.mktemp("store")))


@pytest.fixture
def tuned(subject):
    return TunedModel(subject, seed=1, num_layers=2, tuned_on=0)


def by_hand(subject, seed, rate):
    return ScratchModel(replace(subject, training=replace(subject.training, learning_rate=rate)), seed, 2)


def test_the_grid_is_half_the_recipes_rate_itself_and_double_on_the_tuning_seed(tuned, subject):
    expected = [by_hand(subject, 0, rate) for rate in (1e-3, 2e-3, 4e-3)]

    assert list(tuned.needs()) == expected
    assert expected[1] == ScratchModel(subject, 0, 2)  # the recipe as it is: what others have trained is used
    assert [*tuned.grid()] == sorted(RATES)


@pytest.mark.parametrize("seed", [0, 1])
def test_stored_are_the_weights_and_the_course_of_the_rate_that_the_tuning_seed_prefers(lab, tuned, subject, seed):
    tuned, rates = replace(tuned, seed=seed), {0.5: 1e-3, 1.0: 2e-3, 2.0: 4e-3}
    found = {
        at: max(lab.course(by_hand(subject, 0, rate))["validation_ndcg@10"].values()) for at, rate in rates.items()
    }
    best = max(found.values())
    chosen = min(at for at, value in found.items() if value == best)
    own, course = by_hand(subject, seed, rates[chosen]), lab.course(tuned)
    weights, expected = (lab.get(model).state_dict() for model in (tuned, own))

    assert len(set(found.values())) > 1  # else any choice would do
    assert course["rate"] == chosen
    assert {float(at): value for at, value in course["validation_by_rate"].items()} == found
    assert {name: course[name] for name in lab.course(own)} == lab.course(own)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_among_equal_rates_the_lowest_is_taken(tmp_path, tuned):
    class Even:
        def course(self, model):
            return {"validation_ndcg@10": {"1": 0.25}, "best_epoch": 1}

        def get(self, model):
            self.asked = model
            return SavesNothing()

    class SavesNothing:
        def save(self, folder):
            pass

    lab = Even()
    tuned.make(lab, tmp_path, lambda *_: None)

    assert lab.asked == tuned.at(RATES[0])
    assert lab.asked.seed == 1


def test_only_the_grid_and_the_chosen_rate_are_trained(tmp_path, subject):
    lab = Lab(Store(tmp_path))
    models = [TunedModel(subject, seed, 2, 0) for seed in (0, 1)]
    for experiment in closure([*map(ModelQuality, models)]):
        lab.build(experiment)

    assert len([*(tmp_path / "model").iterdir()]) == len(RATES) + 1


def test_every_setting_decides_the_place_in_the_store(lab, tuned):
    changes = [{}, {"seed": 2}, {"num_layers": 1}, {"tuned_on": 1}, {"of": replace(tuned.of, family="gpt2")}]
    variants = [replace(tuned, **change) for change in changes]

    assert len({lab.store.path_of(lab.spec(variant)) for variant in variants}) == len(changes)


def test_the_tuning_seeds_own_training_is_one_of_the_grid(tuned):
    assert replace(tuned, seed=0).effort() == 1
    assert tuned.effort() == tuned.at(1.0).effort()
    assert tuned.describe() == "tuned llama with 2 layers, seed 1"
