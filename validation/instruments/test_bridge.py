"""A bridge is the ridge regression it says it is, folded so that the checkpoint computes it and keeps its form.

The oracle `slowly_bridged` knows the modules by name, feeds every example alone and without padding, and solves the
normal equations row by row in numpy; it shares no code with the library.
"""

import copy
import hashlib
import math
import re
from contextlib import ExitStack
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, T5EncoderModel

from layerwise.compression import bridge
from layerwise.compression.bridge import bridged_model, position_weights
from layerwise.compression.compact import compact_model
from layerwise.compression.ridge import STRENGTHS, Ridge
from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.layers import layers_of, stacks_of
from layerwise.models.recommender import Recommender, build_recommender

NUM_ITEMS, MAX_LENGTH, PAD = 30, 7, 30
SHAPE = Shape(num_layers=6, hidden=16, intermediate=24, num_heads=2)
AUTO = dict.fromkeys(("llama", "qwen3", "gpt2"), AutoModelForCausalLM) | {
    "bert": AutoModelForMaskedLM,
    "t5": AutoModelForSeq2SeqLM,
}
NAMES = {  # where a family's layers stand, and in a layer the output map of its feed-forward part
    "llama": {"layers": ("model.layers", "mlp.down_proj")},
    "qwen3": {"layers": ("model.layers", "mlp.down_proj")},
    "gpt2": {"layers": ("transformer.h", "mlp.c_proj")},
    "bert": {"layers": ("bert.encoder.layer", "output.dense")},
    "t5": {
        "encoder": ("encoder.block", "layer.1.DenseReluDense.wo"),
        "decoder": ("decoder.block", "layer.2.DenseReluDense.wo"),
    },
}
PRE_NORM = [family for family in FAMILIES if family != "bert"]

each_family = pytest.mark.parametrize("family", FAMILIES)
each_pre_norm = pytest.mark.parametrize("family", PRE_NORM)
both_features = pytest.mark.parametrize("features", ["inner", "branch"])


def kept_of(family):
    """Two gaps with a bridge, of one and of two layers; in a single stack, one more before the first kept layer."""
    return {"encoder": (0,), "decoder": (0, 2)} if family == "t5" else (1, 3)


def gaps_of(family):
    """Stack, bridge, place of the bridge in the compact stack, last removed layer."""
    return (
        [("encoder", 0, 0, 2), ("decoder", 0, 0, 1)] if family == "t5" else [("layers", 1, 0, 2), ("layers", 3, 1, 5)]
    )


def made(family="llama", seed=0):
    """Random recommender whose layers all matter: large weights, norms and biases that are not their defaults."""
    recommender = build_recommender(family, NUM_ITEMS, MAX_LENGTH, SHAPE, seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.5 if family == "t5" else 8)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3, generator=random)
            else:
                parameter.uniform_(0.5, 1.5, generator=random)
    return recommender.eval()


shared = cache(made)  # for tests that only look


@cache
def batches_of(family, seed=1, count=5, rows=8):
    """Random sequences of two to seven tokens, padded on the right and masked."""
    random = np.random.default_rng(seed)
    prefixes = ("", "decoder_") if family == "t5" else ("",)
    return [{k: v for prefix in prefixes for k, v in _tokens(random, rows, prefix).items()} for _ in range(count)]


def _tokens(random, rows, prefix):
    lengths = random.integers(2, MAX_LENGTH + 1, rows)
    mask = np.arange(MAX_LENGTH) < lengths[:, None]
    tokens = np.where(mask, random.integers(0, NUM_ITEMS, mask.shape), PAD)
    return {f"{prefix}input_ids": torch.from_numpy(tokens), f"{prefix}attention_mask": torch.from_numpy(mask).long()}


def example(batch, row):
    """One row of a batch alone, without its padding."""
    alone = {}
    for prefix in ("", "decoder_"):
        if f"{prefix}input_ids" in batch:
            length = int(batch[f"{prefix}attention_mask"][row].sum())
            alone[f"{prefix}input_ids"] = batch[f"{prefix}input_ids"][row : row + 1, :length]
    return alone


def logits_of(model, batch):
    """At the positions that are no padding, one below the other."""
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits[batch.get("decoder_attention_mask", batch["attention_mask"]) == 1]


def all_logits(model, batches):
    return torch.cat([logits_of(model, batch) for batch in batches])


def distance(found, wanted):
    """Root mean square of the difference, in units of the wanted values' standard deviation."""
    return float(((found - wanted).square().mean() / wanted.var()).sqrt())


def named(model, family, stack, index):
    """A layer and the output map of its feed-forward part."""
    layers, projection = NAMES[family][stack]
    layer = model.get_submodule(f"{layers}.{index}")
    return layer, layer.get_submodule(projection)


def passed(model, modules, inputs):
    """What enters and leaves modules in one pass, *length x width* each, as numpy arrays in fp64."""
    seen = {}

    def hook_of(name):
        def hook(_, entering, leaving):
            leaving = leaving[0] if isinstance(leaving, tuple) else leaving
            seen[name] = tuple(tensor[0].double().numpy() for tensor in (entering[0], leaving))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(hook_of(name)).remove)
        model(**inputs)
    return seen


def standardised_like(wanted, now):
    """Each row shifted and scaled to mean and spread of the other's."""
    unit = (wanted - wanted.mean(1, keepdims=True)) / wanted.std(1, keepdims=True)
    return unit * now.std(1, keepdims=True) + now.mean(1, keepdims=True)


def slow_rows(full, compact, family, gap, batches, features):
    """Features, targets and whether they are held out: one row per position of each example."""
    stack, _, place, last = gap
    wanted, (layer, projection) = named(full, family, stack, last)[0], named(compact, family, stack, place)
    post_norm = family == "bert"
    if post_norm:
        wanted, layer = wanted.output.LayerNorm, layer.output.LayerNorm
    rows, targets, held_out = [], [], []
    for number, batch in enumerate(batches):
        for row in range(len(batch["input_ids"])):
            inputs = example(batch, row)
            goal = passed(full, {"goal": wanted}, inputs)["goal"][0 if post_norm else 1]
            small = passed(compact, {"now": layer, "map": projection}, inputs)
            now = small["now"][0 if post_norm else 1]
            goal = standardised_like(goal, now) if post_norm else goal
            found = small["map"][0 if features == "inner" else 1]
            if projection.bias is not None:
                found = np.concatenate([found, np.ones((len(found), 1))], axis=1)
            rows.append(found)
            targets.append(goal - now)
            held_out.append(np.full(len(now), (row + number) % 5 == 0))
    return np.concatenate(rows), np.concatenate(targets), np.concatenate(held_out)


def slow_ridge(x, y, held_out):
    """Coefficients, strength and held-out R squared by normal equations."""

    def solved(x, y, strength):
        return np.linalg.solve(x.T @ x + strength * np.mean(np.sum(x**2, 0)) * np.eye(x.shape[1]), x.T @ y)

    def explained(strength):
        residual = y[held_out] - x[held_out] @ solved(x[~held_out], y[~held_out], strength)
        return 1 - np.sum(residual**2) / np.sum(y[held_out] ** 2)

    strength = max(STRENGTHS, key=explained)
    return solved(x, y, strength), strength, explained(strength)


def slowly_folded(projection, coefficients, features):
    """What the output map becomes, in fp64: weight *in x out* and bias."""
    weight = projection.weight.detach().double().numpy()
    weight = weight if type(projection).__name__ == "Conv1D" else weight.T
    bias = None if projection.bias is None else projection.bias.detach().double().numpy()
    change, offset = (coefficients, 0.0) if bias is None else (coefficients[:-1], coefficients[-1])
    if features == "inner":
        return weight + change, None if bias is None else bias + offset
    square = np.eye(len(change)) + change  # after the map, ReplaceMe's T
    return weight @ square, None if bias is None else bias @ square + offset


def set_map(projection, weight, bias):
    with torch.no_grad():
        weight = weight if type(projection).__name__ == "Conv1D" else weight.T
        projection.weight.copy_(torch.from_numpy(weight))
        if bias is not None:
            projection.bias.copy_(torch.from_numpy(bias))


def slowly_bridged(full, family, batches, features):
    """The compact model with its gaps solved one after the other, and `(strength, R squared)` of each."""
    compact, values = compact_model(full, kept_of(family)), []
    for gap in gaps_of(family):
        if family == "bert":
            layer, wanted = named(compact, family, "layers", gap[2])[0], named(full, family, "layers", gap[3])[0]
            layer.output.LayerNorm.load_state_dict(wanted.output.LayerNorm.state_dict())
        coefficients, *value = slow_ridge(*slow_rows(full, compact, family, gap, batches, features))
        projection = named(compact, family, gap[0], gap[2])[1]
        set_map(projection, *slowly_folded(projection, coefficients, features))
        values.append(value)
    return compact, values


def digest(model):
    """Everything of a model that somebody could have changed."""
    parts = [str(model.config.to_dict()), str(model)]
    for name, module in model.named_modules():
        parts.append(f"{name} {module.training} {sorted(vars(module))} {len(module._forward_hooks)}")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parts.append(f"{name} {parameter.requires_grad} {parameter.grad} {parameter.data_ptr()}")
    text = hashlib.sha256("\n".join(parts).encode())
    for tensor in [*model.state_dict().values(), *model.buffers()]:
        text.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()


def assert_same_weights(found, expected, **tolerance):
    expected = expected.state_dict()
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight, expected[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# The regression


@each_family
@both_features
def test_bridges_are_the_slow_ones(family, features):
    """Weights, strengths and held-out R squared; the second gap on the states that the first bridge makes."""
    full = made(family).model.double()
    slow, values = slowly_bridged(full, family, batches_of(family), features)
    bridged = bridged_model(full, kept_of(family), batches_of(family), features)
    gaps = [gap for gap in bridged.gaps if gap.bridge is not None]

    assert_same_weights(bridged.model, slow, rtol=1e-5, atol=1e-5)
    assert [gap.strength for gap in gaps] == [strength for strength, _ in values]
    assert [gap.explained for gap in gaps] == pytest.approx([explained for _, explained in values], abs=1e-6)
    assert all(0.01 < gap.explained < 0.999 for gap in gaps)  # neither nothing nor everything


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_second_gap_would_be_another_one_on_the_states_of_the_bare_cut(family):
    """Else the test above would not notice the order."""
    full = made(family).model.double()
    second = gaps_of(family)[1]
    bridged = bridged_model(full, kept_of(family), batches_of(family)).model
    bare = compact_model(full, kept_of(family))
    projection = named(bare, family, second[0], second[2])[1]
    coefficients, *_ = slow_ridge(*slow_rows(full, bare, family, second, batches_of(family), "inner"))
    set_map(projection, *slowly_folded(projection, coefficients, "inner"))

    solved_in_order = named(bridged, family, second[0], second[2])[1]
    assert (solved_in_order.weight - projection.weight).abs().max() > 1e-3


@each_family
def test_gaps_are_listed_in_order_and_the_first_layers_have_no_bridge(family):
    gaps = bridged_model(shared(family), kept_of(family), batches_of(family)).gaps
    listed = [(gap.stack, gap.removed, gap.bridge) for gap in gaps]

    if family == "t5":
        assert listed == [("encoder", (1, 2), 0), ("decoder", (1,), 0)]
    else:
        assert listed == [("layers", (0,), None), ("layers", (2,), 1), ("layers", (4, 5), 3)]
        assert math.isnan(gaps[0].explained)
        assert math.isnan(gaps[0].strength)


@each_family
def test_bridges_bring_unseen_final_states_closer_to_the_full_models(family):
    full, unseen = shared(family).model, batches_of(family, seed=2)
    wanted = all_logits(full, unseen)
    bare = all_logits(compact_model(full, kept_of(family)), unseen)
    bridged = bridged_model(full, kept_of(family), batches_of(family, count=10, rows=40))

    assert all(gap.explained > 0 for gap in bridged.gaps if gap.bridge is not None)
    assert distance(all_logits(bridged.model, unseen), wanted) < 0.95 * distance(bare, wanted)


# The fold


@each_family
@both_features
def test_folded_map_computes_what_a_hook_adds(family, features, monkeypatch):
    """For any coefficients: the output map's result, plus the rows times the coefficients."""
    random, drawn = torch.Generator().manual_seed(0), []

    def planted(fitted, held_out):
        drawn.append(0.2 * torch.randn(fitted.cross.shape, generator=random, dtype=torch.float64))
        return Ridge(drawn[-1], 0.25, 0.75)

    monkeypatch.setattr(bridge, "ridge", planted)
    full = shared(family).model
    found = bridged_model(full, kept_of(family), batches_of(family), features)
    hooked = compact_model(full, kept_of(family))
    for coefficients, (stack, _, place, last) in zip(drawn, gaps_of(family), strict=True):
        layer, projection = named(hooked, family, stack, place)
        projection.register_forward_hook(adding(coefficients.float(), features))
        if family == "bert":
            norm = named(full, family, stack, last)[0].output.LayerNorm
            layer.output.LayerNorm.load_state_dict(norm.state_dict())

    expected = all_logits(hooked, batches_of(family))
    assert distance(all_logits(found.model, batches_of(family)), expected) < 1e-5
    assert distance(all_logits(compact_model(full, kept_of(family)), batches_of(family)), expected) > 0.1
    assert {(gap.strength, gap.explained) for gap in found.gaps if gap.bridge is not None} == {(0.25, 0.75)}


def adding(coefficients, features):
    def hook(projection, entering, leaving):
        rows = entering[0] if features == "inner" else leaving
        if projection.bias is not None:
            rows = torch.cat([rows, torch.ones(*rows.shape[:-1], 1)], dim=-1)
        return leaving + rows @ coefficients

    return hook


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@both_features
def test_half_precision_is_summed_in_fp64_and_rounded_once(family, features, monkeypatch):
    full = made(family).model.to(torch.bfloat16)
    batches, calls, ridge = batches_of(family), [], bridge.ridge

    def watched(*parts):
        calls.append((parts, ridge(*parts)))
        return calls[-1][1]

    monkeypatch.setattr(bridge, "ridge", watched)
    kept = tuple(range(5))  # one gap, the last layer
    bridged, bare = bridged_model(full, kept, batches, features).model, compact_model(full, kept)
    (parts, found), projection = calls[0], named(bare, family, "layers", 4)[1]
    weight, bias = slowly_folded(projection, found.coefficients.numpy(), features)
    expected = copy.deepcopy(projection)
    set_map(expected, weight, bias)  # copy_ rounds fp64 to bf16

    assert {part.gram.dtype for part in parts} == {torch.float64}
    assert_same_weights(named(bridged, family, "layers", 4)[1], expected, rtol=0, atol=0)
    rows = torch.cat([rows_in_batch(bare, projection, batch, features) for batch in batches])
    torch.testing.assert_close(parts[0].gram + parts[1].gram, rows.T @ rows, rtol=1e-9, atol=1e-9)


def rows_in_batch(model, projection, batch, features):
    seen = []
    handle = projection.register_forward_hook(lambda _, i, output: seen.append(i[0] if features == "inner" else output))
    logits_of(model, batch)
    handle.remove()
    rows = seen[0][batch["attention_mask"] == 1].double()
    return rows if projection.bias is None else torch.cat([rows, torch.ones(len(rows), 1).double()], dim=1)


# Planted cases


@each_pre_norm
@both_features
def test_removed_layers_that_are_linear_in_the_kept_one_are_recovered(family, features):
    """Two removed layers hand on their input, and the second adds what a hook saw inside the kept one, times a map."""
    full, random = made(family).model, torch.Generator().manual_seed(0)
    stack = "decoder" if family == "t5" else "layers"
    projection, seen = named(full, family, stack, 0)[1], {}
    width = projection.weight.numel() // 16 if features == "inner" else 16
    planted = torch.randn(width, 16, generator=random)
    projection.register_forward_hook(lambda _, i, o: seen.update(rows=i[0] if features == "inner" else o))

    def hands_on(number):
        def hook(_, entering, leaving):
            state = entering[0] + (seen["rows"] @ planted + 0.5 * (projection.bias is not None)) * (number == 2)
            return (state, *leaving[1:]) if isinstance(leaving, tuple) else state

        return hook

    for number in (1, 2):
        named(full, family, stack, number)[0].register_forward_hook(hands_on(number))
    kept = {"decoder": (0,)} if family == "t5" else (0, 3, 4, 5)
    bridged = bridged_model(full, kept, batches_of(family), features)
    unseen = batches_of(family, seed=2)
    wanted, bare = (all_logits(model, unseen) for model in (full, compact_model(full, kept)))

    assert bridged.gaps[0].explained > 1 - 1e-6
    assert distance(all_logits(bridged.model, unseen), wanted) < 1e-3
    assert distance(bare, wanted) > 0.1


def test_removed_layers_that_write_a_constant_are_recovered_by_the_bias():
    full = made("gpt2").model
    with torch.no_grad():
        for layer in full.transformer.h[2:4]:
            for projection in (layer.attn.c_proj, layer.mlp.c_proj):
                projection.weight.zero_()
    bridged = bridged_model(full, (0, 1, 4, 5), batches_of("gpt2"))
    before, after = full.transformer.h[1].mlp.c_proj, bridged.model.transformer.h[1].mlp.c_proj
    written = sum(map_.bias for layer in full.transformer.h[2:4] for map_ in (layer.attn.c_proj, layer.mlp.c_proj))

    assert bridged.gaps[0].explained > 1 - 1e-6
    torch.testing.assert_close(after.bias, before.bias + written, rtol=0, atol=1e-2)
    torch.testing.assert_close(after.weight, before.weight, rtol=0, atol=1e-2)
    unseen = batches_of("gpt2", seed=2)
    assert distance(all_logits(bridged.model, unseen), all_logits(full, unseen)) < 1e-3


@each_family
def test_fewer_states_than_activations_are_met_exactly(family):
    """Nothing is planted: a map of 24 or 36 rows can give 12 states any value, BERT's up to its normalisation."""
    full, random = made(family, seed=3).model, np.random.default_rng(0)
    tokens = torch.from_numpy(random.permutation(NUM_ITEMS)[:12].reshape(4, 3))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if family == "t5":
        batch |= {f"decoder_{name}": value for name, value in batch.items()}
    kept = {"decoder": (0,)} if family == "t5" else (0, 1)
    bridged = bridged_model(full, kept, [batch] * 5)  # each example held out once
    wanted, bare = logits_of(full, batch), logits_of(compact_model(full, kept), batch)

    assert bridged.gaps[0].explained > 1 - 1e-6
    assert distance(logits_of(bridged.model, batch), wanted) < 1e-3
    assert distance(bare, wanted) > 0.1


@each_pre_norm
@both_features
def test_removing_layers_that_do_nothing_changes_nothing(family, features):
    full = made(family).model
    outputs = re.compile(r"(layers|h|block)\.[12]\..*\.(o_proj|down_proj|c_proj|o|wo)\.")
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if outputs.search(name):
                parameter.zero_()
    kept = {"encoder": (0,), "decoder": (0,)} if family == "t5" else (0, 3, 4, 5)
    bridged = bridged_model(full, kept, batches_of(family), features)

    assert_same_weights(bridged.model, compact_model(full, kept), rtol=0, atol=0)
    assert torch.equal(all_logits(bridged.model, batches_of(family)), all_logits(full, batches_of(family)))
    assert {(gap.explained, gap.strength) for gap in bridged.gaps} == {(0.0, math.inf)}


def test_bert_takes_over_the_output_norm_of_the_last_removed_layer():
    """The removed layers only normalise, so with the last one's normalisation the cut is exact."""
    full = made("bert").model
    layers = full.bert.encoder.layer
    with torch.no_grad():
        for part in (part for layer in layers[2:4] for part in (layer.attention.output, layer.output)):
            part.dense.weight.zero_()
            part.dense.bias.zero_()
            part.LayerNorm.reset_parameters()
        layers[1].output.LayerNorm.reset_parameters()
        layers[3].output.LayerNorm.weight.uniform_(0.2, 3, generator=torch.Generator().manual_seed(0))
        layers[3].output.LayerNorm.bias.fill_(0.4)
    kept = (0, 1, 4, 5)
    found, unseen = bridged_model(full, kept, batches_of("bert")).model, batches_of("bert", seed=2)
    norm = found.bert.encoder.layer[1].output.LayerNorm

    assert torch.equal(norm.weight, layers[3].output.LayerNorm.weight)
    assert torch.equal(norm.bias, layers[3].output.LayerNorm.bias)
    assert distance(all_logits(found, unseen), all_logits(full, unseen)) < 1e-4
    assert distance(all_logits(compact_model(full, kept), unseen), all_logits(full, unseen)) > 0.1


# What does not count


@each_family
def test_tokens_under_the_mask_do_not_matter(family):
    def with_other_padding(batch):
        return {
            name: torch.where(batch[name.replace("input_ids", "attention_mask")] == 1, value, 3)
            if name.endswith("input_ids")
            else value
            for name, value in batch.items()
        }

    batches = batches_of(family)
    others = [with_other_padding(batch) for batch in batches]
    first, second = (bridged_model(shared(family), kept_of(family), given) for given in (batches, others))

    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    assert not torch.equal(batches[0]["input_ids"], others[0]["input_ids"])
    assert_same_weights(first.model, second.model, rtol=0, atol=0)
    assert repr(first.gaps) == repr(second.gaps)


@each_family
def test_more_padding_does_not_matter(family):
    model = made(family).model.double()
    shorter = [{name: value[:, :-1] for name, value in batch.items()} for batch in batches_of(family)]  # room for BERT
    padded = [
        {name: torch.nn.functional.pad(v, (0, 1), value=PAD * name.endswith("ids")) for name, v in batch.items()}
        for batch in shorter
    ]
    first, second = (bridged_model(model, kept_of(family), given) for given in (shorter, padded))

    assert_same_weights(first.model, second.model, rtol=1e-6, atol=1e-6)
    assert [gap.strength for gap in first.gaps] == pytest.approx([gap.strength for gap in second.gaps], nan_ok=True)


# Weights of positions


def stack_named(model, name):
    return next(stack for stack in stacks_of(model) if stack.name == name)


def weights(family, stack, read_share, **batch):
    model = shared(family).model
    batch = {name: torch.tensor(value) for name, value in batch.items()}
    return position_weights(model, stack_named(model, stack), batch, read_share)


def assert_weights(found, expected):
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_causal_models_are_read_one_position_before_the_label(family):
    """Four positions share half of 4; the one that predicts the last token gets the other half. Three share 3."""
    found = weights(
        family,
        "layers",
        0.5,
        input_ids=[[1, 2, 3, 4, PAD], [5, 6, 7, PAD, PAD]],
        attention_mask=[[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]],
        labels=[[-100, -100, -100, 4, -100], [-100, 6, 7, -100, -100]],
    )

    assert_weights(found, [[1 / 2, 1 / 2, 1 / 2 + 2, 1 / 2, 0], [1 / 2 + 3 / 4, 1 / 2 + 3 / 4, 1 / 2, 0, 0]])


def test_masked_models_are_read_where_the_label_stands():
    found = weights(
        "bert",
        "layers",
        0.25,
        input_ids=[[1, 2, 31], [3, 31, PAD], [4, 5, 6]],
        attention_mask=[[1, 1, 1], [1, 1, 0], [1, 1, 1]],
        labels=[[-100, -100, 9], [-100, 8, -100], [-100, -100, -100]],
    )

    assert_weights(found, [[3 / 4, 3 / 4, 3 / 4 + 3 / 4], [3 / 4, 3 / 4 + 2 / 4, 0], [1, 1, 1]])


def test_only_the_decoder_of_an_encoder_decoder_is_read():
    batch = {
        "input_ids": [[1, 2, 31], [4, 31, PAD]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "decoder_input_ids": [[PAD, 5, 6], [PAD, 7, 8]],
        "labels": [[5, 6, 9], [-100, 8, -100]],
    }
    assert_weights(weights("t5", "encoder", 0.5, **batch), [[1, 1, 1], [1, 1, 0]])
    assert_weights(weights("t5", "decoder", 0.5, **batch), [[1, 1, 1], [1 / 2, 1 / 2 + 3 / 2, 1 / 2]])
    fed_by_labels = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
    assert_weights(weights("t5", "decoder", 0.5, **fed_by_labels), [[1, 1, 1], [1 / 2, 2, 1 / 2]])


def test_decoder_mask_counts():
    found = weights(
        "t5",
        "decoder",
        1.0,
        input_ids=[[1]],
        decoder_input_ids=[[PAD, 5, PAD]],
        decoder_attention_mask=[[1, 1, 0]],
        labels=[[5, -100, -100]],
    )
    assert_weights(found, [[2, 0, 0]])


@pytest.mark.parametrize(("read_share", "expected"), [(0.0, [1, 1, 1, 1]), (1.0, [0, 0, 4, 0])])
def test_read_share_goes_from_no_difference_to_nothing_else(read_share, expected):
    found = weights("llama", "layers", read_share, input_ids=[[1, 2, 3, 4]], labels=[[-100, -100, -100, 4]])
    assert_weights(found, [expected])


def test_without_labels_all_unmasked_positions_count_alike():
    assert_weights(weights("llama", "layers", 0.5, input_ids=[[1, 2]]), [[1, 1]])
    assert_weights(weights("llama", "layers", 0.5, input_ids=[[1, 2]], attention_mask=[[0, 1]]), [[0, 1]])


def test_padding_in_front_of_the_first_label_counts_nothing():
    """Padded on the left, the first token's label stands one behind a padding position, which cannot predict it."""
    found = weights("llama", "layers", 0.5, input_ids=[[PAD, 1, 2]], attention_mask=[[0, 1, 1]], labels=[[-100, 1, 2]])
    assert found[0, 0] == 0
    assert found.sum() == 2


def test_weights_of_positions_reach_the_regression():
    """Labels at the last position only, all weight on it: the regression on these rows alone."""
    full = made("llama").model.double()
    batches = [
        {
            "input_ids": batch["input_ids"] % NUM_ITEMS,
            "attention_mask": torch.ones_like(batch["attention_mask"]),
            "labels": torch.where(torch.arange(MAX_LENGTH) == MAX_LENGTH - 1, batch["input_ids"] % NUM_ITEMS, -100),
        }
        for batch in batches_of("llama", count=5)
    ]
    x, y, held_out = slow_rows(full, compact_model(full, (0,)), "llama", ("layers", 0, 0, 5), batches, "inner")
    read = np.arange(len(x)) % MAX_LENGTH == MAX_LENGTH - 2
    gaps = {share: bridged_model(full, (0,), batches, read_share=share).gaps[0] for share in (0.0, 1.0)}

    assert gaps[1.0].explained == pytest.approx(slow_ridge(x[read], y[read], held_out[read])[2], abs=1e-6)
    assert gaps[0.0].explained == pytest.approx(slow_ridge(x, y, held_out)[2], abs=1e-6)
    assert abs(gaps[0.0].explained - gaps[1.0].explained) > 1e-3


# Form


@each_family
@both_features
def test_checkpoint_keeps_its_form(family, features, tmp_path):
    """`transformers` alone reads it back: no key too many, none too few, the same shapes as the bare cut's."""
    full = made(family).model
    bridged, bare = (
        bridged_model(full, kept_of(family), batches_of(family), features).model,
        compact_model(full, kept_of(family)),
    )
    assert bridged.config.to_dict() == bare.config.to_dict()
    bridged.save_pretrained(tmp_path)
    read, report = AUTO[family].from_pretrained(tmp_path, output_loading_info=True)

    assert not any(report.values())
    assert torch.equal(all_logits(read, batches_of(family)), all_logits(bridged, batches_of(family)))
    shapes = [{name: w.shape for name, w in model.state_dict().items()} for model in (read, bridged, bare)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert type(bridged) is type(full)


@each_family
def test_only_output_maps_of_bridges_differ_from_the_bare_cut(family):
    full = shared(family).model
    bridged, bare = bridged_model(full, kept_of(family), batches_of(family)).model, compact_model(full, kept_of(family))
    theirs = bare.state_dict()
    changed = {name for name, weight in bridged.state_dict().items() if not torch.equal(weight, theirs[name])}
    expected = set()
    for stack, _, place, _ in gaps_of(family):
        layers, projection = NAMES[family][stack]
        parts = ("weight", "bias") if family in ("gpt2", "bert") else ("weight",)
        expected |= {f"{layers}.{place}.{projection}.{part}" for part in parts}
        if family == "bert":
            expected |= {f"{layers}.{place}.output.LayerNorm.{part}" for part in parts}

    assert changed == expected


@each_family
def test_recommender_is_bridged_like_the_model_inside(family, tmp_path):
    recommender, random = shared(family), np.random.default_rng(0)
    sequences = [random.integers(0, NUM_ITEMS, length) for length in (2, 5, 9, 3, 7, 4, 8, 2, 6, 5, 12, 3)]
    batches = recommender.labelled_batches(sequences, batch_size=5)
    bridged = bridged_model(recommender, kept_of(family), batches)
    inside = bridged_model(recommender.model, kept_of(family), batches)
    bridged.model.save(tmp_path)

    assert isinstance(bridged.model, Recommender)
    assert (bridged.model.num_items, bridged.model.max_length) == (NUM_ITEMS, MAX_LENGTH)
    assert repr(bridged.gaps) == repr(inside.gaps)
    assert_same_weights(bridged.model.model, inside.model, rtol=0, atol=0)
    bare = compact_model(recommender, kept_of(family)).scores(sequences)
    scores = bridged.model.scores(sequences)
    assert np.abs(scores - bare).max() > 1e-3
    np.testing.assert_array_equal(Recommender.load(tmp_path).scores(sequences), scores)


def test_encoder_alone_is_bridged():
    encoder = T5EncoderModel(made("t5").model.config).eval()
    batches = [{name: v for name, v in batch.items() if "decoder" not in name} for batch in batches_of("t5")]
    bridged = bridged_model(encoder, (0,), batches)

    assert [(gap.stack, gap.removed, gap.bridge) for gap in bridged.gaps] == [("encoder", (1, 2), 0)]
    assert len(layers_of(bridged.model)) == 1


# What is left alone


@each_family
def test_full_model_batches_and_global_generator_are_untouched(family):
    full = made(family).model.train()
    full.base_model.requires_grad_(False)
    layers_of(full)[1].eval()
    batches = [{name: value.clone() for name, value in batch.items()} for batch in batches_of(family)]
    before, state = digest(full), torch.get_rng_state()
    bridged = bridged_model(full, kept_of(family), batches).model
    with torch.no_grad():
        for parameter in bridged.parameters():
            parameter.fill_(7)

    assert digest(full) == before
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip(batches, batches_of(family), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_bridged_model_has_modes_and_gradient_flags_of_the_bare_cut():
    full = made().model.train()
    full.model.layers[1].requires_grad_(False).eval()
    bridged, bare = bridged_model(full, (1, 3), batches_of("llama")).model, compact_model(full, (1, 3))

    assert [m.training for m in bridged.modules()] == [m.training for m in bare.modules()]
    assert [p.requires_grad for p in bridged.parameters()] == [p.requires_grad for p in bare.parameters()]
    assert not any(module._forward_hooks for module in bridged.modules())


def test_dropout_does_not_disturb_the_regression():
    """A model in training mode is bridged as in evaluation mode."""
    recommender = build_recommender("llama", NUM_ITEMS, MAX_LENGTH, SHAPE, seed=0, attention_dropout=0.5)
    first, second = (
        bridged_model(recommender.train(mode), (1, 3), batches_of("llama")).model for mode in (True, False)
    )
    assert_same_weights(first, second, rtol=0, atol=0)


# Refusals


def test_bad_arguments_are_refused_with_value_and_range():
    model, batches = shared("llama"), batches_of("llama")
    with pytest.raises(ValueError, match='features must be "inner" or "branch", got \'outer\''):
        bridged_model(model, (0,), batches, features="outer")
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"read_share must lie in \[0, 1\], got {share}"):
            bridged_model(model, (0,), batches, read_share=share)
    with pytest.raises(ValueError, match="at least one batch to learn from, got none"):
        bridged_model(model, (0,), [])
    with pytest.raises(ValueError, match=r"kept_layers must increase strictly within \[0, 6\), got \(3, 3\)"):
        bridged_model(model, (3, 3), batches)
    with pytest.raises(UnsupportedArchitectureError, match="expected a transformers model or a Recommender"):
        bridged_model(torch.nn.Linear(2, 2), (0,), batches)


def test_keeping_all_layers_is_the_full_model_without_gaps():
    bridged = bridged_model(shared("llama").model, range(6), batches_of("llama"))

    assert bridged.gaps == ()
    assert_same_weights(bridged.model, shared("llama").model, rtol=0, atol=0)


def test_one_example_is_too_few_to_choose_a_map():
    """It is held out, and nothing is left to fit: the bare cut."""
    batch = {name: value[:1] for name, value in batches_of("llama")[0].items()}
    bridged = bridged_model(shared("llama").model, (0,), [batch])

    assert_same_weights(bridged.model, compact_model(shared("llama").model, (0,)), rtol=0, atol=0)
    assert (bridged.gaps[0].explained, bridged.gaps[0].strength) == (0.0, math.inf)
