"""BlockInfluence and angular distance by hand, at the positions that count, and before the final norm."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from layerwise.importance.influence import angular_distance, block_influence
from layerwise.importance.scores import layer_scores
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import layers_of, traced
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

    def turned(self, hidden):
        even, odd = hidden[..., ::2], hidden[..., 1::2]
        cos, sin = self.angles.cos()[:, None], self.angles.sin()[:, None]
        turned = torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=-1).flatten(-2)
        return self.scale * turned

    def forward(self, hidden, *_, **__):
        return self.turned(hidden)


class TurnOfT5(Turn):
    """The same, returned as T5's layers do: with position biases."""

    def forward(self, hidden, *_, **__):
        return self.turned(hidden), None, None


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


def test_encoder_counts_by_its_mask_and_decoder_by_its_own():
    """Two encoder layers over three positions, two decoder layers over two."""
    pi, model = torch.pi, build_recommender("t5", VOCABULARY, 6, Shape(NUM_LAYERS, HIDDEN, 24, 2), seed=0).model
    model.encoder.block = nn.ModuleList([TurnOfT5(pi, pi / 2, 0.0), TurnOfT5(0.0, 0.0, 0.0)])
    model.decoder.block = nn.ModuleList([TurnOfT5(pi / 3, pi), TurnOfT5(pi / 2, 0.0)])
    batch = {
        "input_ids": TOKENS,
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "decoder_input_ids": TOKENS[:, :2],
        "decoder_attention_mask": torch.tensor([[1, 0], [1, 1]]),
    }
    encoder = [1 - (2 * -1 + 2 * 0 + 1) / 5, 0]

    decoder = [1 - (2 * 1 / 2 - 1) / 3, 1 - (2 * 0 + 1) / 3]
    np.testing.assert_allclose(block_influence(model, [batch]), [*encoder, *decoder], atol=1e-6)
    del batch["decoder_attention_mask"]
    decoder = [1 - (2 * 1 / 2 - 2) / 4, 1 - (2 * 0 + 2) / 4]  # without one, every position counts
    np.testing.assert_allclose(block_influence(model, [batch]), [*encoder, *decoder], atol=1e-6)


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


def large(family):
    """Recommender whose layers all turn their states."""
    recommender = build_recommender(family, VOCABULARY - 1, 6, Shape(NUM_LAYERS, HIDDEN, 24, 2), seed=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.2, generator=random)
    return recommender


def slowly(recommender, batch):
    """Position by position, from the states of one example at a time that was never padded."""
    similarities = [[] for _ in recommender.layers]
    for row in range(len(batch["input_ids"])):
        length = batch["attention_mask"][row].sum()
        one = {"input_ids": batch["input_ids"][row : row + 1, :length]}
        if "decoder_input_ids" in batch:
            length = batch["decoder_attention_mask"][row].sum()
            one["decoder_input_ids"] = batch["decoder_input_ids"][row : row + 1, :length]
        with torch.no_grad(), traced(recommender.model) as trace:
            recommender.model.eval()(**one)
        for layer, states in enumerate(zip(trace.inputs, trace.outputs, strict=True)):
            before, after = (state[0].double().numpy() for state in states)
            similarities[layer] += [cosine(b, a) for b, a in zip(before, after, strict=True)]
    return [1 - np.mean(values) for values in similarities]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_slow_way_and_padding_is_not_counted(family):
    recommender, lengths = large(family), torch.tensor([3, 6, 5])
    places = torch.arange(6)[None]
    batch = {
        "input_ids": (3 * lengths[:, None] + 2 * places) % 20,
        "attention_mask": (places < lengths[:, None]).long(),
    }
    if family == "t5":
        targets = torch.tensor([[2], [1], [4]])
        batch["decoder_input_ids"] = (5 * targets + places[:, :4]) % 20
        batch["decoder_attention_mask"] = (places[:, :4] < targets).long()
    expected = slowly(recommender, batch)

    assert min(expected) > 0.005
    np.testing.assert_allclose(block_influence(recommender, [batch]), expected, rtol=1e-5)
    halves = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 1), slice(1, 3))]
    np.testing.assert_allclose(block_influence(recommender, halves), expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_classifier_of_every_family_is_scored_as_its_base_model(family):
    """The batches that Fisher information takes; T5 makes its decoder's tokens from the encoder's."""
    base = large(family).model
    end = 29  # a token that stands once in every row, at the end
    config = type(base.config)(**base.config.to_dict() | {"eos_token_id": end, "num_labels": 3})
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.base_model.load_state_dict(base.base_model.state_dict(), strict=False)
    tokens = torch.tensor([[1, 2, 3, end], [4, 5, 6, end]])
    expected = {"input_ids": tokens}
    if family == "t5":
        start = torch.full((2, 1), config.decoder_start_token_id)
        expected["decoder_input_ids"] = torch.cat([start, tokens[:, :-1]], dim=1)
    found = block_influence(classifier, [{"input_ids": tokens, "labels": torch.tensor([0, 2])}])

    np.testing.assert_allclose(found, block_influence(base, [expected]), rtol=1e-5)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_recommender_is_scored_on_the_batches_it_makes(family):
    recommender = large(family)
    batches = recommender.labelled_batches([np.array([1, 2, 3]), np.arange(9)])
    found = layer_scores(recommender, batches, "block-influence")

    assert found.shape == (len(layers_of(recommender)),)
    assert (found > 0).all()
    np.testing.assert_array_equal(found, block_influence(recommender.model, batches))


def test_angles_of_runs_by_hand(turning):
    """Angles of a plane add up; half a turn is 1. Only the newest position is asked, here the last."""
    for window, expected in [(1, [0, 1, 0, 1]), (2, [1, 1, 1]), (3, [1, 0]), (4, [0])]:
        found = angular_distance(turning, [{"input_ids": TOKENS}], window)
        np.testing.assert_allclose(found, expected, atol=1e-3)  # fp32 states: an angle of 0 is known to 1e-4


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 0], [1, 0, 0]], [0, 1, (1 / 2 + 1 / 3) / 2, (0 + 1 / 2) / 2]),  # padded on the right
        ([[0, 1, 1], [0, 1, 0]], [0, 1, (0 + 1 / 2) / 2, (1 + 0) / 2]),  # on the left, on both sides
        ([[1, 1, 0], [0, 0, 0]], [0, 1, 1 / 2, 0]),  # nothing counts in the second row: one example
    ],
)
def test_angle_is_taken_at_the_last_position_that_counts(turning, mask, expected):
    batch = {"input_ids": TOKENS, "attention_mask": torch.tensor(mask)}

    np.testing.assert_allclose(angular_distance(turning, [batch]), expected, atol=1e-3)


def test_every_example_weighs_the_same_in_whichever_batch_it_stands(turning):
    batches = [
        {"input_ids": TOKENS},
        {"input_ids": TOKENS[:1], "attention_mask": torch.tensor([[1, 0, 0]])},
    ]
    expected = [0, 1, (0 + 0 + 1 / 3) / 3, (1 + 1 + 1 / 2) / 3]

    np.testing.assert_allclose(angular_distance(turning, batches), expected, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window", [1, 2, 3])
def test_angular_distance_of_every_family_equals_the_slow_way(family, window):
    """One example at a time, never padded; a run that starts in T5's encoder does not end in its decoder."""
    recommender = large(family)
    batches = recommender.labelled_batches([np.arange(2, 5), np.arange(9), np.arange(1, 6)], batch_size=2)
    angles = []
    for batch in batches:
        for row, mask in enumerate(batch["attention_mask"].bool()):
            one = {"input_ids": batch["input_ids"][row : row + 1, mask]}
            if family == "t5":
                one["decoder_input_ids"] = batch["decoder_input_ids"][row : row + 1]
            with torch.no_grad(), traced(recommender.model) as trace:
                recommender.model.eval()(**one)
            runs = zip(trace.inputs[: NUM_LAYERS - window + 1], trace.outputs[window - 1 :], strict=True)
            states = [(before[0, -1].double().numpy(), after[0, -1].double().numpy()) for before, after in runs]
            angles.append([np.arccos(cosine(before, after)) / np.pi for before, after in states])
    expected = np.mean(angles, axis=0)
    if family == "t5":
        crossing = [first < 2 <= first + window - 1 for first in range(len(expected))]
        expected[crossing] = np.nan
    found = angular_distance(recommender, batches, window)

    assert np.nanmin(expected, initial=1) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_angle_over_a_run_is_at_most_the_sum_of_its_layers(rows):
    """Angles are a metric."""
    model, batches = made(), [{"input_ids": torch.tensor(rows)}]
    single = angular_distance(model, batches)

    for window in (2, 3, 4):
        bound = np.convolve(single, np.ones(window), "valid")
        assert (angular_distance(model, batches, window) <= bound + 1e-6).all()


def test_a_run_that_turns_nothing_is_the_most_redundant():
    model = made()
    with torch.no_grad():
        for layer in model.model.layers[1:3]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    found = angular_distance(model, [{"input_ids": TOKENS}], window=2)

    assert found.argmin() == 1
    assert found[1] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("window", [0, NUM_LAYERS + 1])
def test_window_that_does_not_fit_is_refused(window):
    with pytest.raises(ValueError, match=rf"window must lie within \[1, {NUM_LAYERS}\].*got {window}"):
        angular_distance(made(), [{"input_ids": TOKENS}], window)


def test_angle_without_an_example_is_nan_and_the_model_is_left_as_it_was():
    model = made(attention_dropout=0.5).train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again = (angular_distance(model, [{"input_ids": TOKENS}], 2) for _ in range(2))

    assert np.isnan(angular_distance(model, [], 2)).tolist() == [True] * (NUM_LAYERS - 1)
    np.testing.assert_array_equal(first, again)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
