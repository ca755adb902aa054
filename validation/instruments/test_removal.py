"""Removal damage: the fast way equals the slow way, and is fast because it does not repeat the layers before a cut."""

from contextlib import ExitStack
from itertools import combinations

import numpy as np
import pytest
import torch

from layerwise.evaluation.ranking import ranking_metrics
from layerwise.importance.removal import (
    bands,
    greedy_removal,
    metric_without_each_layer,
    metric_without_layers,
    metric_without_sets,
    pairs,
    single_layers,
)
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import bypassed, resumed, stacks_of, traced
from layerwise.models.modes import evaluating
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


def test_each_layer_is_removed_from_the_state_that_the_full_model_has_there(recommender, histories):
    """To the bit, also where histories differ in length: what else is evaluated does not change the numbers."""
    full, without = metric_without_each_layer(recommender, histories, first_score)
    batch = recommender.batch(histories)
    with evaluating(recommender), torch.inference_mode():
        with traced(recommender) as trace:
            np.testing.assert_array_equal(full, recommender(**batch)[:, 0].numpy())
        for index in range(NUM_LAYERS):
            with resumed(recommender, index, trace):
                np.testing.assert_array_equal(without[index], recommender(**batch)[:, 0].numpy())


# Sets

EVERY_SET = [removed for size in range(NUM_LAYERS + 1) for removed in combinations(range(NUM_LAYERS), size)]


def test_every_set_of_layers_is_bit_equal_to_bypassing_it(recommender):
    histories = [np.arange(start, start + MAX_LENGTH) for start in range(6)]
    full, without = metric_without_sets(recommender, EVERY_SET, histories, first_score, batch_size=4)

    assert without.shape == (2**NUM_LAYERS, 6)
    np.testing.assert_array_equal(full, without[0])
    for removed, values in zip(EVERY_SET, without, strict=True):
        with bypassed(recommender, removed):
            np.testing.assert_array_equal(values, recommender.scores(histories, batch_size=4)[:, 0])
    is_t5 = recommender.model.config.model_type == "t5"  # without its decoder the encoder's 2^3 sets are one
    assert len(np.unique(without, axis=0)) == 2**NUM_LAYERS - (7 if is_t5 else 0)  # every other set matters here


def test_sets_come_back_in_the_order_and_number_they_were_given(recommender, histories):
    sets = [(3, 1), (), (4,), [1, 3], range(NUM_LAYERS), iter((1, 3, 1))]
    _, without = metric_without_sets(recommender, sets, histories, first_score)

    np.testing.assert_array_equal(without[3], without[0])
    np.testing.assert_array_equal(without[5], without[0])
    for index, removed in [(0, (1, 3)), (1, ()), (2, (4,)), (4, range(NUM_LAYERS))]:
        expected = slowly(recommender, histories, first_score, removed)
        np.testing.assert_allclose(without[index], expected, rtol=1e-4, atol=1e-4)


def test_no_set_gives_no_row(recommender, histories):
    full, without = metric_without_sets(recommender, [], histories, first_score)

    assert full.shape == (len(histories),)
    assert without.shape == (0, len(histories))


@pytest.mark.parametrize("outside", [-1, NUM_LAYERS])
def test_a_layer_out_of_range_is_an_error(recommender, histories, outside):
    with pytest.raises(ValueError, match=rf"within \[0, 5\), got \[{outside}\]"):
        metric_without_sets(recommender, [(0, outside)], histories, first_score)


def test_singles_pairs_and_bands_by_hand():
    assert single_layers(3) == [(0,), (1,), (2,)]
    assert pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert bands(4, 1) == single_layers(4)
    assert bands(4, 3) == [(0, 1, 2), (1, 2, 3)]
    assert bands(4, 4) == [(0, 1, 2, 3)]


@pytest.mark.parametrize("size", [0, 5])
def test_a_band_of_impossible_size_is_an_error(size):
    with pytest.raises(ValueError, match=rf"size of a band must lie in \[1, 4\], got {size}"):
        bands(4, size)


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


@pytest.mark.parametrize("sets", [pairs(NUM_LAYERS), bands(NUM_LAYERS, 2), EVERY_SET], ids=["pairs", "bands", "all"])
def test_what_sets_have_in_common_below_their_first_difference_is_computed_once(recommender, histories, sets):
    """A layer runs once for each different choice of layers below it that goes on with this one."""
    counts = executions(recommender, lambda: metric_without_sets(recommender, sets, histories, first_score))
    choices = [tuple(index in removed for index in range(NUM_LAYERS)) for removed in [(), *sets]]

    assert counts == [len({choice[:index] for choice in choices if not choice[index]}) for index in range(NUM_LAYERS)]


# Greedy


def greedily(recommender, histories, judge, num_removed):
    """From the definition: at each step every layer of a stack that has another one, each set from the start."""
    sizes = [len(layers) for layers in stacks_of(recommender).values()]
    stacks = np.repeat(np.arange(len(sizes)), sizes)
    removed, course = [], [slowly(recommender, histories, judge, ())]
    for _ in range(num_removed):
        left = [index for index in range(NUM_LAYERS) if index not in removed]
        tried = {
            index: slowly(recommender, histories, judge, (*removed, index))
            for index in left
            if any(stacks[other] == stacks[index] for other in left if other != index)
        }
        removed.append(max(tried, key=lambda index: (tried[index].mean(), index)))
        course.append(tried[removed[-1]])
    return tuple(removed), np.array(course)


def test_greedy_removal_equals_the_slow_way_until_one_layer_is_left_in_each_stack(recommender, histories):
    judge, stacks = reciprocal_rank(histories), list(stacks_of(recommender).values())
    most = NUM_LAYERS - len(stacks)
    removed, course = greedy_removal(recommender, histories, judge, most, batch_size=3)
    expected, expected_course = greedily(recommender, histories, judge, most)

    assert removed == expected
    np.testing.assert_array_equal(course, expected_course)
    left = [layer for index, layer in enumerate(recommender.layers) if index not in removed]
    assert [sum(layer in list(stack) for layer in left) for stack in stacks] == [1] * len(stacks)


def test_of_equally_dispensable_layers_the_last_goes_first(recommender, histories):
    removed, course = greedy_removal(recommender, histories, lambda scores, rows: np.zeros(len(scores)), 3)

    assert removed == ((4, 2, 1) if len(stacks_of(recommender)) == 2 else (4, 3, 2))
    assert course.shape == (4, len(histories))


def test_greedy_removal_refuses_what_it_cannot_decide(recommender, histories):
    most = NUM_LAYERS - len(stacks_of(recommender))
    for num_removed in (-1, most + 1):
        with pytest.raises(ValueError, match=rf"\[0, {most}\], got {num_removed}"):
            greedy_removal(recommender, histories, first_score, num_removed)
    with pytest.raises(ValueError, match="at least one history"):
        greedy_removal(recommender, [], first_score, 1)
    with pytest.raises(ValueError, match="must be finite"):
        greedy_removal(recommender, histories, lambda scores, rows: np.full(len(scores), np.nan), 1)


def test_recommender_is_left_as_it_was(recommender, histories):
    weights = {name: tensor.clone() for name, tensor in recommender.state_dict().items()}
    modes = [module.training for module in recommender.modules()]
    before = recommender.scores(histories)
    metric_without_each_layer(recommender, histories, first_score)
    metric_without_layers(recommender, (1, 2), histories, first_score)
    metric_without_sets(recommender, [(1, 2), (0,)], histories, first_score)
    greedy_removal(recommender, histories, first_score, 2)

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
