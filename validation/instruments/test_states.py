"""States are those that leave the layers where the recommender asks, whatever stands beside a history."""

from functools import cache

import numpy as np
import pytest
import torch

from layerwise.importance.states import asked_states
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import bypassed, layers_of, state_of
from layerwise.models.recommender import build_recommender

NUM_ITEMS, MAX_LENGTH, NUM_LAYERS, HIDDEN = 12, 5, 4, 16
HISTORIES = [np.array(items) for items in ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10, 11, 0, 1, 2, 3, 4], [9, 3, 9])]

each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family):
    """Recommender with large random weights, so that states depend on the whole history and dropout would show."""
    shape = Shape(NUM_LAYERS, HIDDEN, 24, 2)
    recommender = build_recommender(family, NUM_ITEMS, MAX_LENGTH, shape, seed=0, attention_dropout=0.3)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.2, generator=random)
    return recommender.eval()


shared = cache(made)  # for tests that only look


def asked_position(family, layer):
    """Of one history without padding: the end of what is read, but the start in T5's decoder, its last two layers."""
    return 0 if family == "t5" and layer >= NUM_LAYERS // 2 else -1


def slowly(recommender, family, history):
    """One history at a time, which needs no padding, *num_layers x hidden*."""
    seen = []

    def keep(_, __, output):
        seen.append(state_of(output)[0, asked_position(family, len(seen))].numpy())

    hooks = [layer.register_forward_hook(keep) for layer in layers_of(recommender)]
    with torch.no_grad():
        recommender(**recommender.batch([history]))
    for hook in hooks:
        hook.remove()
    return np.stack(seen)


@each_family
@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_states_in_batches_equal_those_of_each_history_alone_in_the_order_given(family, batch_size):
    expected = np.stack([slowly(shared(family), family, history) for history in HISTORIES], axis=1)
    found = asked_states(shared(family), HISTORIES, batch_size)

    assert found.shape == (NUM_LAYERS, len(HISTORIES), HIDDEN)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_last_state_is_before_the_final_norm_and_gives_the_scores_behind_it(family):
    """The recommender's own road from the last layer to the scores, from the state that was handed out."""
    recommender = shared(family)
    base = recommender.model.base_model
    norm = base.ln_f if family == "gpt2" else base.norm
    last = torch.from_numpy(asked_states(recommender, HISTORIES)[-1])
    with torch.no_grad():
        scores = recommender.item_scores(norm(last)).numpy()

    np.testing.assert_allclose(scores, recommender.scores(HISTORIES), rtol=1e-4, atol=1e-4)


@each_family
def test_bypassed_layer_hands_its_input_on(family):
    """Within a stack; across T5's stacks the states are of different tokens."""
    with bypassed(shared(family), [1]):
        states = asked_states(shared(family), HISTORIES)

    np.testing.assert_array_equal(states[1], states[0])
    assert not np.allclose(states[3], states[2])


@each_family
def test_only_the_newest_events_are_read(family):
    long = np.array([8, 8, 8, 1, 2, 3, 4, 5])
    whole, newest = (asked_states(shared(family), [history]) for history in (long, long[-MAX_LENGTH:]))
    other = asked_states(shared(family), [np.array([7, 2, 3, 4, 5])])

    np.testing.assert_array_equal(whole, newest)
    assert not np.allclose(other, newest)


def test_no_histories_give_no_rows():
    assert asked_states(shared("llama"), []).shape == (NUM_LAYERS, 0, HIDDEN)


def test_empty_histories_are_named_by_their_rows():
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match=r"histories are empty: \[1, 3\]"):
        asked_states(shared("llama"), [np.array([1]), nothing, np.array([2]), nothing])


@each_family
def test_model_in_training_is_asked_without_dropout_and_left_as_it_was(family):
    recommender = made(family)
    recommender.train()
    recommender.layers[1].eval()
    next(recommender.parameters()).requires_grad_(False)
    modes = [module.training for module in recommender.modules()]
    flags = [parameter.requires_grad for parameter in recommender.parameters()]
    weights = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}
    generator = torch.get_rng_state()

    found = asked_states(recommender, HISTORIES)

    np.testing.assert_array_equal(found, asked_states(shared(family), HISTORIES))
    assert [module.training for module in recommender.modules()] == modes
    assert [parameter.requires_grad for parameter in recommender.parameters()] == flags
    assert all(torch.equal(tensor, weights[name]) for name, tensor in recommender.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(layer._forward_hooks for layer in recommender.layers)
