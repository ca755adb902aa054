"""Heads on final states, outer bands, and tuning one band."""

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.importance.adaptation import Tuning, tune_layers
from layerwise.importance.bands import outer_bands
from layerwise.importance.heads import answers, log_likelihood
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

NUM_ITEMS = 12
HISTORIES = [np.array(items) for items in ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10, 11], [2, 0])]
LABELS = np.array([0, 1, 2, 0, 1, 2])

each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family="llama", num_layers=4):
    return build_recommender(family, NUM_ITEMS, 6, Shape(num_layers, 16, 24, 2), seed=0).eval()


def head():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Linear(16, 3)


@pytest.mark.parametrize(
    ("depths", "share", "bottom", "top"),
    [
        ([8], 0.3, (0, 1), (6, 7)),
        ([24], 0.3, tuple(range(7)), tuple(range(17, 24))),
        ([4, 4], 0.3, (0, 4), (3, 7)),
        ([3, 2], 0.5, (0, 3), (2, 4)),
    ],
)
def test_outer_bands_are_the_first_and_last_layers_of_every_stack(depths, share, bottom, top):
    assert outer_bands(depths, share) == (bottom, top)


@pytest.mark.parametrize(("depths", "share"), [([8], 0.6), ([8], 0.0), ([1], 0.3), ([4, 1], 0.3)])
def test_bands_that_would_overlap_are_refused(depths, share):
    with pytest.raises(ValueError, match=r"band|bands"):
        outer_bands(depths, share)


@each_family
def test_the_item_matrix_as_head_gives_the_scores_in_the_order_of_the_rows(family):
    recommender = made(family)

    found = answers(recommender, lambda states: recommender.item_scores(states), HISTORIES, batch_size=2)

    np.testing.assert_allclose(found, recommender.scores(HISTORIES), atol=1e-6)


def test_log_likelihood_is_that_of_the_softmax():
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 0.0]])

    np.testing.assert_allclose(log_likelihood(logits, np.array([1, 0])), [np.log(3 / 4), 0.0])


@each_family
def test_only_the_band_and_the_head_change_and_the_originals_stay(family):
    recommender, start = made(family), head()
    before = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}

    tuned, its_head = tune_layers(recommender, (0, 3), start, HISTORIES, LABELS, Tuning(2, 3, 1e-2), seed=0)

    names = {parameter: name for name, parameter in tuned.named_parameters()}
    band = {names[parameter] for index in (0, 3) for parameter in tuned.layers[index].parameters()}
    for name, tensor in tuned.state_dict().items():
        shared = name.endswith("relative_attention_bias.weight")
        if (name in before and name not in band) or shared:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert any(not torch.equal(dict(tuned.named_parameters())[name], before[name]) for name in band)
    assert not torch.equal(its_head.weight, start.weight)
    for name, tensor in recommender.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in recommender.parameters())
    assert torch.equal(start.weight, head().weight)


@each_family
def test_outer_bands_have_equally_many_trainable_parameters(family):
    recommender = made(family)
    depths = [2, 2] if family == "t5" else [4]

    counts = {
        sum(p.numel() for p in tune_layers(recommender, band, head(), HISTORIES, LABELS, Tuning(), 0)[0].parameters()
            if p.requires_grad)
        for band in outer_bands(depths)
    }  # fmt: skip

    assert len(counts) == 1
    assert counts.pop() > 0


def test_tuning_learns_and_its_seed_matters():
    recommender, recipe = made(), Tuning(epochs=30, batch_size=3, learning_rate=1e-2)

    def likelihood(tuned, its_head):
        return log_likelihood(answers(tuned, its_head, HISTORIES), LABELS)

    first = likelihood(*tune_layers(recommender, (2, 3), head(), HISTORIES, LABELS, recipe, seed=0))
    again = likelihood(*tune_layers(recommender, (2, 3), head(), HISTORIES, LABELS, recipe, seed=0))
    other = likelihood(*tune_layers(recommender, (2, 3), head(), HISTORIES, LABELS, recipe, seed=1))

    assert first.mean() > likelihood(recommender, head()).mean() + 0.5
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
