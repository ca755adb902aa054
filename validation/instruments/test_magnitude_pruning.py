"""Magnitude pruning: the smallest weights of all layers are zero, stay zero in training, and are stored as nothing."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerwise.compression.adapter import adapted_model
from layerwise.compression.distill import heal
from layerwise.compression.magnitude import finished, magnitude_pruned, sparse_bytes
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.models.families import FAMILIES, Shape, family_named
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Recipe, next_item_loss, train

NUM_ITEMS, MAX_LENGTH = 12, 6
HISTORIES = [np.array([1, 2, 3]), np.array([7]), np.arange(9)]
RECIPE = Recipe(epochs=2, learning_rate=1e-2, batch_size=8, weight_decay=0.5, evaluate_every=1)
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def made(family="llama", num_layers=3):
    """T5 has layers 2 + 1."""
    return build_recommender(family, NUM_ITEMS, MAX_LENGTH, Shape(num_layers, 16, 24, 2), seed=0)


def matrices(recommender):
    """Weights of the linear maps inside the layers, by name, in memory; the position tables of T5 are none."""
    plain = finished(recommender)
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    inside = {id(parameter) for layer in plain.layers for parameter in layer.parameters()}
    named = {name: parameter.detach() for name, parameter in plain.named_parameters() if id(parameter) in inside}
    return {name: weight for name, weight in named.items() if name.removesuffix(".weight") in linear}


def vector(recommender):
    return torch.cat([weight.flatten() for _, weight in sorted(matrices(recommender).items())])


@pytest.fixture(scope="module")
def split():
    """Sixteen users who walk through the catalogue, one item after the other."""
    users, steps = np.divmod(np.arange(16 * 7), 7)
    return leave_one_out(Interactions.from_columns("cycle", users, (users + steps) % NUM_ITEMS, steps))


# What goes


@ANY_FAMILY
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_smallest_weights_of_all_layers_go_and_everything_else_stays(family, share):
    recommender = made(family)
    before = vector(recommender).numpy()
    smallest = np.argsort(np.abs(before))[: round(share * len(before))]
    expected = before.copy()
    expected[smallest] = 0
    pruned = finished(magnitude_pruned(recommender, share))
    inside = matrices(recommender)

    np.testing.assert_array_equal(vector(pruned), expected)
    others = {name: tensor for name, tensor in recommender.state_dict().items() if name not in inside}
    assert any("norm" in name or "ln_" in name or "LayerNorm" in name for name in others)
    assert all(torch.equal(pruned.state_dict()[name], tensor) for name, tensor in others.items())


def test_layers_share_one_threshold():
    """Weights of the first layer are 1, 2, 3 and so on, those of the second larger: half of all is the first layer."""
    recommender = made(num_layers=2)
    with torch.no_grad():
        start = 1
        for weight in matrices_in_place(recommender):
            weight.copy_(torch.arange(start, start + weight.numel()).reshape(weight.shape) * (-1) ** start)
            start += weight.numel()
    first, second = finished(magnitude_pruned(recommender, 0.5)).layers

    assert not any(parameter.any() for parameter in first.parameters() if parameter.ndim == 2)
    assert all(parameter.all() for parameter in second.parameters() if parameter.ndim == 2)


def matrices_in_place(recommender):
    return [parameter for layer in recommender.layers for parameter in layer.parameters() if parameter.ndim == 2]


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.95), st.floats(0, 0.95))
def test_pruning_in_steps_ends_where_pruning_at_once_does(one, other):
    recommender, (low, high) = made(num_layers=1), sorted((one, other))
    at_once, in_steps = magnitude_pruned(recommender, high), magnitude_pruned(magnitude_pruned(recommender, low), high)

    assert torch.equal(vector(in_steps), vector(at_once))
    assert int((vector(at_once) == 0).sum()) == round(high * len(vector(recommender)))


def test_share_of_one_hundred_percent_or_less_than_nothing_is_refused():
    for share in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got"):
            magnitude_pruned(made(), share)


def test_adapters_are_refused():
    with pytest.raises(ValueError, match="AdaptedRecommender would lose"):
        magnitude_pruned(adapted_model(made(), (0, 2)), 0.5)
    recommender = made()
    recommender.layers[0].lora_A = nn.Linear(16, 2)
    with pytest.raises(ValueError, match="merge them first"):
        magnitude_pruned(recommender, 0.5)


# What happens in training


@ANY_FAMILY
def test_training_keeps_zeros_zero_and_moves_the_rest(family, split):
    recommender = made(family)
    pruned = magnitude_pruned(recommender, 0.6)
    before = vector(pruned)
    trained = train(pruned, split.train_sequences(), quality, RECIPE, seed=0).recommender
    healed = heal(trained, recommender, split, RECIPE).recommender  # a copy of a copy

    for later, earlier in ((vector(trained), before), (vector(healed), vector(trained))):
        assert torch.equal(later == 0, before == 0)
        assert (later != earlier)[before != 0].float().mean() > 0.99
    assert torch.equal(vector(pruned), before)
    np.testing.assert_array_equal(finished(healed).scores(HISTORIES), healed.scores(HISTORIES))


def quality(recommender):
    return float(recommender.scores(HISTORIES).max())


def test_training_equals_training_with_a_mask_after_each_step():
    """Projected by hand, with masked gradients, by the same optimiser: the same weights."""
    recommender = made()
    pruned = magnitude_pruned(recommender, 0.5)
    byhand = finished(pruned)
    masks = {name: (weight != 0).float() for name, weight in matrices(pruned).items()}
    for student in (pruned, byhand):
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.1)
        rng = np.random.default_rng(0)
        for _ in range(3):
            windows = student.windows([np.arange(6), np.arange(6, 12)], rng)
            optimizer.zero_grad()
            next_item_loss(student, student.states(windows.inputs)[windows.valid], windows).backward()
            if student is byhand:
                for name, parameter in student.named_parameters():
                    parameter.grad *= masks.get(name, 1)
            optimizer.step()

    torch.testing.assert_close(vector(pruned), vector(byhand), rtol=1e-5, atol=1e-7)
    assert torch.equal(vector(pruned) == 0, vector(byhand) == 0)


@ANY_FAMILY
def test_parameters_themselves_are_the_weights(family, split):
    """What an optimiser or a score of weights sees is zero, too, before and after training."""
    pruned = magnitude_pruned(made(family), 0.5)
    for recommender in (pruned, train(pruned, split.train_sequences(), quality, RECIPE, seed=0).recommender):
        seen, used = (
            {name: int((p == 0).sum()) for name, p in r.named_parameters()}
            for r in (recommender, finished(recommender))
        )
        assert {name.removesuffix("_orig"): zeros for name, zeros in seen.items()} == used


def test_copy_after_a_pass_with_gradients_stands_alone():
    """`torch.nn.utils.prune` by itself leaves weights behind that cannot be copied."""
    pruned = magnitude_pruned(made(), 0.5)
    pruned(**pruned.batch(HISTORIES)).sum().backward()
    expected = pruned.scores(HISTORIES)
    copied = copy.deepcopy(pruned)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(1)

    np.testing.assert_array_equal(pruned.scores(HISTORIES), expected)
    assert np.abs(copied.scores(HISTORIES) - expected).max() > 0.1
    assert (vector(copied) == 0).float().mean() == pytest.approx(0.5, abs=1e-3)


# What is left behind and stored


@ANY_FAMILY
def test_recommender_passed_in_is_left_as_it_was(family):
    recommender = made(family).train()
    recommender.layers[0].eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in recommender.named_parameters()}
    modes = [module.training for module in recommender.modules()]
    pruned = magnitude_pruned(recommender, 0.5)
    plain = finished(pruned)
    for student in (pruned, plain):
        for parameter in student.parameters():
            parameter.data.fill_(7)

    assert [module.training for module in recommender.modules()] == modes
    assert [module.training for module in pruned.modules()] == modes == [module.training for module in plain.modules()]
    for model in (recommender, plain):
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert recommender.state_dict().keys() == before.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in recommender.state_dict().items())


@ANY_FAMILY
def test_saved_checkpoint_is_plain_and_read_by_transformers_alone(tmp_path, family):
    pruned = magnitude_pruned(made(family), 0.5)
    pruned.save(tmp_path / "masked")
    finished(pruned).save(tmp_path / "plain")
    for folder in (tmp_path / "masked", tmp_path / "plain"):
        model, report = family_named(family).auto.from_pretrained(folder, output_loading_info=True)
        read = Recommender(model, NUM_ITEMS, MAX_LENGTH)
        assert not any(report.values())
        np.testing.assert_array_equal(read.scores(HISTORIES), pruned.scores(HISTORIES))
        assert torch.equal(vector(read), vector(pruned))
        np.testing.assert_array_equal(Recommender.load(folder).scores(HISTORIES), read.scores(HISTORIES))


def test_sparse_bytes_by_hand():
    """Llama, one layer: 4 x 16 x 16 + 3 x 16 x 24 = 2176 entries; a quarter kept; norms, items and padding dense."""
    recommender = made(num_layers=1)
    dense = 4 * (3 * 16 + 13 * 16)  # three norms, twelve items and a padding token; the head is tied

    assert sparse_bytes(recommender) == dense + 4 * 2176
    assert sparse_bytes(magnitude_pruned(recommender, 0.75)) == dense + 4 * 544 + 2176 // 8
    assert sparse_bytes(finished(magnitude_pruned(recommender, 0.75))) == dense + 4 * 544 + 2176 // 8
    assert sparse_bytes(finished(magnitude_pruned(recommender, 0.75)).bfloat16()) == dense // 2 + 2 * 544 + 2176 // 8
    assert sparse_bytes(magnitude_pruned(recommender, 1 / 2176)) == dense + 4 * 2176  # a bitmap would cost more


@ANY_FAMILY
def test_dense_bytes_are_those_of_the_file(tmp_path, family):
    recommender = made(family)
    recommender.save(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()

    assert sparse_bytes(recommender) == len(content) - 8 - int.from_bytes(content[:8], "little")
