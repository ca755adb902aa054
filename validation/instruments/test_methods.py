"""Every named method makes a plain student of the right size, in the stages that it says, on every seed its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model, layer_parameters
from layerwise.compression.layer_distill import distil_layers
from layerwise.compression.magnitude import magnitude_pruned
from layerwise.compression.methods import METHODS, Method, Stage, made_student, method_name
from layerwise.compression.objective import Matching, Objective, layer_weights, paired_ends
from layerwise.compression.trainable import only_last
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.evaluation.quality import validation_ndcg
from layerwise.models.families import Shape
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Recipe

NUM_ITEMS, MAX_LENGTH, LAYERS, KEPT = 10, 6, 4, (0, 2)
RECIPE = Recipe(epochs=4, learning_rate=1e-2, batch_size=16, evaluate_every=1)
IMPORTANCE = np.array([1.0, 2, 3, 4])
MIXED = Objective(states=1.0)


@pytest.fixture(scope="module")
def split():
    """Sixteen users who walk through the catalogue, one item after the other."""
    users, steps = np.divmod(np.arange(16 * 7), 7)
    return leave_one_out(Interactions.from_columns("cycle", users, (users + steps) % NUM_ITEMS, steps))


@pytest.fixture(scope="module")
def full():
    """Four layers of two heads; the teardown finds its weights, modes and flags as they were."""
    recommender = build_recommender("llama", NUM_ITEMS, MAX_LENGTH, Shape(LAYERS, 16, 24, 2), seed=0).eval()
    recommender.layers[1].train()
    before = weights_of(recommender)
    yield recommender
    assert same(weights_of(recommender), before)
    assert {name for name, m in recommender.named_modules() if m.training} == {
        name for name, _ in recommender.named_modules() if name.startswith("model.model.layers.1")
    }
    assert all(parameter.requires_grad for parameter in recommender.parameters())


def weights_of(recommender):
    return {name: weight.clone() for name, weight in recommender.state_dict().items()}


def same(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def number_of(parameters):
    return sum(parameter.numel() for parameter in parameters)


def stops_of(method, end=KEPT):
    """The kept layers of each stop; on the way three of four remain."""
    return [(0, 1, 2)] * len(method.via) + [end]


def student_of(full, split, method, seed=0, epochs=4, **options):
    recipe = replace(RECIPE, epochs=epochs)
    return made_student(full, method, stops_of(method), 0.5, split, recipe, seed, IMPORTANCE, **options)


def bridged(full, split, kept=KEPT):
    return bridged_model(full, kept, full.labelled_batches(split.train_sequences())).model


# Every entry


@pytest.mark.parametrize("name", METHODS)
def test_method_makes_a_plain_student_of_half_the_size(full, split, tmp_path, name):
    method = METHODS[name]
    made = student_of(full, split, method)
    student = made.recommender
    student.save(tmp_path)
    histories = split.train_sequences()

    assert type(student) is Recommender
    assert not any(module.training for module in student.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())
    np.testing.assert_array_equal(Recommender.load(tmp_path).scores(histories), student.scores(histories))
    assert [max(course) for course in made.courses] == [
        4 * stage.share / len(stops_of(method)) for _ in stops_of(method) for stage in method.stages
    ]
    if made.courses:
        assert validation_ndcg(split)(student) == pytest.approx(max(made.courses[-1].values()))
    layers, others = number_of(p for layer in student.layers for p in layer.parameters()), number_of(full.parameters())
    match method.start:
        case "cut" | "bridged":
            assert len(student.layers) == 2
            assert layers == layer_parameters(full) / 2
        case "narrow":
            channel = 3 * 16 * LAYERS  # what one more channel in every layer would add
            assert len(student.layers) == LAYERS
            assert layer_parameters(full) / 2 - channel < layers <= layer_parameters(full) / 2
        case "sparse":
            matrices = [p for layer in student.layers for p in layer.parameters() if p.ndim == 2]
            assert len(student.layers) == LAYERS
            assert sum(int((p == 0).sum()) for p in matrices) == number_of(matrices) / 2
    assert number_of(student.parameters()) - layers == others - layer_parameters(full)


def test_name_of_a_method_is_that_of_the_table():
    assert [method_name(method) for method in METHODS.values()] == list(METHODS)
    assert method_name(Method(by="nothing known")) == "unnamed"


# Starts


@pytest.mark.parametrize("start", ["cut", "bridged"])
def test_without_stages_the_start_is_the_student(full, split, start):
    made = student_of(full, split, Method(start, stages=()))
    expected = compact_model(full, KEPT) if start == "cut" else bridged(full, split)

    assert made.courses == []
    assert same(weights_of(made.recommender), weights_of(expected))


def test_what_was_pruned_stays_zero_through_all_stages(full, split):
    zeros = {name for name, p in magnitude_pruned(full, 0.5).named_buffers() if name.endswith("weight_mask")}
    student = student_of(full, split, Method("sparse", stages=(Stage(share=0.5), Stage(share=0.5)))).recommender
    masks = dict(magnitude_pruned(full, 0.5).named_buffers())

    assert zeros
    for name in zeros:
        weight = student.get_parameter(name.removesuffix("_mask"))
        assert torch.equal(weight == 0, masks[name] == 0)


# Stages


def test_stages_follow_one_another(full, split):
    """By hand: half of the epochs on what the layers do, then half on what the teacher says, from where it ended.

    The first half is not chosen from by validation, and the second sees other windows.
    """
    first, second = Stage(MIXED, 0.5, "ends", "importance"), Stage(Objective(), 0.5)
    made = student_of(full, split, Method("cut", stages=(first, second)))
    half = replace(RECIPE, epochs=2)
    matching = Matching(((0, 1), (1, 3)), (3 / 10, 7 / 10))
    whole = replace(half, evaluate_every=2)
    halfway = distil_layers(compact_model(full, KEPT), full, split, MIXED, matching, whole)
    end = distil_layers(halfway.recommender, full, split, Objective(), recipe=half, seed=1000)

    assert made.courses == [halfway.validation, end.validation]
    assert same(weights_of(made.recommender), weights_of(end.recommender))


def test_last_pair_alone_has_all_the_weight(full, split):
    made = student_of(full, split, Method("cut", stages=(Stage(MIXED, pairs="last", weights="rising"),)), epochs=1)
    matching, recipe = Matching(((1, 3),), (1.0,)), replace(RECIPE, epochs=1)
    expected = distil_layers(compact_model(full, KEPT), full, split, MIXED, matching, recipe)

    assert same(weights_of(made.recommender), weights_of(expected.recommender))


def test_progressive_cut_visits_its_stops(full, split):
    """By hand: bridged and healed at three layers, then cut to two of these and healed again."""
    method = Method("bridged", stages=(Stage(MIXED, 1.0, "ends"),), via=(0.75,))
    halfway = full
    for seed, inside, kept in ((0, (0, 1, 2), (0, 1, 2)), (1000, (0, 2), (0, 2))):
        matching = Matching(paired_ends([LAYERS], kept), (1 / len(kept),) * len(kept))
        start = bridged(halfway, split, inside)
        recipe = replace(RECIPE, epochs=2)
        halfway = distil_layers(start, full, split, MIXED, matching, recipe, seed).recommender

    assert same(weights_of(student_of(full, split, method).recommender), weights_of(halfway))


def test_stops_are_numbered_as_in_the_full_model(full, split):
    """Of layers 1, 2 and 3 the last is the third."""
    method = Method("cut", stages=(), via=(0.75,))
    made = made_student(full, method, [(1, 2, 3), (1, 3)], 0.5, split, RECIPE, seed=0)

    assert same(weights_of(made.recommender), weights_of(compact_model(full, (1, 3))))


def test_each_stage_needs_an_epoch(full, split):
    method = Method("cut", stages=(Stage(share=0.1), Stage(share=0.9)))
    with pytest.raises(ValueError, match="4 epochs leave none for one of 2 trainings"):
        student_of(full, split, method)


def test_progress_is_told_of_every_stage(full, split):
    told = []
    student_of(full, split, Method("cut", stages=(Stage(share=0.25), Stage(share=0.75))), on_progress=told.append)

    assert [(progress.epoch, progress.epochs) for progress in told] == [(1, 1), (1, 3), (2, 3), (3, 3)]


# What is trained


def test_only_the_last_layer_and_the_item_matrix_move(full, split):
    student, start = student_of(full, split, Method(trains="last")).recommender, bridged(full, split)
    still = {name for name, p in only_last(start).named_parameters() if not p.requires_grad}
    before, after = dict(start.named_parameters()), dict(student.named_parameters())

    assert still
    assert all(torch.equal(before[name], after[name]) for name in still)
    assert not torch.equal(student.item_matrix, start.item_matrix)
    assert not same(weights_of(student.layers[-1]), weights_of(start.layers[-1]))


def test_low_rank_changes_of_the_layers_are_merged(full, split):
    student, start = student_of(full, split, Method(trains="lora")).recommender, bridged(full, split)

    assert student.state_dict().keys() == start.state_dict().keys()
    assert torch.equal(student.item_matrix, start.item_matrix)
    assert not same(weights_of(student.layers[0]), weights_of(start.layers[0]))


# Seeds and importance


@pytest.mark.parametrize("trains", ["all", "lora"])
def test_seed_decides_the_student(full, split, trains):
    method = Method("cut", trains=trains)
    first, again, other = (weights_of(student_of(full, split, method, s, 1).recommender) for s in (0, 0, 1))

    assert same(first, again)
    assert not same(first, other)


def test_random_weights_of_layers_are_drawn_anew_for_every_seed(full, split):
    """With the windows and the dropout of seed 1, only its own weights give its student."""
    method = Method("cut", stages=(Stage(MIXED, pairs="ends", weights="random"),))
    made, recipe = student_of(full, split, method, seed=1, epochs=1).recommender, replace(RECIPE, epochs=1)
    pairs = paired_ends([LAYERS], KEPT)
    own, other = (
        distil_layers(
            compact_model(full, KEPT), full, split, MIXED,
            Matching(pairs, layer_weights("random", pairs, seed=seed)), recipe, seed=1,
        ).recommender
        for seed in (1, 0)
    )  # fmt: skip

    assert same(weights_of(made), weights_of(own))
    assert not same(weights_of(made), weights_of(other))


def test_importance_is_needed_where_layers_are_weighted_by_it(full, split):
    weighted = Method("cut", stages=(Stage(MIXED, pairs="ends", weights="importance"),))
    assert weighted.needs_importance
    assert not Method("cut").needs_importance
    with pytest.raises(ValueError, match="importance must be finite"):
        made_student(full, weighted, [KEPT], 0.5, split, RECIPE, seed=0)
