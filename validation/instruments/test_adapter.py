"""Gap adapters start as the bare cut, are all that is trained, and are never lost without a word."""

import copy
import hashlib
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from layerwise.compression.adapter import AdaptedRecommender, GapAdapter, adapted_model
from layerwise.compression.compact import compact_model
from layerwise.compression.distill import Distillation, heal
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.evaluation.quality import validation_ndcg
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Recipe, next_item_loss, train

NUM_ITEMS, MAX_LENGTH, HIDDEN = 12, 6, 16
SHAPE = Shape(num_layers=6, hidden=HIDDEN, intermediate=24, num_heads=2)
SHORT = Recipe(epochs=2, learning_rate=1e-2, batch_size=8, evaluate_every=1)
HISTORIES = [np.array([1, 2, 3]), np.array([7]), np.arange(10), np.array([4, 4, 0, 11])]

each_family = pytest.mark.parametrize("family", FAMILIES)


def kept_of(family):
    """Two gaps behind a kept layer, and but for T5 one before the first."""
    return {"encoder": (0,), "decoder": (0, 2)} if family == "t5" else (1, 3)


def made(family="llama", seed=0):
    """Random recommender whose layers all matter."""
    recommender = build_recommender(family, NUM_ITEMS, MAX_LENGTH, SHAPE, seed)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2 if family == "t5" else 8)
    return recommender.eval()


shared = cache(made)  # for tests that only look


def filled(family, seed=1, **options):
    """Adapters with random weights, as if trained."""
    adapted = adapted_model(shared(family), kept_of(family), **options)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.adapters.parameters():
            parameter.normal_(std=0.5, generator=random)
    return adapted


def weights_of(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def hooks_of(recommender):
    return sum(len(module._forward_hooks) for module in recommender.modules())


def digest(recommender):
    """Everything of a recommender that somebody could have changed."""
    parts = [str(recommender.model.config.to_dict()), str(hooks_of(recommender))]
    parts += [f"{name} {module.training} {sorted(vars(module))}" for name, module in recommender.named_modules()]
    for name, parameter in recommender.named_parameters(remove_duplicate=False):
        parts.append(f"{name} {parameter.requires_grad} {parameter.grad} {parameter.data_ptr()} {parameter.tolist()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def split():
    """Sixteen users who walk through the catalogue, one item after the other."""
    users, steps = np.divmod(np.arange(16 * 7), 7)
    return leave_one_out(Interactions.from_columns("cycle", users, (users + steps) % NUM_ITEMS, steps))


# What an adapter computes


def test_adapter_by_hand():
    """Exact gelu: x times the normal distribution function, at 1 and -1."""
    adapter = GapAdapter(2, 2)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.eye(2))
        adapter.down.bias.copy_(torch.tensor([0.0, 1.0]))
        adapter.up.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 10.0]]))
        adapter.up.bias.copy_(torch.tensor([0.0, 100.0]))
    found = adapter(torch.tensor([1.0, -2.0]))

    assert found.tolist() == pytest.approx([1 + 0.8413447, -2 - 10 * 0.1586553 + 100])


@each_family
def test_untrained_adapters_score_exactly_like_the_bare_cut(family):
    adapted, bare = adapted_model(shared(family), kept_of(family)), compact_model(shared(family), kept_of(family))
    windows = adapted.windows(HISTORIES[::2], np.random.default_rng(0))

    np.testing.assert_array_equal(adapted.scores(HISTORIES), bare.scores(HISTORIES))
    with torch.no_grad():  # with gradients, frozen weights take other kernels
        assert torch.equal(adapted.states(windows.inputs), bare.states(windows.inputs))
    assert np.abs(bare.scores(HISTORIES) - shared(family).scores(HISTORIES)).max() > 1e-3


@each_family
def test_adapters_stand_behind_the_kept_layers_in_front_of_the_gaps(family):
    """The same adapters written by hand into the layers' own forward."""
    adapted, bare = filled(family), compact_model(shared(family), kept_of(family))
    places = {"0", "1"}  # T5: the encoder's only layer, and the first of two in the decoder
    for place in places:
        layer, adapter = bare.layers[int(place)], adapted.adapters[place]
        layer.forward = after(layer.forward, adapter)
    untrained = adapted_model(shared(family), kept_of(family)).scores(HISTORIES)

    assert set(adapted.adapters) == places
    np.testing.assert_allclose(adapted.scores(HISTORIES), bare.scores(HISTORIES), rtol=1e-4, atol=1e-5)
    assert np.abs(adapted.scores(HISTORIES) - untrained).max() > 0.1


def after(forward, adapter):
    def adapted(*args, **kwargs):
        output = forward(*args, **kwargs)
        state = output[0] if isinstance(output, tuple) else output
        state = state + nn.functional.gelu(state @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T
        state = state + adapter.up.bias
        return (state, *output[1:]) if isinstance(output, tuple) else state

    return adapted


@pytest.mark.parametrize(
    ("family", "kept", "places"),
    [
        ("llama", (0, 1, 2), ["2"]),
        ("llama", (0, 2, 5), ["0", "1"]),
        ("llama", (2, 3, 5), ["1"]),
        ("t5", (0, 1, 2, 4), ["3"]),
        ("t5", {"decoder": (1,)}, ["3"]),
        ("t5", {"encoder": (0, 2), "decoder": (0,)}, ["0", "2"]),
    ],
)
def test_each_gap_behind_a_kept_layer_has_one_adapter(family, kept, places):
    assert list(adapted_model(shared(family), kept).adapters) == places


# What is trained


@each_family
def test_adapters_add_the_parameters_they_say_and_no_others_are_trainable(family):
    adapted, bare = (make(shared(family), kept_of(family)) for make in (adapted_model, compact_model))
    count = sum(p.numel() for p in adapted.parameters()) - sum(p.numel() for p in bare.parameters())

    assert count == 2 * (2 * HIDDEN * 16 + 16 + HIDDEN)  # two adapters, 16 wide
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    parts = ("down.weight", "down.bias", "up.weight", "up.bias")
    assert trainable == {f"adapters.{place}.{part}" for place in (0, 1) for part in parts}
    assert all(parameter.requires_grad for parameter in shared(family).parameters())
    narrow = adapted_model(shared(family), kept_of(family), bottleneck=3)
    assert sum(p.numel() for p in narrow.adapters.parameters()) == 2 * (2 * HIDDEN * 3 + 3 + HIDDEN)


@each_family
def test_training_moves_all_adapters_and_nothing_else(family, split):
    adapted = adapted_model(shared(family), kept_of(family))
    before = weights_of(adapted)
    trained = train(adapted, split.train_sequences(), validation_ndcg(split), SHORT, seed=0).recommender

    assert isinstance(trained, AdaptedRecommender)
    assert torch.equal(weights_of(adapted), before)
    assert torch.equal(weights_of(trained.model), weights_of(adapted.model))
    for name, parameter in trained.adapters.named_parameters():
        assert not torch.equal(parameter, adapted.adapters.get_parameter(name)), name
    assert hooks_of(trained) == hooks_of(adapted) == 0


@each_family
def test_training_lowers_the_loss(family, split):
    adapted = adapted_model(shared(family), kept_of(family))
    recipe = Recipe(epochs=60, learning_rate=5e-2, batch_size=16, dropout=0.0, evaluate_every=60)
    windows = adapted.windows(split.train_sequences(), np.random.default_rng(1))
    trained = train(adapted, split.train_sequences(), validation_ndcg(split), recipe, seed=0).recommender

    before, after = (
        next_item_loss(each, each.states(windows.inputs)[windows.valid], windows).item() for each in (adapted, trained)
    )
    assert after < before - 0.05  # nats; the same windows, frozen random layers around the adapters


def test_adapters_are_healed_with_a_teacher(split):
    teacher = made()
    adapted = adapted_model(teacher, (0, 5))
    before = weights_of(teacher)
    healed = heal(adapted, teacher, split, SHORT, distillation=Distillation(weight=1.0)).recommender

    assert not torch.equal(weights_of(healed.adapters), weights_of(adapted.adapters))
    assert torch.equal(weights_of(healed.model), weights_of(adapted.model))
    assert torch.equal(weights_of(teacher), before)


@each_family
def test_deep_copy_runs_its_own_adapters(family):
    first = filled(family)
    scores = first.scores(HISTORIES)
    second = copy.deepcopy(first)
    np.testing.assert_array_equal(second.scores(HISTORIES), scores)
    with torch.no_grad():
        for parameter in second.adapters.parameters():
            parameter.zero_()

    bare = compact_model(shared(family), kept_of(family))
    np.testing.assert_array_equal(second.scores(HISTORIES), bare.scores(HISTORIES))
    np.testing.assert_array_equal(first.scores(HISTORIES), scores)


def test_adapters_are_taken_out_after_an_error():
    adapted = filled("llama")
    with pytest.raises(IndexError):
        adapted.states({"input_ids": torch.tensor([[NUM_ITEMS + 5]])})

    assert hooks_of(adapted) == 0


# The disk


@each_family
def test_saved_adapters_come_back(family, tmp_path):
    adapted = filled(family, bottleneck=5)
    adapted.save(tmp_path)
    read = AdaptedRecommender.load(tmp_path)

    np.testing.assert_array_equal(read.scores(HISTORIES), adapted.scores(HISTORIES))
    assert (read.num_items, read.max_length) == (NUM_ITEMS, MAX_LENGTH)
    assert read.state_dict().keys() == adapted.state_dict().keys()
    flags = [[p.requires_grad for p in each.parameters()] for each in (read, adapted)]
    assert flags[0] == flags[1]
    assert not any(module.training for module in read.modules())


@each_family
def test_checkpoint_beside_the_adapters_is_the_plain_bare_cut(family, tmp_path):
    filled(family).save(tmp_path)
    model, report = FAMILIES[family].auto.from_pretrained(tmp_path, output_loading_info=True)
    bare = compact_model(shared(family), kept_of(family))

    assert not any(report.values())
    np.testing.assert_array_equal(Recommender(model, NUM_ITEMS, MAX_LENGTH).scores(HISTORIES), bare.scores(HISTORIES))
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"model.safetensors", "gap_adapters.safetensors"}


def test_plain_loading_refuses_to_drop_the_adapters(tmp_path):
    filled("llama").save(tmp_path)

    with pytest.raises(ValueError, match="has no 'num_items'; was it written by Recommender.save"):
        Recommender.load(tmp_path)


def test_plain_checkpoint_is_no_adapted_one(tmp_path):
    shared("llama").save(tmp_path)

    with pytest.raises(ValueError, match=r"no gap_adapters.safetensors; a plain checkpoint is read with Recommender"):
        AdaptedRecommender.load(tmp_path)


def test_checkpoint_that_lacks_weights_is_refused(tmp_path):
    filled("llama").save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ValueError, match=r"missing or left over \['model.norm.weight'\]"):
        AdaptedRecommender.load(tmp_path)


def test_half_precision_comes_back(tmp_path):
    adapted = adapted_model(made("gpt2").to(torch.bfloat16), (1, 3))
    adapted.save(tmp_path)
    read = AdaptedRecommender.load(tmp_path)

    assert {parameter.dtype for each in (adapted, read) for parameter in each.parameters()} == {torch.bfloat16}
    np.testing.assert_array_equal(read.scores(HISTORIES), adapted.scores(HISTORIES))


# What is left alone, and what is refused


@pytest.mark.parametrize("training", [True, False])
def test_recommender_passed_in_is_untouched_and_its_mode_carried_over(training):
    full = made().train(training)
    before, state = digest(full), torch.get_rng_state()
    adapted = adapted_model(full, (1, 3))
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.fill_(7)

    assert digest(full) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert {module.training for module in adapted.modules()} == {training}


def test_seed_matters():
    first, again, other = (weights_of(adapted_model(shared("llama"), (1, 3), seed=seed).adapters) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_arguments_are_refused():
    full = shared("llama")
    with pytest.raises(ValueError, match="bottleneck must be above 0, got 0"):
        adapted_model(full, (1, 3), bottleneck=0)
    with pytest.raises(ValueError, match=r"no removed layers stand behind a kept one, .* got \(4, 5\)"):
        adapted_model(full, (4, 5))
    with pytest.raises(ValueError, match=r"kept_layers must increase strictly within \[0, 6\)"):
        adapted_model(full, (3, 3))
    with pytest.raises(ValueError, match="has adapters already"):
        adapted_model(adapted_model(full, (1, 3)), (0,))
    with pytest.raises(TypeError, match="need a Recommender around the model, got LlamaForCausalLM"):
        adapted_model(full.model, (1, 3))
