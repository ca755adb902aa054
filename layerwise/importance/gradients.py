"""Gradient norm: how steep the mean loss is in each layer's parameters. An ordinary backward pass, and no Fisher."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.likelihood import Batches, predictions
from layerwise.importance.per_example import parameterised
from layerwise.models.layers import layers_of, pretrained_of
from layerwise.models.modes import evaluating


def gradient_norm(model: nn.Module, batches: Batches) -> NDArray[np.float64]:
    """Euclidean norm of the gradient of the mean loss by each layer's parameters.

    This is not Fisher information: gradients of examples that pull in opposite directions cancel before the norm is
    taken, so that it goes to 0 where the loss is minimal on these batches, however much every example needs the layer.

    An example is one row of a batch; its loss is the sum of the negative log-likelihoods, in nats, of its labelled
    positions. Dropout is off. The model's mode, gradient flags and gradients are the same afterwards. Position tables
    that all layers of a stack share (T5) belong to no layer and are left out.

    Args:
        model: A supported language model or sequence classifier, or a `Recommender`.
        batches: Keyword dictionaries for the model's forward, with `labels`; see `fisher_information`.

    Returns:
        One value per layer, *num_layers*, in nats; `nan` if there is no example.

    Raises:
        ValueError: If a batch has no labels.
    """
    pretrained = pretrained_of(model)
    layers = [
        [parameter for _, module in parameterised(layer) for parameter in module.parameters(recurse=False)]
        for layer in layers_of(pretrained)
    ]
    parameters = [parameter for layer in layers for parameter in layer]
    totals = {parameter: torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters}
    examples = 0
    with evaluating(pretrained), _differentiable(parameters):
        for batch in batches:
            found = predictions(pretrained, batch)
            loss = nn.functional.cross_entropy(found.logits, found.targets, reduction="sum")
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True
            ):
                totals[parameter] += gradient
            examples += found.num_rows
    squares = [sum(float(totals[parameter].double().square().sum()) for parameter in layer) for layer in layers]
    return np.sqrt(squares) / (examples or np.nan)


@contextmanager
def _differentiable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """These parameters ask for gradients inside the block, also where they were frozen."""
    flags = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_()
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
