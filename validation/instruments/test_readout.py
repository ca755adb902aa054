"""A refitted readout is the ridge regression of final states, folded into an output matrix that survives the disk."""

import copy
import hashlib
import math
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model
from layerwise.compression.readout import refit_readout
from layerwise.compression.ridge import STRENGTHS
from layerwise.models.families import Shape, UnsupportedArchitectureError
from layerwise.models.recommender import Recommender, build_recommender

NUM_ITEMS, MAX_LENGTH, HIDDEN = 30, 6, 16
SHAPE = Shape(num_layers=4, hidden=HIDDEN, intermediate=24, num_heads=2)
FAMILIES = ("llama", "qwen3", "gpt2", "bert")
KEPT = (0, 2)

each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family="llama", seed=0, shape=SHAPE):
    """Random recommender whose layers all matter; biases, BERT's output bias among them, are not zero."""
    recommender = build_recommender(family, NUM_ITEMS, MAX_LENGTH, shape, seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3, generator=random)
    return recommender.eval()


shared = cache(made)  # for tests that only look


@cache
def sequences_of(seed=0, count=50):
    random = np.random.default_rng(seed)
    return [random.integers(0, NUM_ITEMS, random.integers(2, MAX_LENGTH + 2)) for _ in range(count)]


@cache
def batches_of(family, seed=0, count=50):
    return shared(family).labelled_batches(sequences_of(seed, count), batch_size=8)


def unlabelled(family, **options):
    return [{k: v for k, v in batch.items() if k != "labels"} for batch in batches_of(family, **options)]


def logits_of(model, batches):
    """At the positions that are no padding, one below the other."""
    given = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]
    with torch.no_grad():
        return torch.cat([model(**batch).logits[batch["attention_mask"] == 1] for batch in given])


def output_matrix(model):
    return model.get_output_embeddings().weight.detach()


def distance(found, wanted):
    """Root mean square of the difference, in units of the wanted values' standard deviation."""
    return float(((found - wanted).square().mean() / wanted.var()).sqrt())


def digest(recommender):
    """Everything of a model that somebody could have changed."""
    parts = [str(recommender.model.config.to_dict()), str(recommender.model.all_tied_weights_keys)]
    for name, module in recommender.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        parts.append(f"{name} {module.training} {sorted(vars(module))} {hooks}")
    for name, parameter in recommender.named_parameters(remove_duplicate=False):
        parts.append(f"{name} {parameter.requires_grad} {parameter.grad} {parameter.data_ptr()}")
    text = hashlib.sha256("\n".join(parts).encode())
    for tensor in [*recommender.state_dict().values(), *recommender.buffers()]:
        text.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()


# The regression


def rotated(recommender):
    """A model whose final states are those of `recommender`, rotated; and the rotation."""
    rotation = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(0)))[0]
    turned = copy.deepcopy(recommender)
    turned.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0] @ rotation,))
    return turned, rotation


@each_family
def test_planted_rotation_of_final_states_is_recovered(family):
    compact = compact_model(shared(family), KEPT)
    full, rotation = rotated(compact)
    found = refit_readout(compact, full, batches_of(family))
    unseen = batches_of(family, seed=1)
    wanted = logits_of(full.model, unseen)

    assert found.explained > 1 - 1e-6
    expected = output_matrix(compact.model) @ rotation.T
    torch.testing.assert_close(output_matrix(found.model.model), expected, rtol=1e-3, atol=1e-3)
    assert distance(logits_of(found.model.model, unseen), wanted) < 1e-3
    assert distance(logits_of(compact.model, unseen), wanted) > 0.5


def slow_rows(compact, full, batches):
    """Final states of each example alone, without padding: the compact model's, what the full one adds, held out."""
    rows, added, held_out = [], [], []
    with torch.no_grad():
        for number, batch in enumerate(batches):
            for row, tokens in enumerate(batch["input_ids"]):
                inputs = {"input_ids": tokens[None, : int(batch["attention_mask"][row].sum())]}
                mine, theirs = (model.states(inputs)[0].numpy() for model in (compact, full))
                rows.append(mine)
                added.append(theirs - mine)
                held_out.append(np.full(len(mine), (row + number) % 5 == 0))
    return np.concatenate(rows), np.concatenate(added), np.concatenate(held_out)


def slow_ridge(x, y, held_out):
    """Coefficients, strength and held-out R squared by normal equations."""

    def solved(x, y, strength):
        return np.linalg.solve(x.T @ x + strength * np.mean(np.sum(x**2, 0)) * np.eye(x.shape[1]), x.T @ y)

    def explained(strength):
        residual = y[held_out] - x[held_out] @ solved(x[~held_out], y[~held_out], strength)
        return 1 - np.sum(residual**2) / np.sum(y[held_out] ** 2)

    strength = max(STRENGTHS, key=explained)
    return solved(x, y, strength), strength, explained(strength)


@each_family
def test_readout_is_the_slow_one(family):
    full = made(family).double()
    compact = compact_model(full, KEPT)
    square, strength, explained = slow_ridge(*slow_rows(compact, full, batches_of(family)))
    found = refit_readout(compact, full, unlabelled(family))

    assert found.strength == strength
    assert found.explained == pytest.approx(explained, abs=1e-6)
    assert 0.01 < explained < 0.999  # neither nothing nor everything
    old, new = (output_matrix(recommender.model).numpy() for recommender in (compact, found.model))
    np.testing.assert_allclose(new, old @ (np.eye(HIDDEN) + square).T, rtol=1e-5, atol=1e-6)


def test_read_positions_get_their_share():
    """All of it: the regression on the states that predict the last event, each for its whole row."""
    full = made().double()
    compact = compact_model(full, KEPT)
    batches = batches_of("llama")
    x, y, held_out = slow_rows(compact, full, batches)
    lengths = np.concatenate([batch["attention_mask"].sum(1) for batch in batches])
    read, root = np.cumsum(lengths) - 2, np.sqrt(lengths)[:, None]  # the state before the last token
    found = {share: refit_readout(compact, full, batches, share).explained for share in (0.0, 0.5, 1.0)}

    assert found[1.0] == pytest.approx(slow_ridge(root * x[read], root * y[read], held_out[read])[2], abs=1e-6)
    assert found[0.0] == pytest.approx(slow_ridge(x, y, held_out)[2], abs=1e-6)
    assert len(set(found.values())) == 3
    assert refit_readout(compact, full, batches).explained == found[0.5]


@each_family
def test_unseen_scores_come_closer_to_the_full_models(family):
    full, unseen = shared(family), batches_of(family, seed=1)
    compact = compact_model(full, KEPT)
    found = refit_readout(compact, full, batches_of(family, seed=2, count=300))
    wanted = logits_of(full.model, unseen)

    assert found.explained > 0
    assert distance(logits_of(found.model.model, unseen), wanted) < 0.95 * distance(
        logits_of(compact.model, unseen), wanted
    )


@each_family
def test_tokens_under_the_mask_do_not_matter(family):
    full = shared(family)
    compact = compact_model(full, KEPT)
    others = [
        batch | {"input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 3)}
        for batch in batches_of(family)
    ]
    first, second = (refit_readout(compact, full, batches) for batches in (batches_of(family), others))

    assert any((batch["attention_mask"] == 0).any() for batch in others)
    assert torch.equal(output_matrix(first.model.model), output_matrix(second.model.model))
    assert (first.explained, first.strength) == (second.explained, second.strength)


@each_family
def test_readout_without_anything_to_mend_keeps_its_values(family):
    found = refit_readout(shared(family), shared(family), batches_of(family))

    assert (found.explained, found.strength) == (0.0, math.inf)
    assert torch.equal(output_matrix(found.model.model), output_matrix(shared(family).model))
    before, after = (logits_of(each.model, batches_of(family)) for each in (shared(family), found.model))
    assert torch.equal(before, after)


def test_half_precision_is_rounded_once():
    """To the last bit what the rotation found in fp64 gives, and that is not what a sum in bf16 would give."""
    full = made().to(torch.bfloat16)
    compact = compact_model(full, KEPT)
    found = refit_readout(compact, full, unlabelled("llama"))
    old, new = output_matrix(compact.model), output_matrix(found.model.model)
    x, y = [], []
    with torch.no_grad():
        for batch in unlabelled("llama"):
            real = batch["attention_mask"] == 1
            mine, theirs = (each.states(batch)[real].double().numpy() for each in (compact, full))
            x.append(mine)
            y.append(theirs - mine)
    x, y = np.concatenate(x), np.concatenate(y)
    square = np.linalg.solve(x.T @ x + found.strength * np.mean(np.sum(x**2, 0)) * np.eye(HIDDEN), x.T @ y)
    exact = old.double() @ torch.from_numpy(np.eye(HIDDEN) + square).T

    assert new.dtype == torch.bfloat16
    assert torch.equal(new, exact.to(torch.bfloat16))
    in_halves = old + old @ torch.from_numpy(square).T.to(torch.bfloat16)
    assert not torch.equal(new, in_halves)


# Form


@each_family
def test_untied_readout_survives_the_disk(family, tmp_path):
    """`transformers` alone reads it back: no key too many, none too few, two matrices."""
    full = shared(family)
    compact = compact_model(full, KEPT)
    refitted = refit_readout(compact, full, batches_of(family)).model
    refitted.save(tmp_path)
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    read, report = auto.from_pretrained(tmp_path, output_loading_info=True)

    assert not any(report.values())
    for model in (refitted.model, read):
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
        assert model.config.tie_word_embeddings is False
        assert model.all_tied_weights_keys == {}
        assert torch.equal(output_matrix(model), output_matrix(refitted.model))
        assert torch.equal(model.get_input_embeddings().weight, full.model.get_input_embeddings().weight)
        assert torch.equal(logits_of(model, batches_of(family)), logits_of(refitted.model, batches_of(family)))
    scores = refitted.scores(sequences_of())
    np.testing.assert_array_equal(Recommender.load(tmp_path).scores(sequences_of()), scores)
    assert np.abs(scores - compact.scores(sequences_of())).max() > 0.1


@each_family
def test_untying_costs_one_matrix(family):
    compact = compact_model(shared(family), KEPT)
    refitted = refit_readout(compact, shared(family), batches_of(family)).model
    before, after = (sum(p.numel() for p in each.parameters()) for each in (compact, refitted))
    vocabulary = compact.model.get_input_embeddings().num_embeddings

    assert after - before == vocabulary * HIDDEN + vocabulary * (family == "bert")  # BERT's bias is untied, too


@each_family
def test_refitted_model_can_be_cut_again(family):
    refitted = refit_readout(compact_model(shared(family), KEPT), shared(family), batches_of(family)).model
    again = compact_model(refitted, (0, 1))

    assert torch.equal(logits_of(again.model, batches_of(family)), logits_of(refitted.model, batches_of(family)))


def test_refitting_an_untied_model_adds_nothing():
    full = shared()
    once = refit_readout(compact_model(full, KEPT), full, batches_of("llama")).model
    twice = refit_readout(once, full, batches_of("llama")).model

    assert sum(p.numel() for p in twice.parameters()) == sum(p.numel() for p in once.parameters())


@each_family
def test_model_without_a_recommender_is_refitted_alike(family):
    compact = compact_model(shared(family), KEPT)
    around = refit_readout(compact, shared(family), batches_of(family))
    inside = refit_readout(compact.model, shared(family).model, batches_of(family))

    assert isinstance(around.model, Recommender)
    assert type(inside.model) is type(compact.model)
    assert torch.equal(output_matrix(inside.model), output_matrix(around.model.model))
    assert (inside.explained, inside.strength) == (around.explained, around.strength)


def test_readout_after_bridges_adds_to_them():
    full, unseen = shared(), batches_of("llama", seed=1)
    batches = batches_of("llama", seed=2, count=300)
    bridged = bridged_model(full, KEPT, batches).model
    both = refit_readout(bridged, full, batches).model
    wanted = logits_of(full.model, unseen)

    assert distance(logits_of(both.model, unseen), wanted) < distance(logits_of(bridged.model, unseen), wanted)


# What is left alone


@each_family
def test_arguments_and_global_generator_are_untouched(family):
    full = made(family).train()
    compact = compact_model(full, KEPT)
    compact.model.base_model.requires_grad_(False)
    compact.layers[1].eval()
    before, state = (digest(full), digest(compact)), torch.get_rng_state()
    refitted = refit_readout(compact, full, batches_of(family)).model
    modes = [[module.training for module in each.modules()] for each in (refitted, compact)]
    flags = [[p.requires_grad for p in each.model.get_output_embeddings().parameters()] for each in (refitted, compact)]
    with torch.no_grad():
        for parameter in refitted.parameters():
            parameter.fill_(7)

    assert modes[0] == modes[1]
    assert flags[0] == flags[1]
    assert (digest(full), digest(compact)) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_does_not_disturb_the_regression():
    full = build_recommender("llama", NUM_ITEMS, MAX_LENGTH, SHAPE, seed=0, attention_dropout=0.5)
    compact = compact_model(full, KEPT)
    first, second = (
        refit_readout(compact.train(mode), full.train(mode), batches_of("llama")) for mode in (True, False)
    )
    assert torch.equal(output_matrix(first.model.model), output_matrix(second.model.model))


# Refusals


def test_t5_is_refused_because_its_configuration_ties_always():
    full = build_recommender("t5", NUM_ITEMS, MAX_LENGTH, SHAPE, seed=0)
    compact = compact_model(full, {"encoder": (0,)})
    batches = full.labelled_batches(sequences_of())

    with pytest.raises(UnsupportedArchitectureError, match="T5Config ties output to input embeddings whenever it is"):
        refit_readout(compact, full, batches)


def test_model_without_a_head_is_refused():
    inside = shared().model.model
    with pytest.raises(UnsupportedArchitectureError, match="LlamaModel has no output embeddings to refit"):
        refit_readout(inside, inside, batches_of("llama"))


def test_bad_arguments_are_refused_with_value_and_range():
    full = shared()
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"read_share must lie in \[0, 1\], got {share}"):
            refit_readout(full, full, batches_of("llama"), share)
    with pytest.raises(ValueError, match="at least one batch to learn from, got none"):
        refit_readout(full, full, [])
    wider = made(shape=Shape(num_layers=2, hidden=32, intermediate=24, num_heads=2))
    with pytest.raises(ValueError, match=r"must be equally wide, got 16 \(compact\) and 32 \(full\)"):
        refit_readout(full, wider, batches_of("llama"))
