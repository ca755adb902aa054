"""Scores of the likelihood: gradients of the negative log-likelihood by the logits, whose squares the Fisher averages.

The kinds of Fisher information differ only in these. *Empirical*: the label is the observed one. *True*: the label is
drawn from the model, or every class counts with its probability. *Per token*: every labelled position is an example of
its own, and a row of the batch has one of them in each backward pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.models.inputs import IGNORED
from layerwise.models.layers import forward_inputs, shifts_labels

Batches = Iterable[Mapping[str, Tensor]]
Labels = Literal["model", "exact", "data"]
Example = Literal["sequence", "token"]
Predict = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""From a batch to logits, *batch x ... x num_classes*, and integer labels there, *batch x ...*, -100 where none is."""


class Predictions(NamedTuple):
    """What a model says where there is a label.

    Attributes:
        logits: *num_labels x num_classes*, fp32.
        targets: The observed labels, *num_labels*.
        rows: The row of the batch that each belongs to, *num_labels*, in order.
        num_rows: Rows of the batch, with those that have no label.
    """

    logits: Tensor
    targets: Tensor
    rows: Tensor
    num_rows: int


def predictions(model: PreTrainedModel, batch: Mapping[str, Tensor], predict: Predict | None = None) -> Predictions:
    """Predictions of `predict`, or without it those of the model's own head for the labels of the batch.

    The head, often the most expensive matrix of a small model, is run at the labelled positions only.

    Raises:
        ValueError: If labels are needed and the batch has none.
    """
    if predict is not None:
        logits, labels = predict(batch)
        return _gathered(logits[labels != IGNORED], labels)
    if "labels" not in batch:
        raise ValueError(f"Fisher information needs labels in every batch, got only {sorted(batch)}")
    labels = batch["labels"]
    if shifts_labels(model):
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # at the states that predict them
    labelled, inputs, head = labels != IGNORED, forward_inputs(model, batch), model.get_output_embeddings()
    if head is None:  # a classifier
        return _gathered(model(**inputs, use_cache=False).logits[labelled], labels)
    with head.register_forward_pre_hook(lambda _, states: (states[0][labelled],)):
        return _gathered(model(**inputs, use_cache=False).logits, labels)


def _gathered(logits: Tensor, labels: Tensor) -> Predictions:
    labelled = labels != IGNORED
    return Predictions(logits.float(), labels[labelled], labelled.nonzero()[:, 0], len(labels))


def scores(
    predicted: Predictions, labels: Labels, generator: torch.Generator, draws: int, example: Example
) -> Iterator[Tensor]:
    """Scores by the logits, one per backward pass, such that squares of what they become in the parameters add up.

    The sum over these passes and over the rows of the batch is the Fisher information times the number of examples.
    Labels of different positions are drawn independently and scores have mean zero, so that in the exact sum the
    positions of a sequence do not mix: there, too, each has a pass of its own, *num_classes x positions* in all.

    Args:
        predicted: What the model says.
        labels: Where the labels come from.
        generator: Draws them where the model decides.
        draws: How often it does.
        example: Whether all labels of a row make one example, or each is one.

    Yields:
        *num_labels x num_classes*, on the device of the logits.
    """
    chances = predicted.logits.detach().softmax(-1)
    one_by_one = example == "token" or labels == "exact"
    for score in _of_classes(chances, predicted.targets, labels, generator, draws):
        yield from _label_by_label(score, predicted.rows) if one_by_one else (score,)


def _of_classes(
    chances: Tensor, targets: Tensor, labels: Labels, generator: torch.Generator, draws: int
) -> Iterator[Tensor]:
    if labels == "data":
        yield _score(chances, targets)
    elif labels == "model":
        for classes in _drawn(chances, generator, draws):
            yield _score(chances, classes) * draws**-0.5
    else:
        for index, chance in enumerate(chances.unbind(-1)):
            yield _score(chances, torch.full_like(targets, index)) * chance.sqrt()[:, None]


def _drawn(chances: Tensor, generator: torch.Generator, draws: int) -> Iterator[Tensor]:
    """Classes by inverting their distribution function: one random number a draw; `multinomial` needs one a class."""
    cumulative = chances.cumsum(-1, dtype=torch.float64)
    for _ in range(draws):
        uniform = torch.rand(len(chances), 1, dtype=torch.float64, device=chances.device, generator=generator)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
        yield drawn.clamp(max=chances.shape[-1] - 1)


def _score(chances: Tensor, classes: Tensor) -> Tensor:
    """Gradient of -log softmax at these classes by the logits."""
    return chances.scatter_add(-1, classes[:, None], chances.new_full((len(classes), 1), -1.0))


def _label_by_label(score: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """The score with one label of each row at a time: rows do not meet, so one pass serves them all."""
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)  # within the row
    for turn in range(int(place.max()) + 1 if len(rows) else 0):
        yield score * (place == turn)[:, None]
