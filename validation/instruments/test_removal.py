"""Removal damage: the fast way equals the slow way, and is fast because it does not repeat the layers before a cut."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from layerwise.evaluation.ranking import ranking_metrics
from layerwise.importance.removal import metric_without_each_layer, metric_without_layers
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import bypassed
from layerwise.models.recommender import build_recommender

NUM_LAYERS, NUM_ITEMS, MAX_LENGTH = 5, 25, 6


ATTENTION = {  # what is computed in a layer unless it is bypassed
    "llama": "self_attn",
    "qwen3": "self_attn",
    "gpt2": "attn",
    "bert": "attention",
    "t5": "layer.0.SelfAttention",
}


@pytest.fixture(scope="module", params=FAMILIES)
def recommender(request):
    """Random recommender with large weights: without a layer, the ranking is another one. T5 has layers 3 + 2."""
    shape = Shape(NUM_LAYERS, 16, 24, 2)
    recommender = build_recommender(request.param, NUM_ITEMS, MAX_LENGTH, shape, seed=0, attention_dropout=0.5)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=random)
    return recommender.train()


@pytest.fixture(scope="module")
def histories():
    random = np.random.default_rng(0)
    return [random.permutation(NUM_ITEMS - 1)[:length] for length in (1, 9, 4, 6, 2, 5, 3)]


def first_score(scores, rows):
    """A judge that depends on every bit of one score."""
    return scores[:, 0]


def reciprocal_rank(histories):
    """A judge that ranks the last item, which is in no history, against the catalogue."""

    def judge(scores, rows):
        targets = np.full(len(scores), NUM_ITEMS - 1)
        return ranking_metrics(scores, targets, histories[rows])["mrr"]

    return judge


def slowly(recommender, histories, judge, removed):
    """One history at a time, one model after the other."""
    values = []
    for row, history in enumerate(histories):
        with bypassed(recommender, removed):
            values.append(judge(recommender.scores([history]), slice(row, row + 1))[0])
    return np.array(values)


@pytest.mark.parametrize("batch_size", [2, 128])
def test_metric_without_each_layer_equals_the_slow_way(recommender, histories, batch_size):
    judge = reciprocal_rank(histories)
    full, without = metric_without_each_layer(recommender, histories, judge, batch_size)

    assert without.shape == (NUM_LAYERS, len(histories))
    np.testing.assert_array_equal(full, slowly(recommender, histories, judge, ()))
    for index in range(NUM_LAYERS):
        np.testing.assert_array_equal(without[index], slowly(recommender, histories, judge, (index,)))
    assert (np.abs(without - full).max(axis=1) > 0).all()  # every layer matters here


def test_scores_without_each_layer_equal_the_slow_way(recommender, histories):
    full, without = metric_without_each_layer(recommender, histories, first_score)

    np.testing.assert_allclose(full, slowly(recommender, histories, first_score, ()), rtol=1e-4, atol=1e-4)
    for index in range(NUM_LAYERS):
        expected = slowly(recommender, histories, first_score, (index,))
        np.testing.assert_allclose(without[index], expected, rtol=1e-4, atol=1e-4)


def test_scores_without_each_layer_are_bit_equal_in_the_same_batch(recommender):
    """Without other lengths in the batch nothing but the road differs."""
    histories = [np.arange(start, start + MAX_LENGTH) for start in range(8)]
    _, without = metric_without_each_layer(recommender, histories, first_score)

    for index in range(NUM_LAYERS):
        with bypassed(recommender, (index,)):
            np.testing.assert_array_equal(without[index], recommender.scores(histories)[:, 0])


@pytest.mark.parametrize("removed", [(), (0,), (1, 3), (4, 2, 0), range(NUM_LAYERS)], ids=str)
@pytest.mark.parametrize("batch_size", [3, 128])
def test_metric_without_a_set_of_layers_equals_the_slow_way(recommender, histories, removed, batch_size):
    judge = reciprocal_rank(histories)
    found = metric_without_layers(recommender, iter(removed), histories, judge, batch_size)

    np.testing.assert_array_equal(found, slowly(recommender, histories, judge, tuple(removed)))


def test_judge_is_told_which_rows_it_judges(recommender, histories):
    asked = []

    def judge(scores, rows):
        asked.append((rows.start, rows.stop, len(scores)))
        return np.zeros(len(scores))

    metric_without_layers(recommender, (0,), histories, judge, batch_size=3)
    assert asked == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]
    asked.clear()
    metric_without_each_layer(recommender, histories, judge, batch_size=3)
    assert asked == [rows for rows in [(0, 3, 3), (3, 6, 3), (6, 7, 1)] for _ in range(NUM_LAYERS + 1)]


def executions(recommender, run):
    """How often each layer was really computed; a bypassed layer is called, but its attention is not."""
    counts = [0] * len(recommender.layers)

    def watch(index):
        def count(*_):
            counts[index] += 1

        return count

    with ExitStack() as hooks:
        for index, layer in enumerate(recommender.layers):
            attention = layer.get_submodule(ATTENTION[recommender.model.config.model_type])
            hooks.callback(attention.register_forward_hook(watch(index)).remove)
        run()
    return counts


def test_layers_before_a_cut_are_computed_once(recommender, histories):
    """Layer i runs in the full model and in each removal before it: L + L (L - 1) / 2 in place of L + L (L - 1)."""
    counts = executions(recommender, lambda: metric_without_each_layer(recommender, histories, first_score))

    assert counts == [1 + index for index in range(NUM_LAYERS)]
    assert sum(counts) == NUM_LAYERS + NUM_LAYERS * (NUM_LAYERS - 1) // 2

    def slow():
        for removed in [(), *((index,) for index in range(NUM_LAYERS))]:
            metric_without_layers(recommender, removed, histories, first_score)

    assert sum(executions(recommender, slow)) == NUM_LAYERS + NUM_LAYERS * (NUM_LAYERS - 1)


def test_recommender_is_left_as_it_was(recommender, histories):
    weights = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}
    modes = [module.training for module in recommender.modules()]
    before = recommender.scores(histories)
    metric_without_each_layer(recommender, histories, first_score)
    metric_without_layers(recommender, (1, 2), histories, first_score)

    def failing(scores, rows):
        raise RuntimeError("stop")

    for run in (metric_without_each_layer, lambda *args: metric_without_layers(args[0], (1,), *args[1:])):
        with pytest.raises(RuntimeError, match="stop"):
            run(recommender, histories, failing)

    assert all(torch.equal(tensor, weights[name]) for name, tensor in recommender.state_dict().items())
    assert [module.training for module in recommender.modules()] == modes
    np.testing.assert_array_equal(recommender.scores(histories), before)
    for module in recommender.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_no_history_gives_no_column(recommender):
    full, without = metric_without_each_layer(recommender, [], first_score)

    assert full.shape == (0,)
    assert without.shape == (NUM_LAYERS, 0)
    assert metric_without_layers(recommender, (0,), [], first_score).shape == (0,)
