"""What docs/importance.md shows works as it stands there, and its table of methods is what this code does."""

import importlib
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from layerwise.importance.removal import metric_without_sets
from layerwise.importance.scores import METHODS, layer_scores
from layerwise.models.families import Shape
from layerwise.models.layers import layers_of
from layerwise.models.recommender import build_recommender

PAGE = Path(__file__).parents[2] / "docs" / "importance.md"


def rows(heading):
    """Cells of the table under a heading of the page, without its head."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = (line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|"))
    return list(islice(lines, 2, None))


@pytest.fixture(scope="module")
def names():
    """What is defined once all code of the page has run, from its first line to its last."""
    defined = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def recommender():
    return build_recommender("llama", 12, 6, Shape(3, 16, 24, 2), seed=0)


@pytest.fixture(scope="module")
def batches(recommender):
    return recommender.labelled_batches([np.arange(start, start + 5) for start in range(6)])


# The code


def test_one_call_gives_one_score_per_layer(names):
    for scores in (names["scores"], names["of_recommender"]):
        assert scores.shape == (4,)
        assert (scores > 0).all()


def test_damages_and_shares_are_those_of_the_models_of_the_page(names):
    _, without = metric_without_sets(names["recommender"], [(0, 1), range(4)], names["histories"], names["judge"])
    damage, shares = names["damage"], names["shares"]

    assert len(damage) == 4 + 6 + 2
    np.testing.assert_allclose(damage[4], (names["full"] - without[0]).mean(), atol=1e-6)
    np.testing.assert_allclose(shares.sum(0), names["full"] - without[1], atol=1e-5)


def test_what_is_seen_inside_the_layers_has_the_shapes_of_the_page(names):
    num_rows = len(names["histories"])

    assert names["profile"].entropy.shape == (4, num_rows)
    assert names["states"].shape == (4, num_rows, 16)
    assert names["alike"].shape == names["dependency"].shape == (4, 4)
    assert names["predicted"].shape == (10, 20)


def test_layers_are_chosen_by_score_and_by_search(names):
    assert names["kept"] == tuple(sorted(np.argsort(-names["of_recommender"])[:2]))
    assert names["found"].value >= names["found"].course[names["kept"]]


# The tables


def passes(method, model, batches):
    """Forward and backward passes of a method on one batch, counted at the last layer."""
    forward, backward = [], []

    def hook(_, __, output):
        forward.append(1)
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(1))

    with layers_of(model)[-1].register_forward_hook(hook):
        layer_scores(model, batches[:1], method)
    return f"{len(forward)} + {len(backward)}"


def needs(method, model, batches):
    """What a method asks for: labels, only data, or not even that."""
    if np.isfinite(layer_scores(model, [], method)).all():
        return "–"
    try:
        layer_scores(model, [{name: value for name, value in batches[0].items() if name != "labels"}], method)
    except ValueError:
        return "labels"
    return "data"


@pytest.mark.parametrize("method", METHODS)
def test_row_of_the_table_of_methods(recommender, batches, method):
    (row,) = (row for row in rows("Methods") if row[0] == f"`{method}`")

    assert row[3:5] == [needs(method, recommender, batches), passes(method, recommender, batches)]


def test_every_method_has_a_row():
    assert [row[0].strip("`") for row in rows("Methods")] == list(METHODS)


@pytest.mark.parametrize("heading", ["Looking into the layers", "Choosing layers"])
def test_every_function_of_a_table_is_where_the_table_says(heading):
    found = rows(heading)

    assert found
    for functions, file, _ in found:
        path = file.strip("`").removesuffix(".py").replace("/", ".")
        for name in functions.split(", "):
            assert callable(getattr(importlib.import_module(path), name.strip("`")))
