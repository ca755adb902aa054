import numpy as np
import pytest
import torch

from layerwise.models.catalogue import shape_of, with_catalogue
from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.layers import layers_of
from layerwise.models.recommender import Recommender, build_recommender

WORDS, ITEMS, LENGTH = 50, 30, 8


def language_model(family, positions=10):
    return build_recommender(family, WORDS, positions, Shape(4, 16, 24, 2), seed=3).model


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_pretrained_ones_and_items_take_the_place_of_words(family):
    model = language_model(family)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    recommender = with_catalogue(model, ITEMS, LENGTH, seed=1)

    for old, new in zip(layers_of(model), recommender.layers, strict=True):
        for name, weight in old.state_dict().items():
            assert torch.equal(new.state_dict()[name], weight), name
    assert recommender.scores([np.arange(3), np.arange(12)]).shape == (2, ITEMS)
    assert recommender.model.get_input_embeddings().weight is recommender.model.get_output_embeddings().weight
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_a_plain_checkpoint_like_any_other(family, tmp_path):
    recommender = with_catalogue(language_model(family), ITEMS, LENGTH)
    history = [np.arange(5)]

    recommender.save(tmp_path)

    loaded = Recommender.load(tmp_path).scores(history)
    np.testing.assert_allclose(loaded, recommender.scores(history), rtol=1e-5, atol=1e-6)


def test_item_vectors_are_spread_like_those_of_words():
    model = language_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)

    items = with_catalogue(model, 2000, LENGTH).item_matrix

    words = model.get_input_embeddings().weight
    assert items.detach().std().item() == pytest.approx(words.detach().std().item(), rel=0.05)


def test_a_catalogue_as_large_as_the_vocabulary_gets_new_vectors_all_the_same():
    model = language_model("gpt2")

    recommender = with_catalogue(model, WORDS, LENGTH)

    assert not torch.equal(recommender.item_matrix, model.get_output_embeddings().weight[:WORDS])


def test_seed_decides_the_items_and_leaves_the_global_generator():
    model = language_model("llama")
    state = torch.get_rng_state()

    same, again, other = (with_catalogue(model, ITEMS, LENGTH, seed=seed).item_matrix for seed in (1, 1, 2))

    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_histories_that_a_model_has_no_positions_for_are_refused():
    with pytest.raises(ValueError, match="takes 11 positions, histories of 20 items need 21; ask for .* at most 10"):
        with_catalogue(language_model("gpt2"), ITEMS, 20)


def test_a_backbone_without_a_head_is_refused():
    with pytest.raises(ValueError, match="language model with its head, got LlamaModel"):
        with_catalogue(language_model("llama").model, ITEMS, LENGTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_counts_the_layers_of_all_stacks(family):
    shape = shape_of(language_model(family).config)

    assert (shape.num_layers, shape.hidden, shape.num_heads) == (4, 16, 2)


def test_shape_of_an_unknown_architecture_is_refused():
    config = language_model("llama").config.__class__()
    config.model_type = "rwkv"

    with pytest.raises(UnsupportedArchitectureError, match="rwkv"):
        shape_of(config)
