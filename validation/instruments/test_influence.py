"""BlockInfluence by hand, at the positions that count, and before the final norm."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from layerwise.importance.influence import block_influence
from layerwise.importance.scores import layer_scores
from layerwise.models.families import Shape, layers_of
from layerwise.models.recommender import build_recommender

NUM_LAYERS, HIDDEN, VOCABULARY = 4, 16, 30


def made(**fields):
    """Random Llama with large weights, the final norm's gain unlike 1."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **fields,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            model.model.norm.weight.uniform_(0.1, 3)
        return model


class Turn(nn.Module):
    """Layer that turns the state at position t by `angles[t]`, in the plane of each pair of coordinates."""

    def __init__(self, *angles, scale=1.0):
        super().__init__()
        self.angles, self.scale = torch.tensor(angles), scale

    def forward(self, hidden, **_):
        even, odd = hidden[..., ::2], hidden[..., 1::2]
        cos, sin = self.angles.cos()[:, None], self.angles.sin()[:, None]
        turned = torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=-1).flatten(-2)
        return self.scale * turned


@pytest.fixture
def turning():
    """Four layers that turn three positions by known angles."""
    model, pi = made(), torch.pi
    model.model.layers = nn.ModuleList(
        [Turn(0.0, 0.0, 0.0), Turn(pi, pi, pi), Turn(pi / 3, pi / 2, 0.0, scale=5.0), Turn(pi / 2, 0.0, pi)]
    )
    return model


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_one_minus_the_mean_cosine_by_hand(turning):
    """Length plays no part: the third layer makes every state five times as long."""
    expected = [0, 2, 1 - (1 / 2 + 0 + 1) / 3, 1 - (0 + 1 - 1) / 3]

    np.testing.assert_allclose(block_influence(turning, [{"input_ids": TOKENS}]), expected, atol=1e-6)


def test_padding_is_not_counted(turning):
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    expected = [0, 2, 1 - (2 * 1 / 2 + 0 + 1) / 4, 1 - (2 * 0 + 1 - 1) / 4]
    found = block_influence(turning, [{"input_ids": TOKENS, "attention_mask": mask}])

    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_position_weighs_the_same_in_whichever_batch_it_stands(turning):
    batches = [
        {"input_ids": TOKENS, "attention_mask": torch.tensor([[1, 0, 0], [1, 1, 0]])},
        {"input_ids": TOKENS[:1], "attention_mask": torch.tensor([[0, 0, 1]])},
    ]
    np.testing.assert_allclose(block_influence(turning, batches)[2], 1 - (2 * 1 / 2 + 0 + 1) / 4, atol=1e-6)


def test_layer_that_hands_on_its_input_has_no_influence():
    model = made()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    found = block_influence(model, [{"input_ids": TOKENS}])

    assert found[2] == pytest.approx(0, abs=1e-12)
    assert (np.delete(found, 2) > 0.01).all()


def states_around_layers(model, tokens):
    """Input and output of every layer, by another road than hooks: the layers are run one by one."""
    base = model.model
    places = torch.arange(tokens.shape[1])[None]
    state = base.embed_tokens(tokens)
    rotary = base.rotary_emb(state, position_ids=places)
    states = [state]
    for layer in base.layers:
        states.append(layer(states[-1], position_ids=places, position_embeddings=rotary))
    return [s.detach().double().numpy() for s in states]


def cosine(first, second):
    return (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)


def test_states_are_taken_at_the_layers_and_not_after_the_final_norm():
    model = made()
    states = states_around_layers(model, TOKENS)
    expected = [1 - cosine(before, after).mean() for before, after in pairwise(states)]
    found = block_influence(model, [{"input_ids": TOKENS}])
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    with torch.no_grad():
        hidden = [h.double().numpy() for h in model(TOKENS, output_hidden_states=True).hidden_states]
    from_tuple = [1 - cosine(before, after).mean() for before, after in pairwise(hidden)]
    np.testing.assert_allclose(found[:-1], from_tuple[:-1], rtol=1e-5)
    assert abs(found[-1] - from_tuple[-1]) > 0.01


@pytest.mark.parametrize("extra", [0, 3])
def test_padding_on_the_right_changes_nothing(extra):
    model, lengths = made(), [3, 7, 5]
    sequences = [torch.arange(length)[None] + 2 for length in lengths]
    alone = [block_influence(model, [{"input_ids": sequence}]) for sequence in sequences]
    tokens = torch.full((3, 7 + extra), 1)
    for row, sequence in enumerate(sequences):
        tokens[row, : lengths[row]] = sequence
    batch = {"input_ids": tokens, "attention_mask": (tokens != 1).long(), "labels": tokens}

    np.testing.assert_allclose(block_influence(model, [batch]), np.average(alone, axis=0, weights=lengths), rtol=1e-5)


def test_model_is_left_as_it_was():
    model = made(attention_dropout=0.5).train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again = (block_influence(model, [{"input_ids": TOKENS}]) for _ in range(2))

    np.testing.assert_array_equal(first, again)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_batch_and_no_position_give_nan():
    nothing = {"input_ids": TOKENS, "attention_mask": torch.zeros_like(TOKENS)}
    for batches in ([], [nothing]):
        assert np.isnan(block_influence(made(), batches)).tolist() == [True] * NUM_LAYERS


def test_embedded_inputs_with_a_mask_need_no_tokens():
    model = made()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    embedded = model.model.embed_tokens(TOKENS).detach()
    found = block_influence(model, [{"inputs_embeds": embedded, "attention_mask": mask}])

    np.testing.assert_allclose(found, block_influence(model, [{"input_ids": TOKENS, "attention_mask": mask}]))


def test_recommender_is_scored_on_the_batches_it_makes():
    recommender = build_recommender("llama", VOCABULARY - 1, 6, Shape(NUM_LAYERS, HIDDEN, 24, 2), seed=0)
    batches = recommender.labelled_batches([np.array([1, 2, 3]), np.arange(9)])
    found = layer_scores(recommender, batches, "block-influence")

    assert found.shape == (len(layers_of(recommender)),)
    np.testing.assert_array_equal(found, block_influence(recommender.model, batches))
