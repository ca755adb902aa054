"""One call for a score per layer, by the name of the method."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from layerwise.importance.fisher import Batches, fisher_information
from layerwise.importance.influence import block_influence

METHODS: dict[str, Callable[[nn.Module, Batches], NDArray[np.float64]]] = {
    "fisher": lambda model, batches: fisher_information(model, batches, labels="model"),
    "empirical-fisher": lambda model, batches: fisher_information(model, batches, labels="data"),
    "block-influence": block_influence,
}


def layer_scores(model: nn.Module, batches: Batches, method: str = "fisher") -> NDArray[np.float64]:
    """One importance per layer; larger means more important.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was.
        batches: Keyword dictionaries for its forward, with labels for the Fisher methods.
        method: `"fisher"` (labels drawn from the model), `"empirical-fisher"` (labels of the data) or
            `"block-influence"`; see the functions of these names for definitions and units.

    Returns:
        *num_layers*, float64.

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {sorted(METHODS)}")
    return METHODS[method](model, batches)
