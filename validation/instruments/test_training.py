"""Training learns what can be learned, keeps the best weights, and is decided by its seed alone."""

import re

import numpy as np
import pytest
import torch

from layerwise.evaluation.ranking import ranking_metrics
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender
from layerwise.models.training import (
    Progress,
    Recipe,
    TrainingDivergedError,
    Windows,
    _one_cycle,
    _windows,
    next_item_loss,
    train,
)

NUM_ITEMS, MAX_LENGTH = 12, 6
SHAPE = Shape(num_layers=2, hidden=16, intermediate=32, num_heads=2)
SHORT = Recipe(epochs=3, learning_rate=1e-2, batch_size=8, evaluate_every=1)

each_family = pytest.mark.parametrize("family", FAMILIES)


def made(seed=0, family="llama", **options):
    return build_recommender(family, NUM_ITEMS, MAX_LENGTH, SHAPE, seed, **options)


def cycle(num_users=24, length=8):
    """Deterministic task: after item i comes item i + 1, around the catalogue."""
    return [(start + np.arange(length)) % NUM_ITEMS for start in range(num_users)]


def cycle_ndcg(recommender):
    """Mean NDCG@10 of the next item after histories of one to MAX_LENGTH events."""
    histories = [(start + np.arange(1 + start % MAX_LENGTH)) % NUM_ITEMS for start in range(NUM_ITEMS)]
    targets = np.array([(history[-1] + 1) % NUM_ITEMS for history in histories])
    return float(ranking_metrics(recommender.scores(histories), targets, histories)["ndcg@10"].mean())


def weights_of(recommender):
    return torch.nn.utils.parameters_to_vector(recommender.parameters()).detach().clone()


def no_validation(_):
    return 0.0


class Scripted:
    """A validation that returns given values and remembers the weights it saw."""

    def __init__(self, *values):
        self.values, self.seen = iter(values), []

    def __call__(self, recommender):
        self.seen.append(weights_of(recommender))
        return next(self.values)


# Learning


@pytest.fixture(scope="module")
def learned():
    recipe = Recipe(epochs=60, learning_rate=1e-2, batch_size=8, dropout=0.0, evaluate_every=20)
    losses = []

    def loss(recommender, states, windows):
        value = next_item_loss(recommender, states, windows)
        losses.append(value.item())
        return value

    return train(made(), cycle(), cycle_ndcg, recipe, seed=0, loss=loss), losses


def test_a_deterministic_cycle_is_learned_almost_perfectly(learned):
    assert cycle_ndcg(made()) < 0.6
    assert cycle_ndcg(learned[0].recommender) > 0.99
    assert max(learned[0].validation.values()) == cycle_ndcg(learned[0].recommender)


def ndcg_by_chance():
    """Expected NDCG@10 where the items that are not in the history stand in random order."""
    left = [NUM_ITEMS - (1 + start % MAX_LENGTH) for start in range(NUM_ITEMS)]
    return np.mean([sum(1 / np.log2(rank + 1) for rank in range(1, min(n, 10) + 1)) / n for n in left])


@each_family
def test_every_family_learns_the_cycle(family):
    epochs = {"bert": 100}.get(family, 40)
    recipe = Recipe(epochs=epochs, learning_rate=1e-2, batch_size=8, dropout=0.0, evaluate_every=epochs)
    fresh = made(family=family)
    if family == "bert":  # its .02 is meant for a width of 768; at 16, hundreds of epochs would be needed
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.mul_(5 if parameter.ndim > 1 else 1)
    trained = train(fresh, cycle(), cycle_ndcg, recipe, seed=0)

    assert ndcg_by_chance() == pytest.approx(0.5, abs=0.02)
    assert cycle_ndcg(fresh) < 0.6
    assert cycle_ndcg(trained.recommender) > 0.8


def test_loss_starts_at_that_of_a_guess_and_falls(learned):
    losses = learned[1]
    assert len(losses) == 60 * 3  # 24 users in batches of 8
    assert losses[0] == pytest.approx(np.log(NUM_ITEMS), abs=0.1)
    assert losses[-1] < 0.1


def test_trained_recommender_is_in_evaluation_mode(learned):
    assert not any(module.training for module in learned[0].recommender.modules())


def test_first_step_is_adamw_on_the_clipped_gradient():
    """The same step, made by hand with the unfused optimiser: rate 1 % of the peak, decay on matrices only."""
    recipe = Recipe(epochs=1, learning_rate=0.5, batch_size=8, dropout=0.0, weight_decay=0.3, gradient_clip=0.01)
    sequences = cycle(num_users=8, length=MAX_LENGTH + 1)  # one batch, one window per user
    expected = made()
    tokens = torch.from_numpy(np.stack(sequences))
    states = expected.states({"input_ids": tokens[:, :-1]}).flatten(0, 1)
    torch.nn.functional.cross_entropy(states @ expected.item_matrix.T, tokens[:, 1:].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.01)
    for decay, wanted in ((0.3, lambda p: p.ndim == 2), (0.0, lambda p: p.ndim == 1)):
        torch.optim.AdamW([p for p in expected.parameters() if wanted(p)], lr=0.005, weight_decay=decay).step()

    trained = train(made(), sequences, no_validation, recipe, seed=0).recommender
    torch.testing.assert_close(weights_of(trained), weights_of(expected), rtol=1e-4, atol=2e-5)
    assert (weights_of(trained) - weights_of(made())).abs().max() > 1e-3


def test_next_item_loss_is_the_mean_over_all_targets():
    recommender = made()
    states, items = torch.randn(5, 16), torch.tensor([0, 3, 3, 11, 7])
    windows = Windows({"input_ids": torch.zeros(1, 5)}, torch.ones(1, 5, dtype=torch.bool), items)
    chances = (states @ recommender.item_matrix.T).softmax(-1)

    assert chances.shape == (5, NUM_ITEMS)  # padding is no item
    by_hand = -np.mean([np.log(chances[row, item].item()) for row, item in enumerate(items)])
    assert next_item_loss(recommender, states, windows).item() == pytest.approx(by_hand, rel=1e-5)


def test_loss_counts_the_bias_of_the_output():
    """Where all states are zero, the bias alone gives the chances."""
    recommender = made(family="bert")
    with torch.no_grad():
        recommender.model.get_output_embeddings().bias[3] = np.log(5)
    windows = Windows({}, torch.ones(1, 2, dtype=torch.bool), torch.tensor([3, 4]))

    by_hand = -(np.log(5 / 16) + np.log(1 / 16)) / 2  # 11 other items with a score of 0
    assert next_item_loss(recommender, torch.zeros(2, 16), windows).item() == pytest.approx(by_hand, rel=1e-5)


def test_frozen_parameters_stay_and_the_others_move():
    recommender = made()
    recommender.layers[0].requires_grad_(False)
    trained = train(recommender, cycle(), no_validation, SHORT, seed=0).recommender

    moved = [
        any(not torch.equal(new, old) for new, old in zip(after.parameters(), before.parameters(), strict=True))
        for after, before in zip(trained.layers, recommender.layers, strict=True)
    ]
    assert moved == [False, True]


# Seeds and side effects


@each_family
def test_seed_decides_every_bit_and_another_seed_gives_other_weights(family):
    first, again, other = (
        train(made(family=family, attention_dropout=0.1), cycle(), no_validation, SHORT, seed) for seed in (1, 1, 2)
    )

    assert torch.equal(weights_of(first.recommender), weights_of(again.recommender))
    assert not torch.equal(weights_of(first.recommender), weights_of(other.recommender))


def test_seed_decides_dropout_also_where_windows_and_order_cannot_differ():
    sequences = cycle(num_users=1, length=4)
    first, other = (train(made(), sequences, no_validation, SHORT, seed).recommender for seed in (1, 2))

    assert not torch.equal(weights_of(first), weights_of(other))


def test_result_does_not_depend_on_the_state_of_the_global_generators():
    first = train(made(), cycle(), no_validation, SHORT, seed=1).recommender
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = train(made(), cycle(), no_validation, SHORT, seed=1).recommender

    assert torch.equal(weights_of(first), weights_of(again))


@each_family
def test_recommender_sequences_and_global_generators_are_untouched(family):
    recommender, sequences = made(family=family).eval(), cycle()
    before, state = weights_of(recommender), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    trained = train(recommender, sequences, no_validation, SHORT, seed=0).recommender

    assert torch.equal(weights_of(recommender), before)
    assert not torch.equal(weights_of(trained), before)
    assert not any(module.training for module in recommender.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in recommender.parameters())
    assert all(map(np.array_equal, sequences, cycle()))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_generator_of_the_device_decides_dropout_there_and_is_put_back():
    state = torch.cuda.get_rng_state()
    first, again = (train(made().cuda(), cycle(), no_validation, SHORT, seed=1).recommender for _ in range(2))

    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(weights_of(first), weights_of(again))


# Stopping


def test_best_weights_are_kept_and_training_stops_when_patience_ends():
    recipe = Recipe(epochs=20, learning_rate=1e-2, batch_size=8, evaluate_every=1, patience=3)
    validate = Scripted(0.1, 0.4, 0.3, 0.4, 0.2, 0.9)  # no better from epoch 2 on: stops after epoch 5
    trained = train(made(), cycle(), validate, recipe, seed=0)

    assert trained.best_epoch == 2
    assert trained.validation == {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.4, 5: 0.2}
    assert torch.equal(weights_of(trained.recommender), validate.seen[1])
    assert not torch.equal(validate.seen[1], validate.seen[4])


def test_validation_comes_every_few_epochs_and_at_the_end():
    recipe = Recipe(epochs=5, learning_rate=1e-2, batch_size=8, evaluate_every=2, patience=1)
    said: list[Progress] = []
    trained = train(made(), cycle(), Scripted(0.1, 0.2, 0.3), recipe, seed=0, on_progress=said.append)

    assert trained.validation == {2: 0.1, 4: 0.2, 5: 0.3}
    assert trained.best_epoch == 5
    assert said == [Progress(2, 5, 0.1, 0.1), Progress(4, 5, 0.2, 0.2), Progress(5, 5, 0.3, 0.3)]


def test_patience_counts_validations_not_epochs():
    recipe = Recipe(epochs=20, learning_rate=1e-2, batch_size=24, evaluate_every=3, patience=2)
    trained = train(made(), cycle(), Scripted(*[0.5] * 20), recipe, seed=0)

    assert list(trained.validation) == [3, 6, 9]
    assert trained.best_epoch == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_training(bad):
    def diverging(recommender, states, windows):
        return next_item_loss(recommender, states, windows) * bad

    with pytest.raises(TrainingDivergedError, match=f"training loss is {bad}"):
        train(made(), cycle(), no_validation, SHORT, seed=0, loss=diverging)


def test_validation_that_is_not_finite_stops_the_training():
    with pytest.raises(TrainingDivergedError, match="validation value after epoch 2 is nan"):
        train(made(), cycle(), Scripted(0.1, float("nan")), SHORT, seed=0)


def test_training_without_a_pair_of_events_is_refused():
    with pytest.raises(ValueError, match="at least one user with two events, got none"):
        train(made(), [np.array([1]), np.array([], dtype=np.int64)], no_validation, SHORT, seed=0)


# Windows and schedule


def rows_of(windows):
    """Inputs and next items of each row, without padding."""
    items = windows.items.split(windows.valid.sum(1).tolist())
    rows = zip(windows.inputs["input_ids"], windows.valid, items, strict=True)
    return [(tokens[valid].tolist(), following.tolist()) for tokens, valid, following in rows]


def test_every_user_gives_one_window_per_epoch():
    """Users with few events: the window is everything, so that it tells the user."""
    sequences = [np.array([user, (user + 1) % NUM_ITEMS, user]) for user in range(NUM_ITEMS)]
    batches = list(_windows(made(), sequences, 5, np.random.default_rng(0)))
    rows = [row for batch in batches for row in rows_of(batch)]

    assert [len(batch.valid) for batch in batches] == [4, 4, 4]
    assert sorted(inputs[0] for inputs, _ in rows) == list(range(NUM_ITEMS))
    assert [inputs[0] for inputs, _ in rows] != list(range(NUM_ITEMS))
    assert all(items == [(inputs[0] + 1) % NUM_ITEMS, inputs[0]] for inputs, items in rows)


def test_windows_are_runs_of_events_and_the_next_item_follows_each():
    sequences = [np.arange(length) for length in (2, 5, MAX_LENGTH, MAX_LENGTH + 1, NUM_ITEMS)]
    recommender, starts = made(), set()
    for seed in range(60):
        (batch,) = _windows(recommender, sequences, 8, np.random.default_rng(seed))
        for inputs, items in rows_of(batch):
            assert inputs == list(range(inputs[0], inputs[0] + len(inputs)))
            assert items == [code + 1 for code in inputs]
        assert sorted(len(inputs) for inputs, _ in rows_of(batch)) == [1, 4, 5, MAX_LENGTH, MAX_LENGTH]
        assert batch.inputs["input_ids"].shape == batch.valid.shape == (5, MAX_LENGTH)
        starts |= {inputs[0] for inputs, _ in rows_of(batch) if len(inputs) == MAX_LENGTH}

    assert starts == set(range(NUM_ITEMS - MAX_LENGTH))  # every window of the longest user is drawn


def test_learning_rate_rises_in_a_line_and_falls_as_a_cosine():
    assert _one_cycle(0.0, 0.1) == 0.01
    assert _one_cycle(0.05, 0.1) == pytest.approx(1 / 2)
    assert _one_cycle(0.1, 0.1) == pytest.approx(1)
    assert _one_cycle(0.325, 0.1) == pytest.approx(0.01 + 0.99 * (1 + np.cos(np.pi / 4)) / 2)
    assert _one_cycle(0.55, 0.1) == pytest.approx(0.01 + 0.99 / 2)
    assert _one_cycle(1.0, 0.1) == pytest.approx(0.01)
    assert _one_cycle(0.0, 0.0) == pytest.approx(1)


def test_training_takes_the_steps_of_the_schedule(monkeypatch):
    """Rates of the six steps of three epochs with two batches, as the optimiser sees them."""
    recipe, rates = Recipe(epochs=3, learning_rate=1e-2, batch_size=8, warmup=0.5), []
    step = torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(made(), cycle(num_users=16), no_validation, recipe, seed=0)

    assert rates == pytest.approx([1e-2 * _one_cycle(done / 6, 0.5) for done in range(6)])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("learning_rate", -1e-3), ("warmup", 1.0), ("dropout", 1.0), ("patience", 0), ("dropout", -0.1)],
)
def test_a_recipe_that_cannot_work_is_refused_with_its_value(setting, value):
    with pytest.raises(ValueError, match=rf"{setting} must .* got {re.escape(str(value))}"):
        Recipe(**{"epochs": 1, "learning_rate": 1e-3, setting: value})
