"""Losses for large catalogues: the chunked one is the plain one, the sampled one estimates it."""

import numpy as np
import pytest
import torch

from layerwise.models.catalogue_loss import chunked_loss, sampled_loss
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender
from layerwise.models.training import Recipe, next_item_loss, train

NUM_ITEMS = 60


def example(family="llama"):
    """A recommender in double precision, states with a gradient of their own, and windows."""
    recommender = build_recommender(family, NUM_ITEMS, 8, Shape(2, 16, 32, 2), seed=0).double().eval()
    rng = np.random.default_rng(0)
    windows = recommender.windows([rng.integers(NUM_ITEMS, size=7) for _ in range(5)], rng)
    states = recommender.states(windows.inputs)[windows.valid].detach() * 3
    return recommender, states.requires_grad_(), windows


def gradients(loss, recommender, states, windows):
    value = loss(recommender, states, windows)
    of = [states, *(p for p in recommender.model.get_output_embeddings().parameters())]
    return value.item(), torch.autograd.grad(value, of)


@pytest.mark.parametrize("family", ["llama", "bert"])  # without and with an offset per item
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_chunked_loss_and_its_gradients_are_those_of_the_plain_one(family, chunk):
    setting = example(family)

    value, found = gradients(chunked_loss(chunk), *setting)
    expected_value, expected = gradients(next_item_loss, *setting)

    assert value == pytest.approx(expected_value, rel=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_chunked_loss_never_holds_scores_of_more_than_a_chunk(monkeypatch):
    recommender, states, windows = example()
    asked = []
    scores = recommender.item_scores
    monkeypatch.setattr(recommender, "item_scores", lambda part: asked.append(len(part)) or scores(part))

    gradients(chunked_loss(4), recommender, states, windows)

    assert max(asked) == 4
    assert sum(asked) == 2 * len(states)  # once for the value, once for the gradient


def test_a_training_with_chunks_is_the_training_without():
    rng = np.random.default_rng(1)
    sequences = [rng.integers(NUM_ITEMS, size=7) for _ in range(20)]
    fresh = build_recommender("llama", NUM_ITEMS, 8, Shape(2, 16, 32, 2), seed=0)
    recipe = Recipe(epochs=2, learning_rate=1e-2, batch_size=8)

    models = [train(fresh, sequences, lambda _: 0.0, recipe, 0, loss) for loss in (chunked_loss(16), next_item_loss)]

    weights = [list(trained.recommender.parameters()) for trained in models]
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def draws(setting, proposal, negatives, times):
    loss = sampled_loss(proposal, negatives, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return np.array([loss(*setting).item() for _ in range(times)])


def skewed():
    return 1 / torch.arange(1, NUM_ITEMS + 1, dtype=torch.float64)


@pytest.mark.parametrize("proposal", [torch.ones(NUM_ITEMS, dtype=torch.float64), skewed()], ids=["uniform", "skewed"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_sampled_sum_of_exponentials_is_unbiased(family, proposal):
    recommender, states, windows = example(family)
    one = (recommender, states[:1], type(windows)(windows.inputs, windows.valid, windows.items[:1]))

    found = np.exp(draws(one, proposal, 5, 4000))  # exp(loss) is the sum over exp(score of the target)

    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - np.exp(next_item_loss(*one).item())) < 4 * error


def test_sampled_loss_converges_to_the_full_one_from_below():
    setting = example()
    full = next_item_loss(*setting).item()

    bias = [full - draws(setting, skewed(), negatives, 200).mean() for negatives in (5, 50, 5000)]

    assert bias[0] > bias[1] > bias[2]
    assert abs(bias[2]) < 0.01 * full


def test_gradient_with_many_negatives_is_that_of_the_full_loss():
    setting = example()
    sampled = sampled_loss(skewed(), 200_000, torch.Generator().manual_seed(0))

    (_, found), (_, expected) = gradients(sampled, *setting), gradients(next_item_loss, *setting)

    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.norm(one - other) < 0.03 * torch.linalg.norm(other)


def test_the_generator_decides_the_sample():
    setting = example()
    first, again = draws(setting, skewed(), 5, 3), draws(setting, skewed(), 5, 3)

    assert np.array_equal(first, again)
    assert len(set(first)) == 3


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_without_targets_is_refused(chunk):
    with pytest.raises(ValueError, match="at least 1 target"):
        chunked_loss(chunk)


@pytest.mark.parametrize(("negatives", "proposal"), [(0, torch.ones(3)), (2, torch.tensor([1.0, 0.0]))])
def test_a_sample_that_cannot_be_drawn_or_never_draws_an_item_is_refused(negatives, proposal):
    with pytest.raises(ValueError, match="at least 1 negative, and probabilities above 0"):
        sampled_loss(proposal, negatives, torch.Generator())
