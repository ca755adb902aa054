"""The loop by which heads and adapters of text recommenders are trained: rates by group, the best validation kept."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.models.training import Progress, TrainingDivergedError

Terms = list[Callable[[], Tensor]]
"""Parts of an update's loss, each computed and differentiated in its turn, so that one forward pass is in memory."""


@dataclass(frozen=True)
class TextRecipe:
    """How to train a text recommender or its head.

    Attributes:
        epochs: Passes at most.
        per_user: Targets of each user and epoch, drawn anew for each epoch.
        learning_rate: Peak for the adapter: linear rise over `warmup`, cosine fall to 0.
        head_rate: Peak for projection, item vectors, biases and scale, in the same course. Item vectors are many, each
            is seen rarely, and they overfit at rates that an adapter needs.
        batch_size: Prompts per forward pass.
        accumulate: Forward passes whose gradients make one update.
        warmup: Share of all updates in which the rates rise.
        weight_decay: AdamW's decoupled weight decay, on matrices of the adapter and the projection only.
        gradient_clip: Largest norm of the gradient.
        dropout: Share of a state's entries that is dropped before the head.
        patience: Epochs without a new best after which training stops.
    """

    epochs: int = 8
    per_user: int = 2
    learning_rate: float = 1e-3
    head_rate: float = 3e-3
    batch_size: int = 32
    accumulate: int = 1
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    dropout: float = 0.1
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "per_user", "learning_rate", "head_rate", "batch_size", "accumulate", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


def updates_of(count: int, recipe: TextRecipe) -> int:
    """Updates of an epoch of `count` examples."""
    return math.ceil(math.ceil(count / recipe.batch_size) / recipe.accumulate)


def fit_text(
    trained: nn.Module,
    groups: list[dict[str, Any]],
    epoch_of: Callable[[np.random.Generator], Iterator[Terms]],
    per_epoch: int,
    validate: Callable[[], float],
    recipe: TextRecipe,
    seed: int,
    on_progress: Callable[[Progress], None],
) -> tuple[int, dict[int, float]]:
    """Trains the parameters of the groups in place, leaves them at the best validation, and returns its course.

    Args:
        trained: The module that they belong to; in evaluation mode while it is validated and afterwards.
        groups: For AdamW.
        epoch_of: From a generator to the updates of an epoch, each a list of terms of the loss to be called.
        per_epoch: Number of updates of an epoch.
        validate: Larger is better.
        recipe: Rates and lengths.
        seed: Decides what the generator gives, and dropout.
        on_progress: Called after each epoch.
    """
    weights = [weight for group in groups for weight in group["params"]]
    optimizer, updates = torch.optim.AdamW(groups), per_epoch * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done / updates, recipe.warmup))
    rng, best, best_epoch, kept = np.random.default_rng(seed), -np.inf, 0, []
    course: dict[int, float] = {}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for epoch in range(1, recipe.epochs + 1):
            trained.train()
            for terms in epoch_of(rng):
                for term in terms:
                    value = term()
                    _finite(value.item(), f"training loss in epoch {epoch}")
                    value.backward()
                nn.utils.clip_grad_norm_(weights, recipe.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            trained.eval()
            course[epoch] = value_now = _finite(validate(), f"validation value after epoch {epoch}")
            if value_now > best:
                best, best_epoch = value_now, epoch
                kept = [weight.detach().clone() for weight in weights]
            on_progress(Progress(epoch, recipe.epochs, value_now, best))
            if epoch - best_epoch >= recipe.patience:
                break
    with torch.no_grad():
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)
    return best_epoch, course


def _rate(done: float, warmup: float) -> float:
    """Learning rate as a share of its peak when `done` of the updates are taken."""
    if done < warmup:
        return max(done / warmup, 0.01)
    return float(0.5 * (1 + np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _finite(value: float, what: str) -> float:
    if not np.isfinite(value):
        raise TrainingDivergedError(f"the {what} is {value}; lower the learning rate or check the data")
    return value
