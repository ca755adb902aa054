"""Models that are known by construction do what they were built to do, and leave what they were given alone."""

import copy

import numpy as np
import pytest
import torch

from layerwise.compression.compact import compact_model
from layerwise.models.families import Shape
from layerwise.models.planted import follow, pointer_chain, with_identity_layers
from layerwise.models.recommender import build_recommender

NUM_ITEMS = 16


@pytest.fixture
def pointers():
    rng = np.random.default_rng(0)
    return [rng.permutation(NUM_ITEMS) for _ in range(5)]


@pytest.fixture
def shallow():
    return build_recommender("llama", 12, 6, Shape(num_layers=2, hidden=8, intermediate=12, num_heads=2), seed=3)


def best(recommender, histories):
    return recommender.scores(histories).argmax(axis=1)


def test_chains_end_where_following_them_by_hand_ends():
    pointers = [np.array([1, 2, 0]), np.array([0, 2, 1])]

    np.testing.assert_array_equal(follow(pointers, np.array([0, 1, 2])), [2, 1, 0])  # 0 -> 1 -> 2; 1 -> 2 -> 1; 2 -> 0


def test_each_layer_follows_its_pointer_and_nothing_else(pointers):
    histories = [np.array([(start + 5) % NUM_ITEMS, start]) for start in range(NUM_ITEMS)]
    starts, chain = np.arange(NUM_ITEMS), pointer_chain(pointers)

    np.testing.assert_array_equal(best(chain, histories), follow(pointers, starts))
    for kept in [(0,), (4,), (1, 3), (0, 1, 2, 4)]:
        some = follow([pointers[layer] for layer in kept], starts)
        np.testing.assert_array_equal(best(compact_model(chain, kept), histories), some)


def test_what_came_before_the_last_event_changes_no_score(pointers):
    chain = pointer_chain(pointers)

    short, long = chain.scores([np.array([7]), np.array([1, 2, 3, 7])])
    np.testing.assert_allclose(short, long, atol=1e-5)


def test_pointers_that_are_no_permutation_are_refused():
    with pytest.raises(ValueError, match=r"pointers of layer 1 must be a permutation of 3 items, got \[0 0 1\]"):
        pointer_chain([np.array([0, 1, 2]), np.array([0, 0, 1])])


@pytest.mark.parametrize("working", [(0, 1), (0, 5), (2, 4)])
def test_identity_layers_change_no_bit_of_the_scores_wherever_they_stand(shallow, working):
    histories = [np.array([1, 2, 3]), np.array([11])]
    before = copy.deepcopy(shallow.state_dict())
    deep = with_identity_layers(shallow, 6, working, seed=1)

    assert len(deep.layers) == 6
    np.testing.assert_array_equal(deep.scores(histories), shallow.scores(histories))
    np.testing.assert_array_equal(compact_model(deep, working).scores(histories), shallow.scores(histories))
    for name, value in shallow.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_identity_layers_compute_something_that_their_seed_decides(shallow):
    one, same, other = (with_identity_layers(shallow, 3, (0, 2), seed).layers[1] for seed in (1, 1, 2))

    assert one.self_attn.q_proj.weight.abs().sum() > 0
    torch.testing.assert_close(one.self_attn.q_proj.weight, same.self_attn.q_proj.weight)
    assert not torch.equal(one.self_attn.q_proj.weight, other.self_attn.q_proj.weight)


@pytest.mark.parametrize("working", [(0,), (1, 0), (0, 6), (1, 1)])
def test_places_that_do_not_fit_are_refused(shallow, working):
    with pytest.raises(ValueError, match=r"working must be 2 increasing places below 6, got"):
        with_identity_layers(shallow, 6, working, seed=0)
