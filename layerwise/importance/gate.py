"""Gate Fisher: the Fisher information of a scalar gate on each layer, open at 1 and a bypass at 0."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.backward import Options, backpropagated
from layerwise.importance.likelihood import Batches, Labels
from layerwise.models.layers import layers_of, pretrained_of


def gate_fisher(
    model: nn.Module,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator | None = None,
    **options: Unpack[Options],
) -> NDArray[np.float64]:
    """Mean square of each example's derivative of the loss by the gate of each layer.

    The gate multiplies what a layer changes, *output = input + gate x (layer(input) - input)*, at gate 1. So the
    derivative is the inner product, over positions, of the gradient at the layer's output with its change. Unlike
    the trace it does not depend on how a layer is parametrised, and an identity layer has none.

    Arguments and errors are those of `fisher_information`.

    Returns:
        One value per layer, *num_layers*, in squared nats; `nan` if there is no example.

    References:
        Molchanov et al. 2019, arXiv 1906.10771, section 3.2 (squared first-order Taylor term of a gate); here the gate
        stands on a whole layer, around its normalisations and residual sums, so that 0 is exactly the bypass also
        where a normalisation follows the sum (BERT).
    """
    pretrained = pretrained_of(model)
    layers = layers_of(pretrained)
    totals = torch.zeros(len(layers), dtype=torch.float64, device=pretrained.device)

    def listen(total: Tensor, before: Tensor, after: Tensor) -> Callable[[Tensor], None]:
        change = after - before

        def add(gradient: Tensor) -> None:
            total.add_((change * gradient).flatten(1).sum(1).square().sum())

        return add

    listeners = {layer: partial(listen, total) for total, layer in zip(totals, layers, strict=True)}
    examples = backpropagated(model, batches, labels, generator, listeners, **options)
    return totals.cpu().numpy() / (examples or np.nan)
