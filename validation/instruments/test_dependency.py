"""Layer dependency by hand, and equal to the slow way: one bypass at a time, one example at a time, plain hooks."""

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.importance.dependency import layer_dependency
from layerwise.models.families import FAMILIES, Shape, family_named
from layerwise.models.layers import bypassed, layers_of, state_of
from layerwise.models.recommender import build_recommender

NUM_LAYERS, HIDDEN, NUM_ITEMS = 5, 16, 29
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
ATTENTION = {  # what is computed in a layer unless it is bypassed
    "llama": "self_attn",
    "qwen3": "self_attn",
    "gpt2": "attn",
    "bert": "attention",
    "t5": "layer.0.SelfAttention",
}


def large(family, attention_dropout=0.0):
    """Recommender whose layers all matter to each other. T5 has layers 3 + 2."""
    recommender = build_recommender(family, NUM_ITEMS, 8, Shape(NUM_LAYERS, HIDDEN, 24, 2), 0, attention_dropout)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.3, generator=random)
    return recommender


class Copy(nn.Module):
    """Layer that adds to each `target` coordinate of the stream what stands in `source`, plus a constant."""

    def __init__(self, source, target, constant):
        super().__init__()
        self.source, self.target, self.constant = source, target, torch.tensor(constant)

    def forward(self, hidden, *_, **__):
        added = torch.zeros_like(hidden)
        added[..., self.target] = hidden[..., self.source] + self.constant
        return hidden + added


@pytest.fixture
def chain():
    """Four layers over a stream whose coordinate 0 is 1 for every token, 5 holds the token, and the others are 0.

    Layer 0 adds 3 to coordinate 1. Layer 1 copies coordinate 1 to 2, and layer 2 what layer 1 wrote, plus 1, to 3.
    Layer 3 reads coordinate 5, which no layer writes.
    """
    model = build_recommender("llama", NUM_ITEMS, 8, Shape(4, HIDDEN, 24, 2), seed=0).model
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table.zero_()
        table[:, 0], table[:, 5] = 1, torch.arange(len(table))
    model.model.layers = nn.ModuleList([Copy(0, 1, 2.0), Copy(1, 2, 0.0), Copy(2, 3, 1.0), Copy(5, 4, 0.0)])
    return model


def test_chain_of_layers_by_hand(chain):
    """Layers write 3, 3, 4 and the token. Without layer 0 layer 1 writes 0 and layer 2 writes 1, as without layer 1."""
    nan = np.nan
    expected = [
        [nan, 3 / 3, 3 / 4, 0],
        [0, nan, 3 / 4, 0],
        [0, 0, nan, 0],
        [0, 0, 0, nan],
    ]
    np.testing.assert_allclose(layer_dependency(chain, [{"input_ids": TOKENS}]), expected, rtol=1e-6)


def test_positions_weigh_the_same_and_padding_is_not_counted(chain):
    """Layer 1 writes the token, layer 2 copies it plus 1: without layer 1, the change is token / (token + 1)."""
    chain.model.layers[1] = Copy(5, 2, 0.0)
    batches = [
        {"input_ids": TOKENS, "attention_mask": torch.tensor([[1, 1, 0], [0, 1, 0]])},
        {"input_ids": torch.tensor([[7, 8]]), "labels": torch.tensor([[7, 8]])},
    ]
    expected = np.mean([1 / 2, 2 / 3, 5 / 6, 7 / 8, 8 / 9])

    assert layer_dependency(chain, batches)[1, 2] == pytest.approx(expected)


def test_position_at_which_a_layer_writes_nothing_is_left_out(chain):
    """Layer 3 copies the token, which is 0 in the first position: no relative change there. Layer 0 adds to it 3."""
    chain.model.layers[0] = Copy(0, 5, 2.0)
    chain.model.layers[3] = Copy(5, 4, -3.0)
    found = layer_dependency(chain, [{"input_ids": torch.tensor([[0, 1, 2]])}])

    np.testing.assert_allclose(found[:, 3], [np.mean([3 / 1, 3 / 2]), 0, 0, np.nan])
    found = layer_dependency(chain, [{"input_ids": torch.tensor([[0, 0, 0]])}])
    assert np.isnan(found[:, 3]).tolist() == [True, True, True, True]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "t5"])
@pytest.mark.parametrize("dead", range(NUM_LAYERS))
def test_no_layer_notices_that_a_dead_one_is_gone(family, dead):
    """Its row is 0; its own contribution has no relative change, so that its column is undefined."""
    recommender = large(family)
    with torch.no_grad():
        for name, parameter in recommender.layers[dead].named_parameters():
            if name.rpartition(".")[0] in family_named(family).branches:
                parameter.zero_()
    found = layer_dependency(recommender, recommender.labelled_batches([np.arange(5), np.arange(3, 9)]))

    assert (found[dead, dead + 1 :] == 0).all()
    assert np.isnan(found[:dead, dead]).all()
    alive = np.delete(np.delete(found, dead, axis=0), dead, axis=1)
    assert (alive[np.triu_indices(NUM_LAYERS - 1, k=1)] > 1e-4).all()


def contributions(model, inputs):
    """What every layer writes, by hooks of this test's own, *layers* of *length x hidden*."""
    written = {}
    layers = layers_of(model)

    def hook(layer, inputs, output):
        written[layers.index(layer)] = (state_of(output).double() - inputs[0].double())[0].numpy()

    handles = [layer.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        model.eval()(**inputs)
    for handle in handles:
        handle.remove()
    return [written[index] for index in range(len(layers))]


def slowly(model, examples):
    changes = [[[] for _ in range(NUM_LAYERS)] for _ in range(NUM_LAYERS)]
    for inputs in examples:
        full = contributions(model, inputs)
        for removed in range(NUM_LAYERS):
            with bypassed(model, [removed]):
                without = contributions(model, inputs)
            for affected in range(NUM_LAYERS):
                for before, after in zip(full[affected], without[affected], strict=True):
                    changes[removed][affected].append(np.linalg.norm(after - before) / np.linalg.norm(before))
    return np.array([[np.mean(values) for values in row] for row in changes])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_slow_way_and_padding_is_not_counted(family):
    """The slow way measures all entries: 0 before the bypassed layer, 1 at it, which the matrix calls undefined."""
    model, lengths, places = large(family).model, [3, 6, 5], torch.arange(6)[None]
    batch = {
        "input_ids": (3 * torch.tensor(lengths)[:, None] + 2 * places) % 20,
        "attention_mask": (places < torch.tensor(lengths)[:, None]).long(),
    }
    targets = [2, 1, 4]
    if family == "t5":
        batch["decoder_input_ids"] = (5 * torch.tensor(targets)[:, None] + places[:, :4]) % 20
        batch["decoder_attention_mask"] = (places[:, :4] < torch.tensor(targets)[:, None]).long()
    examples = [{"input_ids": batch["input_ids"][row : row + 1, : lengths[row]]} for row in range(3)]
    for row, example in enumerate(examples if family == "t5" else []):
        example["decoder_input_ids"] = batch["decoder_input_ids"][row : row + 1, : targets[row]]
    expected = slowly(model, examples)

    assert (expected[np.tril_indices(NUM_LAYERS, k=-1)] == 0).all()
    np.testing.assert_allclose(np.diag(expected), 1)
    np.fill_diagonal(expected, np.nan)
    assert (expected[np.triu_indices(NUM_LAYERS, k=1)] > 0.01).all()  # for T5 also from encoder to decoder
    np.testing.assert_allclose(layer_dependency(model, [batch]), expected, rtol=1e-4)
    halves = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 1), slice(1, 3))]
    np.testing.assert_allclose(layer_dependency(model, halves), expected, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_bypass_computes_only_the_layers_after_it(family):
    recommender = large(family)
    runs = []
    for layer in recommender.layers:
        layer.get_submodule(ATTENTION[family]).register_forward_hook(lambda *_: runs.append(1))
    layer_dependency(recommender, recommender.labelled_batches([np.arange(5)]))

    assert len(runs) == NUM_LAYERS + sum(range(NUM_LAYERS))


@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_left_as_it_was(family):
    recommender = large(family, attention_dropout=0.5).train()
    recommender.layers[1].eval()
    modules = list(recommender.modules())
    modes = [module.training for module in modules]
    names = [sorted(vars(module)) for module in modules]
    flags = [parameter.requires_grad for parameter in recommender.parameters()]
    weights = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}
    batches = recommender.labelled_batches([np.arange(5), np.arange(3, 9)])
    first, again = (layer_dependency(recommender, batches) for _ in range(2))

    np.testing.assert_array_equal(first, again)
    assert [module.training for module in modules] == modes
    assert [sorted(vars(module)) for module in modules] == names
    assert [parameter.requires_grad for parameter in recommender.parameters()] == flags
    assert all(torch.equal(tensor, weights[name]) for name, tensor in recommender.state_dict().items())
    assert not any(module._forward_hooks for module in modules)


def test_no_batch_gives_nan_where_something_would_be_measured():
    found = layer_dependency(large("gpt2"), [])

    np.testing.assert_array_equal(np.isnan(found), np.triu(np.ones((NUM_LAYERS, NUM_LAYERS), dtype=bool)))
    assert (found[np.tril_indices(NUM_LAYERS, k=-1)] == 0).all()
