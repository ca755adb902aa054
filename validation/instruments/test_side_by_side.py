"""Several models timed in turn, each on its own inputs: whose time is whose, and what spoils a timing."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from layerwise.evaluation.side_by_side import time_side_by_side
from layerwise.evaluation.workloads import Scoring
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender


class Ticking(nn.Module):
    """Layers that advance a clock by two seconds each, one second per column of an input, and a note of its name."""

    def __init__(self, name, depth, clock):
        super().__init__()
        self.name, self.layers, self.clock = name, nn.ModuleList(nn.Identity() for _ in range(depth)), clock
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.clock.now += x.shape[1]
        self.clock.order.append(self.name)
        for layer in self.layers:
            self.clock.now += 2.0
            x = layer(x)
        return x * self.weight


def batches(columns, rows=1, number=4):
    return [{"x": torch.full((rows, columns), float(at))} for at in range(number)]


def tick(models, inputs, clock, **options):
    options = {"blocks": 2, "warmup": 2, "calls": 2, "timer": lambda: clock.now} | options
    return time_side_by_side(models, inputs, layers_of=lambda model: model.layers, **options)


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0, order=[])


@pytest.fixture
def models(clock):
    return {name: Ticking(name, depth, clock) for name, depth in (("a", 1), ("b", 1), ("c", 3))}


def test_each_model_reads_its_own_inputs_and_gets_its_own_times(models, clock):
    times = tick(models, {"a": batches(1), "b": batches(5), "c": batches(2)}, clock)

    assert {name: ms.tolist() for name, ms in times.items()} == {
        "a": [3000.0] * 2,  # one column and one layer
        "b": [7000.0] * 2,
        "c": [8000.0] * 2,
    }


def test_models_are_timed_in_turn_there_and_back(models, clock):
    tick(models, dict.fromkeys(models, batches(1)), clock)

    assert "".join(clock.order[-24:]) == "aabbccccbbaa" + "ccbbaaaabbcc"


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"a": batches(1), "b": batches(1), "c": batches(1, number=3)}, "as many batches of as many rows"),
        ({"a": batches(1), "b": batches(1, rows=2), "c": batches(1)}, "as many batches of as many rows"),
        ({"a": batches(1), "b": batches(1)}, "need inputs for each of two or more models"),
        ({"a": batches(1), "b": batches(1), "c": batches(1)[:1] * 4}, "inputs must all be different"),
    ],
    ids=["another number", "another batch size", "none", "repeated"],
)
def test_models_that_do_not_get_the_same_work_are_not_compared(models, clock, inputs, why):
    with pytest.raises(ValueError, match=why):
        tick(models, inputs, clock)


def test_one_model_alone_is_no_comparison(models, clock):
    with pytest.raises(ValueError, match="two or more models"):
        tick({"a": models["a"]}, {"a": batches(1)}, clock)


def test_a_model_of_another_precision_is_not_compared(models, clock):
    models["b"].half()

    with pytest.raises(ValueError, match="same floating-point dtypes"):
        tick(models, dict.fromkeys(models, batches(1)), clock)


def test_a_layer_that_is_skipped_is_an_error(models, clock):
    class Lazy(Ticking):
        def forward(self, x):
            return self.layers[0](x) * self.weight

    models["c"] = Lazy("c", 3, clock)

    with pytest.raises(ValueError, match="in some call of c a layer did not run exactly once"):
        tick(models, dict.fromkeys(models, batches(1)), clock)


def test_an_output_that_changes_once_the_clock_runs_is_an_error(models, clock):
    class Drifting(Ticking):
        def forward(self, x):
            return super().forward(x) + len(self.clock.order)

    models["b"] = Drifting("b", 1, clock)

    with pytest.raises(ValueError, match="timed outputs of b differ"):
        tick(models, dict.fromkeys(models, batches(1)), clock)


def test_recommenders_of_every_family_are_timed_on_the_same_histories():
    histories = [[torch.randperm(20)[:5].numpy() for _ in range(3)] for _ in range(4)]
    models = {family: Scoring(build_recommender(family, 20, 6, Shape(2, 8, 16, 2), seed=0)) for family in FAMILIES}
    inputs = {name: [model.recommender.batch(batch) for batch in histories] for name, model in models.items()}
    times = time_side_by_side(models, inputs, blocks=2, warmup=2, calls=2)

    assert times.keys() == FAMILIES.keys()
    assert all((ms > 0).all() and ms.shape == (2,) for ms in times.values())
