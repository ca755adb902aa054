"""Attention measures by hand, by a slow loop over hand-written attention, and without regard to padding."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from layerwise.importance.attention import attention_profile
from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.layers import bypassed, layers_of, traced
from layerwise.models.recommender import build_recommender

NUM_LAYERS, HIDDEN, NUM_ITEMS = 4, 16, 29
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
MEASURES = ("entropy", "distance", "recent")
QUERIES = {
    "llama": "self_attn.q_proj",
    "qwen3": "self_attn.q_proj",
    "gpt2": "attn.c_attn",
    "bert": "attention.self.query",
    "t5": "layer.0.SelfAttention.q",
}


def large(family, attention_dropout=0.0):
    """Recommender whose attention is far from uniform. T5 has layers 2 + 2."""
    recommender = build_recommender(family, NUM_ITEMS, 8, Shape(NUM_LAYERS, HIDDEN, 24, 2), 0, attention_dropout)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.5, generator=random)
    return recommender


def blind(family):
    """The same, but no query asks for anything: attention is uniform over what is visible."""
    recommender = large(family)
    with torch.no_grad():
        for layer in recommender.layers:
            for parameter in layer.get_submodule(QUERIES[family]).parameters():
                parameter.zero_()
            if family == "t5" and hasattr(layer.layer[0].SelfAttention, "relative_attention_bias"):
                layer.layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    return recommender


def attending_to_the_event_before():
    """T5 whose position bias sends every query to the key right before it; the first one has none and sees all."""
    recommender = blind("t5")
    with torch.no_grad():
        for stack in (recommender.model.encoder, recommender.model.decoder):
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight[1] = 1000  # bucket of distance 1
    return recommender


def stacked(profile):
    return np.stack([getattr(profile, name) for name in MEASURES])


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_uniform_causal_attention_by_hand(family):
    """Queries see 1, 2, 3 and 4 keys; the newest 2 of them hold 2 / 3 and 2 / 4 where more are seen."""
    found = attention_profile(blind(family), [{"input_ids": TOKENS}], recent=2)

    assert found.entropy.shape == (NUM_LAYERS, 2)
    np.testing.assert_allclose(found.entropy, 1, rtol=1e-6)
    np.testing.assert_allclose(found.distance, 1, rtol=1e-6)
    np.testing.assert_allclose(found.recent, (2 / 3 + 2 / 4) / 2, rtol=1e-6)
    last = attention_profile(blind(family), [{"input_ids": TOKENS}], recent=2, queries="last")
    np.testing.assert_allclose(stacked(last), np.broadcast_to([[[1]], [[1]], [[2 / 4]]], (3, NUM_LAYERS, 2)), rtol=1e-6)


def test_uniform_attention_to_both_sides_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    found = attention_profile(blind("bert"), [{"input_ids": TOKENS, "attention_mask": mask}], recent=2)

    np.testing.assert_allclose(found.entropy, 1, rtol=1e-6)
    np.testing.assert_allclose(found.distance, 1, rtol=1e-6)
    np.testing.assert_allclose(found.recent, np.broadcast_to([2 / 4, 2 / 3], (NUM_LAYERS, 2)), rtol=1e-6)


def test_attention_to_one_key_by_hand():
    """Query 0 attends to all of 4 keys; queries 1, 2, 3 to the key before, uniformly 1, 1 and 3 / 2 tokens away."""
    batch = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :2]}
    all_queries = attention_profile(attending_to_the_event_before(), [batch], recent=2)
    last = attention_profile(attending_to_the_event_before(), [batch], recent=1, queries="last")

    encoder, decoder = slice(0, 2), slice(2, 4)
    np.testing.assert_allclose(all_queries.entropy[encoder], (1 + 0 + 0 + 0) / 4, rtol=1e-6)
    np.testing.assert_allclose(all_queries.distance[encoder], (1 + 1 + 1 + 2 / 3) / 4, rtol=1e-6)
    np.testing.assert_allclose(all_queries.recent[encoder], (2 / 4 + 0 + 0 + 1) / 4, rtol=1e-6)
    assert np.isnan(all_queries.recent[decoder]).all()  # both queries see at most the two newest keys
    np.testing.assert_allclose(last.distance[encoder], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(last.entropy[decoder], 0, atol=1e-12)
    np.testing.assert_allclose(last.distance[decoder], 1 / (1 / 2), rtol=1e-6)
    np.testing.assert_allclose(last.recent[decoder], 0, atol=1e-12)


def test_sliding_window_bounds_what_a_query_sees():
    """Uniform over 3 keys at most; the second layer sees all. Without the window, entropy would be below 1."""
    config = Qwen3Config(
        vocab_size=NUM_ITEMS,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention"],
    )
    model = Qwen3ForCausalLM(config)
    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.q_proj.weight)
    found = attention_profile(model, [{"input_ids": torch.arange(6)[None]}], recent=2)

    np.testing.assert_allclose(found.entropy, 1, rtol=1e-6)
    np.testing.assert_allclose(found.distance, 1, rtol=1e-6)
    np.testing.assert_allclose(found.recent[:, 0], [2 / 3, (2 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / 4], rtol=1e-6)


def softmax(scores):
    weights = np.exp(scores - max(scores))
    return weights / weights.sum()


def rotated(vector, position, base):
    """Rotary embedding by complex numbers."""
    half = len(vector) // 2
    turn = np.exp(1j * position / base ** (np.arange(half) / half))
    turned = (vector[:half] + 1j * vector[half:]) * turn
    return np.concatenate([turned.real, turned.imag])


def llama_measures(layer, states, base, recent):
    """Per query and head: entropy, distance, recent mass of a Llama layer's attention, from its input states."""
    weights = {name: getattr(layer.self_attn, name).weight.detach().double().numpy() for name in ("q_proj", "k_proj")}
    norm = layer.input_layernorm
    scale = 1 / np.sqrt((states**2).mean(-1, keepdims=True) + norm.variance_epsilon)
    normed = states * scale * norm.weight.detach().double().numpy()
    size, groups = layer.self_attn.head_dim, layer.self_attn.num_key_value_groups
    measures = []
    for query in range(len(states)):
        heads = []
        for head in range(weights["q_proj"].shape[0] // size):
            group = head // groups
            asked = weights["q_proj"][head * size : (head + 1) * size] @ normed[query]
            scores = []
            for key in range(query + 1):
                held = weights["k_proj"][group * size : (group + 1) * size] @ normed[key]
                scores.append(rotated(asked, query, base) @ rotated(held, key, base) / np.sqrt(size))
            mass = softmax(np.array(scores))
            away = query - np.arange(query + 1)
            entropy = -sum(m * np.log(m) for m in mass) / np.log(query + 1) if query else np.nan
            distance = (mass * away).sum() / away.mean() if query else np.nan
            heads.append([entropy, distance, mass[-recent:].sum() if query >= recent else np.nan])
        measures.append(np.mean(heads, axis=0))
    return np.array(measures)


@pytest.mark.parametrize("queries", ["all", "last"])
def test_measures_equal_a_slow_loop_over_hand_written_attention(queries):
    config = LlamaConfig(
        vocab_size=NUM_ITEMS,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    base, lengths = config.rope_parameters["rope_theta"], (7, 4, 5)
    rows = [torch.arange(start, start + length) for start, length in enumerate(lengths)]
    expected = np.empty((3, 3, len(rows)))
    for example, row in enumerate(rows):
        with torch.no_grad(), traced(model) as trace:
            model(row[None])
        for index, layer in enumerate(layers_of(model)):
            measures = llama_measures(layer, trace.inputs[index][0].double().numpy(), base, recent=2)
            expected[:, index, example] = measures[-1] if queries == "last" else np.nanmean(measures, axis=0)
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None]).long()
    batches = [
        {"input_ids": padded[:2], "attention_mask": mask[:2], "labels": padded[:2]},
        {"input_ids": padded[2:], "attention_mask": mask[2:]},
    ]
    found = attention_profile(model, batches, recent=2, queries=queries)

    assert expected[0].min() < 0.9  # far from uniform
    np.testing.assert_allclose(stacked(found), expected, rtol=1e-5)


def without_padding(batch, row):
    """One example by itself."""
    one = {"input_ids": batch["input_ids"][row : row + 1, batch["attention_mask"][row].bool()]}
    if "decoder_input_ids" in batch:
        mask = batch["decoder_attention_mask"][row].bool()
        one["decoder_input_ids"] = batch["decoder_input_ids"][row : row + 1, mask]
    return one


@pytest.mark.parametrize("queries", ["all", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_in_any_family(family, queries):
    recommender, lengths, places = large(family), torch.tensor([4, 7, 5]), torch.arange(7)[None]
    batch = {
        "input_ids": (3 * lengths[:, None] + 2 * places) % 20,
        "attention_mask": (places < lengths[:, None]).long(),
    }
    if family == "t5":
        targets = torch.tensor([[5], [3], [6]])
        batch["decoder_input_ids"] = (5 * targets + places[:, :6]) % 20
        batch["decoder_attention_mask"] = (places[:, :6] < targets).long()
    alone = attention_profile(recommender, [without_padding(batch, row) for row in range(3)], 2, queries)
    found = attention_profile(recommender, [batch], 2, queries)

    assert found.entropy.shape == (NUM_LAYERS, 3)
    assert np.isfinite(stacked(found)).all()
    np.testing.assert_allclose(stacked(found), stacked(alone), rtol=1e-4)
    assert (np.ptp(stacked(found), axis=2).max(axis=0) > 0.01).all()  # examples differ in every layer: order matters


@pytest.mark.parametrize("family", ["llama", "qwen3", "t5"])
def test_padding_on_the_left_changes_nothing_where_positions_are_relative(family):
    """A padded query sees nothing: it does not count, and its map is no error."""
    recommender, tokens = large(family), torch.tensor([[3, 9, 4, 8]])
    others = {"decoder_input_ids": TOKENS[:1]} if family == "t5" else {}
    padded = {
        "input_ids": nn.functional.pad(tokens, (3, 0), value=7),
        "attention_mask": nn.functional.pad(torch.ones_like(tokens), (3, 0)),
    }
    for queries in ("all", "last"):
        alone = attention_profile(recommender, [{"input_ids": tokens, **others}], 2, queries)
        found = attention_profile(recommender, [{**padded, **others}], 2, queries)
        np.testing.assert_allclose(stacked(found), stacked(alone), rtol=1e-4)


def test_decoder_that_is_only_started_has_no_choice():
    """Undefined, not zero. So is the only event of a history."""
    t5, llama = large("t5"), large("llama")
    found = attention_profile(t5, t5.labelled_batches([np.arange(4), np.arange(8)]), recent=2)
    assert np.isfinite(stacked(found)[:, :2]).all()
    assert np.isnan(stacked(found)[:, 2:]).all()

    mask = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])
    found = attention_profile(llama, [{"input_ids": TOKENS, "attention_mask": mask}])
    assert np.isnan(stacked(found)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_recommender_is_measured_on_the_batches_it_makes(family):
    recommender = large(family)
    found = attention_profile(recommender, recommender.labelled_batches([np.arange(4), np.arange(9), np.arange(6)], 2))
    encoder = 2 if family == "t5" else NUM_LAYERS

    assert found.entropy.shape == (NUM_LAYERS, 3)
    assert ((found.entropy[:encoder] > 0) & (found.entropy[:encoder] < 1)).all()
    assert np.isnan(found.recent[:encoder, 0]).all()  # no query of the shortest sees more than 5 keys
    assert ((found.recent[:encoder, 2] > 0) & (found.recent[:encoder, 2] < 1)).all()


def state_of_model(model):
    """All that a measurement could leave behind."""
    modules = list(model.modules())
    return (
        [module.training for module in modules],
        [module.config._attn_implementation for module in modules if hasattr(module, "config")],
        [(len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module))) for module in modules],
        [parameter.requires_grad for parameter in model.parameters()],
        [tensor.tolist() for tensor in model.state_dict().values()],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_left_as_it_was_also_after_an_error(family):
    recommender = large(family, attention_dropout=0.5).train()
    recommender.layers[1].eval()
    if family == "t5":
        recommender.model.encoder.set_attn_implementation("eager")  # stacks may differ
    before = state_of_model(recommender.model)
    batches = recommender.labelled_batches([np.arange(7)])
    first, again = (attention_profile(recommender, batches) for _ in range(2))

    assert recommender.model.config._attn_implementation == "sdpa"
    np.testing.assert_array_equal(stacked(first), stacked(again))
    assert state_of_model(recommender.model) == before
    with pytest.raises(IndexError):
        attention_profile(recommender, [{**batches[0], "input_ids": batches[0]["input_ids"] + 100}])
    assert state_of_model(recommender.model) == before


def test_attention_to_what_should_not_be_visible_is_an_error():
    """BERT's maps look to both sides; were they taken for causal ones, their rows would not sum to 1."""
    model = large("bert").model
    model.bert.encoder.layer[2].attention.self.is_causal = True

    with pytest.raises(ValueError, match="must sum to 1; in layer 2 it is off by"):
        attention_profile(model, [{"input_ids": TOKENS}])


def test_bypassed_layer_attends_to_nothing():
    recommender = large("llama")
    with bypassed(recommender, [1]):
        found = attention_profile(recommender, [{"input_ids": TOKENS}], recent=2)

    assert np.isnan(stacked(found)).all(axis=(0, 2)).tolist() == [False, True, False, False]


def test_layer_without_attention_is_refused():
    recommender = large("llama")
    recommender.layers[0].self_attn = nn.Identity()

    with pytest.raises(UnsupportedArchitectureError, match="expected self-attention in a layer, got LlamaDecoderLayer"):
        attention_profile(recommender, [{"input_ids": TOKENS}])


def test_no_batch_gives_no_example():
    assert stacked(attention_profile(large("gpt2"), [])).shape == (3, NUM_LAYERS, 0)


@pytest.mark.parametrize("wrong", [{"recent": 0}, {"queries": "newest"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"got .*{next(iter(wrong.values()))}"):
        attention_profile(large("gpt2"), [{"input_ids": TOKENS}], **wrong)
