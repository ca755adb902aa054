"""A narrow model computes what the full one computes without the removed heads and channels, and keeps the largest."""

import copy
import random
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.compression.adapter import adapted_model
from layerwise.compression.compact import layer_parameters
from layerwise.compression.narrow import narrow_model, narrow_shape
from layerwise.models.families import Shape, UnsupportedArchitectureError
from layerwise.models.layers import layers_of, stacks_of
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Recipe, train
from layerwise.models.widths import widths_of

HIDDEN, NUM_HEADS, HEAD_DIM, CHANNELS = 16, 4, 4, 12
TABLE = "layer.0.SelfAttention.relative_attention_bias"
SIZE = {"vocab_size": 31, "hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": NUM_HEADS}
SIZE |= {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "use_cache": False}
GATED = SIZE | {"intermediate_size": CHANNELS, "num_key_value_heads": NUM_HEADS, "tie_word_embeddings": True}
T5 = SIZE | {"d_kv": HEAD_DIM, "d_ff": CHANNELS, "num_decoder_layers": 2, "decoder_start_token_id": 0}
KINDS = {
    "llama": ("LlamaForCausalLM", GATED),
    "llama-biased": ("LlamaForCausalLM", GATED | {"attention_bias": True, "mlp_bias": True}),
    "llama-grouped": ("LlamaForCausalLM", GATED | {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "llama-wide-heads": ("LlamaForCausalLM", GATED | {"head_dim": 6}),
    "llama-classifier": ("LlamaForSequenceClassification", GATED),
    "qwen3": ("Qwen3ForCausalLM", GATED | {"head_dim": HEAD_DIM}),
    "qwen3-grouped": ("Qwen3ForCausalLM", GATED | {"head_dim": HEAD_DIM, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", GATED),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-gated": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
    "t5-encoder": ("T5EncoderModel", T5),
}
ANY_KIND = pytest.mark.parametrize("kind", KINDS)
FULL_SHAPE = (NUM_HEADS, CHANNELS)

GATED_PARTS = (
    ("self_attn.o_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj")),
)
T5_PARTS = (
    *(
        (f"{path}.o", (f"{path}.q", f"{path}.k", f"{path}.v"))
        for path in ("layer.0.SelfAttention", "layer.1.EncDecAttention")
    ),
    *(
        (
            f"layer.{place}.DenseReluDense.wo",
            tuple(f"layer.{place}.DenseReluDense.{wi}" for wi in ("wi", "wi_0", "wi_1")),
        )
        for place in (1, 2)
    ),
)


def made(kind, seed=0, **changes):
    """A random model whose heads and channels all matter: noise of 0.3 on every weight, bias and norm."""
    name, fields = KINDS[kind]
    model_class = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**fields | changes)).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def output_of(model):
    """Logits, or the last state, on two rows of which one is padded."""
    tokens = torch.arange(1, 15).reshape(2, 7)
    inputs = {"input_ids": tokens, "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}
    if len(stacks_of(model)) == 2:
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 9, 8]])
    with torch.no_grad():
        return model(**inputs)[0]


def removed_units(stack, out, reads, units, keep):
    """By layer, the units of smallest sum of squared weights: rows that read, columns that write; one by one."""
    scores = np.zeros((len(stack), units))
    for index, layer in enumerate(stack):
        maps = dict(layer.named_modules())
        for unit in range(units):
            rows = [
                np.array_split(maps[path].weight.detach().double().numpy(), units)[unit]
                for path in reads
                if path in maps
            ]
            columns = np.array_split(maps[out].weight.detach().double().numpy(), units, axis=1)[unit]
            scores[index, unit] = sum((part**2).sum() for part in [*rows, columns])
    if "SelfAttention" in out:  # T5's table of positions is shared
        scores[:] = scores.sum(0)
    return np.argsort(scores, axis=1)[:, : units - keep]


def masked_twin(model, num_heads, intermediate):
    """A copy with the columns of what goes set to zero."""
    twin = copy.deepcopy(model)
    groups = getattr(model.config, "num_key_value_heads", NUM_HEADS)
    for stack in stacks_of(twin).values():
        for out, reads in T5_PARTS if model.config.model_type == "t5" else GATED_PARTS:
            if out not in dict(stack[0].named_modules()):
                continue
            attention = "ttention" in out or "attn" in out
            units, keep = (groups, num_heads * groups // NUM_HEADS) if attention else (CHANNELS, intermediate)
            removed = removed_units(stack, out, reads, units, keep)
            for layer, units_gone in zip(stack, removed, strict=True):
                weight = layer.get_submodule(out).weight.data
                for unit in units_gone:
                    weight.chunk(units, dim=1)[unit].zero_()
    return twin


# What it computes


@ANY_KIND
def test_narrow_model_is_its_masked_twin(kind):
    model = made(kind)
    for shape in ((2, 5), (2, CHANNELS), (4, 1)):
        expected, full = output_of(masked_twin(model, *shape)), output_of(model)
        found = output_of(narrow_model(model, *shape))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert (expected - full).abs().max() > 0.05


@ANY_KIND
def test_keeping_everything_gives_the_same_bits(kind):
    model = made(kind)
    narrow = narrow_model(model, *FULL_SHAPE)

    assert narrow is not model
    assert torch.equal(output_of(narrow), output_of(model))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["llama-biased", "qwen3-grouped", "qwen2", "t5-gated"]), st.integers(0, 9), st.data())
def test_any_shape_is_its_masked_twin_and_holds_the_parameters_that_its_matrices_say(kind, seed, data):
    model = made(kind, seed)
    widths = widths_of(model.config)
    num_heads = data.draw(st.sampled_from(widths.head_counts(model.config)))
    intermediate = data.draw(st.integers(1, CHANNELS))
    narrow = narrow_model(model, num_heads, intermediate)

    torch.testing.assert_close(
        output_of(narrow), output_of(masked_twin(model, num_heads, intermediate)), rtol=1e-3, atol=1e-3
    )
    assert widths.sizes(narrow.config)[:2] == (num_heads, intermediate)


def test_largest_head_and_channel_are_kept_in_each_layer_by_hand():
    """Layer 0 has its weight in head 3 and channel 7, layer 1 in head 1 and channel 0; biases do not count."""
    model = made("llama-biased", num_hidden_layers=2)
    with torch.no_grad():
        for layer, head, channel in zip(layers_of(model), (3, 1), (7, 0), strict=True):
            for path in ("q_proj", "k_proj", "v_proj", "o_proj"):
                layer.self_attn.get_submodule(path).weight.fill_(0.1)
            for path in ("gate_proj", "up_proj", "down_proj"):
                layer.mlp.get_submodule(path).weight.fill_(0.1)
            layer.self_attn.q_proj.bias[:] = torch.arange(HIDDEN) + 100.0
            layer.self_attn.q_proj.weight[head * HEAD_DIM] = -0.2  # one row of the head, larger in square only
            layer.mlp.down_proj.weight[:, channel] = -0.2
    first, second = layers_of(narrow_model(model, 1, 1))

    assert first.self_attn.q_proj.bias.tolist() == [112.0, 113.0, 114.0, 115.0]
    assert second.self_attn.q_proj.bias.tolist() == [104.0, 105.0, 106.0, 107.0]
    torch.testing.assert_close(first.self_attn.q_proj.weight[:, 0], torch.tensor([-0.2, 0.1, 0.1, 0.1]))
    assert [layer.mlp.down_proj.weight.shape for layer in (first, second)] == [(HIDDEN, 1)] * 2
    assert all((layer.mlp.down_proj.weight == -0.2).all() for layer in (first, second))


def test_heads_of_t5_are_those_of_the_largest_sum_over_a_stack():
    """Head 0 is largest in one encoder layer, head 2 in the other two and so in sum; the decoder keeps head 3."""
    model = made("t5")
    with torch.no_grad():
        for stack, heads in zip(stacks_of(model).values(), ((0, 2, 2), (3, 3)), strict=True):
            for layer, head in zip(stack, heads, strict=True):
                attention = layer.layer[0].SelfAttention
                for path in "qkvo":
                    attention.get_submodule(path).weight.fill_(0.1)
                attention.v.weight[head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0.5
    narrow = narrow_model(model, 1, CHANNELS)
    values = [layer.layer[0].SelfAttention.v.weight.mean().item() for layer in layers_of(narrow)]

    assert values == pytest.approx([0.1, 0.5, 0.5, 0.5, 0.5])
    for stack, head in (("encoder", 2), ("decoder", 3)):
        tables = [m.get_submodule(f"{stack}.block.0.{TABLE}").weight for m in (model, narrow)]
        assert torch.equal(tables[1], tables[0][:, head : head + 1])


# What it is


@ANY_KIND
def test_transformers_alone_reads_it_back(tmp_path, kind):
    narrow = narrow_model(made(kind), 2, 5)
    narrow.save_pretrained(tmp_path)
    read, report = type(narrow).from_pretrained(tmp_path, output_loading_info=True)
    auto = transformers.AutoConfig.from_pretrained(tmp_path)

    assert not any(report.values())
    assert torch.equal(output_of(read), output_of(narrow))
    assert widths_of(auto).sizes(auto)[:2] == (2, 5)
    assert getattr(auto, "num_key_value_heads", 2) == (1 if "grouped" in kind else 2)
    assert (
        read.state_dict()["shared.weight" if kind.startswith("t5") else "model.embed_tokens.weight"].shape[1] == HIDDEN
    )


def test_parameters_by_hand():
    """Two heads of 4 and five channels: q k v o, gate up down, two norms."""
    layer = 4 * HIDDEN * 2 * HEAD_DIM + 3 * HIDDEN * 5 + 2 * HIDDEN

    assert layer_parameters(narrow_model(made("llama"), 2, 5)) == 3 * layer


@pytest.mark.parametrize("family", ["llama", "qwen3", "t5"])
def test_recommender_is_saved_loaded_and_trained_like_any_other(tmp_path, family):
    recommender = build_recommender(family, 20, 8, Shape(3, HIDDEN, CHANNELS + HIDDEN, NUM_HEADS), seed=0)
    narrow = narrow_model(recommender, 2, 5)
    narrow.save(tmp_path)
    histories = [np.array([1, 2, 3]), np.array([7]), np.arange(15)]
    recipe = Recipe(epochs=1, learning_rate=1e-2)
    healed = train(narrow, histories, lambda r: float(r.scores(histories).max()), recipe, seed=0).recommender

    assert (type(narrow), narrow.num_items, narrow.max_length) == (Recommender, 20, 8)
    np.testing.assert_array_equal(Recommender.load(tmp_path).scores(histories), narrow.scores(histories))
    assert np.abs(healed.scores(histories) - narrow.scores(histories)).max() > 1e-3
    assert layer_parameters(healed) == layer_parameters(narrow) < layer_parameters(recommender)


@pytest.mark.parametrize("kind", ["llama", "qwen3-grouped", "t5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_ties_and_generation_settings_are_carried_over(kind, dtype):
    model = made(kind).to(dtype)
    model.generation_config.repetition_penalty = 1.1
    narrow = narrow_model(model, 2, 5)
    theirs = {name: tensor.dtype for name, tensor in [*model.named_parameters(), *model.named_buffers()]}

    assert {n: t.dtype for n, t in [*narrow.named_parameters(), *narrow.named_buffers()]} == theirs
    assert narrow.get_output_embeddings().weight is narrow.get_input_embeddings().weight
    assert narrow.generation_config.repetition_penalty == 1.1
    assert narrow.generation_config is not model.generation_config
    assert narrow.config._attn_implementation == model.config._attn_implementation


@ANY_KIND
def test_model_passed_in_is_left_as_it_was_and_modes_and_flags_are_carried_over(kind):
    model = made(kind).train()
    layers_of(model)[1].eval().requires_grad_(False)
    before, config = {n: t.clone() for n, t in model.state_dict().items()}, model.config.to_dict()
    ids, states = [id(p) for p in model.parameters()], (torch.get_rng_state(), random.getstate())
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    narrow = narrow_model(model, 2, 5)

    assert {name: p.requires_grad for name, p in narrow.named_parameters()} == flags
    assert {name: module.training for name, module in narrow.named_modules()} == modes
    for parameter in narrow.parameters():
        parameter.data.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert [id(p) for p in model.parameters()] == ids
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


# Which shape has a given share


def test_shape_by_hand():
    """Qwen3: a layer holds 4 x 16 x 16 for heads (256 each), 3 x 16 x 12 for channels (48 each), 40 for norms."""
    model = made("qwen3")
    assert layer_parameters(model) == 3 * (4 * 256 + 12 * 48 + 40)
    # half of 1640 is 820: 780 without norms; 2 heads leave 268, which are 5 channels: shares 1/2 and 5/12.
    # 1 head leaves 524, which are 10 channels: 1/4 and 10/12; 3 heads leave 12, not one channel.
    assert narrow_shape(model, 0.5) == (2, 5)
    assert narrow_shape(model, 1) == FULL_SHAPE
    assert narrow_shape(model, 0.25) == (1, 2)  # 410: 370 without norms, 114 without the head: two channels


@cache
def parameters_by_shape(kind):
    """Layer parameters of the narrow models themselves, of every shape."""
    model = made(kind)
    heads = widths_of(model.config).head_counts(model.config)
    return {(n, c): layer_parameters(narrow_model(model, n, c)) for n in heads for c in range(1, CHANNELS + 1)}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["llama-biased", "qwen3-grouped", "qwen2", "t5-gated"]), st.floats(0.4, 1))
def test_shape_comes_within_one_channel_of_the_share_and_is_the_most_proportional(kind, share):
    held = parameters_by_shape(kind)
    budget, channel = share * held[FULL_SHAPE], held[FULL_SHAPE] - held[NUM_HEADS, CHANNELS - 1]
    widest = dict(shape for shape in sorted(held) if held[shape] <= budget)  # channels by number of heads
    apart = {num_heads: abs(num_heads / NUM_HEADS - c / CHANNELS) for num_heads, c in widest.items()}
    num_heads, intermediate = narrow_shape(made(kind), share)

    assert widest[num_heads] == intermediate
    assert apart[num_heads] == min(apart.values())
    assert intermediate == CHANNELS or budget - held[num_heads, intermediate] < channel


# What it refuses


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_families_whose_head_width_is_tied_to_the_hidden_size_are_refused(family):
    recommender = build_recommender(family, 20, 8, Shape(2, HIDDEN, 24, NUM_HEADS), seed=0)
    with pytest.raises(UnsupportedArchitectureError, match=f"a {family} model .* width of a head .* llama, qwen3, t5"):
        narrow_model(recommender, 2, 5)
    with pytest.raises(UnsupportedArchitectureError, match=family):
        narrow_shape(recommender, 0.5)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("llama", (3, 5), r"num_heads must be one of \[1, 2, 4\], got 3"),  # transformers refuses 16 / 3
        ("qwen3", (0, 5), r"num_heads must be one of \[1, 2, 3, 4\], got 0"),
        ("qwen3-grouped", (3, 5), r"num_heads must be one of \[2, 4\], got 3"),
        ("t5", (5, 5), r"num_heads must be one of \[1, 2, 3, 4\], got 5"),
        ("t5", (2, 0), r"intermediate must lie in \[1, 12\], got 0"),
        ("qwen2", (2, 13), r"intermediate must lie in \[1, 12\], got 13"),
    ],
)
def test_impossible_shape_is_refused(kind, shape, message):
    with pytest.raises(ValueError, match=message):
        narrow_model(made(kind), *shape)


@pytest.mark.parametrize("share", [0, 1.01, float("nan")])
def test_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"\(0, 1\], got"):
        narrow_shape(made("llama"), share)


def test_share_below_the_smallest_model_is_refused():
    """One head, one channel and norms are 336 of 1632 parameters of a layer."""
    assert narrow_shape(made("llama"), 337 / 1632) == (1, 1)
    with pytest.raises(ValueError, match="narrowest"):
        narrow_shape(made("llama"), 335 / 1632)


def test_adapters_at_gaps_are_refused():
    recommender = build_recommender("llama", 20, 8, Shape(3, HIDDEN, 24, NUM_HEADS), seed=0)
    with pytest.raises(ValueError, match="AdaptedRecommender would lose"):
        narrow_model(adapted_model(recommender, (0, 2)), 2, 5)
