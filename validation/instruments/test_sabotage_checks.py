"""Checks on data and clocks, each on the smallest case that breaks it; see docs/sabotage.md."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from layerwise import compare_latency
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_one_out
from layerwise.evaluation.completion import completion_checks
from layerwise.lab.lab import Lab
from layerwise.lab.spot_checks import data_check, training_check
from layerwise.lab.store import Store
from layerwise.lab.tiers import TIERS


def table(items, times=None):
    """One user per row of *users x events*."""
    items = np.asarray(items)
    users = np.repeat(np.arange(len(items)), items.shape[1])
    moments = np.tile(np.arange(items.shape[1]), len(items)) if times is None else np.ravel(times)
    return Interactions.from_columns("toy", users, [f"{item:03}" for item in items.ravel()], moments)


def failed(checks):
    return [sentence for ok, sentence in checks if not ok]


# -- the data


def test_sound_data_pass():
    split = leave_one_out(table([[3, 1, 2], [1, 3, 2]]))
    assert failed([data_check(split), training_check(split)]) == []


def test_a_target_in_its_history_is_invalid():
    (sentence,) = failed([data_check(leave_one_out(table([[1, 2, 1]])))])
    assert "1 of 1 test targets already occur in their history" in sentence


def test_ids_whose_order_gives_the_next_event_away_are_invalid():
    """Events of one moment, stored by the id of their item: the largest id is the target."""
    rng = np.random.default_rng(0)
    items = np.sort(rng.permuted(np.tile(np.arange(20), (30, 1)), axis=1)[:, :6], axis=1)
    split = leave_one_out(table(items, np.zeros_like(items)))
    (sentence,) = failed([data_check(split)])
    assert "in ascending order of item id, which predicts the next event" in sentence
    assert failed([data_check(leave_one_out(split.table.shuffled_ties(seed=0)))]) == []


def test_the_lab_shuffles_such_ties(tmp_path):
    rows = ["user_id,item_id,timestamp"]
    rows += [f"{user},{item:02},0" for user in range(40) for item in range(user % 7, user % 7 + 12)]
    (tmp_path / "sorted.csv").write_text("\n".join(rows))
    split = Lab(Store(tmp_path)).split(replace(TIERS["quick"].subject, dataset=str(tmp_path / "sorted.csv")))
    assert failed([data_check(split)]) == []


@pytest.mark.parametrize("event", ["validation", "test"])
def test_a_training_sequence_that_reaches_a_target_is_invalid(event):
    split = leave_one_out(table([[3, 1, 2, 4], [1, 3, 2, 4]]))
    longer = replace(split, train_lengths=split.train_lengths + {"validation": [1, 0], "test": [2, 0]}[event])
    (sentence,) = failed([training_check(longer)])
    assert f"{ {'validation': 1, 'test': 2}[event] } of 4 targets lie in the training sequences" in sentence


def test_training_on_another_users_events_is_invalid(monkeypatch):
    split = leave_one_out(table([[3, 1, 2, 4], [1, 3, 2, 4]]))
    swapped = split.train_sequences()[::-1]
    monkeypatch.setattr(type(split), "train_sequences", lambda _: swapped)
    (sentence,) = failed([training_check(split)])
    assert "2 of 2 sequences are not the first events of their user" in sentence


# -- the clock


class Device:
    """Takes orders at once and works them off later; its clock, in seconds, stands still otherwise."""

    def __init__(self):
        self.now, self.queue = 0.0, deque()

    def __call__(self):
        return self.now

    def order(self, work):
        self.now += 0.001
        self.queue.append(work)

    def finish(self):
        self.now += sum(self.queue)
        self.queue.clear()


class Ordered(torch.Tensor):
    """A result that its device has yet to work out when it is looked at."""

    device_of: Device

    def cpu(self):
        self.device_of.finish()
        return super().cpu()


class Asynchronous(nn.Module):
    """Layers that cost a second each, and an answer before any of them is done."""

    def __init__(self, num_layers, device, waits=False):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(num_layers))
        self.on, self.waits = device, waits

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
            self.on.order(1.0)
        if self.waits:
            self.on.finish()
        found = x.as_subclass(Ordered)
        found.device_of = self.on
        return found


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(6, 4, generator=generator)} for _ in range(3)]


def arms(waits):
    device = Device()
    return Asynchronous(8, device, waits), Asynchronous(2, device, waits), device


def test_a_clock_that_does_not_wait_for_the_device_is_invalid(inputs):
    """Orders alone give the speedup that was hoped for, and every other check passes."""
    full, compact, clock = arms(waits=False)
    timed = compare_latency(full, compact, inputs, blocks=2, calls=2, layers_of=lambda m: m.layers, timer=clock)
    assert timed.speedup == pytest.approx(4.0)
    assert failed(timed.checks()) == []
    late = failed(completion_checks(full, compact, inputs, timer=clock))
    assert [sentence.split(" must")[0] for sentence in late] == ["the full model's work", "the compact model's work"]
    assert "waiting for the result afterwards takes 100000 % of the clocked time" in late[0]


def test_a_clock_that_waits_is_sound(inputs):
    full, compact, clock = arms(waits=True)
    assert failed(completion_checks(full, compact, inputs, timer=clock)) == []


class Repeating(nn.Module):
    """Computes half of a batch and hands it out twice: of the right shape."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        half = self.linear(x[: -(-len(x) // 2)])
        return torch.cat([half, half])[: len(x)]


class Whole(Repeating):
    def forward(self, x):
        return self.linear(x)


def test_a_batch_of_which_one_arm_computes_half_is_invalid(inputs):
    (sentence,) = failed(completion_checks(Whole(), Repeating(), inputs)[::2])  # those about batches
    assert sentence.startswith("the compact model must answer for every row of a batch as for the row alone: 6 outputs")


def test_batches_of_two_sizes_cannot_be_timed(inputs):
    mixed = [inputs[0], {"x": inputs[1]["x"][:3]}]
    with pytest.raises(ValueError, match="must have the same first dimension, the batch"):
        compare_latency(Whole(), Whole(), mixed, layers_of=lambda m: [m.linear])
