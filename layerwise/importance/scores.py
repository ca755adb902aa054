"""One call for a score per layer, by the name of the method."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from layerwise.importance.conductance import layer_conductance
from layerwise.importance.fisher import fisher_information, mean_fisher
from layerwise.importance.gate import gate_fisher
from layerwise.importance.gradients import gradient_norm
from layerwise.importance.influence import angular_distance, block_influence
from layerwise.importance.likelihood import Batches
from layerwise.importance.magnitude import layer_magnitude

METHODS: dict[str, Callable[[nn.Module, Batches], NDArray[np.float64]]] = {
    "fisher": lambda model, batches: fisher_information(model, batches, labels="model"),
    "empirical-fisher": lambda model, batches: fisher_information(model, batches, labels="data"),
    "mean-fisher": lambda model, batches: mean_fisher(model, batches, labels="model"),
    "gate-fisher": lambda model, batches: gate_fisher(model, batches, labels="model"),
    "block-influence": block_influence,
    "angular-distance": angular_distance,
    "gradient-norm": gradient_norm,
    "conductance": lambda model, batches: layer_conductance(model, batches, steps=4),
    "magnitude": lambda model, batches: layer_magnitude(model),
}


def layer_scores(model: nn.Module, batches: Batches, method: str = "fisher") -> NDArray[np.float64]:
    """One importance per layer; larger means more important.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was.
        batches: Keyword dictionaries for its forward, with labels for all methods that look at a loss.
        method: Where the function behind it defines it, with units and sources:

            - `"fisher"`: `fisher_information`, labels drawn from the model;
            - `"empirical-fisher"`: `fisher_information`, labels of the data;
            - `"mean-fisher"`: `mean_fisher`, the diagonal's mean per parameter, labels drawn from the model;
            - `"gate-fisher"`: `gate_fisher`, labels drawn from the model;
            - `"block-influence"`: `block_influence`;
            - `"angular-distance"`: `angular_distance` of single layers;
            - `"gradient-norm"`: `gradient_norm`, of the mean gradient, which is no Fisher information;
            - `"conductance"`: `layer_conductance` in four steps;
            - `"magnitude"`: `layer_magnitude`, which looks at no data.

    Returns:
        *num_layers*, float64.

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {sorted(METHODS)}")
    return METHODS[method](model, batches)
