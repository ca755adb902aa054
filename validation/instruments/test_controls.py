"""Controls: where a cut must be free the instruments say zero, and where it must hurt they see it."""

import numpy as np
import pytest
import torch

from layerwise.compression.compact import compact_model, removed_layers
from layerwise.compression.distill import heal
from layerwise.compression.selection import select_layers
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.evaluation.quality import target_metrics, validation_ndcg
from layerwise.evaluation.ranking import ranking_metrics
from layerwise.importance.fisher import fisher_information
from layerwise.importance.influence import block_influence
from layerwise.importance.removal import metric_without_each_layer, metric_without_layers
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import layers_of
from layerwise.models.recommender import build_recommender
from layerwise.models.training import Recipe, train

RING = 8
NUM_ITEMS, MAX_LENGTH, LENGTH = 2 * RING, 6, 9
RECIPE = Recipe(epochs=60, learning_rate=1e-2, batch_size=16, dropout=0.0, evaluate_every=10)


def made(num_layers, seed=0, family="llama"):
    shape = Shape(num_layers, hidden=16, intermediate=32, num_heads=2)
    return build_recommender(family, NUM_ITEMS, MAX_LENGTH, shape, seed)


@pytest.fixture(scope="module")
def split():
    """Deterministic task that needs attention: each user walks around two rings of items in turn.

    The next item follows the last but one, about which the last item says nothing. (On one ring, item vectors in
    a ring and the mask over seen items are enough: cutting every layer would cost nothing.)
    """
    starts = np.stack(np.divmod(np.arange(RING**2), RING), axis=1)
    walks = [[(start[step % 2] + step // 2) % RING + RING * (step % 2) for step in range(LENGTH)] for start in starts]
    users, steps = np.divmod(np.arange(RING**2 * LENGTH), LENGTH)
    return leave_one_out(Interactions.from_columns("two rings", users, [f"{i:02}" for i in np.ravel(walks)], steps))


def ndcg(split):
    """Judge for the test targets of the split."""
    histories, targets = split.histories(split.test), split.test.items

    def judge(scores, rows):
        return ranking_metrics(scores, targets[rows], histories[rows])["ndcg@10"]

    return histories, judge


# Negative controls: the cut is free


WRITERS = {  # what writes to the residual stream; BERT normalises it in every layer, so none hands on its input
    "llama": ("o_proj", "down_proj"),
    "qwen3": ("o_proj", "down_proj"),
    "gpt2": ("c_proj",),
    "t5": ("SelfAttention.o", "EncDecAttention.o", "wo"),
}


@pytest.fixture(params=WRITERS)
def planted(request):
    """Five layers (T5: 3 + 2), large weights; layers 1 and 3 compute, but write nothing to the residual stream."""
    recommender, random = made(5, family=request.param), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=random)
        for index in (1, 3):
            for name, module in recommender.layers[index].named_modules():
                if name.endswith(WRITERS[request.param]):
                    for parameter in module.parameters():
                        parameter.zero_()
    return recommender


def test_every_family_that_can_have_identity_layers_is_planted():
    assert set(WRITERS) == set(FAMILIES) - {"bert"}


def test_cutting_planted_identity_layers_is_exactly_free(planted, split):
    histories, judge = ndcg(split)
    compact = compact_model(planted, (0, 2, 4))

    np.testing.assert_array_equal(compact.scores(histories), planted.scores(histories))
    full, without = metric_without_each_layer(planted, histories, judge)
    np.testing.assert_array_equal(metric_without_layers(planted, (1, 3), histories, judge), full)
    for index in (1, 3):
        np.testing.assert_array_equal(without[index], full)
    for index in (0, 2, 4):
        assert np.abs(without[index] - full).max() > 0


def test_block_influence_of_planted_identity_layers_is_zero_and_they_are_cut_first(planted, split):
    influence = block_influence(planted, planted.labelled_batches(split.train_sequences()))

    np.testing.assert_allclose(influence[[1, 3]], 0, atol=1e-12)
    assert (influence[[0, 2, 4]] > 0.01).all()
    assert select_layers(influence, keep=3) == (0, 2, 4)


def test_fisher_of_a_planted_identity_layer_is_not_zero(planted, split):
    """A limit of the method: the trace says how much the loss would move if the layer's weights did.

    The weights that write to the stream are zero here, but their gradients are not.
    """
    fisher = fisher_information(planted, planted.labelled_batches(split.train_sequences()), labels="model")

    assert (fisher > 0).all()


@pytest.mark.parametrize("planted", ["llama", "qwen3", "t5"], indirect=True)
def test_all_instruments_say_zero_for_a_dead_layer(planted, split):
    """Every weight of layer 3 is zero, so that nothing goes out of it and no gradient comes in.

    (GPT-2's layers end in a bias, which has a gradient also where all weights are zero.)
    """
    with torch.no_grad():
        for parameter in planted.layers[3].parameters():
            parameter.zero_()
    histories, judge = ndcg(split)
    batches = planted.labelled_batches(split.train_sequences())
    full, without = metric_without_each_layer(planted, histories, judge)

    np.testing.assert_array_equal(without[3], full)
    assert block_influence(planted, batches)[3] == pytest.approx(0, abs=1e-12)
    for labels in ("model", "data"):
        fisher = fisher_information(planted, batches, labels=labels)
        assert fisher[3] == 0
        assert (np.delete(fisher, 3) > 0).all()
        assert 3 not in select_layers(fisher, keep=4)


# Positive controls: the cut hurts


@pytest.fixture(scope="module")
def trained(split):
    """Three layers that solve the task, of which only layer 1 could learn anything: the others are dead."""
    recommender = made(3)
    for index in (0, 2):
        recommender.layers[index].requires_grad_(False)
        for parameter in recommender.layers[index].parameters():
            parameter.zero_()
    return train(recommender, split.train_sequences(), validation_ndcg(split), RECIPE, seed=0).recommender


def test_cutting_the_only_layer_that_works_destroys_the_ranking(trained, split):
    histories, judge = ndcg(split)
    full, without = metric_without_each_layer(trained, histories, judge)

    assert full.mean() > 0.99
    np.testing.assert_array_equal(without[[0, 2]], [full, full])
    assert without[1].mean() < 0.6
    assert target_metrics(compact_model(trained, (1,)), split, split.test)["ndcg@10"].mean() == full.mean()
    for kept in ((0,), (2,), (0, 2)):
        compact = compact_model(trained, kept)
        np.testing.assert_allclose(target_metrics(compact, split, split.test)["ndcg@10"], without[1], atol=1e-6)


def test_every_importance_puts_the_layer_that_works_first(trained, split):
    batches = trained.labelled_batches(split.train_sequences())
    for scores in (
        block_influence(trained, batches),
        fisher_information(trained, batches, labels="model"),
        fisher_information(trained, batches, labels="data"),
    ):
        assert select_layers(scores, keep=1) == (1,)
        assert scores[[0, 2]] == pytest.approx([0, 0], abs=1e-12)


def test_healing_gives_back_what_the_cut_took(split):
    """Two layers that share the work: one alone has lost it, and learns it again."""
    validate = validation_ndcg(split)
    full = train(made(2), split.train_sequences(), validate, RECIPE, seed=0).recommender
    compact = compact_model(full, (1,))
    healed = heal(compact, full, split, RECIPE, seed=0).recommender

    found = [target_metrics(model, split, split.test)["ndcg@10"].mean() for model in (full, compact, healed)]
    assert found[0] > 0.99
    assert found[1] < 0.8
    assert found[2] > 0.99


def test_damage_grows_with_the_weight_of_a_layer():
    """A layer whose output is scaled up turns the scores more when it is removed."""
    moved = []
    for scale in (0.0, 1.0, 10.0, 100.0):
        recommender = made(3)
        with torch.no_grad():
            for part in (recommender.layers[1].self_attn.o_proj, recommender.layers[1].mlp.down_proj):
                part.weight.mul_(scale)
        histories = [np.arange(start, start + 5) for start in range(7)]
        compact = compact_model(recommender, removed_layers((1,), len(layers_of(recommender))))
        moved.append(np.abs(compact.scores(histories) - recommender.scores(histories)).mean())

    assert moved[0] == 0
    assert moved[0] < moved[1] < moved[2] < moved[3]
