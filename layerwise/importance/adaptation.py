"""Adaptation: tuning only some layers of a recommender, and a linear head, for another question."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from layerwise.data.arrays import IntArray
from layerwise.importance.heads import asked_state
from layerwise.models.families import family_of
from layerwise.models.recommender import Recommender


@dataclass(frozen=True)
class Tuning:
    """How long and how fast a band is tuned; the same steps for every band.

    Attributes:
        epochs: Passes over the examples.
        batch_size: Examples per step.
        learning_rate: Of AdamW, falling linearly to 0.
    """

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 1e-4


def tune_layers(
    recommender: Recommender,
    layers: Iterable[int],
    head: nn.Linear,
    histories: Sequence[IntArray],
    labels: IntArray,
    tuning: Tuning,
    seed: int,
) -> tuple[Recommender, nn.Linear]:
    """Copies of a recommender and a head, of which only the given layers and the head were trained.

    Without dropout. Positions that the first layer of a stack holds for all of them (T5) stay as they are, so that
    bands of equal size have equally many trainable parameters.

    Args:
        recommender: Starting weights; left as they were.
        layers: Layers to tune, counted through all stacks.
        head: Linear map from the asked state to logits, *classes x hidden*; left as it was.
        histories: Item codes per example, oldest first.
        labels: Class of each example.
        tuning: Steps and rate.
        seed: Decides the order of the examples.

    Returns:
        The tuned copies, in evaluation mode; only the tuned parameters ask for gradients.

    References:
        Lee et al. 2023, "Surgical fine-tuning improves adaptation to distribution shifts".
    """
    student, head = copy.deepcopy(recommender).eval(), copy.deepcopy(head)
    trained = [*_band(student, layers), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=tuning.learning_rate, weight_decay=0.01, fused=True)
    rng = np.random.default_rng(seed)
    steps = tuning.epochs * -(-len(histories) // tuning.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(tuning.epochs):
        order = rng.permutation(len(histories))
        for rows in np.array_split(order, -(-len(histories) // tuning.batch_size)):
            logits = head(asked_state(student, [histories[row] for row in rows]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]).to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student, head


def _band(student: Recommender, layers: Iterable[int]) -> list[nn.Parameter]:
    """Parameters of the layers that are trained; no other one asks for a gradient."""
    student.requires_grad_(False)
    shared = family_of(student.model.config).owned_by_first
    band = [
        parameter
        for index in layers
        for name, parameter in student.layers[index].named_parameters()
        if not name.startswith(shared)
    ]
    for parameter in band:
        parameter.requires_grad_(True)
    return band
