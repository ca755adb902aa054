"""Healing mixes the next item with the teacher's distribution, in the shares and at the temperature it says."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import Distillation, distillation_loss, heal
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.evaluation.quality import validation_ndcg
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender
from layerwise.models.training import Recipe, TrainingDivergedError, Windows, next_item_loss, train

NUM_ITEMS, MAX_LENGTH = 10, 6
RECIPE = Recipe(epochs=2, learning_rate=1e-2, batch_size=8, evaluate_every=1)


def made(seed=0, num_items=NUM_ITEMS, attention_dropout=0.0, family="llama"):
    """Recommender whose distributions are far from uniform, also through the bias of the output, if it has one."""
    shape = Shape(num_layers=2, hidden=16, intermediate=24, num_heads=2)
    recommender = build_recommender(family, num_items, MAX_LENGTH, shape, seed, attention_dropout)
    head, random = recommender.model.get_output_embeddings(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.4, generator=random)
    return recommender


def windows_of(recommender):
    """One window of each of three users, of different length."""
    sequences = [np.array([0, 1, 2, 3]), np.array([5, 4]), np.array([7, 9, 1])]
    return recommender.windows(sequences, np.random.default_rng(0))


def states_of(recommender, windows):
    return recommender.states(windows.inputs)[windows.valid]


def weights_of(recommender):
    return nn.utils.parameters_to_vector(recommender.parameters()).detach().clone()


@pytest.fixture(scope="module")
def split():
    """Sixteen users who walk through the catalogue, one item after the other."""
    users, steps = np.divmod(np.arange(16 * 7), 7)
    return leave_one_out(Interactions.from_columns("cycle", users, (users + steps) % NUM_ITEMS, steps))


class Fixed(nn.Module):
    """Recommender of two items whose scores at every position are given, the half of them as a bias."""

    def __init__(self, *scores):
        super().__init__()
        self.half = torch.tensor(scores) / 2

    def states(self, inputs):
        return self.half.expand(*inputs["input_ids"].shape, 2)

    def item_scores(self, states):
        return states + self.half


def two_item_loss(distillation, positions=1):
    """Teacher says 3/4 and 1/4, student says 1/2 and 1/2; the second item came."""
    teacher, student = Fixed(math.log(3), 0.0), Fixed(0.0, 0.0)
    windows = Windows(
        {"input_ids": torch.zeros(1, positions, dtype=torch.long)},
        torch.ones(1, positions, dtype=torch.bool),
        torch.ones(positions, dtype=torch.long),
    )
    return distillation_loss(teacher, distillation)(student, states_of(student, windows), windows).item()


@pytest.mark.parametrize("positions", [1, 3])
def test_divergence_by_hand(positions):
    """Mean over positions of KL(teacher || student), not of its reverse."""
    divergence = 3 / 4 * np.log((3 / 4) / (1 / 2)) + 1 / 4 * np.log((1 / 4) / (1 / 2))

    assert two_item_loss(Distillation(weight=1, temperature=1), positions) == pytest.approx(divergence, rel=1e-5)


def test_temperature_softens_both_and_its_square_scales_the_term():
    softened = np.sqrt(3) / (1 + np.sqrt(3))  # the teacher's chances are 3 : 1, their roots sqrt(3) : 1
    divergence = softened * np.log(2 * softened) + (1 - softened) * np.log(2 * (1 - softened))

    assert two_item_loss(Distillation(weight=1, temperature=2)) == pytest.approx(4 * divergence, rel=1e-5)


def test_weight_is_the_teachers_share():
    alone, plain = (two_item_loss(Distillation(weight, temperature=2)) for weight in (1, 0))

    assert plain == pytest.approx(np.log(2), rel=1e-6)
    assert two_item_loss(Distillation(0.3, temperature=2)) == pytest.approx(0.7 * plain + 0.3 * alone, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_of_every_family_from_the_logits_of_transformers(family):
    """Both sides with everything that their heads add; special tokens are left out of both distributions."""
    student, teacher = (made(seed, family=family).eval() for seed in (0, 1))
    windows = windows_of(student)
    loss = distillation_loss(teacher, Distillation(0.3, temperature=2))
    with torch.no_grad():
        found = loss(student, states_of(student, windows), windows).item()
        logits = [m.model(**windows.inputs).logits[windows.valid][:, :NUM_ITEMS].double() for m in (student, teacher)]
    observed = -logits[0].log_softmax(-1)[torch.arange(len(windows.items)), windows.items].mean()
    told, wanted = ((of / 2).softmax(-1) for of in logits)
    divergence = (wanted * (wanted / told).log()).sum(-1).mean()

    assert divergence > 0.01
    assert found == pytest.approx((0.7 * observed + 0.3 * 4 * divergence).item(), rel=1e-5)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_bias_of_the_output_is_heard_on_both_sides(side):
    pair = {"student": made(0, family="bert").eval(), "teacher": made(0, family="bert").eval()}
    loss = distillation_loss(pair["teacher"], Distillation(weight=1))
    windows = windows_of(pair["student"])
    same = loss(pair["student"], states_of(pair["student"], windows), windows).item()
    with torch.no_grad():
        pair[side].model.get_output_embeddings().bias[2] += 2

    assert same == pytest.approx(0, abs=1e-6)
    assert loss(pair["student"], states_of(pair["student"], windows), windows).item() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_compact_model_of_every_family_can_be_healed(family, split):
    teacher = made(family=family)
    compact = compact_model(teacher, {"encoder": (0,), "decoder": (0,)} if family == "t5" else (1,))
    healed = heal(compact, teacher, split, RECIPE, seed=0).recommender

    assert len(healed.layers) == len(compact.layers)
    assert not torch.equal(weights_of(healed), weights_of(compact))
    assert all(np.isfinite(healed.scores(split.train_sequences())).ravel())


def test_weight_zero_is_the_plain_next_item_loss():
    student, teacher = made(0), made(1)
    windows = windows_of(student)
    plain = next_item_loss(student, states_of(student, windows), windows)
    mixed = distillation_loss(teacher, Distillation(weight=0))(student, states_of(student, windows), windows)

    assert mixed.item() == plain.item()


def test_student_equal_to_its_teacher_has_nothing_to_learn_from_it():
    student, teacher = made(0), made(0)
    windows = windows_of(student)
    loss = distillation_loss(teacher, Distillation(weight=1, temperature=1))
    same = loss(student, states_of(student, windows), windows)
    same.backward()

    assert same.item() == pytest.approx(0, abs=1e-6)
    assert max(parameter.grad.abs().max() for parameter in student.parameters()) < 1e-5
    other = made(2)
    assert loss(other, states_of(other, windows), windows).item() > 0.1


def test_teacher_listens_without_dropout_and_is_left_in_its_mode():
    student, teacher = made(0), made(1, attention_dropout=0.9).train()
    windows = windows_of(student)
    loss = distillation_loss(teacher, Distillation(weight=1))
    first, again = (loss(student, states_of(student, windows), windows).item() for _ in range(2))

    assert first == again
    assert all(module.training for module in teacher.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())


def test_healing_leaves_teacher_and_compact_model_as_they_were(split):
    teacher = made()
    compact = compact_model(teacher, (1,))
    before = weights_of(teacher), weights_of(compact)
    healed = heal(compact, teacher, split, RECIPE, seed=0)

    assert torch.equal(weights_of(teacher), before[0])
    assert torch.equal(weights_of(compact), before[1])
    assert all(module.training for recommender in (teacher, compact) for module in recommender.modules())
    assert len(healed.recommender.layers) == 1
    assert not torch.equal(weights_of(healed.recommender), before[1])


def test_healing_without_a_share_for_the_teacher_is_plain_training(split):
    teacher = made()
    compact = compact_model(teacher, (0,))
    healed = heal(compact, teacher, split, RECIPE, seed=3, distillation=Distillation(weight=0))
    trained = train(compact, split.train_sequences(), validation_ndcg(split), RECIPE, seed=3)

    torch.testing.assert_close(weights_of(healed.recommender), weights_of(trained.recommender), rtol=0, atol=1e-6)
    assert healed.validation == pytest.approx(trained.validation)


def test_healing_moves_the_student_towards_its_teacher(split):
    teacher = made()
    compact = compact_model(teacher, (0,))
    only_teacher = Distillation(weight=1, temperature=1)
    recipe = Recipe(epochs=40, learning_rate=1e-2, batch_size=8, dropout=0.0, evaluate_every=40)
    healed = heal(compact, teacher, split, recipe, seed=0, distillation=only_teacher).recommender
    windows = windows_of(teacher)
    distance = distillation_loss(teacher, only_teacher)

    before, after = (distance(s, states_of(s, windows), windows).item() for s in (compact, healed))
    assert after < before / 2


def test_seed_matters(split):
    teacher = made()
    compact = compact_model(teacher, (0,))
    first, again, other = (weights_of(heal(compact, teacher, split, RECIPE, seed).recommender) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_catalogues_must_be_the_same(split):
    with pytest.raises(ValueError, match="must share a catalogue, got 10 and 11 items"):
        heal(made(), made(num_items=11), split, RECIPE, seed=0)


def test_teacher_without_finite_scores_stops_the_healing(split):
    """No fallback to the plain loss, which would be reported as distillation."""
    teacher = made()
    with torch.no_grad():
        teacher.layers[0].mlp.down_proj.weight[0, 0] = float("nan")

    with pytest.raises(TrainingDivergedError, match="training loss is nan"):
        heal(made(1), teacher, split, RECIPE, seed=0)
