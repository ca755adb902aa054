"""Layer conductance: completeness, an independent path integral, and what identity layers conduct."""

import numpy as np
import pytest
import torch

from layerwise.importance.conductance import layer_conductance, path_integrals
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import forward_inputs, layers_of, shifts_labels, state_of
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
    """Whichever the layer, and the error falls with the square of the number of steps."""
    recommender = made(family)
    with torch.no_grad():
        recommender.model.get_input_embeddings().weight.add_(0.5)  # an average far from zero: few steps are enough
    (batch,) = recommender.labelled_batches(SEQUENCES)

    coarse, fine = (path_integrals(recommender.model, batch, steps) for steps in (16, 64))

    errors = [(found.outputs - found.change).abs().mean().item() for found in (coarse, fine)]
    assert fine.change.abs().mean() > 0.1
    assert errors[1] < 0.01 * fine.change.abs().mean()
    assert errors[1] < errors[0] / 8


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


@pytest.mark.parametrize("steps", [1, 8])
def test_branches_of_all_layers_equal_those_of_captum(recommender, steps):
    """Captum takes the gradient at the first end of a step; on the way back that is the other end."""
    captum = pytest.importorskip("captum.attr", reason="pip install captum, the outside reference for conductance")
    model = recommender.model
    (batch,) = recommender.labelled_batches(SEQUENCES[:1])
    inputs, label = forward_inputs(model, batch), batch["labels"][batch["labels"] != -100]
    place = int((batch["labels"][0] != -100).nonzero()) - shifts_labels(model)
    embedding = model.get_input_embeddings()
    vectors = embedding(inputs.pop("input_ids")).detach()
    average = embedding.weight.detach().mean(0).expand_as(vectors)

    def value(embedded):
        others = {name: tensor.expand(len(embedded), -1) for name, tensor in inputs.items()}
        return model(inputs_embeds=embedded, **others).logits[:, place].log_softmax(-1)[:, label[0]]

    expected = []
    for layer in layers_of(model):
        change = torch.nn.Identity()  # a module for what the layer adds, which captum can watch

        def through(_, entered, output, change=change):
            state = entered[0] + change(state_of(output) - entered[0])
            return (state, *output[1:]) if isinstance(output, tuple) else state

        hook = layer.register_forward_hook(through)
        conductance = captum.LayerConductance(value, change)
        there = conductance.attribute(vectors, baselines=average, n_steps=steps, method="riemann_trapezoid")
        back = conductance.attribute(average, baselines=vectors, n_steps=steps, method="riemann_trapezoid")
        hook.remove()
        expected.append((there - back).sum().item() / 2)

    found = path_integrals(model, batch, steps).branches[:, 0]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5 * np.abs(expected).max())


def test_everything_flows_through_the_encoder_and_around_the_decoder():
    """Each layer of the encoder passes the whole change on; a decoder's layers also read what was encoded."""
    recommender = made("t5", num_layers=4)
    with torch.no_grad():
        recommender.model.shared.weight.add_(0.5)  # an average far from zero, which few steps integrate well
    (batch,) = recommender.labelled_batches(SEQUENCES)
    found = path_integrals(recommender.model, batch, 64)
    missed = (found.outputs - found.change).abs().mean(1) / found.change.abs().mean()

    assert (missed[:2] < 0.02).all()
    assert missed[2] > 0.05


def test_the_decoders_tokens_stay_what_they_are():
    """The change is that of other encoded vectors under the same decoder tokens."""
    recommender = made("t5")
    model = recommender.model
    (batch,) = recommender.labelled_batches(SEQUENCES[:1])
    average = model.encoder.embed_tokens.weight.mean(0).expand(1, batch["input_ids"].shape[1], -1)
    inputs = {name: value for name, value in batch.items() if name not in ("input_ids", "labels")}
    with torch.no_grad():
        before = model(inputs_embeds=average, **inputs).logits[0, 0].log_softmax(-1)
        after = model(**batch).logits[0, 0].log_softmax(-1)

    expected = float((after - before)[batch["labels"][0, 0]])
    assert path_integrals(model, batch, 1).change.item() == pytest.approx(expected, rel=1e-4)


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
