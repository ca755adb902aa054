"""Fisher information per layer, from exact per-example gradients and without a loop over examples.

Its trace, its mean per parameter, and its diagonal itself; each of them true (labels of the model) or empirical (labels
of the data), and never the square of a batch's mean gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.backward import Options, backpropagated
from layerwise.importance.likelihood import Batches, Labels
from layerwise.importance.per_example import LatestGram, parameterised, squared_gradients, squared_norm
from layerwise.models.layers import layers_of, pretrained_of

__all__ = ["Batches", "diagonal_fisher", "fisher_information", "mean_fisher"]


def fisher_information(
    model: nn.Module,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator | None = None,
    **options: Unpack[Options],
) -> NDArray[np.float64]:
    """Trace of the Fisher information of each layer's parameters: mean squared norm of per-example gradients.

    An example is one row of a batch, unless `example="token"`. Dropout is off. The model's mode and gradient flags
    are the same afterwards. Position tables that all layers of a stack share (T5) belong to no layer and are left out.

    Args:
        model: A supported language model or sequence classifier, or a `Recommender`.
        batches: Keyword dictionaries for the model's forward, with `labels` as `transformers` expects them: *batch x
            length*, -100 where there is none, aligned with `input_ids` (causal models shift them themselves) or with
            the decoder's output; *batch* for a classifier.
        labels: `"model"` draws the labels from the model's own distribution, an unbiased estimate of the (true)
            Fisher; `"exact"` sums over all classes with their probabilities instead, at one backward pass per class
            and label of a row; `"data"` takes the labels of the batch, which gives the empirical Fisher.
        generator: Draws the labels where `labels="model"`; seeded with 0 by default.
        **options: `example`, `draws` and `predict`; see `Options`.

    Returns:
        One value per layer, *num_layers*, in squared nats; `nan` if there is no example.

    Raises:
        ValueError: If a batch has no labels, or an argument is none of the possible ones.
        UnsupportedArchitectureError: If a layer holds parameters of an unknown kind.

    References:
        Kunstner, Balles and Hennig 2019 (true against empirical).
    """
    pretrained = pretrained_of(model)
    layers = layers_of(pretrained)
    totals = torch.zeros(len(layers), dtype=torch.float64, device=pretrained.device)
    gram_of_states = LatestGram()

    def listen(total: Tensor, module: nn.Module, states: Tensor, _: Tensor) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            total.add_(squared_norm(module, states, gradient, gram_of_states))

        return add

    listeners = {
        module: partial(listen, total, module)
        for total, layer in zip(totals, layers, strict=True)
        for _, module in parameterised(layer)
    }
    examples = backpropagated(model, batches, labels, generator, listeners, **options)
    return totals.cpu().numpy() / (examples or np.nan)


def mean_fisher(
    model: nn.Module,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator | None = None,
    **options: Unpack[Options],
) -> NDArray[np.float64]:
    """Mean of the Fisher information's diagonal over each layer's parameters, which does not grow with their number.

    Arguments and errors are those of `fisher_information`, of which this is the trace divided by the number of
    parameters that it counts.

    Returns:
        One value per layer, *num_layers*, in squared nats; `nan` if there is no example.
    """
    sizes = [
        sum(parameter.numel() for _, module in parameterised(layer) for parameter in module.parameters(recurse=False))
        for layer in layers_of(model)
    ]
    traces = fisher_information(model, batches, labels, generator, **options)
    return np.divide(traces, sizes)


def diagonal_fisher(
    model: nn.Module,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator | None = None,
    **options: Unpack[Options],
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information: the mean square of each parameter's per-example gradient.

    Arguments and errors are those of `fisher_information`; summed over a layer this is its trace. It costs more than
    the trace: weight gradients are formed, for a few examples at a time.

    Returns:
        A tensor of each parameter's shape and device, by its name in the `transformers` model, for the parameters
        that the trace counts; in squared nats, at least fp32; `nan` if there is no example.
    """
    pretrained = pretrained_of(model)
    paths = {module: path for path, module in pretrained.named_modules()}
    modules = [module for layer in layers_of(pretrained) for _, module in parameterised(layer)]
    totals = {
        module: {
            name: torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            for name, parameter in module.named_parameters(recurse=False)
        }
        for module in modules
    }

    def listen(module: nn.Module, states: Tensor, _: Tensor) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            for name, squares in squared_gradients(module, states, gradient).items():
                totals[module][name] += squares

        return add

    listeners = {module: partial(listen, module) for module in modules}
    examples = backpropagated(model, batches, labels, generator, listeners, **options)
    return {
        f"{paths[module]}.{name}": total / (examples or torch.nan)
        for module, of in totals.items()
        for name, total in of.items()
    }
