"""BlockInfluence: how much a layer turns the states that pass through it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.fisher import Batches
from layerwise.models.families import layers_of, pretrained_of
from layerwise.models.modes import evaluating


def block_influence(model: nn.Module, batches: Batches) -> NDArray[np.float64]:
    """1 minus the mean cosine similarity of each layer's input and output states, over positions that count.

    The states are taken at the layers themselves, since the last entry of `hidden_states` is after the final norm.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was.
        batches: Keyword dictionaries for its forward; positions count where `attention_mask` is 1, or everywhere
            without one.

    Returns:
        One value per layer, *num_layers*, in [0, 2], no unit; `nan` if there is no batch.

    References:
        Men et al. 2024 (ShortGPT), equation 1.
    """
    pretrained = pretrained_of(model)
    layers = layers_of(pretrained)
    totals, positions = torch.zeros(len(layers), dtype=torch.float64), 0
    counts: Tensor | None = None

    def watch(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            similarity = nn.functional.cosine_similarity(inputs[0].double(), output.double(), dim=-1)
            totals[index] += similarity[counts].sum().cpu()

        return hook

    with ExitStack() as hooks, evaluating(pretrained), torch.inference_mode():
        for index, layer in enumerate(layers):
            hooks.callback(layer.register_forward_hook(watch(index)).remove)
        for batch in batches:
            counts = _positions_that_count(batch)
            pretrained.base_model(**{name: value for name, value in batch.items() if name != "labels"})
            positions += int(counts.sum())
    return 1 - (totals / positions).numpy() if positions else np.full(len(layers), np.nan)


def _positions_that_count(batch: Mapping[str, Tensor]) -> Tensor:
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)
