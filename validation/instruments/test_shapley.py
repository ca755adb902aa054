"""Shapley values of layers, gradient norm and magnitude, and removal of sets, against slow references."""

from itertools import chain, combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch

from layerwise.importance.gradients import gradient_norm
from layerwise.importance.magnitude import layer_magnitude
from layerwise.importance.removal import (
    bands,
    greedy_removal,
    metric_without_layers,
    metric_without_sets,
    pairs,
    single_layers,
)
from layerwise.importance.shapley import layer_shapley
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import layers_of
from layerwise.models.recommender import build_recommender

NUM_ITEMS = 12
HISTORIES = [np.array(items) for items in ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10, 11])]
TARGETS = np.array([3, 4, 6, 1, 2])


def made(family="llama", num_layers=3):
    recommender = build_recommender(family, NUM_ITEMS, 6, Shape(num_layers, 16, 24, 2), seed=0).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=random)
    return recommender


def judge(scores, rows):
    return scores[np.arange(len(scores)), TARGETS[rows]].astype(np.float64)


def worth(recommender):
    """Metric by the set of layers that are present, one pass each."""
    every = range(len(recommender.layers))
    return {
        present: metric_without_layers(recommender, [i for i in every if i not in present], HISTORIES, judge)
        for size in range(len(every) + 1)
        for present in map(frozenset, combinations(every, size))
    }


# Removal of sets


@pytest.mark.parametrize("family", FAMILIES)
def test_sets_equal_one_bypass_each(family):
    recommender = made(family, 4)
    sets = [(), *single_layers(4), *pairs(4), (3, 1), *bands(4, 3), (0, 1, 2, 3)]

    full, without = metric_without_sets(recommender, sets, HISTORIES, judge, batch_size=2)

    for removed, values in zip(sets, without, strict=True):
        np.testing.assert_allclose(
            values, metric_without_layers(recommender, removed, HISTORIES, judge), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(full, without[0])


def test_single_layers_cost_half_a_pass_each():
    recommender, depth = made(num_layers=8), 8
    ran = []
    hooks = [module.register_forward_pre_hook(lambda *_: ran.append(1)) for module in (
        layer.self_attn for layer in recommender.layers
    )]  # fmt: skip

    metric_without_sets(recommender, single_layers(depth), HISTORIES, judge)
    for hook in hooks:
        hook.remove()

    assert len(ran) <= depth + depth * (depth - 1) / 2 + depth  # the full pass, what follows each layer, and a margin


def test_greedy_removal_takes_the_least_missed_layer_of_every_step():
    recommender = made(num_layers=4)
    removed, course = greedy_removal(recommender, HISTORIES, judge, 2)

    first = [metric_without_layers(recommender, [i], HISTORIES, judge).mean() for i in range(4)]
    assert removed[0] == int(np.argmax(first))
    second = {
        i: metric_without_layers(recommender, [removed[0], i], HISTORIES, judge).mean()
        for i in range(4)
        if i != removed[0]
    }
    assert removed[1] == max(second, key=second.get)
    np.testing.assert_allclose(course[2].mean(), second[removed[1]], rtol=1e-5)


def test_greedy_removal_empties_no_stack():
    removed, _ = greedy_removal(made("t5", 4), HISTORIES, judge, 2)

    assert sorted(index // 2 for index in removed) == [0, 1]
    with pytest.raises(ValueError, match=r"\[0, 2\]"):
        greedy_removal(made("t5", 4), HISTORIES, judge, 3)


@pytest.mark.parametrize("size", [0, 5])
def test_bands_of_impossible_size_are_refused(size):
    with pytest.raises(ValueError, match="size of a band"):
        bands(4, size)


# Shapley


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_a_row_add_up_to_full_minus_empty(family):
    recommender = made(family, 4)
    found = layer_shapley(recommender, HISTORIES, judge, 2, np.random.default_rng(0))
    full, without = metric_without_sets(recommender, [range(4)], HISTORIES, judge)

    np.testing.assert_allclose(found.sum(axis=0), full - without[0], rtol=1e-4, atol=1e-5)


def test_many_orders_come_close_to_the_exact_values():
    recommender = made()
    values = worth(recommender)
    exact = np.zeros((3, len(HISTORIES)))
    for order in permutations(range(3)):
        for place, layer in enumerate(order):
            before = frozenset(order[:place])
            exact[layer] += (values[before | {layer}] - values[before]) / factorial(3)

    found = layer_shapley(recommender, HISTORIES, judge, 200, np.random.default_rng(0))

    np.testing.assert_allclose(found, exact, atol=0.15 * np.abs(exact).max())


def test_a_dead_layer_is_worth_exactly_nothing_and_the_seed_matters():
    recommender = made(num_layers=4)
    with torch.no_grad():
        for parameter in recommender.layers[2].parameters():
            parameter.zero_()
    found = [layer_shapley(recommender, HISTORIES, judge, 1, np.random.default_rng(seed)) for seed in range(6)]

    for values in found:
        np.testing.assert_array_equal(values[2], 0)
    assert any(not np.array_equal(found[0], other) for other in found[1:])


# Gradient norm and magnitude


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_norm_is_that_of_the_mean_gradient(family):
    recommender = made(family)
    batches = recommender.labelled_batches([np.append(h, 5) for h in HISTORIES], batch_size=2)
    found = gradient_norm(recommender, batches)

    model = recommender.model
    for batch in batches:
        labels = batch["labels"]
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        if family in ("llama", "qwen3", "gpt2"):
            logits, labels = logits[:, :-1], labels[:, 1:]
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        ).backward()
    expected = []
    for layer in layers_of(model):
        parts = [p.grad for name, p in layer.named_parameters() if "relative_attention_bias" not in name]
        expected.append(sum(float((g / len(HISTORIES)).square().sum()) for g in parts) ** 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradients_that_cancel_have_no_norm_but_magnitude_asks_no_data():
    recommender = made()
    batches = recommender.labelled_batches([np.append(h, 5) for h in HISTORIES])

    assert np.isnan(gradient_norm(recommender, [])).all()
    gradient_norm(recommender, batches)
    assert all(parameter.grad is None for parameter in recommender.parameters())
    assert all(parameter.requires_grad for parameter in recommender.parameters())


def test_magnitude_is_the_sum_of_absolute_weights():
    recommender = made()
    weights = chain(*([p for n, p in recommender.layers[1].named_parameters() if n.endswith("weight")],))

    assert layer_magnitude(recommender)[1] == pytest.approx(
        sum(float(w.detach().double().abs().sum()) for w in weights)
    )
    with torch.no_grad():
        recommender.layers[1].mlp.up_proj.weight.mul_(2)
    assert np.argmax(layer_magnitude(recommender)) == 1
