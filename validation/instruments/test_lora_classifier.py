"""Training of classifiers and the arms of a LoRA comparison, on a BERT of two narrow layers."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from layerwise.models.classifier import ClassifierRecipe, fit, in_batches, probabilities, text_logits
from layerwise.models.lora_arms import arm_checks
from layerwise.models.lora_classifier import (
    Lora,
    Task,
    frozen_features,
    head_name,
    lora_arms,
    train_head,
    train_lora,
    with_adapter,
)
from layerwise.models.training import TrainingDivergedError

RECIPE = ClassifierRecipe(learning_rate=2e-2, epochs=20, batch_size=8, patience=40)


@pytest.fixture
def base():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def task(count=96, seed=0):
    """Whether token 3 is in the prompt."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(4, 20, size=rng.integers(3, 9)).tolist() for _ in range(count)]
    labels = rng.integers(2, size=count)
    for prompt, label in zip(prompts, labels, strict=True):
        prompt[0] = 2
        if label:
            prompt[int(rng.integers(1, len(prompt)))] = 3
    return Task(prompts, labels)


def trained(base, folder, seed=0):
    course = train_lora(base, task(), task(48, seed=1), Lora(rank=4, alpha=8), RECIPE, seed, folder)
    return course, *lora_arms(base, folder)


def answers(model, asked):
    return in_batches(lambda rows: text_logits(model, [asked.prompts[row] for row in rows], 0), asked.lengths, 7)


def test_lora_learns_and_its_arms_are_honest(base, tmp_path):
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    asked = task(200, seed=2)

    _, frozen, tuned = trained(base, tmp_path)

    right = [((probabilities(answers(arm, asked)) > 0.5) == asked.labels).mean() for arm in (frozen, tuned)]
    assert right[1] > 0.8 > right[0]
    assert all(holds for holds, _ in arm_checks(base, frozen, tuned))
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_an_adapter_beside_the_weights_answers_as_the_merged_one(base, tmp_path):
    _, frozen, tuned = trained(base, tmp_path)
    asked = task(20, seed=2)

    unmerged = with_adapter(base, tmp_path)

    torch.testing.assert_close(answers(unmerged, asked), answers(tuned, asked), atol=1e-5, rtol=0)
    assert not torch.allclose(answers(unmerged, asked), answers(frozen, asked), atol=1e-3)


def test_a_seed_gives_the_same_adapter_and_another_seed_another(base, tmp_path):
    asked = task(20, seed=2)

    seeds = {"a": 0, "b": 0, "c": 1}
    one, same, other = (answers(trained(base, tmp_path / name, seed)[2], asked) for name, seed in seeds.items())

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_frozen_features_under_the_head_are_the_models_answers(base):
    asked = task(20)

    with torch.inference_mode():
        logits = base.classifier(frozen_features(base, asked))
    torch.testing.assert_close(logits, answers(base, asked))


def test_a_head_learns_what_the_frozen_features_hold_and_the_base_keeps_its_own(base):
    train, validation, before = task(), task(48, seed=1), base.classifier.weight.clone()
    features = frozen_features(base, train), frozen_features(base, validation)

    head, course = train_head(base, features, train, validation, RECIPE, seed=0)

    assert min(course.validation.values()) < course.validation[min(course.validation)]
    assert not torch.equal(head.weight, before)
    assert torch.equal(base.classifier.weight, before)


def test_all_arms_take_the_same_number_of_updates(base, tmp_path):
    train, validation = task(), task(48, seed=1)
    features = frozen_features(base, train), frozen_features(base, validation)
    patient = ClassifierRecipe(learning_rate=1e-4, epochs=2, batch_size=8, patience=4)

    lora = train_lora(base, train, validation, Lora(), patient, 0, tmp_path)
    _, head = train_head(base, features, train, validation, patient, 0)

    assert lora.updates == head.updates == 24
    assert list(lora.validation) == list(head.validation) == [6, 12, 18, 24]


def line(values, validate, recipe, seen=None):
    model = nn.Linear(1, 2)
    inputs = torch.as_tensor(values, dtype=torch.float32)[:, None]

    def answer(rows):
        if seen is not None:
            seen.append(rows)
        return model(inputs[rows])

    labels = (np.asarray(values) > 0).astype(np.int64)
    return model, fit(model, answer, labels, np.arange(len(values)), lambda: validate(model), recipe, 0)


def test_the_weights_of_the_best_validation_are_kept_and_training_stops_without_a_better_one():
    losses, weights = iter([0.5, 0.4, 0.6, 0.7, 0.1]), []

    def validate(model):
        weights.append(model.weight.detach().clone())
        return next(losses)

    recipe = ClassifierRecipe(learning_rate=0.1, epochs=5, batch_size=4, validations=1, patience=2)
    model, course = line([-1.0, 1.0] * 4, validate, recipe)

    assert (course.updates, course.best_update) == (8, 4)
    assert torch.equal(model.weight, weights[1])


def test_every_example_is_seen_once_per_epoch_and_accumulated_batches_make_one_update():
    seen = []
    recipe = ClassifierRecipe(epochs=2, batch_size=4, accumulate=2, validations=1)

    _, course = line(np.linspace(-1, 1, 24), lambda _: 1.0, recipe, seen)

    assert course.updates == 6
    assert sorted(np.concatenate(seen[:6]).tolist()) == list(range(24))


def test_examples_of_like_length_share_a_batch():
    seen = []
    line(np.linspace(-1, 1, 64), lambda _: 1.0, ClassifierRecipe(epochs=1, batch_size=8, validations=1), seen)

    assert all(np.ptp(rows) == 7 for rows in seen)


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(TrainingDivergedError, match="training loss of update 1 is nan"):
        line([float("nan"), 1.0], lambda _: 1.0, ClassifierRecipe())
    with pytest.raises(TrainingDivergedError, match="validation loss after update 1 is inf"):
        line([1.0, -1.0], lambda _: float("inf"), ClassifierRecipe())


def test_a_model_without_one_head_is_refused(base):
    assert head_name(base) == "classifier"
    with pytest.raises(ValueError, match="expected a backbone with one head on top"):
        head_name(base.bert)
