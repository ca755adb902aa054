"""Importances against planted truth: which methods see that a layer is not needed, and which are misled.

The table of docs/importance.md is computed here; a method that fails a control is documented by its number.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.importance.removal import metric_without_sets
from layerwise.importance.scores import METHODS, layer_scores
from layerwise.importance.shapley import layer_shapley
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender

PAGE = Path(__file__).parents[2] / "docs" / "importance.md"
NUM_ITEMS, DEPTH, HIDDEN = 24, 4, 16
FREE = 1e-4  # of the largest score: what rounding leaves
random = np.random.default_rng(0)
SEQUENCES = [random.integers(0, NUM_ITEMS, size) for size in random.integers(3, 9, 40)]
HISTORIES, TARGETS = [s[:-1] for s in SEQUENCES], np.array([s[-1] for s in SEQUENCES])


def judge(scores, rows):
    """Log-likelihood of the target."""
    logits = scores.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits[np.arange(len(logits)), TARGETS[rows]] - np.log(np.exp(logits).sum(axis=1))


def made():
    recommender = build_recommender("llama", NUM_ITEMS, 8, Shape(DEPTH, HIDDEN, 24, 2), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=generator)
    return recommender


def linear_branch(layer, weight, bias=None):
    """A layer that adds only a linear map of its normalised input."""
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp = nn.Linear(HIDDEN, HIDDEN, bias=bias is not None)
    layer.mlp.weight.data.copy_(weight)
    if bias is not None:
        layer.mlp.bias.data.copy_(bias)


def dead():
    """Every weight is zero: what comes in goes out."""
    recommender = made()
    for parameter in recommender.layers[1].parameters():
        parameter.data.zero_()
    return recommender, 1


def identity():
    """The layer computes, but its maps to the stream are zero: what comes in goes out."""
    recommender = made()
    recommender.layers[1].self_attn.o_proj.weight.data.zero_()
    recommender.layers[1].mlp.down_proj.weight.data.zero_()
    return recommender, 1


def rescaling():
    """The last layer adds a multiple of its input; the final normalisation takes it off again."""
    recommender = made()
    linear_branch(recommender.layers[3], 3 * torch.eye(HIDDEN))
    return recommender, 3


def undone():
    """Layer 1 adds a large vector, and layer 2 subtracts it."""
    recommender = made()
    vector = 5 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    linear_branch(recommender.layers[1], torch.zeros(HIDDEN, HIDDEN), vector)
    linear_branch(recommender.layers[2], torch.zeros(HIDDEN, HIDDEN), -vector)
    return recommender, 1


CONTROLS = {"dead layer": dead, "identity layer": identity, "rescaling": rescaling, "change undone by the next": undone}


def scores(recommender):
    """Every importance by name, with single removal damage and Shapley values, *num_layers* each."""
    batches = recommender.labelled_batches(SEQUENCES)
    full, without = metric_without_sets(recommender, [(i,) for i in range(DEPTH)], HISTORIES, judge)
    orders = np.random.default_rng(0)
    found = {"removal damage": np.abs(full - without).mean(axis=1)}
    found["Shapley value"] = np.abs(layer_shapley(recommender, HISTORIES, judge, 12, orders)).mean(axis=1)
    return found | {method: layer_scores(recommender, batches, method) for method in METHODS}


@pytest.fixture(scope="module")
def table():
    """Score of the planted layer over the largest one: method -> control -> number."""
    found = {}
    for control, make in CONTROLS.items():
        recommender, planted = make()
        for method, values in scores(recommender).items():
            found.setdefault(method, {})[control] = float(values[planted] / values.max())
    return found


@pytest.mark.parametrize("control", ["dead layer", "identity layer", "rescaling"])
def test_removing_the_planted_layer_is_free(table, control):
    assert table["removal damage"][control] < FREE
    assert table["Shapley value"][control] < 0.01


def test_removing_both_of_a_pair_is_free_where_each_alone_costs_dearly(table):
    recommender, _ = undone()
    full, without = metric_without_sets(recommender, [(1,), (1, 2)], HISTORIES, judge)

    assert np.abs(full - without[0]).mean() > 0.1
    np.testing.assert_allclose(without[1], full, atol=1e-4)
    assert table["removal damage"]["change undone by the next"] > 0.5


@pytest.mark.parametrize(
    ("method", "control"),
    [
        *(("fisher", c) for c in ["dead layer"]),
        *(("gate-fisher", c) for c in ["dead layer", "identity layer", "rescaling"]),
        *(("block-influence", c) for c in ["dead layer", "identity layer", "rescaling"]),
        *(("angular-distance", c) for c in ["dead layer", "identity layer"]),
        *(("conductance", c) for c in ["dead layer", "identity layer"]),
        *(("magnitude", c) for c in ["dead layer"]),
    ],
)
def test_methods_that_see_that_the_layer_is_not_needed(table, method, control):
    assert table[method][control] < 1e-3


@pytest.mark.parametrize(
    ("method", "control"),
    [
        ("fisher", "identity layer"),
        ("empirical-fisher", "identity layer"),
        ("mean-fisher", "identity layer"),
        ("gradient-norm", "identity layer"),
        ("magnitude", "identity layer"),
        ("block-influence", "change undone by the next"),
        ("angular-distance", "change undone by the next"),
    ],
)
def test_methods_that_are_misled(table, method, control):
    """A limit of the method: it gives weight to a layer, or a pair, that can go for free."""
    assert table[method][control] > 0.01


def test_the_page_shows_these_numbers(table):
    rows = re.findall(r"^\| `?([\w -]+?)`? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), re.M)
    shown = {name: dict(zip(CONTROLS, map(float, numbers), strict=True)) for name, *numbers in rows}

    assert shown.keys() == table.keys()
    for method, numbers in table.items():
        for control, value in numbers.items():
            assert shown[method][control] == pytest.approx(value, abs=0.0151), (method, control)


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)

    assert names["scores"].shape == (4,)
    assert (names["scores"] > 0).all()
    np.testing.assert_allclose(
        names["shares"].sum(0), names["full"] - metric_without_sets(
            names["recommender"], [range(4)], names["histories"], names["judge"])[1][0], rtol=1e-4, atol=1e-6,
    )  # fmt: skip
