"""Healing a compact model: fine-tuning on the data while it listens to the full model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerwise.data.splits import Split
from layerwise.evaluation.quality import validation_ndcg
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender, Windows
from layerwise.models.training import Loss, Progress, Recipe, Trained, train


@dataclass(frozen=True)
class Distillation:
    """How much the student listens to the teacher.

    Attributes:
        weight: Share of the teacher's term in the loss, in [0, 1]; the rest is the next-item loss.
        temperature: Softens both distributions; the term is scaled by its square, so that gradients keep their size.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")


HEALING = Recipe(epochs=12, learning_rate=1e-3, batch_size=32, evaluate_every=2)


def heal(
    compact: Recommender,
    teacher: Recommender,
    split: Split,
    recipe: Recipe = HEALING,
    seed: int = 0,
    distillation: Distillation | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """A healed copy of a compact recommender, trained on the next item and on the teacher's distribution.

    Args:
        compact: The student's starting weights; left as they were.
        teacher: The full model; left as it was.
        split: Its training sequences are learned from, its validation targets decide when to stop.
        recipe: Steps, rates, dropout.
        seed: Decides windows, order and dropout.
        distillation: Weight and temperature of the teacher's term.
        on_progress: Called after each validation.

    Raises:
        ValueError: If student and teacher have different catalogues.
        TrainingDivergedError: If the loss is not finite; there is no fallback to the plain loss.
    """
    if compact.num_items != teacher.num_items:
        raise ValueError(
            f"student and teacher must share a catalogue, got {compact.num_items} and {teacher.num_items} items"
        )
    loss = distillation_loss(teacher, distillation or Distillation())
    sequences = split.train_sequences()
    return train(compact, sequences, validation_ndcg(split), recipe, seed, loss, on_progress)


def distillation_loss(teacher: Recommender, distillation: Distillation) -> Loss:
    """A loss that mixes the next item with the teacher's distribution over the catalogue, at every position.

    References:
        Hinton, Vinyals and Dean 2015, section 2.
    """

    def loss(student: Recommender, states: Tensor, windows: Windows) -> Tensor:
        with evaluating(teacher), torch.no_grad():
            teacher_states = teacher.states(windows.inputs)[windows.valid]
            wanted = (teacher.item_scores(teacher_states) / distillation.temperature).log_softmax(-1)
        logits = student.item_scores(states)
        told = (logits / distillation.temperature).log_softmax(-1)
        divergence = nn.functional.kl_div(told, wanted, log_target=True, reduction="batchmean")
        observed = nn.functional.cross_entropy(logits, windows.items)
        return (1 - distillation.weight) * observed + distillation.weight * distillation.temperature**2 * divergence

    return loss
