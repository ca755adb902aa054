"""Training of text recommenders: on narrow BERTs, and users whose next item follows from the last one alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from layerwise.models.lora_classifier import Lora
from layerwise.models.text_fitting import TextRecipe
from layerwise.models.text_recommender import text_recommender
from layerwise.models.text_training import drawn_examples, next_item_loss, train_head, train_text
from layerwise.models.training import TrainingDivergedError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "next", ":", *"abcdefgh"]
RNG = np.random.default_rng
TITLES = list("abcdefgh")
LORA = Lora(rank=8, alpha=16, dropout=0.0)
RECIPE = TextRecipe(epochs=6, per_user=4, learning_rate=1e-2, head_rate=1e-2, batch_size=16, dropout=0.0, patience=6)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    return text_recommender(BertModel(config).eval(), tokenizer, TITLES, max_tokens=8, pooling="mean")


def users(count, seed=0):
    """Three different items in any order, then the neighbour of the last one: the order alone says which of three."""
    rng = np.random.default_rng(seed)
    histories = [rng.permutation(8)[:3] for _ in range(count)]
    return [np.append(history, (history[-1] + 1) % 8) for history in histories]


def hits(text, sequences):
    found = text.scores([sequence[:-1] for sequence in sequences]).argmax(axis=1)
    return float((found == [sequence[-1] for sequence in sequences]).mean())


def weights(text):
    return {name: weight.clone() for name, weight in text.state_dict().items()}


def test_lora_learns_the_order_of_the_items_and_leaves_plain_weights(text):
    before, held_out = weights(text), users(100, seed=1)

    trained = train_text(text, users(150), lambda one: hits(one, held_out), LORA, RECIPE, seed=0)

    assert hits(trained.recommender, held_out) == max(trained.validation.values()) > 0.8
    assert trained.recommender.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in text.state_dict().items())
    assert not trained.recommender.training


def test_a_seed_gives_the_same_recommender_and_another_seed_another(text):
    short = replace(RECIPE, epochs=1)

    one, same, other = (
        train_text(text, users(20), lambda _: 0.0, LORA, short, seed).recommender.scores([np.array([0, 1])])
        for seed in (0, 0, 1)
    )

    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_accumulated_batches_make_the_update_of_one_large_batch(text):
    one_by_one, at_once = (
        replace(RECIPE, epochs=1, per_user=1, batch_size=size, accumulate=count) for size, count in ((2, 4), (8, 1))
    )

    small, large = (
        train_text(text, users(8), lambda _: 0.0, LORA, recipe, seed=0).recommender for recipe in (one_by_one, at_once)
    )

    torch.testing.assert_close(small.head.items, large.head.items, atol=1e-4, rtol=0)
    assert not torch.equal(small.head.items, text.head.items)


def test_the_weights_of_the_best_validation_are_kept_and_training_stops_without_a_better_one(text):
    values, seen = iter([0.1, 0.3, 0.2, 0.1, 0.9]), []

    def validate(one):
        seen.append(one.scores([np.array([0, 1])]))
        return next(values)

    trained = train_text(text, users(8), validate, LORA, replace(RECIPE, patience=2), seed=0)

    assert (trained.best_epoch, list(trained.validation)) == (2, [1, 2, 3, 4])
    np.testing.assert_allclose(trained.recommender.scores([np.array([0, 1])]), seen[1], atol=1e-4)


def test_a_head_learns_from_frozen_states_and_the_backbone_stays(text):
    before, held_out, examples = weights(text), users(100, seed=1), drawn_examples(users(100), 4, RNG(0))
    states = text.features(text.rows(examples.histories))
    asked = text.features(text.rows([sequence[:-1] for sequence in held_out]))
    items = torch.tensor([sequence[-1] for sequence in held_out])

    def validate(head):
        return float((head(asked).argmax(dim=1) == items).float().mean())

    trained = train_head(text, states, examples.items, validate, RECIPE, seed=0)

    assert hits(trained.recommender, held_out) == pytest.approx(max(trained.validation.values()))
    assert hits(trained.recommender, held_out) > 2 * hits(text, held_out)
    after = trained.recommender.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("model."))
    assert all(torch.equal(weight, before[name]) for name, weight in text.state_dict().items())


def test_every_user_gives_different_targets_each_with_all_that_came_before():
    examples = drawn_examples([np.array([5, 6, 7, 8]), np.array([1]), np.array([2, 3])], 2, RNG(0))

    assert len(examples) == 3
    for history, item in zip(examples.histories[:2], examples.items[:2], strict=True):
        np.testing.assert_array_equal([*history, item], np.array([5, 6, 7, 8])[: len(history) + 1])
    assert len(set(examples.items[:2])) == 2
    assert (examples.histories[2].tolist(), examples.items[2]) == ([2], 3)


def test_users_without_a_history_cannot_train():
    with pytest.raises(ValueError, match="at least one user with two events"):
        drawn_examples([np.array([1])], 2, RNG(0))


def test_a_loss_that_is_not_finite_is_an_error(text):
    def lost(scores, batch):
        return next_item_loss(scores, batch) * torch.nan

    with pytest.raises(TrainingDivergedError, match="the training loss in epoch 1 is nan"):
        train_text(text, users(8), lambda _: 0.0, LORA, RECIPE, seed=0, loss=lost)


def test_a_recipe_without_steps_is_refused():
    with pytest.raises(ValueError, match="per_user must be above 0, got 0"):
        TextRecipe(per_user=0)
