"""Layer conductance: how much of what the input does for the target flows through each layer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.importance.likelihood import Batches, predictions
from layerwise.models.layers import layers_of, pretrained_of, traced
from layerwise.models.modes import evaluating


def layer_conductance(model: nn.Module, batches: Batches, steps: int = 16) -> NDArray[np.float64]:
    """Mean absolute conductance of each layer's contribution, from the average token's vectors to those of the batch.

    The token vectors move along a straight path; at each step the change of what a layer adds to its input, *output
    minus input*, times the gradient of the log-likelihood there, is summed over positions and units. All states that
    leave a layer together conduct everything (completeness), whichever layer it is, so that their sum would say nothing
    about depth; what a layer adds does. An identity layer conducts nothing.

    The path begins at the mean of all token vectors: at zero, where the literature begins, RMS normalisation has no
    direction, and the first step would decide everything.

    An example is one row of a batch, its value the sum of the log-likelihoods of its labelled positions. Dropout is
    off. Positions and token types stay as they are; of an encoder-decoder the encoder's token vectors move.

    Args:
        model: A supported language model or sequence classifier, or a `Recommender`; it is left as it was.
        batches: Keyword dictionaries for its forward, with `labels`; see `fisher_information`.
        steps: Steps of the path, at least 1; the path integral is a sum of trapezoids.

    Returns:
        One value per layer, *num_layers*, in nats; `nan` if there is no example.

    Raises:
        ValueError: If a batch has no labels, or `steps` is below 1.

    References:
        Dhamdhere, Sundararajan and Yan 2018, equation 2 (conductance of a hidden unit); Shrikumar et al. 2018, arXiv
        1807.09946 (as gradient times change along the path).
    """
    if steps < 1:
        raise ValueError(f"the path needs at least 1 step, got {steps}")
    pretrained = pretrained_of(model)
    totals, examples = np.zeros(len(layers_of(pretrained))), 0
    with evaluating(pretrained):
        for batch in batches:
            conducted = path_integrals(pretrained, batch, steps)
            totals += conducted.branches.abs().sum(1).cpu().numpy()
            examples += conducted.branches.shape[1]
    return totals / (examples or np.nan)


class Conducted(NamedTuple):
    """What flows through the layers for each example of a batch, in nats.

    Attributes:
        branches: Conductance of what each layer adds, *num_layers x batch*.
        outputs: Conductance of all that leaves each layer, *num_layers x batch*; in a single stack each layer's equals
            `change` as far as the path is fine enough (completeness).
        change: Log-likelihood with the tokens' own vectors minus with the average one, *batch*.
    """

    branches: Tensor
    outputs: Tensor
    change: Tensor


def path_integrals(model: PreTrainedModel, batch: Mapping[str, Tensor], steps: int) -> Conducted:
    """The path integrals of one batch, for a model in evaluation mode."""
    start = before = _point(model, batch, 0.0)
    branches, outputs = [], []
    for step in range(1, steps + 1):
        after = _point(model, batch, step / steps)
        middle = [(a + b) / 2 for a, b in zip(before.gradients, after.gradients, strict=True)]
        left = [b - a for a, b in zip(before.outputs, after.outputs, strict=True)]
        entered = [b - a for a, b in zip(before.inputs, after.inputs, strict=True)]
        outputs.append([_product(g, o) for g, o in zip(middle, left, strict=True)])
        branches.append([_product(g, o - i) for g, o, i in zip(middle, left, entered, strict=True)])
        before = after
    return Conducted(_summed(branches), _summed(outputs), before.value - start.value)


def _product(gradient: Tensor, change: Tensor) -> Tensor:
    """Inner product over positions and units, *batch*."""
    return (gradient.double() * change.double()).flatten(1).sum(1)


def _summed(steps: list[list[Tensor]]) -> Tensor:
    """Sum over steps, *num_layers x batch*."""
    return torch.stack([torch.stack(layers) for layers in steps]).sum(0)


class _Point(NamedTuple):
    """One point of the path: states that enter and leave each layer, their gradients, log-likelihood by example."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    gradients: tuple[Tensor, ...]
    value: Tensor


def _point(model: PreTrainedModel, batch: Mapping[str, Tensor], share: float) -> _Point:
    with _moved_tokens(model, share), traced(model) as trace:
        found = predictions(model, batch)
        values = found.logits.log_softmax(-1).gather(-1, found.targets[:, None])[:, 0]
        gradients = torch.autograd.grad(values.sum(), trace.outputs, materialize_grads=True)
    value = values.detach().new_zeros(found.num_rows).index_add(0, found.rows, values.detach())
    return _Point([s.detach() for s in trace.inputs], [s.detach() for s in trace.outputs], gradients, value)


@contextmanager
def _moved_tokens(model: PreTrainedModel, share: float) -> Iterator[None]:
    """Token vectors have gone a share of the way from the average one, and are where gradients end."""
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    embeddings = reader.get_input_embeddings()
    average = embeddings.weight.detach().mean(0)

    def moved(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.lerp(average, output.detach(), share).requires_grad_()

    handle = embeddings.register_forward_hook(moved)
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
