"""Training a recommender on next-item prediction with the full softmax and early stopping.

One loop serves training from scratch and healing: they differ in the loss only.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.arrays import IntArray
from layerwise.models.recommender import Recommender, Windows


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes at most; in each one every user gives one random window of `max_length` events.
        batch_size: Windows per step.
        learning_rate: Peak of the one-cycle schedule (linear rise over `warmup`, cosine fall to 1 %).
        warmup: Share of all steps in which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay, on matrices only.
        dropout: Share of embedding and of final-state entries dropped.
        gradient_clip: Largest norm of the gradient.
        evaluate_every: Epochs between validations.
        patience: Validations without a new best after which training stops.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.05
    dropout: float = 0.2
    gradient_clip: float = 1.0
    evaluate_every: int = 2
    patience: int = 5

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "gradient_clip", "evaluate_every", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


Loss = Callable[[Recommender, Tensor, Windows], Tensor]
"""From the recommender, its states at the valid positions (*num_targets x hidden*) and the windows to a scalar."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `epoch` of `epochs`, the latest and the best validation value."""

    epoch: int
    epochs: int
    latest: float
    best: float


@dataclass(frozen=True)
class Trained:
    """A trained recommender and its course.

    Attributes:
        recommender: The weights of the best validation, in evaluation mode.
        best_epoch: Epoch of those weights, counted from 1.
        validation: Validation value by epoch, where one was taken.
    """

    recommender: Recommender
    best_epoch: int
    validation: dict[int, float]


class TrainingDivergedError(ArithmeticError):
    """The loss or the validation value stopped being a finite number."""


def next_item_loss(recommender: Recommender, states: Tensor, windows: Windows) -> Tensor:
    """Mean cross-entropy of the next item over the whole catalogue, in nats."""
    return nn.functional.cross_entropy(recommender.item_scores(states), windows.items)


def train(
    recommender: Recommender,
    sequences: Sequence[IntArray],
    validate: Callable[[Recommender], float],
    recipe: Recipe,
    seed: int,
    loss: Loss = next_item_loss,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """A trained copy of the recommender; the one passed in is left alone.

    Args:
        recommender: Starting weights.
        sequences: Training events of each user, item codes, oldest first; users with one event are passed over.
        validate: Quality of a recommender, larger is better; decides which weights are kept and when to stop.
        recipe: Steps, rates, dropout.
        seed: Decides windows, order and dropout; the global generators are left as they were.
        loss: What is minimised.
        on_progress: Called after each validation.

    Raises:
        TrainingDivergedError: If the loss or the validation value is not finite.
        ValueError: If no sequence has two events.
    """
    usable = [sequence for sequence in sequences if len(sequence) > 1]
    if not usable:
        raise ValueError("training needs at least one user with two events, got none")
    student = copy.deepcopy(recommender)
    steps = recipe.epochs * -(-len(usable) // recipe.batch_size)
    optimizer = _optimizer(student, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step / steps, recipe.warmup))
    rng = np.random.default_rng(seed)
    best, best_epoch, kept, course = -np.inf, 0, {}, {}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for epoch in range(1, recipe.epochs + 1):
            student.train()
            for batch in _windows(student, usable, recipe.batch_size, rng):
                _step(student, batch, loss, optimizer, recipe)
                schedule.step()
            if epoch % recipe.evaluate_every and epoch != recipe.epochs:
                continue
            course[epoch] = value = _finite(validate(student), f"validation value after epoch {epoch}")
            if value > best:
                best, best_epoch = value, epoch
                kept = {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}
            on_progress(Progress(epoch, recipe.epochs, value, best))
            if epoch - best_epoch >= recipe.patience * recipe.evaluate_every:
                break
    student.load_state_dict(kept)
    return Trained(student.eval(), best_epoch, course)


def _windows(
    recommender: Recommender, sequences: Sequence[IntArray], batch_size: int, rng: np.random.Generator
) -> Iterator[Windows]:
    """One random window of every user, in random order, in batches of nearly equal size."""
    for rows in np.array_split(rng.permutation(len(sequences)), -(-len(sequences) // batch_size)):
        yield recommender.windows([sequences[row] for row in rows], rng)


def _step(student: Recommender, batch: Windows, loss: Loss, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
    states = student.states(batch.inputs, embedding_dropout=recipe.dropout)[batch.valid]
    states = nn.functional.dropout(states, recipe.dropout)
    value = loss(student, states, batch)
    _finite(value.item(), "training loss")
    optimizer.zero_grad()
    value.backward()
    nn.utils.clip_grad_norm_(student.parameters(), recipe.gradient_clip)
    optimizer.step()


def _optimizer(student: Recommender, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [p for p in student.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in student.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _one_cycle(done: float, warmup: float) -> float:
    """Learning rate as a share of its peak when `done` of the steps are taken."""
    if done < warmup:
        return max(done / warmup, 0.01)
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _finite(value: float, what: str) -> float:
    if not np.isfinite(value):
        raise TrainingDivergedError(f"the {what} is {value}; lower the learning rate or check the data")
    return value
