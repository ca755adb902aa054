"""Layer Fisher information: exact per-example gradients, without a loop over examples and without side effects."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from layerwise.importance.fisher import _squared_norm, fisher_information
from layerwise.importance.scores import layer_scores
from layerwise.models.families import Shape, UnsupportedArchitectureError, layers_of
from layerwise.models.recommender import build_recommender

NUM_LAYERS, HIDDEN, INTERMEDIATE = 3, 16, 24
IGNORED = -100


def made(vocabulary=20, num_layers=NUM_LAYERS, seed=0, **fields):
    """Random Llama with grouped-query attention, far from uniform predictions."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        **fields,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.uniform_(-0.5, 0.5).add_(0.0 if name.endswith("bias") else 1.0)
        return model.eval()


def batch_of(lengths, vocabulary=20, padded=0, seed=0, last_only=False):
    """Random sequences, padded on the right, with a label at every event (or at the last one)."""
    random = torch.Generator().manual_seed(seed)
    size = max(lengths) + padded
    tokens = torch.randint(vocabulary, (len(lengths), size), generator=random)
    mask = torch.tensor([[int(place < length) for place in range(size)] for length in lengths])
    labels = torch.where(mask.bool(), tokens, IGNORED)
    if last_only:
        labels[:, :-1] = torch.where(mask[:, 1:].bool(), IGNORED, labels[:, :-1])
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def rows(batch, *indices):
    return {name: tensor[list(indices)] for name, tensor in batch.items()}


def gradients(model, batch):
    """Autograd's gradients of the summed negative log-likelihood of the labels, by name of the parameter."""
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    ).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def of_layer(named, index):
    return [tensor for name, tensor in named.items() if name.startswith(f"model.layers.{index}.")]


def squared_norms(named, num_layers=NUM_LAYERS):
    return np.array([sum(g.double().square().sum().item() for g in of_layer(named, i)) for i in range(num_layers)])


def by_loop(model, batch):
    """Mean over examples of the squared gradient norm, one backward pass per example."""
    num_examples = len(batch["labels"])
    return np.mean([squared_norms(gradients(model, rows(batch, row))) for row in range(num_examples)], axis=0)


# Exact


@pytest.mark.parametrize("length", [3, 7, 12], ids=["gram", "both", "direct"])
@pytest.mark.parametrize("last_only", [True, False], ids=["last", "all"])
def test_equals_a_loop_over_single_examples(length, last_only):
    shapes = [(HIDDEN, HIDDEN), (HIDDEN, HIDDEN // 2), (HIDDEN, INTERMEDIATE)]
    is_gram = {length < i * o / (i + o) for i, o in shapes}  # the cheaper of the two forms
    assert is_gram == {3: {True}, 7: {True, False}, 12: {False}}[length]

    model, batch = made(), batch_of([length, length - 1, 2, length], last_only=last_only)
    found = fisher_information(model, [batch], labels="data")

    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_loop(model, batch), rtol=1e-5)


@pytest.mark.parametrize("length", [3, 12])
def test_equals_the_per_example_gradients_of_torch_func(length):
    model, batch = made(attn_implementation="eager"), batch_of([length] * 5)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values, tokens):
        logits = torch.func.functional_call(model, values, (tokens[None],), {"use_cache": False}).logits[0]
        return nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="sum")

    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch["input_ids"])
    expected = squared_norms(per_example) / 5

    np.testing.assert_allclose(fisher_information(model, [batch], labels="data"), expected, rtol=1e-5)


@pytest.mark.parametrize("length", [3, 12])
def test_biases_are_counted(length):
    model, batch = made(attention_bias=True, mlp_bias=True), batch_of([length, 2, length])
    expected = by_loop(model, batch)
    of_biases = {name: g for name, g in gradients(model, rows(batch, 0)).items() if name.endswith("bias")}

    assert (squared_norms(of_biases) > 0.01 * expected).all()
    np.testing.assert_allclose(fisher_information(model, [batch], labels="data"), expected, rtol=1e-5)


@pytest.mark.parametrize("length", [2, 5, 6, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_norm_of_a_linear_map_by_either_form(length, bias):
    """Gram form below 12 * 10 / (12 + 10) = 5.5 positions, direct form above; both against einsum in float64."""
    random = torch.Generator().manual_seed(length)
    states = torch.randn(4, length, 12, generator=random)
    gradient = torch.randn(4, length, 10, generator=random)
    per_example = torch.einsum("bto,bti->boi", gradient.double(), states.double())
    expected = per_example.square().sum() + bias * gradient.double().sum(1).square().sum()

    found = _squared_norm(nn.Linear(12, 10, bias=bias), states, gradient)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("norm", [nn.LayerNorm(12), nn.LayerNorm(12, bias=False), nn.RMSNorm(12, eps=1e-6)], ids=str)
def test_norm_of_a_normalisation(norm):
    """Gain and bias, one example at a time, by autograd."""
    random = torch.Generator().manual_seed(0)
    states, gradient = torch.randn(2, 4, 5, 12, generator=random)
    expected = 0.0
    for state, arriving in zip(states, gradient, strict=True):
        for of_parameter in torch.autograd.grad(norm(state), list(norm.parameters()), arriving):
            expected += of_parameter.square().sum().item()
    if isinstance(norm, nn.RMSNorm):
        norm = LlamaRMSNorm(12, eps=1e-6)  # the same function, in the form that models use

    assert _squared_norm(norm, states, gradient).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_agree_within_their_rounding(dtype):
    batch = batch_of([5, 12, 9, 12])
    expected = fisher_information(made(), [batch], labels="data")
    found = fisher_information(made().to(dtype), [batch], labels="data")

    np.testing.assert_allclose(found, expected, rtol=0.1 if dtype == torch.bfloat16 else 1e-5)


# What must not matter


def test_batch_size_order_and_padding_do_not_matter():
    model, batch = made(), batch_of([3, 12, 7, 5, 9, 2])
    expected = fisher_information(model, [batch], labels="data")
    halves = [rows(batch, 4, 0), rows(batch, 5, 2, 3, 1)]
    padded = {
        "input_ids": nn.functional.pad(batch["input_ids"], (0, 5), value=1),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 5)),
        "labels": nn.functional.pad(batch["labels"], (0, 5), value=IGNORED),
    }
    other_pads = batch | {"input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)}
    unmasked = {name: tensor for name, tensor in padded.items() if name != "attention_mask"}  # causal: as good

    for batches in (halves, [padded], [other_pads], [unmasked], [batch, batch]):
        np.testing.assert_allclose(fisher_information(model, batches, labels="data"), expected, rtol=1e-5)


def test_padding_on_the_left_does_not_matter():
    model, tokens = made(), batch_of([6, 6, 6])["input_ids"]
    plain = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    left = {
        "input_ids": nn.functional.pad(tokens, (4, 0), value=1),
        "attention_mask": nn.functional.pad(plain["attention_mask"], (4, 0)),
        "labels": nn.functional.pad(tokens, (4, 0), value=IGNORED),
    }
    left["labels"][:, 4] = IGNORED  # the first event has nothing before it
    found = fisher_information(model, [left], labels="data")

    np.testing.assert_allclose(found, fisher_information(model, [plain], labels="data"), rtol=1e-4)


def test_model_is_left_as_it_was():
    model = made(attention_dropout=0.5).train()
    layers_of(model)[1].eval()
    layers_of(model)[0].mlp.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch, state = batch_of([5, 9]), torch.get_rng_state()
    given = {name: tensor.clone() for name, tensor in batch.items()}
    first, again = (fisher_information(model, [batch], labels) for labels in ("model", "model"))

    np.testing.assert_array_equal(first, again)  # no dropout, and the same draws
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, given[name]) for name, tensor in batch.items())
    head = model.lm_head.weight
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not head)
    assert torch.equal(head.grad, torch.ones_like(head))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_model_is_left_as_it_was_after_an_error():
    model = made().train()
    with pytest.raises(ValueError, match="needs labels in every batch, got only"):
        fisher_information(model, [batch_of([5]), {"input_ids": torch.zeros(1, 3, dtype=torch.long)}], "data")

    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_are_found_also_where_the_caller_switched_them_off():
    model, batch = made().requires_grad_(False), batch_of([4, 6])
    expected = fisher_information(made(), [batch], "data")
    with torch.no_grad():
        np.testing.assert_allclose(fisher_information(model, [batch], "data"), expected, rtol=1e-6)


# True, empirical, and neither


def tiny():
    """Four items, a confident model and one sequence, so that all draws can be listed."""
    model = made(vocabulary=4)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    return model


def exact_fisher(model, batch, vocabulary):
    """Sum over positions and classes of probability times squared gradient norm; its spread over draws of one label.

    Gradients of log-likelihoods have mean zero under the model, so that positions with own draws do not mix.
    """
    with torch.no_grad():
        chances = model(input_ids=batch["input_ids"]).logits[0].softmax(-1).double().numpy()
    mean = second = 0.0
    for place in torch.nonzero(batch["labels"][0] != IGNORED)[:, 0].tolist():
        for item in range(vocabulary):
            labels = torch.full_like(batch["labels"], IGNORED)
            labels[0, place] = item
            norms = squared_norms(gradients(model, batch | {"labels": labels}))
            mean = mean + chances[place - 1, item] * norms
            second = second + chances[place - 1, item] * norms**2
    return mean, np.sqrt(np.maximum(second - mean**2, 0))


def drawn_fisher(model, batch, draws, seed):
    copies = {name: tensor.expand(draws, -1) for name, tensor in batch.items()}
    return fisher_information(model, [copies], "model", torch.Generator().manual_seed(seed))


def test_true_fisher_converges_to_the_sum_over_all_classes():
    """One label: every estimate lies within four standard errors, which shrink with the root of the draws."""
    model, batch = tiny(), batch_of([5], vocabulary=4, last_only=True)
    expected, spread = exact_fisher(model, batch, 4)
    assert (spread > 0.1 * expected).all()

    for draws in (100, 1600):
        found = drawn_fisher(model, batch, draws, seed=0)
        assert (np.abs(found - expected) < 4 * spread / draws**0.5).all()


def test_true_fisher_of_several_labels_is_the_sum_of_their_own():
    model, batch = tiny(), batch_of([4], vocabulary=4)
    expected, _ = exact_fisher(model, batch, 4)

    np.testing.assert_allclose(drawn_fisher(model, batch, 6000, seed=1), expected, rtol=0.1)


def test_empirical_fisher_is_another_number():
    model, batch = tiny(), batch_of([5], vocabulary=4, last_only=True)
    exact, _ = exact_fisher(model, batch, 4)
    empirical = fisher_information(model, [batch], "data")

    assert (np.abs(empirical / exact - 1) > 0.2).all()


def test_square_of_the_mean_gradient_is_another_number():
    """The classic mistake: gradients of different examples cancel before they are squared."""
    model, batch = made(), batch_of([6] * 8)
    of_sum = squared_norms(gradients(model, batch))
    mistake = of_sum / 8**2
    found = fisher_information(model, [batch], "data")

    assert (mistake < found / 2).all()
    np.testing.assert_allclose(found, by_loop(model, batch), rtol=1e-5)


def test_data_labels_do_not_enter_the_true_fisher():
    model, batch = made(), batch_of([6, 6])
    other = batch | {"labels": torch.where(batch["labels"] == IGNORED, IGNORED, (batch["labels"] + 1) % 20)}

    np.testing.assert_array_equal(
        fisher_information(model, [batch], "model"), fisher_information(model, [other], "model")
    )
    assert (fisher_information(model, [batch], "data") != fisher_information(model, [other], "data")).all()


def test_generator_decides_the_drawn_labels_and_is_seeded_unless_given():
    model, batch = made(), batch_of([6, 6])
    first, again, other = (
        fisher_information(model, [batch], "model", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    np.testing.assert_array_equal(*(fisher_information(model, [batch], "model") for _ in range(2)))


# What is provable


def test_example_without_a_label_counts_as_an_example_with_zero_gradient():
    model, batch = made(), batch_of([6, 6])
    half = batch | {"labels": batch["labels"].clone()}
    half["labels"][1] = IGNORED
    expected = fisher_information(model, [rows(batch, 0)], "data") / 2

    np.testing.assert_allclose(fisher_information(model, [half], "data"), expected, rtol=1e-5)
    none = half | {"labels": torch.full_like(half["labels"], IGNORED)}
    assert fisher_information(model, [none], "data").tolist() == [0.0] * NUM_LAYERS
    assert fisher_information(model, [none], "model").tolist() == [0.0] * NUM_LAYERS


def test_trace_depends_on_the_parametrisation_as_calculus_says():
    """A factor moved from the weights behind a norm into its gain leaves the function, but not the trace.

    Gradients of those weights grow by the factor, those of the gain shrink by it.
    """
    factor, model, batch = 3.0, made(), batch_of([4, 9, 7])
    behind = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    before = [
        {name: g.double().square().sum().item() for name, g in gradients(model, rows(batch, row)).items()}
        for row in range(3)
    ]
    with torch.no_grad():
        for layer in layers_of(model):
            for name, parameter in layer.named_parameters():
                if any(part in name for part in behind):
                    parameter.div_(factor)
                elif "layernorm" in name:
                    parameter.mul_(factor)

    def grown(name):
        return factor**2 if any(part in name for part in behind) else factor**-2 if "layernorm" in name else 1.0

    expected = [
        np.mean([sum(of_layer({n: grown(n) * v for n, v in norms.items()}, index)) for norms in before])
        for index in range(NUM_LAYERS)
    ]
    np.testing.assert_allclose(fisher_information(model, [batch], "data"), expected, rtol=1e-4)


# Edges


def test_no_batch_gives_nan():
    assert np.isnan(fisher_information(made(), [], labels="model")).tolist() == [True] * NUM_LAYERS


def test_batches_may_come_from_a_generator():
    model, batch = made(), batch_of([6, 3])
    lazily = fisher_information(model, (rows(batch, row) for row in range(2)), "data")

    np.testing.assert_allclose(lazily, fisher_information(model, [batch], "data"), rtol=1e-5)


def test_other_words_for_labels_are_refused():
    with pytest.raises(ValueError, match='labels must be "model" or "data", got \'true\''):
        fisher_information(made(), [], labels="true")


def test_layer_with_parameters_of_an_unknown_kind_is_refused():
    model = made()
    layers_of(model)[0].mlp.act_fn = nn.PReLU()
    with pytest.raises(UnsupportedArchitectureError, match="not PReLU"):
        fisher_information(model, [batch_of([4])], "data")


def test_recommender_is_scored_through_its_model_on_the_labels_it_makes():
    recommender = build_recommender("llama", 20, 6, Shape(NUM_LAYERS, HIDDEN, INTERMEDIATE, 2), seed=0)
    sequences = [np.arange(length) for length in (3, 9, 5)]
    (batch,) = recommender.labelled_batches(sequences)
    expected = by_loop(recommender.model.eval(), batch)

    np.testing.assert_allclose(layer_scores(recommender, [batch], "empirical-fisher"), expected, rtol=1e-5)


def test_methods_by_name():
    model, batch = made(), batch_of([6, 6])
    np.testing.assert_array_equal(layer_scores(model, [batch]), fisher_information(model, [batch], "model"))
    np.testing.assert_array_equal(
        layer_scores(model, [batch], "empirical-fisher"), fisher_information(model, [batch], "data")
    )
    with pytest.raises(ValueError, match=r"unknown method 'magnitude'; known are \['block-influence', .*'fisher'\]"):
        layer_scores(model, [batch], "magnitude")
