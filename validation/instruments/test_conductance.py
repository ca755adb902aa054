"""Layer conductance: completeness, an independent path integral, and what identity layers conduct."""

import numpy as np
import pytest
import torch

from layerwise.importance.conductance import layer_conductance, path_integrals
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

NUM_ITEMS = 12
SEQUENCES = [np.array(items) for items in ([0, 1, 2, 7], [3, 9], [4, 5, 1], [6, 7, 8, 9, 2], [10, 11])]


def made(family="llama", num_layers=3):
    recommender = build_recommender(family, NUM_ITEMS, 6, Shape(num_layers, 16, 24, 2), seed=0).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=random)
    return recommender


@pytest.fixture(params=FAMILIES)
def recommender(request):
    return made(request.param)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "t5"])
def test_all_that_leaves_a_layer_conducts_the_whole_change(family):
    recommender = made(family)
    (batch,) = recommender.labelled_batches(SEQUENCES)

    coarse, fine = (path_integrals(recommender.model, batch, steps) for steps in (20, 320))

    errors = [(found.outputs - found.change).abs().max().item() for found in (coarse, fine)]
    assert fine.change.abs().min() > 0.01
    assert errors[1] < 0.02
    assert errors[1] < errors[0] or errors[1] < 1e-3


def test_the_branches_of_a_single_layer_equal_a_slow_path_integral():
    recommender = made(num_layers=1)
    model = recommender.model
    (batch,) = recommender.labelled_batches(SEQUENCES[:1])
    tokens, label = batch["input_ids"], int(batch["labels"][0, -1])
    vectors = model.get_input_embeddings()(tokens).detach()
    average = model.get_input_embeddings().weight.detach().mean(0)
    steps = 64

    def states(share):
        seen = {}

        def hook(_, inputs, output):
            output.retain_grad()
            seen["in"], seen["out"] = inputs[0].detach(), output

        handle = recommender.layers[0].register_forward_hook(hook)
        moved = average + share * (vectors - average)
        logits = model(inputs_embeds=moved.requires_grad_()).logits[0, -2]
        logits.log_softmax(-1)[label].backward()
        handle.remove()
        return seen["in"], seen["out"].detach(), seen["out"].grad

    total = 0.0
    for step in range(steps):
        (in_a, out_a, grad_a), (in_b, out_b, grad_b) = states(step / steps), states((step + 1) / steps)
        total += float(((grad_a + grad_b) / 2 * ((out_b - in_b) - (out_a - in_a))).sum())

    assert path_integrals(model, batch, steps).branches.item() == pytest.approx(total, rel=1e-4)
    assert layer_conductance(recommender, [batch], steps)[0] == pytest.approx(abs(total), rel=1e-4)


def test_an_identity_layer_conducts_nothing():
    recommender = made()
    with torch.no_grad():
        recommender.layers[1].self_attn.o_proj.weight.zero_()
        recommender.layers[1].mlp.down_proj.weight.zero_()

    found = layer_conductance(recommender, recommender.labelled_batches(SEQUENCES))

    assert found[1] == 0
    assert (found[[0, 2]] > 0).all()


def test_batches_and_padding_change_nothing(recommender):
    whole, single = (layer_conductance(recommender, recommender.labelled_batches(SEQUENCES, size)) for size in (9, 1))

    np.testing.assert_allclose(whole, single, rtol=1e-3, atol=1e-6)


def test_the_model_is_left_as_it_was(recommender):
    recommender.train()
    flags = [parameter.requires_grad for parameter in recommender.parameters()]
    before = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}

    layer_conductance(recommender, recommender.labelled_batches(SEQUENCES), steps=2)

    assert all(module.training for module in recommender.modules())
    assert [parameter.requires_grad for parameter in recommender.parameters()] == flags
    assert all(parameter.grad is None for parameter in recommender.parameters())
    assert not any(module._forward_hooks for module in recommender.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in recommender.state_dict().items())


def test_no_batch_is_undefined_and_no_step_an_error():
    assert np.isnan(layer_conductance(made(), [])).all()
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        layer_conductance(made(), [], steps=0)
