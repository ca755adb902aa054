"""Training a classifier with early stopping: one loop for LoRA on a text model and for a head on frozen features."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.prompts import padded
from layerwise.models.training import TrainingDivergedError

Rows = Sequence[Sequence[int]]
Answer = Callable[[IntArray], Tensor]
"""From the numbers of examples to their logits, *batch x classes*."""

SORTED_TOGETHER = 16  # batches whose examples are sorted by length, so that little is padded and order stays random


@dataclass(frozen=True)
class ClassifierRecipe:
    """How to train a classifier.

    Attributes:
        learning_rate: Peak of the schedule: linear rise over `warmup`, cosine fall to 0.
        epochs: Passes over the examples at most.
        batch_size: Examples per forward pass.
        accumulate: Forward passes whose gradients make one update.
        warmup: Share of all updates in which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        gradient_clip: Largest norm of the gradient.
        validations: Per epoch.
        patience: Validations without a new best after which training stops.
    """

    learning_rate: float = 1e-3
    epochs: int = 2
    batch_size: int = 32
    accumulate: int = 1
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    validations: int = 2
    patience: int = 2


@dataclass(frozen=True)
class Step:
    """Where a training stands: `update` of `updates`, the latest and the best validation loss in nats."""

    update: int
    updates: int
    latest: float
    best: float


@dataclass(frozen=True)
class Course:
    """How a training went.

    Attributes:
        updates: Updates that were made.
        best_update: The one whose weights were kept.
        validation: Validation loss by update, in nats.
    """

    updates: int
    best_update: int
    validation: dict[int, float]


def fit(
    model: nn.Module,
    answer: Answer,
    labels: IntArray,
    lengths: IntArray,
    validate: Callable[[], float],
    recipe: ClassifierRecipe,
    seed: int,
    on_progress: Callable[[Step], None] = lambda _: None,
) -> Course:
    """Trains what of a model has gradients, in place, and leaves it with the weights of the smallest validation loss.

    Args:
        model: What is trained; in evaluation mode afterwards.
        answer: Logits of training examples by their number, with gradients.
        labels: Class of each training example, *num_examples*.
        lengths: Tokens of each training example, *num_examples*; those of like length share a batch.
        validate: Validation loss in nats; called in evaluation mode without gradients.
        recipe: Rates and lengths.
        seed: Decides order and dropout; the same for two models gives both the same batches.
        on_progress: Called after each validation.

    Raises:
        TrainingDivergedError: If the loss or the validation loss is not finite.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    per_epoch = -(-len(labels) // (recipe.batch_size * recipe.accumulate))
    updates = per_epoch * recipe.epochs
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done / updates, recipe.warmup))
    checked = {epoch * per_epoch + -(-per_epoch * part // recipe.validations)
               for epoch in range(recipe.epochs) for part in range(1, recipe.validations + 1)}  # fmt: skip
    best, best_update, kept = np.inf, 0, {}
    course: dict[int, float] = {}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for update, group in enumerate(_groups(lengths, recipe, seed), start=1):
            model.train()
            for rows in group:
                loss = nn.functional.cross_entropy(
                    answer(rows).float(), torch.as_tensor(labels[rows], device=_device(model))
                )
                _finite(loss.item(), f"training loss of update {update}")
                (loss * (len(rows) / sum(map(len, group)))).backward()
            nn.utils.clip_grad_norm_(trained.values(), recipe.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if update not in checked:
                continue
            model.eval()
            with torch.inference_mode():
                course[update] = value = _finite(validate(), f"validation loss after update {update}")
            if value < best:
                best, best_update = value, update
                kept = {name: weight.detach().clone() for name, weight in trained.items()}
            on_progress(Step(update, updates, value, best))
            if sum(later > best_update for later in course) >= recipe.patience:
                break
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(kept[name])
    model.eval()
    return Course(update, best_update, course)


def text_logits(model: nn.Module, prompts: Rows, pad_token_id: int | None, autocast: bool = False) -> Tensor:
    """Logits of prompts, *batch x classes*, on the model's device.

    Args:
        model: A sequence classifier of `transformers`, also inside peft.
        prompts: Token ids.
        pad_token_id: The tokenizer's padding token.
        autocast: Whether to compute in bf16 where the device has it; the head's weights stay as they are.
    """
    device = _device(model)
    batch = {name: tensor.to(device) for name, tensor in padded(prompts, pad_token_id).items()}
    with half_precision(device, autocast):
        return cast(Tensor, model(**batch).logits)


def in_batches(answer: Answer, lengths: IntArray, batch_size: int = 64) -> Tensor:
    """Answers to all examples in their order, computed in batches of like length, without gradients.

    Args:
        answer: From numbers of examples to a tensor *batch x width*.
        lengths: Tokens of each example.
        batch_size: Examples at a time.
    """
    order = np.argsort(lengths, kind="stable")
    with torch.inference_mode():
        parts = [answer(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
        whole = torch.cat(parts)
        return whole[torch.as_tensor(np.argsort(order, kind="stable"), device=whole.device)].float()


def probabilities(logits: Tensor) -> FloatArray:
    """Probability of class 1, *batch*, in double precision."""
    return np.asarray(logits.double().softmax(-1)[:, 1].cpu().numpy())


def half_precision(device: torch.device, wanted: bool = True) -> AbstractContextManager[Any]:
    """Computes in bf16 where that is wanted and the device has instructions for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_half_precision(device))


def has_half_precision(device: torch.device) -> bool:
    """Whether the device has instructions for bf16, so that computing in it saves time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)  # type: ignore[no-any-return]
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _groups(lengths: IntArray, recipe: ClassifierRecipe, seed: int) -> Iterator[list[IntArray]]:
    """Numbers of examples, by forward pass, of each update of a training."""
    rng = np.random.default_rng(seed)
    for _ in range(recipe.epochs):
        order, batches = rng.permutation(len(lengths)), []
        for start in range(0, len(order), SORTED_TOGETHER * recipe.batch_size):
            part = order[start : start + SORTED_TOGETHER * recipe.batch_size]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches += [part[at : at + recipe.batch_size] for at in range(0, len(part), recipe.batch_size)]
        batches = [batches[number] for number in rng.permutation(len(batches))]
        for start in range(0, len(batches), recipe.accumulate):
            yield batches[start : start + recipe.accumulate]  # type: ignore[misc]


def _rate(done: float, warmup: float) -> float:
    """Learning rate as a share of its peak when `done` of the updates are taken."""
    if done < warmup:
        return max(done / warmup, 0.01)
    return float(0.5 * (1 + np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _finite(value: float, what: str) -> float:
    if not np.isfinite(value):
        raise TrainingDivergedError(f"the {what} is {value}; lower the learning rate or check the data")
    return value
