"""Importances against planted truth: which methods see what removal says, and which are misled.

The models are random, and what they are asked is what they say themselves: removal damage is the Kullback-Leibler
divergence, in nats, of what a model says from what it says without some layers. It is never negative, and it is 0 where
a removal is free. The table of controls in docs/importance.md is computed here.
"""

import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.compression.selection import select_layers
from layerwise.importance.fisher import fisher_information
from layerwise.importance.removal import greedy_removal, metric_without_sets, pairs, single_layers
from layerwise.importance.scores import METHODS, layer_scores
from layerwise.importance.shapley import layer_shapley
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import build_recommender

PAGE = Path(__file__).parents[2] / "docs" / "importance.md"
NUM_ITEMS, DEPTH, HIDDEN = 24, 4, 16
NOTHING = 1e-3  # of the largest score: a method that says less says that the layer can go
HISTORIES = [np.random.default_rng(row).integers(0, NUM_ITEMS, 2 + row % 6) for row in range(48)]


# Models


def made(family):
    """Random weights, large enough for every layer to matter; item vectors have a common part, as trained ones do."""
    recommender = build_recommender(family, NUM_ITEMS, 8, Shape(DEPTH, HIDDEN, 24, 2), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=generator)
        recommender.model.get_input_embeddings().weight.add_(0.3 * torch.randn(HIDDEN, generator=generator))
    return recommender


class Adds(nn.Module):
    """A layer that adds a linear map of the stream to it, with weights that Fisher information sees."""

    def __init__(self, weight):
        super().__init__()
        self.map = nn.Linear(*weight.shape, bias=False)
        self.map.weight.data.copy_(weight)

    def forward(self, states, *_, **__):
        return states + self.map(states)


def replaced(recommender, weight, *indices):
    """The same recommender with such layers in these places."""
    (layers,) = stacks_of(recommender).values()
    for index in indices:
        layers[index] = Adds(weight)
    return recommender


# Controls: each gives a model and its planted layers


def dead(family="llama"):
    """Every weight of layer 1 is zero: what comes in goes out."""
    recommender = made(family)
    for parameter in recommender.layers[1].parameters():
        parameter.data.zero_()
    return recommender, (1,)


def identity(family="llama"):
    """Layer 1 computes, but its maps to the stream are zero: what comes in goes out."""
    recommender = made(family)
    for name, module in recommender.layers[1].named_modules():
        if name.endswith(FAMILIES[family].branches):
            for parameter in module.parameters():
                parameter.data.zero_()
    return recommender, (1,)


def rescaling_at_the_end(family="llama"):
    """The last layer doubles the stream, and the final normalisation halves it again."""
    return replaced(made(family), torch.eye(HIDDEN), DEPTH - 1), (DEPTH - 1,)


def rescaling_within(family="llama"):
    """Layer 1 makes the stream four times as large, so that what later layers add weighs a quarter."""
    return replaced(made(family), 3 * torch.eye(HIDDEN), 1), (1,)


def undone(family="llama"):
    """Layer 1 turns the stream to its opposite, and layer 2 back; both exactly, as 2 is a power of 2."""
    return replaced(made(family), -2 * torch.eye(HIDDEN), 1, 2), (1, 2)


def duplicate(family="llama"):
    """Layers 1 and 2 both clear the same half of the stream: once is enough."""
    return replaced(made(family), -torch.diag(torch.arange(HIDDEN) % 2.0), 1, 2), (1, 2)


FREE = {"dead layer": dead, "identity layer": identity, "rescaling at the end": rescaling_at_the_end}
CONTROLS = FREE | {"rescaling within": rescaling_within, "undone by the next": undone, "duplicate": duplicate}
CAN_GO = (*FREE, "undone by the next")  # all planted layers of a control at once


# What removal and the methods say


def log_probabilities(scores):
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def judge_of(recommender):
    """What the full model expects of the log-probabilities."""
    chances = np.exp(log_probabilities(recommender.scores(HISTORIES)))
    return lambda scores, rows: (chances[rows] * log_probabilities(scores)).sum(axis=1)


def damages(recommender, removed_sets):
    """Damage by set and row, in nats."""
    full, without = metric_without_sets(recommender, removed_sets, HISTORIES, judge_of(recommender))
    return full - without


def batches_of(recommender):
    """The histories, continued by the model itself."""
    chances, rng = np.exp(log_probabilities(recommender.scores(HISTORIES))), np.random.default_rng(0)
    drawn = [rng.choice(NUM_ITEMS, p=row) for row in chances]
    return recommender.labelled_batches([np.append(*pair) for pair in zip(HISTORIES, drawn, strict=True)])


class EveryOrder:
    """Draws each order of the layers once, which makes sampled Shapley values exact."""

    def __init__(self):
        self._orders = permutations(range(DEPTH))

    def permutation(self, _):
        return next(self._orders)


def measured(recommender, planted):
    """Score of the planted layers (the larger of two) over the largest score, by method."""
    single = damages(recommender, single_layers(DEPTH)).mean(axis=1)
    together = damages(recommender, [planted]).mean()
    shapley = layer_shapley(recommender, HISTORIES, judge_of(recommender), 24, EveryOrder()).mean(axis=1)
    batches = batches_of(recommender)
    found = {"removal damage": single, "Shapley value": shapley}
    found |= {method: layer_scores(recommender, batches, method) for method in METHODS}
    shares = {method: float(values[list(planted)].max() / values.max()) for method, values in found.items()}
    return {"all planted layers removed": float(together / single.max())} | shares


@pytest.fixture(scope="module")
def table():
    """Control -> method -> number."""
    return {control: measured(*make()) for control, make in CONTROLS.items()}


def is_misled(control, value):
    """Whether a method gives something to layers that can go for free, or nothing to layers that cannot."""
    return (value < NOTHING) != (control in CAN_GO)


# The truth, in every family where it can be planted


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "t5"])
@pytest.mark.parametrize("make", [dead, identity])
def test_removing_a_layer_that_writes_nothing_is_exactly_free(family, make):
    recommender, planted = make(family)

    alone = damages(recommender, single_layers(DEPTH))
    assert (alone[list(planted)] == 0).all()
    assert (np.delete(alone, planted, axis=0).mean(axis=1) > NOTHING).all()


def test_removing_an_identity_layer_of_bert_is_free_since_normalising_twice_is_normalising_once():
    recommender, planted = identity("bert")

    assert damages(recommender, [planted]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_removing_a_rescaling_in_front_of_the_final_normalisation_is_free(family):
    recommender, planted = rescaling_at_the_end(family)

    assert damages(recommender, [planted]) == pytest.approx(0, abs=1e-9)  # the normalisation's epsilon is left


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_removing_a_rescaling_within_hurts_since_later_layers_weigh_more(family):
    recommender, planted = rescaling_within(family)

    assert damages(recommender, [planted]).mean() > 0.01


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_a_change_and_what_undoes_it_can_go_together_but_not_alone(family):
    recommender, planted = undone(family)
    alone, other, together = damages(recommender, [*((index,) for index in planted), planted])

    assert (together == 0).all()
    np.testing.assert_array_equal(alone, other)
    assert alone.mean() > 0.1


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_either_of_two_duplicates_can_go_but_not_both(family):
    recommender, planted = duplicate(family)
    alone, other, together = damages(recommender, [*((index,) for index in planted), planted])

    assert (alone == 0).all()
    assert (other == 0).all()
    assert together.mean() > 0.1


# What several removals at once see


def test_pairs_see_what_single_removals_overstate_or_miss():
    for make, sign in ((undone, -1), (duplicate, 1)):
        recommender, planted = make()
        single = damages(recommender, single_layers(DEPTH)).mean(axis=1)
        together = dict(zip(pairs(DEPTH), damages(recommender, pairs(DEPTH)).mean(axis=1), strict=True))
        surplus = {pair: damage - single[list(pair)].sum() for pair, damage in together.items()}

        assert np.sign(surplus[planted]) == sign
        assert max(surplus, key=lambda pair: sign * surplus[pair]) == planted
        assert (min(together, key=together.get) == planted) == (make is undone)


def test_greedy_removal_takes_one_duplicate_and_keeps_the_other():
    recommender, planted = duplicate()
    removed, _ = greedy_removal(recommender, HISTORIES, judge_of(recommender), DEPTH - 2)

    assert removed[0] in planted
    assert removed[1] not in planted


def test_greedy_removal_does_not_find_a_pair_of_which_each_alone_hurts():
    """A limit of the method: its first step sees single layers only."""
    recommender, planted = undone()
    removed, course = greedy_removal(recommender, HISTORIES, judge_of(recommender), DEPTH - 2)

    assert not set(removed) & set(planted)
    assert (course[0] - course[-1]).mean() > 0.1  # the pair would have cost nothing


def test_shapley_values_share_the_worth_of_duplicates_equally():
    recommender, planted = duplicate()
    shapley = layer_shapley(recommender, HISTORIES, judge_of(recommender), 24, EveryOrder())

    first, second = shapley[list(planted)]
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert first.mean() > 0.1


# What the methods say, on Llama

MISLED = {
    "all planted layers removed": (),
    "removal damage": ("undone by the next", "duplicate"),
    "Shapley value": ("undone by the next",),
    "fisher": ("identity layer", "rescaling at the end", "undone by the next"),
    "empirical-fisher": ("identity layer", "rescaling at the end", "undone by the next"),
    "mean-fisher": ("identity layer", "rescaling at the end", "undone by the next"),
    "gate-fisher": ("undone by the next", "duplicate"),
    "block-influence": ("rescaling within", "undone by the next"),
    "angular-distance": ("rescaling within", "undone by the next"),
    "gradient-norm": ("identity layer", "rescaling at the end", "undone by the next"),
    "conductance": ("rescaling at the end", "undone by the next", "duplicate"),
    "magnitude": ("identity layer", "rescaling at the end", "undone by the next"),
}


def test_every_method_faces_the_controls(table):
    assert all(numbers.keys() == MISLED.keys() for numbers in table.values())


@pytest.mark.parametrize("method", MISLED)
def test_where_a_method_is_misled(table, method):
    assert tuple(control for control in CONTROLS if is_misled(control, table[control][method])) == MISLED[method]


def test_an_identity_layer_can_have_the_largest_fisher_information_of_all():
    """Its weights that write are zero, but their gradients grow with what it computes."""
    recommender, planted = identity()
    recommender.layers[1].mlp.up_proj.weight.data.mul_(10)
    fisher = fisher_information(recommender, batches_of(recommender), labels="model")

    assert select_layers(fisher, keep=1) == planted
    assert (damages(recommender, [planted]) == 0).all()


# What of this holds in the other families


@pytest.mark.parametrize("family", FAMILIES)
def test_methods_that_look_at_what_a_layer_changes_give_nothing_to_an_identity_layer(family):
    recommender, planted = identity(family)
    batches = batches_of(recommender)

    for method in ("gate-fisher", "block-influence", "angular-distance", "conductance"):
        scores = layer_scores(recommender, batches, method)
        assert scores[list(planted)] < NOTHING * scores.max(), method
        assert (np.delete(scores, planted) > NOTHING * scores.max()).all(), method


@pytest.mark.parametrize("family", FAMILIES)
def test_methods_that_look_at_weights_give_something_to_an_identity_layer(family):
    recommender, planted = identity(family)
    batches = batches_of(recommender)

    for method in ("fisher", "empirical-fisher", "mean-fisher", "gradient-norm", "magnitude"):
        scores = layer_scores(recommender, batches, method)
        assert scores[list(planted)] > NOTHING * scores.max(), method


@pytest.mark.parametrize("family", ["llama", "qwen3", "t5"])
def test_every_method_gives_zero_to_a_dead_layer(family):
    recommender, planted = dead(family)
    batches = batches_of(recommender)

    for method in METHODS:
        assert layer_scores(recommender, batches, method)[list(planted)] == pytest.approx(0, abs=1e-7), method


def test_fisher_of_a_dead_layer_of_gpt2_is_not_zero_since_it_ends_in_a_bias():
    recommender, planted = dead("gpt2")

    assert fisher_information(recommender, batches_of(recommender), labels="model")[list(planted)] > 0


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_rescaling_within_is_invisible_to_angles_but_not_to_the_gate(family):
    recommender, planted = rescaling_within(family)
    batches = batches_of(recommender)
    of = {name: layer_scores(recommender, batches, name) for name in ("block-influence", "gate-fisher")}

    assert of["block-influence"][list(planted)] == pytest.approx(0, abs=1e-9)
    assert of["gate-fisher"][list(planted)] > NOTHING * of["gate-fisher"].max()


# The page


def section():
    return PAGE.read_text().partition("## Controls")[2].splitlines()


def cell(control, value):
    text = f"{max(value, 0):.2f}"
    return f"**{text}**" if is_misled(control, value) else text


def row(table, method):
    name = f"`{method}`" if method in METHODS else method
    return f"| {name} | {' | '.join(cell(control, numbers[method]) for control, numbers in table.items())} |"


@pytest.mark.parametrize("method", MISLED)
def test_row_of_the_table_of_controls(table, method):
    """Bold where misled; the last digit may differ between machines."""
    computed, number = row(table, method), re.compile(r"\d\.\d\d")
    (shown,) = (line for line in section() if line.split(" | ")[0] == computed.split(" | ")[0])

    assert number.sub("", shown) == number.sub("", computed)
    for there, here in zip(number.findall(shown), number.findall(computed), strict=True):
        assert float(there) == pytest.approx(float(here), abs=0.0101)


def test_the_table_of_controls_has_these_columns():
    assert f"| score | {' | '.join(CONTROLS)} |" in section()
