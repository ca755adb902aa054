"""Healing a cut text recommender: LoRA on what is left, with the next item and the full model as teachers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from layerwise.compression.distill import Distillation
from layerwise.data.arrays import IntArray
from layerwise.models.lora_classifier import Lora
from layerwise.models.modes import evaluating
from layerwise.models.text_fitting import TextRecipe
from layerwise.models.text_recommender import TextRecommender
from layerwise.models.text_training import TextLoss, TextTrained, next_item_loss, train_text
from layerwise.models.training import Progress


def heal_text(
    compact: TextRecommender,
    teacher: TextRecommender,
    sequences: Sequence[IntArray],
    validate: Callable[[TextRecommender], float],
    lora: Lora,
    recipe: TextRecipe,
    seed: int,
    distillation: Distillation,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TextTrained:
    """A healed copy of a cut text recommender; its adapter is merged, so that its backbone is a plain checkpoint.

    Args:
        compact: The student's starting weights: fewer layers, the full model's head. Left as they were.
        teacher: The full recommender, of the same catalogue, tokenizer and prompts.
        sequences: Training events of each user, item codes, oldest first.
        validate: Quality of a recommender, larger is better; decides which weights are kept and when to stop.
        lora: Size of the adapter.
        recipe: Rates and lengths.
        seed: Decides the adapter's first weights, examples, order and dropout.
        distillation: How much the student listens to the teacher.
        on_progress: Called after each epoch.

    Raises:
        ValueError: If student and teacher do not read the same prompts.
        TrainingDivergedError: If the loss is not finite; there is no fallback to the plain loss.
    """
    alike = ("titles", "max_tokens", "ending", "kind")
    if different := [name for name in alike if getattr(compact, name) != getattr(teacher, name)]:
        raise ValueError(f"student and teacher must read the same prompts; they differ in {', '.join(different)}")
    loss = text_distillation_loss(teacher, distillation)
    return train_text(compact, sequences, validate, lora, recipe, seed, loss, on_progress)


def text_distillation_loss(teacher: TextRecommender, distillation: Distillation) -> TextLoss:
    """A loss that mixes the next item with the teacher's distribution over the catalogue.

    References:
        Hinton, Vinyals and Dean 2015, section 2.
    """

    def loss(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        with evaluating(teacher), torch.no_grad():
            wanted = (teacher(**batch) / distillation.temperature).log_softmax(-1)
        told = (scores / distillation.temperature).log_softmax(-1)
        divergence = nn.functional.kl_div(told, wanted, log_target=True, reduction="batchmean")
        softened = distillation.temperature**2 * divergence
        return (1 - distillation.weight) * next_item_loss(scores, batch) + distillation.weight * softened

    return loss
