"""Magnitude: sums of absolute weights by hand, and what belongs to them."""

import numpy as np
import pytest
import torch

from layerwise.importance.magnitude import layer_magnitude
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import layers_of
from layerwise.models.recommender import build_recommender

HIDDEN, HEADS = 16, 2


@pytest.fixture(params=FAMILIES)
def recommender(request):
    """T5 has layers 2 + 1."""
    return build_recommender(request.param, 12, 6, Shape(3, HIDDEN, 24, HEADS), seed=0)


def test_sums_the_absolute_values_of_all_weights_but_biases_and_shared_tables(recommender):
    expected = [
        sum(
            np.abs(parameter.detach().double().numpy()).sum()
            for name, parameter in layer.named_parameters()
            if name.endswith("weight") and "relative_attention_bias" not in name
        )
        for layer in layers_of(recommender)
    ]
    found = layer_magnitude(recommender)

    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(layer_magnitude(recommender.model), found)


def test_weights_of_one_count_the_parameters():
    """Llama by hand: four attention maps, three feed-forward ones and two normalisations, all -1."""
    recommender = build_recommender("llama", 12, 6, Shape(2, HIDDEN, 24, HEADS), seed=0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            parameter.fill_(-1.0)

    assert layer_magnitude(recommender).tolist() == [4 * HIDDEN**2 + 3 * HIDDEN * 24 + 2 * HIDDEN] * 2


def test_scales_with_a_layers_weights_and_with_nothing_else(recommender):
    before = layer_magnitude(recommender)
    with torch.no_grad():
        for parameter in recommender.layers[1].parameters():
            parameter.mul_(-2)
        recommender.model.get_input_embeddings().weight.mul_(5)

    np.testing.assert_allclose(layer_magnitude(recommender), before * [1, 2, 1], rtol=1e-12)


def test_the_model_is_left_as_it_was(recommender):
    recommender.train()
    before = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}
    layer_magnitude(recommender)

    assert all(module.training for module in recommender.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in recommender.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in recommender.state_dict().items())
