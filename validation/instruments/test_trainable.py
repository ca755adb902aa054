"""Only the weights that a student is to train move; low-rank changes become part of a plain checkpoint."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from layerwise.compression import trainable
from layerwise.compression.compact import compact_model
from layerwise.compression.magnitude import magnitude_pruned
from layerwise.compression.trainable import merged, only_last, with_lora
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Recipe, train

NUM_ITEMS, MAX_LENGTH = 10, 6
HISTORIES = [np.array([1, 2, 3]), np.array([7]), np.arange(9), np.array([4, 0])]
RECIPE = Recipe(epochs=1, learning_rate=1e-2, batch_size=2, evaluate_every=1)
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
LAST = {  # beginnings of the names of what is trained with the last of four layers
    "llama": ("model.embed_tokens.", "model.layers.3.", "model.norm."),
    "qwen3": ("model.embed_tokens.", "model.layers.3.", "model.norm."),
    "gpt2": ("transformer.wte.", "transformer.h.3.", "transformer.ln_f."),
    "bert": ("bert.embeddings.word_embeddings.", "bert.encoder.layer.3.", "cls.predictions."),
    "t5": ("shared.", "decoder.block.1.", "decoder.final_layer_norm."),
}
LAYERS = {
    "llama": "model.layers.",
    "qwen3": "model.layers.",
    "gpt2": "transformer.h.",
    "bert": "bert.encoder.layer.",
    "t5": ("encoder.block.", "decoder.block."),
}


def made(family="llama"):
    """T5 has layers 2 + 2."""
    return build_recommender(family, NUM_ITEMS, MAX_LENGTH, Shape(4, 16, 24, 2), seed=0)


def weights_of(recommender):
    return {name: weight.clone() for name, weight in recommender.state_dict().items()}


def same(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def flags_of(recommender):
    return [parameter.requires_grad for parameter in recommender.parameters()]


def trained(recommender):
    return train(recommender, HISTORIES, lambda _: 1.0, RECIPE, seed=0).recommender


def moved(before, after):
    """Names, inside the model, of the parameters that differ; both have the same ones."""
    others = dict(after.model.named_parameters())
    return {name for name, weight in before.model.named_parameters() if not torch.equal(weight, others[name])}


def with_changes(recommender, seed=1):
    """With low-rank changes of an effect, as after a long training."""
    adapted, random = with_lora(recommender, rank=2), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=random)
    return adapted


# The last layers


@ANY_FAMILY
def test_training_moves_the_last_layer_what_is_behind_it_and_the_item_matrix(family):
    recommender = made(family)
    before, flags = weights_of(recommender), flags_of(recommender)
    names = {name for name, _ in recommender.model.named_parameters()}
    expected = {name for name in names if name.startswith(LAST[family])}
    changed = moved(recommender, trained(only_last(recommender)))

    assert changed <= expected
    assert {name for name, p in only_last(recommender).model.named_parameters() if p.requires_grad} == expected
    assert all(any(name.startswith(start) for name in changed) for start in LAST[family])
    assert same(weights_of(recommender), before)
    assert flags_of(recommender) == flags
    assert all(flags)


def test_untied_token_vectors_stay():
    config = LlamaConfig(
        vocab_size=NUM_ITEMS + 1,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=False,
        pad_token_id=NUM_ITEMS,
    )
    recommender = Recommender(LlamaForCausalLM(config), NUM_ITEMS, MAX_LENGTH)
    changed = moved(recommender, trained(only_last(recommender, layers=0)))

    assert changed == {"model.norm.weight", "lm_head.weight"}


@pytest.mark.parametrize("layers", range(5))
def test_as_many_layers_are_trained_as_are_asked_for(layers):
    chosen = only_last(made(), layers)

    assert [all(p.requires_grad for p in layer.parameters()) for layer in chosen.layers] == [
        place >= 4 - layers for place in range(4)
    ]
    assert [any(p.requires_grad for p in layer.parameters()) for layer in chosen.layers] == [
        place >= 4 - layers for place in range(4)
    ]


def test_last_layers_of_t5_reach_into_its_encoder():
    """What stands behind the encoder's last layer is trained then, and the position table in its first is not."""
    chosen = only_last(made("t5"), layers=3).model

    assert all(parameter.requires_grad for parameter in chosen.decoder.parameters())
    assert chosen.encoder.final_layer_norm.weight.requires_grad
    assert not any(parameter.requires_grad for parameter in chosen.encoder.block[0].parameters())


def test_all_layers_without_what_stands_in_front_of_them():
    frozen = {name for name, p in only_last(made("gpt2"), layers=4).model.named_parameters() if not p.requires_grad}

    assert frozen == {"transformer.wpe.weight"}


@pytest.mark.parametrize("layers", [-1, 5])
def test_there_must_be_so_many_layers(layers):
    with pytest.raises(ValueError, match=f"between 0 and 4, got {layers}"):
        only_last(made(), layers)


# Low-rank changes


@ANY_FAMILY
def test_low_rank_changes_start_without_effect_and_leave_the_original_alone(family):
    recommender = made(family).train()
    recommender.layers[0].eval()
    before, modes, flags = weights_of(recommender), [m.training for m in recommender.modules()], flags_of(recommender)
    adapted = with_lora(recommender)

    np.testing.assert_array_equal(adapted.scores(HISTORIES), recommender.scores(HISTORIES))
    assert same(weights_of(recommender), before)
    assert [module.training for module in recommender.modules()] == modes
    assert flags_of(recommender) == flags
    assert not hasattr(recommender.model, "peft_config")


@ANY_FAMILY
def test_every_linear_map_of_a_layer_and_nothing_else_is_adapted(family):
    recommender = made(family)
    adapted = with_lora(recommender, rank=3).model
    linear = {
        name
        for name, module in recommender.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(LAYERS[family])
    }
    trains = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}

    assert len(linear) >= 16
    assert trains == {f"{name}.lora_{part}.default.weight" for name in linear for part in "AB"}
    assert all(3 in adapted.get_parameter(name).shape for name in trains)


@ANY_FAMILY
def test_training_moves_the_layers_maps_only_and_ends_as_a_plain_checkpoint(tmp_path, family):
    recommender = made(family)
    plain = merged(trained(with_lora(recommender)))
    plain.save(tmp_path)
    changed = moved(recommender, plain)
    maps = {
        f"{name}.weight"
        for name, module in recommender.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(LAYERS[family])
    }

    assert changed
    assert changed <= maps
    assert plain.state_dict().keys() == recommender.state_dict().keys()
    assert [type(module) for module in plain.modules()] == [type(module) for module in recommender.modules()]
    assert plain.model.config.to_dict() == recommender.model.config.to_dict()
    assert all(flags_of(plain))
    np.testing.assert_array_equal(Recommender.load(tmp_path).scores(HISTORIES), plain.scores(HISTORIES))
    assert len(compact_model(plain, (0, 2)).layers) == 2


@ANY_FAMILY
def test_merged_changes_compute_what_they_computed_beside_the_weights(family):
    recommender = made(family)
    adapted = with_changes(recommender)
    before, expected = weights_of(adapted), adapted.scores(HISTORIES)
    plain = merged(adapted)

    assert np.abs(expected - recommender.scores(HISTORIES)).max() > 0.01
    np.testing.assert_allclose(plain.scores(HISTORIES), expected, atol=1e-5)
    assert same(weights_of(adapted), before)


def test_merged_weight_is_the_product_of_the_changes_times_two():
    recommender = made()
    adapted = with_changes(recommender)
    change = adapted.model.model.layers[1].mlp.up_proj
    product = change.lora_B["default"].weight @ change.lora_A["default"].weight
    weight, found = (model.model.model.layers[1].mlp.up_proj.weight for model in (recommender, merged(adapted)))

    torch.testing.assert_close(found, weight + 2 * product)


def test_plain_recommender_merges_to_a_copy_of_itself():
    recommender = made()

    assert same(weights_of(merged(recommender)), weights_of(recommender))


def test_seed_decides_the_changes_and_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    first, again, other = (weights_of(with_lora(made(), seed=seed)) for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, again)
    assert not same(first, other)


def test_masked_weights_take_no_low_rank_changes():
    with pytest.raises(ValueError, match="start from a plain Recommender"):
        with_lora(magnitude_pruned(made(), 0.5))


def test_without_peft_the_error_says_how_to_install_it(monkeypatch):
    recommender = made()
    before = copy.deepcopy(recommender.state_dict())
    monkeypatch.setattr(trainable, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA needs peft; install it with: pip install 'layerwise\[lora\]'"):
        with_lora(recommender)
    assert same(recommender.state_dict(), before)
    assert only_last(recommender) is not recommender
