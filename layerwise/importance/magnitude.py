"""Magnitude: how large a layer's weights are. The oldest pruning criterion, and the baseline of all others."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerwise.importance.per_example import parameterised
from layerwise.models.layers import layers_of


def layer_magnitude(model: nn.Module) -> NDArray[np.float64]:
    """Sum of the absolute values of each layer's weights, of its linear maps and its normalisations.

    Biases are left out, as are position tables that all layers of a stack share (T5). A sum grows with the number of
    weights: a decoder's layers, which have a second attention, are not comparable with those of its encoder.

    Args:
        model: A supported `transformers` model or a `Recommender`.

    Returns:
        One value per layer, *num_layers*, no unit.

    References:
        Kim et al. 2024 (Shortened LLaMA), arXiv 2402.02834, the block criterion "Magnitude", after Li et al. 2017,
        arXiv 1608.08710 (L1 norms of filters).
    """
    with torch.no_grad():
        sums = [
            [module.get_parameter("weight").abs().sum(dtype=torch.float64) for _, module in parameterised(layer)]
            for layer in layers_of(model)
        ]
    return np.array([sum(float(part) for part in parts) for parts in sums])
