"""Layer Fisher information: exact per-example gradients, without a loop over examples and without side effects."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from layerwise.importance.fisher import diagonal_fisher, fisher_information, mean_fisher
from layerwise.importance.gate import gate_fisher
from layerwise.importance.per_example import LatestGram, gram, squared_norm
from layerwise.importance.scores import layer_scores
from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.layers import layers_of, state_of
from layerwise.models.recommender import build_recommender

HIDDEN, INTERMEDIATE = 16, 24
IGNORED, PAD, END = -100, 0, 1

SIZES = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 3, "num_attention_heads": 4}
T5_SIZES = {"d_model": HIDDEN, "d_kv": 4, "d_ff": INTERMEDIATE, "num_layers": 2, "num_heads": 4}
FIELDS = {
    "llama": SIZES | {"num_key_value_heads": 2},
    "qwen3": SIZES | {"num_key_value_heads": 2, "head_dim": 4},
    "gpt2": {"n_embd": HIDDEN, "n_inner": INTERMEDIATE, "n_layer": 3, "n_head": 4},
    "bert": SIZES,
    "t5": T5_SIZES | {"eos_token_id": END, "decoder_start_token_id": PAD},
}
CLASSIFIERS = [f"{family} classifier" for family in FIELDS]

each_kind = pytest.mark.parametrize("kind", [*FIELDS, *CLASSIFIERS])
each_measure = pytest.mark.parametrize("measure", [fisher_information, diagonal_fisher, gate_fisher])


def made(kind="llama", vocabulary=20, seed=0, **fields):
    """Random model, far from uniform predictions, whose norms and biases are not 1 and 0; T5 has 2 + 2 layers."""
    family = kind.split()[0]
    plain = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}.get(family, AutoModelForCausalLM)
    auto = AutoModelForSequenceClassification if kind in CLASSIFIERS else plain
    special = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None, "num_labels": 3}
    config = AutoConfig.for_model(family, vocab_size=vocabulary, **special | FIELDS[family] | fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
                else:
                    parameter.uniform_(-0.5, 0.5).add_(0.0 if name.endswith("bias") else 1.0)
        return model.eval()


def batch_of(lengths, kind="llama", vocabulary=20, seed=0, last_only=False):
    """Random sequences, padded on the right, with a label at every event (or at the last one), or a class each."""
    random = torch.Generator().manual_seed(seed)
    size, count = max(lengths), len(lengths)
    mask = (torch.arange(size) < torch.tensor(lengths)[:, None]).long()
    last = mask.bool() & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    tokens, targets = (torch.randint(2, vocabulary, (count, size), generator=random) for _ in range(2))
    tokens = torch.where(mask.bool(), tokens, PAD)
    if kind == "t5 classifier":
        tokens[last] = END
    batch = {"input_ids": tokens, "attention_mask": mask}
    if kind in CLASSIFIERS:
        return batch | {"labels": torch.randint(3, (count,), generator=random)}
    labels = targets if kind in ("bert", "t5") else tokens
    return batch | {"labels": torch.where(last if last_only else mask.bool(), labels, IGNORED)}


def rows(batch, *indices):
    return {name: tensor[list(indices)] for name, tensor in batch.items()}


def padded(batch, extra):
    fill = {"input_ids": PAD, "attention_mask": 0, "labels": IGNORED, "decoder_input_ids": PAD}
    return {
        name: nn.functional.pad(tensor, (0, extra), value=fill[name]) if tensor.ndim == 2 else tensor
        for name, tensor in batch.items()
    }


def gradients(model, batch):
    """Autograd's gradients of the summed negative log-likelihood, which is `transformers`' loss times their number."""
    model.zero_grad()
    labels = batch["labels"]
    shifted = labels[:, 1:] if type(model).__name__.endswith(("CausalLM", "LMHeadModel")) else labels
    (model(**batch).loss * (shifted != IGNORED).sum()).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


LAYER = re.compile(r"(encoder\.block|decoder\.block|encoder\.layer|layers|\bh)\.\d+\.")


def by_layer(named):
    """Values of each layer's own parameters; the position tables that all layers of T5 share are left out."""
    found = {}
    for name, value in named.items():
        if (layer := LAYER.search(name)) and "relative_attention_bias" not in name:
            found.setdefault(layer[0], {})[name] = value
    return list(found.values())


def squared_norms(named):
    return np.array([sum(g.double().square().sum().item() for g in of.values()) for of in by_layer(named)])


def by_loop(model, batch):
    """Mean over examples of the squared gradient norm, one backward pass per example."""
    num_examples = len(batch["labels"])
    return np.mean([squared_norms(gradients(model, rows(batch, row))) for row in range(num_examples)], axis=0)


def diagonal_by_loop(model, batch):
    """Mean over examples of the squared gradient of every parameter of the layers, one backward pass per example."""
    count, sums = len(batch["labels"]), {}
    for row in range(count):
        for of in by_layer(gradients(model, rows(batch, row))):
            for name, gradient in of.items():
                sums[name] = sums.get(name, 0) + gradient.double().square() / count
    return sums


def assert_same_diagonal(found, expected):
    """To 1e-5 of a parameter's largest entry; a key's bias moves no attention: its gradient is rounding alone."""
    largest = max(of.max().item() for of in expected.values())
    assert found.keys() == expected.keys()
    for name, of in expected.items():
        atol = 1e-5 * of.max().item() + 1e-11 * largest
        np.testing.assert_allclose(found[name], of, rtol=1e-5, atol=atol, err_msg=name)


def gate_derivatives(model, batch):
    """Derivatives of the summed negative log-likelihood by real gates: parameters that weigh what the layers change."""
    layers = layers_of(model)
    gates = [nn.Parameter(next(model.parameters()).new_ones(())) for _ in layers]

    def gated(gate):
        def hook(_, inputs, output):
            state = inputs[0] + gate * (state_of(output) - inputs[0])
            return (state, *output[1:]) if isinstance(output, tuple) else state

        return hook

    handles = [layer.register_forward_hook(gated(gate)) for layer, gate in zip(layers, gates, strict=True)]
    gradients(model, batch)
    for handle in handles:
        handle.remove()
    return np.array([gate.grad.item() for gate in gates])


def gate_by_loop(model, batch):
    return np.mean([gate_derivatives(model, rows(batch, row)) ** 2 for row in range(len(batch["labels"]))], axis=0)


def one_label_each(model, batch):
    """Every labelled place of a batch as a row of its own that has no other label."""
    shifted = type(model).__name__.endswith(("CausalLM", "LMHeadModel"))
    places = [(row, place) for row, place in torch.nonzero(batch["labels"] != IGNORED).tolist() if place or not shifted]
    expanded = rows(batch, *[row for row, _ in places])
    labels = torch.full_like(expanded["labels"], IGNORED)
    for index, (row, place) in enumerate(places):
        labels[index, place] = batch["labels"][row, place]
    return expanded | {"labels": labels}


def flat(found):
    """Numbers of any kind of Fisher information in one array."""
    if isinstance(found, dict):
        return torch.cat([tensor.flatten() for tensor in found.values()]).numpy()
    return found


# Exact


def forms(model, length):
    """Whether the Gram form is the cheaper one, for each weight matrix of the layers."""
    weights = [p for of in by_layer(dict(model.named_parameters())) for p in of.values() if p.ndim == 2]
    return {length * sum(weight.shape) < weight.numel() for weight in weights}


@each_kind
@pytest.mark.parametrize(("length", "is_gram"), [(3, {True}), (13, {False})], ids=["gram", "direct"])
def test_equals_a_loop_over_single_examples(kind, length, is_gram):
    model, batch = made(kind).double(), batch_of([length, length - 1, 2, length], kind)
    found = fisher_information(model, [batch], labels="data")

    assert forms(model, length) == is_gram
    assert found.dtype == np.float64
    assert found.shape == (4 if "t5" in kind else 3,)
    np.testing.assert_allclose(found, by_loop(model, batch), rtol=2e-6)  # the loss itself is in fp32


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("last_only", [True, False], ids=["last", "all"])
def test_equals_a_loop_in_single_precision_and_with_both_forms(kind, last_only):
    model, batch = made(kind), batch_of([9, 8, 2, 9], kind, last_only=last_only)

    assert forms(model, 9) == {True, False}
    np.testing.assert_allclose(fisher_information(model, [batch], "data"), by_loop(model, batch), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("qwen3", "q_norm"),
        ("qwen3", "k_norm"),
        ("gpt2", "c_attn.weight"),
        ("gpt2", "mlp.c_proj.bias"),
        ("gpt2", "ln_1"),
        ("bert", "attention.output.LayerNorm.weight"),
        ("bert", "value.bias"),
        ("t5", "layer_norm"),
    ],
)
def test_every_kind_of_parameter_counts(kind, part):
    """A part that was left out would be missed by far more than the tolerance of the comparisons above."""
    model, batch = made(kind), batch_of([7], kind)
    found = gradients(model, batch)

    assert (squared_norms({n: g for n, g in found.items() if part in n}) > 2e-5 * squared_norms(found)).all()


def test_attention_over_the_encoder_counts_and_the_shared_position_table_does_not():
    model, batch = made("t5"), batch_of([7], "t5")
    found = gradients(model, batch)
    cross = squared_norms({n: g for n, g in found.items() if "EncDecAttention" in n})
    tables = [n for n in found if "relative_attention_bias" in n]

    assert len(cross) == 2
    assert (cross > 1e-2 * squared_norms(found)[2:]).all()
    assert tables == [
        f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for side in ("encoder", "decoder")
    ]
    with_tables = squared_norms(found)[[0, 2]] + [found[name].double().square().sum().item() for name in tables]
    assert (with_tables > 1.0001 * squared_norms(found)[[0, 2]]).all()


def test_decoder_tokens_are_made_from_the_labels_where_the_batch_has_none():
    """As `transformers` does it: shifted by one, the start in front, padding for what has no label."""
    model, batch = made("t5"), batch_of([4, 2], "t5")
    given = batch["labels"][:, :-1].masked_fill(batch["labels"][:, :-1] == IGNORED, PAD)
    explicit = batch | {"decoder_input_ids": nn.functional.pad(given, (1, 0), value=PAD)}
    other = batch | {"decoder_input_ids": torch.full_like(batch["labels"], 5)}
    expected = fisher_information(model, [batch], "data")

    np.testing.assert_allclose(fisher_information(model, [explicit], "data"), expected, rtol=1e-6)
    assert (np.abs(fisher_information(model, [other], "data") / expected - 1) > 1e-3).all()


@each_kind
def test_diagonal_equals_a_loop_over_single_examples(kind):
    model, batch = made(kind), batch_of([7, 6, 2, 7], kind)
    found = diagonal_fisher(model, [batch], "data")

    assert all(tensor.shape == model.get_parameter(name).shape for name, tensor in found.items())
    assert_same_diagonal(found, diagonal_by_loop(model, batch))


@each_kind
def test_gate_equals_a_loop_over_single_examples_with_real_gates(kind):
    model, batch = made(kind), batch_of([7, 6, 2, 7], kind)
    found = gate_fisher(model, [batch], "data")

    assert (found > 1e-6).all()
    np.testing.assert_allclose(found, gate_by_loop(model, batch), rtol=1e-5, atol=1e-6 * found.max())


@pytest.mark.parametrize("kind", FIELDS)
def test_with_tokens_as_examples_equals_a_loop_over_single_labels(kind):
    """Uneven rows: the shorter ones have run out of labels before the longer ones."""
    model, batch = made(kind), batch_of([5, 2, 4], kind)
    if kind == "t5":  # made from all labels: rows with one label only must be given the same
        batch["decoder_input_ids"] = batch["input_ids"]
    expanded = one_label_each(model, batch)

    found = fisher_information(model, [batch], "data", example="token")
    np.testing.assert_allclose(found, by_loop(model, expanded), rtol=1e-5)
    found = gate_fisher(model, [batch], "data", example="token")
    np.testing.assert_allclose(found, gate_by_loop(model, expanded), rtol=1e-5, atol=1e-6 * found.max())
    assert_same_diagonal(diagonal_fisher(model, [batch], "data", example="token"), diagonal_by_loop(model, expanded))


def test_sequence_and_token_are_the_same_where_a_row_has_one_label():
    model, batch = made(), batch_of([6, 3], last_only=True)

    np.testing.assert_array_equal(
        fisher_information(model, [batch], "data", example="token"), fisher_information(model, [batch], "data")
    )


@each_kind
def test_diagonal_of_a_layer_sums_to_its_trace_and_averages_to_its_mean(kind):
    model, batch = made(kind), batch_of([6, 3], kind)
    of_layers = by_layer(diagonal_fisher(model, [batch], "model"))

    sums = [sum(tensor.double().sum().item() for tensor in of.values()) for of in of_layers]
    np.testing.assert_allclose(fisher_information(model, [batch], "model"), sums, rtol=1e-5)
    means = [torch.cat([tensor.double().flatten() for tensor in of.values()]).mean().item() for of in of_layers]
    np.testing.assert_allclose(mean_fisher(model, [batch], "model"), means, rtol=1e-5)


def test_diagonal_is_squared_for_a_few_examples_at_a_time(monkeypatch):
    model, batch = made(), batch_of([6, 3, 5, 4, 6])
    expected = flat(diagonal_fisher(model, [batch], "data"))
    monkeypatch.setattr("layerwise.importance.per_example._ENTRIES_AT_ONCE", 2 * HIDDEN * HIDDEN)  # 1 or 2 of the 5

    np.testing.assert_allclose(flat(diagonal_fisher(model, [batch], "data")), expected, rtol=1e-5, atol=1e-9)


def test_gram_matrix_is_remembered_for_the_same_states_only():
    first, second = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    latest = LatestGram()

    assert latest(first) is latest(first.detach())
    for states in (second, first, first[:2]):
        assert torch.equal(latest(states), gram(states))


def test_head_is_run_at_labelled_positions_only():
    model, batch, seen = made(), batch_of([5, 9, 7], last_only=True), []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    fisher_information(model, [batch], "data")

    assert seen == [(3, 20)]


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
    found = diagonal_fisher(model, [batch], labels="data")
    assert_same_diagonal(found, {name: per_example[name].square().mean(0) for name in found})


@pytest.mark.parametrize("length", [2, 5, 6, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_norm_of_a_linear_map_by_either_form(length, bias):
    """Gram form below 12 * 10 / (12 + 10) = 5.5 positions, direct form above; both against einsum in float64."""
    random = torch.Generator().manual_seed(length)
    states = torch.randn(4, length, 12, generator=random)
    gradient = torch.randn(4, length, 10, generator=random)
    per_example = torch.einsum("bto,bti->boi", gradient.double(), states.double())
    expected = per_example.square().sum() + bias * gradient.double().sum(1).square().sum()

    found = squared_norm(nn.Linear(12, 10, bias=bias), states, gradient)
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

    assert squared_norm(norm, states, gradient).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_agree_within_their_rounding(dtype):
    batch = batch_of([5, 12, 9, 12])
    expected = fisher_information(made(), [batch], labels="data")
    found = fisher_information(made().to(dtype), [batch], labels="data")

    np.testing.assert_allclose(found, expected, rtol=0.1 if dtype == torch.bfloat16 else 1e-5)


# What must not matter


@each_kind
def test_batch_size_order_and_padding_do_not_matter(kind):
    model, batch = made(kind), batch_of([3, 12, 7, 5, 9, 2], kind)
    expected = fisher_information(model, [batch], labels="data")
    halves = [rows(batch, 4, 0), rows(batch, 5, 2, 3, 1)]
    alone = [padded(rows(batch, row), row) for row in range(6)]

    for batches in (halves, alone, [padded(batch, 5)], [batch, batch]):
        np.testing.assert_allclose(fisher_information(model, batches, labels="data"), expected, rtol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "bert", "t5", "bert classifier"])
def test_what_stands_in_the_padding_does_not_matter(kind):
    """Classifiers of the other families look for padding among the tokens, to find the last event."""
    model, batch = made(kind), batch_of([3, 12, 7, 5, 9, 2], kind)
    expected = fisher_information(model, [batch], labels="data")
    other = batch | {"input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)}
    unmasked = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}

    np.testing.assert_allclose(fisher_information(model, [other], labels="data"), expected, rtol=2e-5)
    found = fisher_information(model, [unmasked], labels="data")
    if kind in ("llama", "qwen3", "gpt2"):  # causal: as good
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    else:
        assert (np.abs(found / expected - 1) > 1e-3).all()


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


@each_measure
def test_model_is_left_as_it_was(measure):
    model = made(attention_dropout=0.5).train()
    layers_of(model)[1].eval()
    layers_of(model)[0].mlp.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch, state = batch_of([5, 9]), torch.get_rng_state()
    given = {name: tensor.clone() for name, tensor in batch.items()}
    first, again = (measure(model, [batch], labels) for labels in ("model", "model"))

    np.testing.assert_array_equal(flat(first), flat(again))  # no dropout, and the same draws
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


def tiny(kind="llama"):
    """Four items, a confident model and one sequence, so that all draws can be listed."""
    model = made(kind, vocabulary=4)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    return model


def exact_fisher(model, batch):
    """Sum over positions and classes of probability times squared gradient norm; its spread over draws of one label.

    Gradients of log-likelihoods have mean zero under the model, so that positions with own draws do not mix.
    """
    labels = batch["labels"]
    behind = 1 if type(model).__name__.endswith(("CausalLM", "LMHeadModel")) else 0
    with torch.no_grad():
        chances = (
            model(**batch)
            .logits[0]
            .softmax(-1)
            .double()
            .numpy()
            .reshape(-1, model.config.vocab_size if labels.ndim == 2 else 3)
        )
    mean = second = 0.0
    for place in torch.nonzero(labels.flatten() != IGNORED)[:, 0].tolist():
        if place < behind:
            continue  # the first event has nothing before it
        for item, chance in enumerate(chances[place - behind]):
            one = torch.full_like(labels, IGNORED)
            one.view(-1)[place] = item
            norms = squared_norms(gradients(model, batch | {"labels": one}))
            mean = mean + chance * norms
            second = second + chance * norms**2
    return mean, np.sqrt(np.maximum(second - mean**2, 0))


def drawn_fisher(model, batch, draws, seed):
    copies = {name: tensor.expand(draws, *tensor.shape[1:]) for name, tensor in batch.items()}
    return fisher_information(model, [copies], "model", torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5", *CLASSIFIERS])
def test_true_fisher_converges_to_the_sum_over_all_classes(kind):
    """One label: every estimate lies within four standard errors, which shrink with the root of the draws."""
    if kind in CLASSIFIERS:
        model, batch = made(kind), batch_of([5], kind)
    else:
        model, batch = tiny(kind), batch_of([5], kind, vocabulary=4, last_only=True)
    if kind == "t5":
        batch["decoder_input_ids"] = batch["input_ids"]  # the same for every label
    expected, spread = exact_fisher(model, batch)
    assert (spread > 0.05 * expected).all()

    for draws in (100, 1600):
        found = drawn_fisher(model, batch, draws, seed=0)
        assert (np.abs(found - expected) < 4 * spread / draws**0.5).all()


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_true_fisher_of_several_labels_is_the_sum_of_their_own(kind):
    model, batch = tiny(kind), batch_of([4], kind, vocabulary=4)
    if kind == "t5":
        batch["decoder_input_ids"] = batch["input_ids"]
    expected, _ = exact_fisher(model, batch)

    np.testing.assert_allclose(drawn_fisher(model, batch, 6000, seed=1), expected, rtol=0.1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5", *CLASSIFIERS])
def test_exact_fisher_is_the_sum_over_all_classes(kind):
    """Rows of different length, two labels or one: one gradient for every label and class, weighed by its chance."""
    model = made(kind) if kind in CLASSIFIERS else tiny(kind)
    batch = batch_of([3, 2], kind, vocabulary=4) if kind not in CLASSIFIERS else batch_of([5, 3], kind)
    if kind == "t5":
        batch["decoder_input_ids"] = batch["input_ids"]
    expected = sum(exact_fisher(model, rows(batch, row))[0] for row in range(2)) / 2

    np.testing.assert_allclose(fisher_information(model, [batch], "exact"), expected, rtol=1e-5)


def expected_over_joint_draws(model, batch, squares):
    """Mean of `squares` of the summed loss over all ways to draw the two labels of a row, by their chances."""
    chances = model(**batch).logits[0, :2].softmax(-1).double().tolist()
    total = 0.0
    for first, chance in enumerate(chances[0]):
        for second, other in enumerate(chances[1]):
            labels = torch.tensor([[IGNORED, first, second]])
            total = total + chance * other * squares(model, batch | {"labels": labels})
    return total


def test_exact_fisher_of_a_sequence_is_the_mean_over_all_joint_draws_of_its_labels():
    """Positions do not mix in the mean: scores of independent draws have mean zero."""
    model, batch = tiny(), batch_of([3], vocabulary=4)
    trace = expected_over_joint_draws(model, batch, lambda *given: squared_norms(gradients(*given)))
    gate = expected_over_joint_draws(model, batch, lambda *given: gate_derivatives(*given) ** 2)
    diagonal = expected_over_joint_draws(
        model, batch, lambda *given: torch.cat([g.double().flatten() ** 2 for g in gradients(*given).values()])
    )
    inside = {name for of in by_layer(dict(model.named_parameters())) for name in of}
    sizes = [(name, p.numel()) for name, p in model.named_parameters()]
    of_layers = torch.cat(
        [d for (n, _), d in zip(sizes, diagonal.split([k for _, k in sizes]), strict=True) if n in inside]
    )

    np.testing.assert_allclose(fisher_information(model, [batch], "exact"), trace, rtol=1e-5)
    np.testing.assert_allclose(gate_fisher(model, [batch], "exact"), gate, rtol=1e-5)
    found = flat(diagonal_fisher(model, [batch], "exact"))
    np.testing.assert_allclose(np.sort(found), np.sort(of_layers), rtol=1e-4, atol=1e-6 * of_layers.max().item())


def test_exact_fisher_of_tokens_is_that_of_sequences_shared_among_their_labels():
    model, batch = tiny(), batch_of([4, 3], vocabulary=4)  # 3 + 2 labels
    of_sequences = fisher_information(model, [batch], "exact")

    np.testing.assert_allclose(fisher_information(model, [batch], "exact", example="token"), of_sequences * 2 / 5)


@each_measure
def test_more_draws_converge_to_the_exact_sum_as_fast_as_they_should(measure):
    """One label: the mean of its four possible outcomes, to five standard errors."""
    model, batch = tiny(), batch_of([2], vocabulary=4)
    chances = model(**batch).logits[0, 0].softmax(-1).detach().double().numpy()
    labels = [torch.tensor([[IGNORED, item]]) for item in range(4)]
    outcomes = np.stack([flat(measure(model, [batch | {"labels": one}], "data")) for one in labels])
    mean = chances @ outcomes
    spread = np.sqrt(np.maximum(chances @ outcomes**2 - mean**2, 0))
    exact = flat(measure(model, [batch], "exact"))

    np.testing.assert_allclose(exact, mean, rtol=1e-4, atol=1e-6 * mean.max())
    assert (spread > 0.1 * mean).any()
    for draws in (20, 400):
        found = flat(measure(model, [batch], "model", draws=draws))
        assert (np.abs(found - exact) <= 5 * spread / draws**0.5 + 1e-5 * exact.max()).all()


def test_empirical_fisher_is_another_number():
    model, batch = tiny(), batch_of([5], vocabulary=4, last_only=True)
    exact, _ = exact_fisher(model, batch)
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


@each_measure
def test_batches_are_accumulated_and_the_last_one_does_not_overwrite_the_others(measure):
    """The other classic mistake."""
    model, first, second = made(), batch_of([6, 5]), batch_of([7, 4], seed=1)
    of_first, of_second = (flat(measure(model, [batch], "data")) for batch in (first, second))
    found = flat(measure(model, [first, second], "data"))

    np.testing.assert_allclose(found, (of_first + of_second) / 2, rtol=1e-5)
    assert np.abs(found - of_second).sum() > 0.05 * found.sum()


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


# Another task


def probe(model, width=HIDDEN):
    """A linear head with its own weights on the mean state of a row; three classes, by the first token."""
    head = nn.Linear(width, 3, bias=False)
    nn.init.normal_(head.weight, std=0.5, generator=torch.Generator().manual_seed(0))

    def predict(batch):
        inputs = {name: tensor for name, tensor in batch.items() if name in ("input_ids", "attention_mask")}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = batch["input_ids"]
        outputs = model(**inputs, output_hidden_states=True)
        states = (outputs.get("decoder_hidden_states") or outputs.hidden_states)[-1]
        mask = batch["attention_mask"][..., None]
        return head((states * mask).sum(1) / mask.sum(1)), batch["input_ids"][:, 0] % 3

    return head, predict


@pytest.mark.parametrize("kind", FIELDS)
def test_loss_of_another_task_is_taken_where_it_is_given(kind):
    model = made(kind)
    head, predict = probe(model)
    batch = {name: t for name, t in batch_of([7, 6, 2], kind).items() if name != "labels"}
    norms = []
    for row in range(3):
        logits, labels = predict(rows(batch, row))
        nn.functional.cross_entropy(logits, labels).backward()
        norms.append(squared_norms({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        model.zero_grad()
    head.zero_grad()
    found = fisher_information(model, [batch], "data", predict=predict)

    np.testing.assert_allclose(found, np.mean(norms, axis=0), rtol=1e-5)
    assert head.weight.requires_grad
    assert head.weight.grad is None
    exact = fisher_information(model, [batch], "exact", predict=predict)
    np.testing.assert_allclose(fisher_information(model, [batch], "model", draws=300, predict=predict), exact, rtol=0.2)
    assert (np.abs(exact / found - 1) > 1e-2).all()


@each_measure
@pytest.mark.parametrize("example", ["sequence", "token"])
def test_own_head_given_as_another_task_changes_nothing(measure, example):
    model, batch = made(), batch_of([6, 3, 5])

    def predict(given):
        return model(given["input_ids"], given["attention_mask"]).logits[:, :-1], given["labels"][:, 1:]

    found = flat(measure(model, [batch], "data", example=example, predict=predict))
    expected = flat(measure(model, [batch], "data", example=example))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7 * expected.max())


# What is provable


BRANCHES = {
    "llama": ("o_proj", "down_proj"),
    "qwen3": ("o_proj", "down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "t5": (".o", ".wo"),
}


@pytest.mark.parametrize("kind", BRANCHES)
def test_gate_of_an_identity_layer_is_zero_and_its_trace_is_not(kind):
    """Branches with zero weights: nothing changes, so nothing hangs on the gate, but their weights have gradients."""
    model, batch = made(kind), batch_of([6, 4], kind)
    with torch.no_grad():
        for name, parameter in layers_of(model)[1].named_parameters():
            if name.removesuffix(".weight").removesuffix(".bias").endswith(BRANCHES[kind]):
                parameter.zero_()
    gate = gate_fisher(model, [batch], "model")

    assert gate[1] == 0
    assert (np.delete(gate, 1) > 0).all()
    assert (fisher_information(model, [batch], "model") > 0).all()


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_gate_does_not_depend_on_the_parametrisation(factor):
    """A factor moved from one weight of a layer to the next leaves the function; powers of two, exactly."""
    model, batch = made(), batch_of([4, 9, 7])
    gate, trace = gate_fisher(model, [batch], "data"), fisher_information(model, [batch], "data")
    with torch.no_grad():
        for layer in layers_of(model):
            layer.self_attn.v_proj.weight.mul_(factor)
            layer.self_attn.o_proj.weight.div_(factor)
            layer.mlp.up_proj.weight.mul_(factor)
            layer.mlp.down_proj.weight.div_(factor)

    np.testing.assert_allclose(gate_fisher(model, [batch], "data"), gate, rtol=1e-5)
    assert (np.abs(fisher_information(model, [batch], "data") / trace - 1) > 0.1).all()


@each_measure
@pytest.mark.parametrize("kind", ["bert", "t5", "llama classifier"])
def test_no_kind_depends_on_batch_size_order_or_padding(measure, kind):
    model, batch = made(kind), batch_of([3, 12, 7, 5], kind)
    expected = flat(measure(model, [batch], "data"))

    for batches in ([rows(batch, 3, 0), rows(batch, 2, 1)], [padded(batch, 5)]):
        np.testing.assert_allclose(
            flat(measure(model, batches, "data")), expected, rtol=3e-5, atol=1e-6 * expected.max()
        )


def test_example_without_a_label_counts_as_an_example_with_zero_gradient():
    model, batch = made(), batch_of([6, 6])
    half = batch | {"labels": batch["labels"].clone()}
    half["labels"][1] = IGNORED
    expected = fisher_information(model, [rows(batch, 0)], "data") / 2

    np.testing.assert_allclose(fisher_information(model, [half], "data"), expected, rtol=1e-5)
    none = half | {"labels": torch.full_like(half["labels"], IGNORED)}
    assert fisher_information(model, [none], "data").tolist() == [0.0] * 3
    assert fisher_information(model, [none], "model").tolist() == [0.0] * 3


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

    of_examples = [[sum(grown(n) * v for n, v in layer.items()) for layer in by_layer(norms)] for norms in before]
    found = fisher_information(model, [batch], "data")
    np.testing.assert_allclose(found, np.mean(of_examples, axis=0), rtol=1e-4)


# Edges


@each_measure
def test_no_example_gives_nan(measure):
    model, batch = made(), batch_of([4, 4])
    unlabelled = batch | {"labels": torch.full_like(batch["labels"], IGNORED)}

    assert np.isnan(flat(measure(model, [], labels="model"))).all()
    assert np.isnan(flat(measure(model, [unlabelled], labels="data", example="token"))).all()
    assert (flat(measure(model, [unlabelled], labels="data")) == 0).all()
    assert len(flat(measure(model, [], labels="model"))) >= 3


def test_batches_may_come_from_a_generator():
    model, batch = made(), batch_of([6, 3])
    lazily = fisher_information(model, (rows(batch, row) for row in range(2)), "data")

    np.testing.assert_allclose(lazily, fisher_information(model, [batch], "data"), rtol=1e-5)


def test_other_words_for_labels_are_refused():
    with pytest.raises(ValueError, match="labels must be one of 'model', 'exact', 'data', got 'true'"):
        fisher_information(made(), [], labels="true")
    with pytest.raises(ValueError, match="example must be one of 'sequence', 'token', got 'user'"):
        gate_fisher(made(), [], "data", example="user")
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        diagonal_fisher(made(), [], "model", draws=0)


def test_layer_with_parameters_of_an_unknown_kind_is_refused():
    model = made()
    layers_of(model)[0].mlp.act_fn = nn.PReLU()
    with pytest.raises(UnsupportedArchitectureError, match="not PReLU"):
        fisher_information(model, [batch_of([4])], "data")


@pytest.mark.parametrize("family", FAMILIES)
def test_recommender_is_scored_through_its_model_on_the_labels_it_makes(family):
    recommender = build_recommender(family, 20, 9, Shape(3, HIDDEN, INTERMEDIATE, 2), seed=0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(parameter)))
    (batch,) = recommender.labelled_batches([np.arange(length) for length in (3, 9, 5)])
    expected = by_loop(recommender.model.eval(), batch)

    assert (expected > 1e-4).all()
    np.testing.assert_allclose(layer_scores(recommender, [batch], "empirical-fisher"), expected, rtol=2e-5)


def test_methods_by_name():
    model, batch = made(), batch_of([6, 6])
    np.testing.assert_array_equal(layer_scores(model, [batch]), fisher_information(model, [batch], "model"))
    np.testing.assert_array_equal(
        layer_scores(model, [batch], "empirical-fisher"), fisher_information(model, [batch], "data")
    )
    with pytest.raises(ValueError, match=r"unknown method 'weather'; known are \[.*'fisher'.*\]"):
        layer_scores(model, [batch], "weather")
