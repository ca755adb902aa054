"""Training a text recommender on the next item: its head on frozen states, or LoRA on its backbone with the head."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.arrays import IntArray
from layerwise.models.classifier import half_precision
from layerwise.models.item_head import ItemHead
from layerwise.models.lora import merge_lora
from layerwise.models.lora_classifier import Lora
from layerwise.models.text_fitting import Terms, TextRecipe, fit_text, updates_of
from layerwise.models.text_recommender import TextRecommender
from layerwise.models.training import Progress

try:
    import peft
except ImportError:  # the extra layerwise[lora]
    peft = None

SORTED_TOGETHER = 16  # batches whose prompts are sorted by length, so that little is padded and order stays random
TextLoss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From scores *batch x num_items* and the batch that they answer, with its `labels`, to a scalar."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Histories, oldest event first, and the item that followed each, *num_examples*."""

    histories: list[IntArray]
    items: IntArray

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class TextTrained:
    """A trained text recommender and its course; fields as in `layerwise.models.training.Trained`."""

    recommender: TextRecommender
    best_epoch: int
    validation: dict[int, float]


def drawn_examples(sequences: Sequence[IntArray], per_user: int, rng: np.random.Generator) -> Examples:
    """For each user, some events that have a history, drawn without repetition.

    Args:
        sequences: Training events of each user, oldest first; users with one event are passed over.
        per_user: How many of each user; all where there are fewer.
        rng: Draws them.

    Raises:
        ValueError: If no sequence has two events.
    """
    histories, items = [], []
    for sequence in sequences:
        count = min(per_user, len(sequence) - 1)
        for place in rng.choice(np.arange(1, len(sequence)), count, replace=False) if count > 0 else ():
            histories.append(sequence[:place])
            items.append(sequence[place])
    if not items:
        raise ValueError("training needs at least one user with two events, got none")
    return Examples(histories, np.array(items))


def next_item_loss(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the next item over the whole catalogue, in nats."""
    return nn.functional.cross_entropy(scores, batch["labels"])


def train_head(
    text: TextRecommender,
    states: Tensor,
    items: IntArray,
    validate: Callable[[ItemHead], float],
    recipe: TextRecipe,
    seed: int,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TextTrained:
    """The recommender with a head trained on states of its frozen backbone; the one passed in is left alone.

    Args:
        text: Starting weights.
        states: Of the training histories, *num_examples x hidden*: `features` of the recommender, computed once.
        items: The item that followed each, *num_examples*.
        validate: Quality of a head, larger is better; decides which weights are kept.
        recipe: Rates and lengths; every epoch sees all examples, `per_user` is not read.
        seed: Decides order and dropout.
        on_progress: Called after each epoch.

    Raises:
        TrainingDivergedError: If the loss or the validation value is not finite.
    """
    head, labels = copy.deepcopy(text.head), torch.as_tensor(items, device=states.device)

    def answer(rows: Tensor) -> Tensor:
        scores = head(nn.functional.dropout(states[rows], recipe.dropout))
        return next_item_loss(scores, {"labels": labels[rows]})

    def epoch(rng: np.random.Generator) -> Iterator[Terms]:
        for rows in np.array_split(rng.permutation(len(items)), updates_of(len(items), recipe)):
            yield [partial(answer, torch.as_tensor(rows, device=states.device))]

    groups = _groups([], head, recipe)
    best_epoch, course = fit_text(
        head, groups, epoch, updates_of(len(items), recipe), lambda: validate(head), recipe, seed, on_progress
    )
    trained = text.on(text.model)
    trained.head.load_state_dict(head.state_dict())
    return TextTrained(trained.eval(), best_epoch, course)


def train_text(
    text: TextRecommender,
    sequences: Sequence[IntArray],
    validate: Callable[[TextRecommender], float],
    lora: Lora,
    recipe: TextRecipe,
    seed: int,
    loss: TextLoss = next_item_loss,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TextTrained:
    """The recommender after LoRA on all linear layers of its backbone, merged into plain weights, and of its head.

    The one passed in is left alone. The base computes in bf16 where the device has it, the head always in fp32.

    Args:
        text: Starting weights.
        sequences: Training events of each user, item codes, oldest first.
        validate: Quality of a recommender, larger is better; decides which weights are kept and when to stop.
        lora: Size of the adapter.
        recipe: Rates and lengths.
        seed: Decides the adapter's first weights, examples, order and dropout; global generators are left alone.
        loss: What is minimised.
        on_progress: Called after each epoch.

    Raises:
        ImportError: If peft is not installed.
        TrainingDivergedError: If the loss or the validation value is not finite.
        ValueError: If no sequence has two events.
    """
    student = _with_adapter(text, lora, seed)

    def epoch(rng: np.random.Generator) -> Iterator[Terms]:
        examples = drawn_examples(sequences, recipe.per_user, rng)
        for batches in _batches(student, examples, recipe, rng):
            count = sum(len(batch["labels"]) for batch in batches)
            yield [partial(_term, student, batch, loss, recipe, len(batch["labels"]) / count) for batch in batches]

    adapter = [weight for weight in student.model.parameters() if weight.requires_grad]
    count = sum(min(recipe.per_user, len(sequence) - 1) for sequence in sequences if len(sequence) > 1)
    best_epoch, course = fit_text(
        student,
        _groups(adapter, student.head, recipe),
        epoch,
        updates_of(count, recipe),
        lambda: validate(student),
        recipe,
        seed,
        on_progress,
    )
    with tempfile.TemporaryDirectory() as folder:
        student.model.save_pretrained(folder)
        merged = merge_lora(text.model, folder)
    trained = text.on(merged)
    trained.head.load_state_dict(student.head.state_dict())
    return TextTrained(trained.eval(), best_epoch, course)


def _with_adapter(text: TextRecommender, lora: Lora, seed: int) -> TextRecommender:
    """A copy whose backbone is frozen, with an adapter that changes nothing yet; the head asks for gradients."""
    if peft is None:
        raise ImportError("training an adapter needs peft; install it with: pip install 'layerwise[lora]'")
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    student = text.on(copy.deepcopy(text.model))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        student.model = peft.get_peft_model(student.model, config)
    return student


def _term(
    student: TextRecommender, batch: Mapping[str, Tensor], loss: TextLoss, recipe: TextRecipe, share: float
) -> Tensor:
    """The part of an update's loss that a batch adds."""
    with half_precision(student.head.items.device):
        states = student.states(batch)
    return share * loss(student.head(nn.functional.dropout(states.float(), recipe.dropout)), batch)


def _batches(
    text: TextRecommender, examples: Examples, recipe: TextRecipe, rng: np.random.Generator
) -> Iterator[list[dict[str, Tensor]]]:
    """Labelled batches of each update of an epoch: prompts of like length share one."""
    rows = text.rows(examples.histories)
    lengths = np.array([len(row) for row in rows])
    order, parts, together = rng.permutation(len(rows)), [], SORTED_TOGETHER * recipe.batch_size
    for start in range(0, len(order), together):
        part = order[start : start + together]
        part = part[np.argsort(lengths[part], kind="stable")]
        parts += [part[at : at + recipe.batch_size] for at in range(0, len(part), recipe.batch_size)]
    parts = [parts[place] for place in rng.permutation(len(parts))]
    for start in range(0, len(parts), recipe.accumulate):
        yield [
            {
                **text.batch([rows[row] for row in part]),
                "labels": torch.as_tensor(examples.items[part], device=text.head.items.device),
            }
            for part in parts[start : start + recipe.accumulate]
        ]


def _groups(adapter: Sequence[nn.Parameter], head: ItemHead, recipe: TextRecipe) -> list[dict[str, Any]]:
    """What is trained, by rate and decay: item vectors start at their titles and are not drawn to zero."""
    head.requires_grad_(True)
    plain = [head.items, head.bias, head.log_scale, head.project.bias]
    groups = [
        {"params": list(adapter), "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        {"params": [head.project.weight], "lr": recipe.head_rate, "weight_decay": recipe.weight_decay},
        {"params": plain, "lr": recipe.head_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
