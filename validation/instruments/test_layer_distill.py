"""Layer-wise distillation: every term as a slow implementation has it, row by row without padding."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import Distillation, heal
from layerwise.compression.layer_distill import distil_layers, objective_loss
from layerwise.compression.magnitude import magnitude_pruned
from layerwise.compression.objective import NOTHING_MATCHED, Matching, Objective, paired_ends
from layerwise.compression.observed import ObservedRecommender, observe, plain
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.models.attention import recorded_attention
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Recipe, TrainingDivergedError

NUM_ITEMS, MAX_LENGTH = 10, 6
RECIPE = Recipe(epochs=1, learning_rate=1e-2, batch_size=8, evaluate_every=1)
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
DEPTHS = dict.fromkeys(FAMILIES, (4,)) | {"t5": (2, 2)}
KEPT = (0, 2)  # of T5: the first layer of each stack
TERMS = {
    "observed": Objective(observed=1, logits=0),
    "logits": Objective(observed=0, logits=1),
    "states": Objective(observed=0, logits=0, states=1),
    "cosine": Objective(observed=0, logits=0, states=1, distance="cosine"),
    "embeddings": Objective(observed=0, logits=0, embeddings=1),
    "scores": Objective(observed=0, logits=0, scores=1),
    "relations": Objective(observed=0, logits=0, relations=1),
}
INSIDE = [name for name in TERMS if name not in ("observed", "logits")]
WHOLE = Objective(observed=0.3, logits=0.7, temperature=3, states=0.5, embeddings=2, scores=0.1, relations=1.5)


def made(family="llama", seed=0, num_layers=4, attention_dropout=0.0):
    """A recommender with weights so large that attention and layers do something; T5 has layers 2 + 2."""
    shape = Shape(num_layers, 16, 24, 2)
    recommender = build_recommender(family, NUM_ITEMS, MAX_LENGTH, shape, seed, attention_dropout)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in recommender.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(std=0.2, generator=random))
    return recommender


def pair(family):
    """A teacher, and an unlike student of half its layers, in training mode."""
    student = compact_model(made(family, seed=1), KEPT)
    return student.train(), made(family, seed=0)


def windows_of(recommender):
    """One window of each of four users, of different length."""
    sequences = [np.array([0, 1, 2, 3, 4]), np.array([5, 4]), np.array([7, 9, 1]), np.array([8, 6, 2, 3])]
    return recommender.windows(sequences, np.random.default_rng(3))


def ends(family, weights=(0.25, 0.75)):
    return Matching(paired_ends(DEPTHS[family], KEPT), weights)


def value_of(student, teacher, objective, matching=NOTHING_MATCHED, windows=None):
    """The loss as `train` computes it, without dropout."""
    windows = windows_of(student) if windows is None else windows
    learned = len(matching.pairs) if matching.weights is None else 0
    if not isinstance(student, ObservedRecommender):
        student = ObservedRecommender(student, objective.watches_attention, learned)
    states = student.states(windows.inputs)[windows.valid]
    return objective_loss(teacher, objective, matching)(student, states, windows)


def weights_of(recommender):
    return {name: weight.clone() for name, weight in recommender.state_dict().items()}


def same(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def split():
    """Sixteen users who walk through the catalogue, one item after the other."""
    users, steps = np.divmod(np.arange(16 * 7), 7)
    return leave_one_out(Interactions.from_columns("cycle", users, (users + steps) % NUM_ITEMS, steps))


# Every term, slowly: each row alone and cut to what is real, so that there is no padding to leave out


def rows_alone(windows):
    """The inputs of each row by itself."""
    for row, valid in enumerate(windows.valid):
        targets = int(valid.nonzero().max()) + 1
        mask = windows.inputs.get("attention_mask")
        length = targets if mask is None else int(mask[row].sum())
        sizes = {"input_ids": length, "attention_mask": length, "decoder_input_ids": targets}
        yield {name: tensor[row : row + 1, : sizes[name]] for name, tensor in windows.inputs.items()}


def seen_alone(recommender, windows):
    """By row: what enters each stack, what leaves each layer, and queries, keys, values of each layer, in fp64."""
    stacks = list(stacks_of(recommender.model).values())
    found = []
    for inputs in rows_alone(windows):
        entered, left = [], []

        def enters(_, args, to=entered):
            to.append(args[0])

        def leaves(_, __, output, to=left):
            to.append(output[0] if isinstance(output, tuple) else output)

        handles = [stack[0].register_forward_pre_hook(enters) for stack in stacks]
        handles += [layer.register_forward_hook(leaves) for layer in recommender.layers]
        with torch.no_grad(), recorded_attention(recommender.model) as attention:
            recommender.states(inputs)
        for handle in handles:
            handle.remove()
        found.append(([state[0].double() for state in entered], [state[0].double() for state in left], attention))
    return found


def relative(own, other):
    """Sum of squared differences over sum of squares, over all rows."""
    difference = sum(((a - b) ** 2).sum() for a, b in zip(own, other, strict=True))
    return difference / sum((b**2).sum() for b in other)


def slow_cosine(own, other):
    cosines = [a @ b / a.norm() / b.norm() for x, y in zip(own, other, strict=True) for a, b in zip(x, y, strict=True)]
    return 1 - sum(cosines) / len(cosines)


def visible_keys(query, length, causal):
    return range(query + 1 if causal else length)


def slow_attention(kind, own, other, causal):
    """Over heads and queries of all rows: squared differences of scores, or divergences of softmax rows."""
    collected = []
    for a, b in zip(own, other, strict=True):
        heads, length = a.queries.shape[1:3]
        for head in range(heads):
            for query in range(length):
                keys = visible_keys(query, length, causal)
                rows = [slow_row(kind, side, head, query, keys) for side in (a, b)]
                if kind == "scores":
                    collected += list((rows[0] - rows[1]) ** 2)
                else:
                    told, wanted = (row.softmax(0) for row in rows)
                    collected.append((wanted * (wanted / told).log()).sum())
    return sum(collected) / len(collected)


def slow_row(kind, layer, head, query, keys):
    if kind == "values":
        values = layer.values[0, head].double()
        return torch.stack([values[query] @ values[key] for key in keys]) / values.shape[-1] ** 0.5
    queries, all_keys = layer.queries[0, head].double(), layer.keys[0, head].double()
    row = torch.stack([queries[query] @ all_keys[key] for key in keys]) * layer.scaling
    if layer.position_bias is not None:
        row = row + layer.position_bias[0, head, query, : len(row)].double()
    return row


def slow(name, student, teacher, matching, windows):
    """One term of weight 1."""
    mine, theirs = seen_alone(student, windows), seen_alone(teacher, windows)
    family = student.model.config.model_type
    if name == "embeddings":
        stacks = range(len(mine[0][0]))
        return sum(relative([r[0][s] for r in mine], [r[0][s] for r in theirs]) for s in stacks) / len(stacks)
    total = 0.0
    for (a, b), weight in zip(matching.pairs, matching.weights, strict=True):
        if name in ("states", "cosine"):
            distance = relative if name == "states" else slow_cosine
            value = distance([row[1][a] for row in mine], [row[1][b] for row in theirs])
        else:
            causal = family not in ("bert", "t5") or (family == "t5" and b >= DEPTHS["t5"][0])
            kinds = ["scores"] if name == "scores" else ["attention", "values"]
            sides = [row[2][a] for row in mine], [row[2][b] for row in theirs]
            value = sum(slow_attention(kind, *sides, causal) for kind in kinds)
        total = total + weight * value
    return total


@ANY_FAMILY
@pytest.mark.parametrize("name", INSIDE)
def test_term_of_every_family_as_the_slow_one_has_it(family, name):
    student, teacher = pair(family)
    windows, matching = windows_of(student), ends(family)
    found = value_of(student, teacher, TERMS[name], matching, windows).item()

    assert found > 0.003
    assert found == pytest.approx(float(slow(name, student, teacher, matching, windows)), rel=1e-4)


@pytest.mark.parametrize("single", [(0, 1), (1, 3)], ids=["encoder", "decoder"])
@pytest.mark.parametrize("name", ["states", "scores", "relations"])
def test_each_stack_of_t5_counts_its_own_positions(single, name):
    student, teacher = pair("t5")
    windows, matching = windows_of(student), Matching((single,), (1.0,))
    found = value_of(student, teacher, TERMS[name], matching, windows).item()

    assert windows.inputs["attention_mask"].sum() != windows.valid.sum()
    assert found == pytest.approx(float(slow(name, student, teacher, matching, windows)), rel=1e-4)


@ANY_FAMILY
def test_next_item_and_teachers_distribution_from_the_logits_of_transformers(family):
    student, teacher = pair(family)
    windows = windows_of(student)
    with torch.no_grad():
        logits = [m.model(**windows.inputs).logits[windows.valid][:, :NUM_ITEMS].double() for m in (student, teacher)]
    observed = -logits[0].log_softmax(-1)[torch.arange(len(windows.items)), windows.items].mean()
    told, wanted = ((of / 3).softmax(-1) for of in logits)
    divergence = (wanted * (wanted / told).log()).sum(-1).mean()
    softened = replace(TERMS["logits"], temperature=3)

    assert value_of(student, teacher, TERMS["observed"]).item() == pytest.approx(observed.item(), rel=1e-4)
    assert value_of(student, teacher, softened).item() == pytest.approx(9 * divergence.item(), rel=1e-4)


@ANY_FAMILY
def test_terms_add_up_with_their_weights(family):
    student, teacher = pair(family)
    alone = {
        name: value_of(student, teacher, replace(term, temperature=WHOLE.temperature), ends(family)).item()
        for name, term in TERMS.items()
    }
    expected = sum(getattr(WHOLE, name) * alone[name] for name in TERMS if name != "cosine")

    assert value_of(student, teacher, WHOLE, ends(family)).item() == pytest.approx(expected, rel=1e-5)


def test_every_pair_counts_as_much_as_its_weight():
    student, teacher = pair("llama")
    inside = replace(WHOLE, observed=0, logits=0, embeddings=0)
    first, second = (value_of(student, teacher, inside, ends("llama", w)).item() for w in ((1.0, 0.0), (0.0, 1.0)))

    assert first != pytest.approx(second, rel=0.01)
    for share in (0.2, 0.9):
        mixed = value_of(student, teacher, inside, ends("llama", (share, 1 - share))).item()
        assert mixed == pytest.approx(share * first + (1 - share) * second, rel=1e-5)


@ANY_FAMILY
def test_student_equal_to_its_teacher_has_nothing_to_learn_from_it(family):
    student, teacher = made(family).train(), made(family)
    every = Matching(tuple((layer, layer) for layer in range(4)), (0.25,) * 4)
    for name in ("logits", *INSIDE):
        assert value_of(student, teacher, TERMS[name], every).item() == pytest.approx(0, abs=2e-6)


@ANY_FAMILY
def test_padding_does_not_count(family):
    """Other tokens in its place change nothing: neither what is real sees them, nor are they compared."""
    student, teacher = pair(family)
    windows = windows_of(student)
    other = {
        name: tensor if name == "attention_mask" else tensor.masked_fill(tensor == NUM_ITEMS, 3)
        for name, tensor in windows.inputs.items()
    }
    if family == "t5":
        other["decoder_input_ids"][:, 0] = NUM_ITEMS  # no padding: it starts the decoder
    assert any(not torch.equal(tensor, windows.inputs[name]) for name, tensor in other.items())

    filled = value_of(student, teacher, WHOLE, ends(family), replace(windows, inputs=other)).item()
    assert filled == pytest.approx(value_of(student, teacher, WHOLE, ends(family), windows).item(), rel=1e-5)


# Gradients and state


@pytest.mark.parametrize("name", TERMS)
def test_gradient_reaches_the_student_and_nothing_of_the_teacher_changes(name):
    student, teacher = compact_model(made(seed=1), KEPT).train(), made(attention_dropout=0.9).train()
    teacher.layers[1].eval()
    teacher.layers[2].requires_grad_(False)
    before = weights_of(teacher)
    modes = [module.training for module in teacher.modules()]
    flags = [parameter.requires_grad for parameter in teacher.parameters()]
    attention = teacher.model.config._attn_implementation
    first, again = (value_of(student, teacher, TERMS[name], ends("llama")) for _ in range(2))
    first.backward()

    assert first.item() == again.item()  # the teacher's dropout is off
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) > 1e-4
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert same(weights_of(teacher), before)
    assert [module.training for module in teacher.modules()] == modes
    assert [parameter.requires_grad for parameter in teacher.parameters()] == flags
    assert teacher.model.config._attn_implementation == attention == student.model.config._attn_implementation
    assert not any(module._forward_hooks for module in (*teacher.modules(), *student.modules()))


def test_gradient_of_a_pair_stays_in_front_of_its_layer():
    student, teacher = pair("llama")
    value_of(student, teacher, TERMS["states"], Matching(((0, 1),), (1.0,))).backward()

    assert all(parameter.grad.abs().max() > 0 for parameter in student.layers[0].parameters())
    assert all(parameter.grad is None for parameter in student.layers[1].parameters())


# Learned weights


def distances(student, teacher):
    """States of each pair on its own."""
    shares = ((1.0, 0.0), (0.0, 1.0))
    return torch.stack([value_of(student, teacher, TERMS["states"], ends("llama", s)) for s in shares])


def test_learned_weights_are_in_proportion_to_one_over_the_running_distance():
    """The first pass takes its distances at once, each other one moves them by 1 %; the loss is the weighted sum."""
    student, teacher = pair("llama")
    observed = ObservedRecommender(student, watches_attention=False, learned_weights=2)
    running = None
    for step in range(4):
        now = distances(student, teacher).detach()
        running = now if running is None else 0.99 * running + 0.01 * now
        shares = (1 / running) / (1 / running).sum()
        found = value_of(observed, teacher, TERMS["states"], ends("llama", None)).item()

        assert shares.sum().item() == pytest.approx(1)
        assert abs(shares[0] - shares[1]) > 0.05
        torch.testing.assert_close(observed.running_distances, running)
        assert found == pytest.approx((shares * now).sum().item(), rel=1e-5)
        with torch.no_grad():  # the distances of the next pass are others
            student.layers[step % 2].mlp.down_proj.weight.mul_(2)


def test_running_distances_move_towards_those_that_stay():
    student, teacher = pair("llama")
    observed = ObservedRecommender(student, watches_attention=False, learned_weights=2)
    observed.running_distances.fill_(5.0)
    goal = distances(student, teacher).detach()
    gaps = []
    for _ in range(20):
        value_of(observed, teacher, TERMS["states"], ends("llama", None))
        gaps.append((observed.running_distances - goal).abs())

    assert all((after < before).all() for before, after in pairwise(gaps))
    torch.testing.assert_close(gaps[-1], 0.99**20 * (5 - goal).abs(), rtol=1e-3, atol=0)


def test_gradient_under_learned_weights_is_that_of_the_weights_as_they_are():
    student, teacher = pair("llama")
    given = distances(student, teacher).detach()
    shares = (1 / given) / (1 / given).sum()
    gradients = []
    for weights in (None, tuple(shares.tolist())):
        student.zero_grad()
        value_of(student, teacher, TERMS["states"], ends("llama", weights)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.layers[0].parameters()]))

    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_learned_weights_of_layers_without_a_distance_are_finite():
    student, teacher = made().train(), made()
    every = Matching(tuple((layer, layer) for layer in range(4)), None)

    assert value_of(student, teacher, TERMS["states"], every).item() == 0


# Training


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (0.3, 3.0), (1.0, 0.7), (0.0, 2.0)])
def test_plain_objective_is_healing_bit_for_bit(split, weight, temperature):
    teacher = made()
    compact = compact_model(teacher, KEPT)
    recipe = replace(RECIPE, epochs=2)
    objective = Objective(observed=1 - weight, logits=weight, temperature=temperature)
    healed = heal(compact, teacher, split, recipe, seed=3, distillation=Distillation(weight, temperature))
    distilled = distil_layers(compact, teacher, split, objective, recipe=recipe, seed=3)

    assert same(weights_of(distilled.recommender), weights_of(healed.recommender))
    assert distilled.validation == healed.validation
    assert not same(weights_of(compact), weights_of(healed.recommender))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_being_watched_does_not_change_the_training(split, family):
    """A watched term of next to no weight gives the weights of plain training, up to rounding."""
    teacher = made(family)
    compact = compact_model(teacher, KEPT)
    watched = Objective(observed=1, logits=0, scores=1e-12, states=1e-12)
    both = [
        distil_layers(compact, teacher, split, objective, ends(family), RECIPE, seed=1).recommender
        for objective in (watched, TERMS["observed"])
    ]

    torch.testing.assert_close(weights_of(both[0]), weights_of(both[1]), rtol=1e-4, atol=1e-4)


@ANY_FAMILY
@pytest.mark.parametrize("weights", [(0.25, 0.75), None], ids=["fixed", "learned"])
def test_every_family_is_distilled_to_a_plain_recommender(split, tmp_path, family, weights):
    teacher = made(family).eval()
    compact = compact_model(teacher, KEPT)
    before = weights_of(teacher), weights_of(compact)
    distilled = distil_layers(compact, teacher, split, WHOLE, ends(family, weights), RECIPE).recommender
    distilled.save(tmp_path)
    loaded = Recommender.load(tmp_path)

    assert type(distilled) is Recommender
    assert not any(module.training for module in distilled.modules())
    assert weights_of(distilled).keys() == before[1].keys()
    assert not same(weights_of(distilled), before[1])
    assert same(weights_of(teacher), before[0])
    assert same(weights_of(compact), before[1])
    histories = split.train_sequences()
    np.testing.assert_array_equal(loaded.scores(histories), distilled.scores(histories))
    assert np.isfinite(distilled.scores(histories)).all()


def test_training_brings_the_layers_closer(split):
    teacher = made()
    compact = compact_model(made(seed=1), KEPT)
    recipe = Recipe(epochs=20, learning_rate=1e-2, batch_size=16, dropout=0.0, evaluate_every=20)
    for name in ("states", "relations"):
        distilled = distil_layers(compact, teacher, split, TERMS[name], ends("llama"), recipe).recommender
        before, after = (value_of(s.train(), teacher, TERMS[name], ends("llama")) for s in (compact, distilled))
        assert after < before / 2


def test_frozen_weights_stay(split):
    teacher = made()
    compact = compact_model(teacher, KEPT)
    compact.layers[0].requires_grad_(False)
    distilled = distil_layers(compact, teacher, split, WHOLE, ends("llama"), RECIPE).recommender

    assert same(weights_of(distilled.layers[0]), weights_of(compact.layers[0]))
    assert not same(weights_of(distilled.layers[1]), weights_of(compact.layers[1]))


def test_seed_matters(split):
    teacher = made()
    compact = compact_model(teacher, KEPT)
    first, again, other = (
        weights_of(distil_layers(compact, teacher, split, WHOLE, ends("llama"), RECIPE, seed).recommender)
        for seed in (0, 0, 1)
    )

    assert same(first, again)
    assert not same(first, other)


# Errors


@pytest.mark.parametrize("name", ["logits", *INSIDE])
def test_teacher_that_is_not_finite_stops_the_training(split, name):
    """No fallback to the other terms, which would be reported as layer-wise distillation."""
    teacher = made()
    with torch.no_grad():
        teacher.model.get_input_embeddings().weight.fill_(float("nan"))

    with pytest.raises(TrainingDivergedError, match="training loss is nan"):
        distil_layers(compact_model(made(seed=1), KEPT), teacher, split, TERMS[name], ends("llama"), RECIPE)


@pytest.mark.parametrize("name", ["states", "scores", "relations"])
def test_layers_that_should_be_compared_must_be_matched(split, name):
    teacher = made()
    with pytest.raises(ValueError, match="none is matched; see paired_ends"):
        distil_layers(compact_model(teacher, KEPT), teacher, split, TERMS[name], recipe=RECIPE)


def test_embeddings_need_no_matched_layers(split):
    student, teacher = pair("t5")
    both = replace(TERMS["observed"], embeddings=1)
    with_pairs, without = (value_of(student, teacher, both, matching) for matching in (ends("t5"), NOTHING_MATCHED))

    assert with_pairs.item() == without.item()
    assert distil_layers(student, teacher, split, both, recipe=RECIPE).best_epoch == 1


@pytest.mark.parametrize("wrong", [(2, 0), (0, 4), (-1, 0), (0, -1)])
def test_matched_layers_must_exist(split, wrong):
    teacher = made()
    matching = Matching(((0, 1), wrong), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"must lie within 2 and 4 layers, got \[\(" + f"{wrong[0]}, {wrong[1]}"):
        distil_layers(compact_model(teacher, KEPT), teacher, split, TERMS["states"], matching, RECIPE)


def test_matched_layers_must_be_of_the_same_stack(split):
    teacher = made("t5")
    with pytest.raises(ValueError, match=r"same stack, got \[\(0, 2\)\]"):
        distil_layers(
            compact_model(teacher, KEPT), teacher, split, TERMS["states"], Matching(((0, 2),), (1.0,)), RECIPE
        )


def test_catalogues_must_be_the_same(split):
    teacher = build_recommender("llama", NUM_ITEMS + 1, MAX_LENGTH, Shape(2, 16, 24, 2), seed=0)
    with pytest.raises(ValueError, match="must share a catalogue, got 10 and 11 items"):
        distil_layers(made(), teacher, split, TERMS["logits"], recipe=RECIPE)


def test_layers_of_a_masked_model_are_not_compared(split):
    teacher = made()
    pruned = magnitude_pruned(teacher, 0.5)
    with pytest.raises(ValueError, match="cannot be compared; use an objective that does not"):
        distil_layers(pruned, teacher, split, TERMS["states"], Matching(((0, 0),), (1.0,)), RECIPE)
    assert distil_layers(pruned, teacher, split, Objective(), recipe=RECIPE).best_epoch == 1


def test_loss_that_looks_inside_needs_a_watched_student_in_training_mode():
    """Also one that was watched before: what it did then says nothing about this pass."""
    student, teacher = pair("llama")
    windows, loss = windows_of(student), objective_loss(teacher, TERMS["states"], ends("llama"))
    with pytest.raises(TypeError, match="needs an ObservedRecommender in training mode"):
        loss(student, student.states(windows.inputs)[windows.valid], windows)
    observed = ObservedRecommender(student, watches_attention=False)
    observed.states(windows.inputs)
    observed.eval()
    with pytest.raises(TypeError, match="needs an ObservedRecommender in training mode"):
        loss(observed, observed.states(windows.inputs)[windows.valid], windows)


# Being watched


@ANY_FAMILY
def test_watched_pass_gives_the_states_of_a_plain_one(family):
    recommender = made(family).eval()
    windows = windows_of(recommender)
    with torch.no_grad():
        expected = recommender.states(windows.inputs)
        states, seen = observe(recommender, windows.inputs, watches_attention=True)

    torch.testing.assert_close(states, expected)
    assert len(seen.states) == len(seen.attention) == 4
    assert len(seen.embedded) == len(stacks_of(recommender.model))
    assert observe(recommender, windows.inputs, watches_attention=False)[1].attention == {}


def test_watched_recommender_drops_embeddings_as_a_plain_one():
    recommender = made().train()
    windows = windows_of(recommender)
    drawn = []
    for model in (recommender, ObservedRecommender(recommender, watches_attention=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn.append(model.states(windows.inputs, embedding_dropout=0.5))

    torch.testing.assert_close(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], recommender.states(windows.inputs))


@pytest.mark.parametrize("training", [True, False])
def test_watching_shares_the_model_and_leaves_modes_as_they_are(training):
    recommender = made().train(training)
    recommender.layers[1].train(not training)
    modes = [module.training for module in recommender.modules()]
    observed = ObservedRecommender(recommender, watches_attention=False)
    bare = plain(observed)

    assert observed.model is recommender.model is bare.model
    assert type(bare) is Recommender
    assert [module.training for module in observed.modules()] == modes
    assert [module.training for module in bare.modules()] == modes
