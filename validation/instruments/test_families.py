"""The one file that knows architectures: what it finds, what it cuts from a configuration, how it bypasses layers."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from layerwise.models.families import (
    Shape,
    UnsupportedArchitectureError,
    bypassed,
    cut_config,
    family_named,
    family_of,
    layer_prefix,
    layers_of,
    normalised,
    pretrained_of,
    resumed,
    scale_residual_outputs,
)
from layerwise.models.recommender import build_recommender

NUM_LAYERS = 4


@pytest.fixture
def model():
    """Random Llama whose layers all matter: large weights, grouped-query attention."""
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def tokens():
    return torch.arange(14).reshape(2, 7)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def without(model, removed):
    """The slow way: a copy whose list of layers really is shorter."""
    short = copy.deepcopy(model)
    kept = [layer for index, layer in enumerate(short.model.layers) if index not in removed]
    short.model.layers = nn.ModuleList(kept)
    short.config.num_hidden_layers = len(kept)
    return short


def test_layers_are_found_in_a_language_model_its_base_and_a_recommender(model):
    recommender = build_recommender("llama", 20, 8, Shape(3, 16, 24, 2), seed=0)

    assert layers_of(model) is model.model.layers
    assert layers_of(model.model) is model.model.layers
    assert layers_of(recommender) is recommender.model.model.layers
    assert pretrained_of(recommender) is recommender.model


def test_names_of_layers_in_the_state_dict(model):
    assert layer_prefix(model) == "model.layers."
    assert layer_prefix(model.model) == "layers."


def test_unknown_model_type_is_refused_and_supported_families_are_named():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=11, n_positions=8))

    for ask in (lambda: family_of(gpt2.config), lambda: layers_of(gpt2)):
        with pytest.raises(UnsupportedArchitectureError, match=r"'gpt2' is not supported.*\['llama'\]"):
            ask()
    with pytest.raises(UnsupportedArchitectureError, match=r"no family is named 'bert'.*\['llama'\]"):
        family_named("bert")
    with pytest.raises(
        UnsupportedArchitectureError, match="expected a transformers model or a Recommender, got Linear"
    ):
        layers_of(nn.Linear(2, 2))


def test_cut_configuration_differs_in_depth_alone(model):
    model.config.num_items, model.config.max_history = 29, 8  # what a saved recommender carries
    before = model.config.to_dict()
    cut = cut_config(model.config, (0, 3))

    assert cut.to_dict() == before | {"num_hidden_layers": 2}
    assert cut._attn_implementation == model.config._attn_implementation
    assert model.config.to_dict() == before
    assert cut is not model.config


def test_attention_implementation_is_kept(model):
    model.set_attn_implementation("eager")

    assert cut_config(model.config, (1,))._attn_implementation == "eager"


def test_lists_with_an_entry_per_layer_are_selected_by_index(model):
    """Cutting such a list to length instead would reload in silence and compute another function."""
    full, sliding = "full_attention", "sliding_attention"
    model.config.layer_types = [full, full, sliding, full]

    assert cut_config(model.config, (1, 2)).layer_types == [full, sliding]
    assert cut_config(model.config, (0, 3)).layer_types == [full, full]


def test_residual_outputs_shrink_by_the_root_of_twice_the_depth(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    scale_residual_outputs(model)

    for name, parameter in model.named_parameters():
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        factor = 1 / (2 * NUM_LAYERS) ** 0.5 if writes else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)
    assert sum(name.endswith(("o_proj.weight", "down_proj.weight")) for name in before) == 2 * NUM_LAYERS


def test_normalised_times_weight_is_the_module(model):
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)) * 3
    rms, layer = model.model.norm, nn.LayerNorm(16, eps=1e-3)
    with torch.no_grad():
        for norm in (rms, layer):
            norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
        layer.bias.fill_(0.25)

        torch.testing.assert_close(normalised(rms, states) * rms.weight, rms(states))
        torch.testing.assert_close(normalised(layer, states) * layer.weight + 0.25, layer(states))


def test_unknown_normalisation_is_named():
    with pytest.raises(UnsupportedArchitectureError, match="not Conv1d; add it to"):
        normalised(nn.Conv1d(1, 1, 1), torch.zeros(1, 1, 1))


@pytest.mark.parametrize("removed", [(), (0,), (3,), (1, 2), (0, 1, 2), (0, 1, 2, 3)])
def test_bypassed_model_computes_what_a_shorter_list_of_layers_computes(model, tokens, removed):
    with bypassed(model, removed):
        masked = logits_of(model, tokens)

    assert torch.equal(masked, logits_of(without(model, removed), tokens))


def test_bypassed_layers_come_back_also_after_an_error(model, tokens):
    before = logits_of(model, tokens)
    with pytest.raises(RuntimeError, match="stop"), bypassed(model, (0, 2)):
        raise RuntimeError("stop")

    assert torch.equal(logits_of(model, tokens), before)
    assert not any("forward" in vars(layer) for layer in layers_of(model))


def test_bypasses_nest_and_a_layer_may_be_named_twice(model, tokens):
    with bypassed(model, (1,)):
        outer = logits_of(model, tokens)
        with bypassed(model, (1, 2, 2)):
            inner = logits_of(model, tokens)
        assert torch.equal(logits_of(model, tokens), outer)

    assert torch.equal(outer, logits_of(without(model, (1,)), tokens))
    assert torch.equal(inner, logits_of(without(model, (1, 2)), tokens))
    assert not any("forward" in vars(layer) for layer in layers_of(model))


def test_a_forward_that_somebody_else_put_on_a_layer_is_still_there_afterwards(model, tokens):
    """Tools that spread a model over devices wrap `forward` on the instance."""
    layer = layers_of(model)[1]
    wrapped = layer.forward
    layer.forward = lambda *args, **kwargs: wrapped(*args, **kwargs)
    theirs = layer.forward
    with bypassed(model, (1,)):
        assert torch.equal(logits_of(model, tokens), logits_of(without(model, (1,)), tokens))

    assert layer.forward is theirs


@pytest.mark.parametrize("index", range(NUM_LAYERS))
def test_resumed_model_equals_the_bypassed_one(model, tokens, index):
    with torch.no_grad():
        states = model(tokens, use_cache=False, output_hidden_states=True).hidden_states
    with bypassed(model, (index,)):
        expected = logits_of(model, tokens)
    before = logits_of(model, tokens)
    with resumed(model, index, states[index]):
        found = logits_of(model, tokens)

    assert torch.equal(found, expected)
    assert torch.equal(logits_of(model, tokens), before)
