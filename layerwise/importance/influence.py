"""BlockInfluence: how much a layer turns the states that pass through it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.fisher import Batches
from layerwise.models.layers import layers_of, pretrained_of, run_layers, stacks_of, state_of
from layerwise.models.modes import evaluating


def block_influence(model: nn.Module, batches: Batches) -> NDArray[np.float64]:
    """1 minus the mean cosine similarity of each layer's input and output states, over positions that count.

    The states are taken at the layers themselves, since the last entry of `hidden_states` is after the final norm.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was.
        batches: Keyword dictionaries for its forward; positions count where the mask of the layer's stack
            (`attention_mask`, of a decoder `decoder_attention_mask`) is 1, or everywhere without one.

    Returns:
        One value per layer, *num_layers*, in [0, 2], no unit; `nan` if there is no batch.

    References:
        Men et al. 2024 (ShortGPT), equation 1.
    """
    pretrained = pretrained_of(model)
    stacks = [stack for stack, layers in stacks_of(pretrained).items() for _ in layers]
    similarity = torch.zeros(len(stacks), dtype=torch.float64)
    positions = torch.zeros(len(stacks), dtype=torch.float64)
    masks: dict[str, Tensor] = {}

    def watch(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            cosine = nn.functional.cosine_similarity(inputs[0].double(), state_of(output).double(), dim=-1)
            counts = masks.get(stacks[index].mask, torch.ones_like(cosine)).bool()
            similarity[index] += cosine[counts].sum().cpu()
            positions[index] += counts.sum().cpu()

        return hook

    with ExitStack() as hooks, evaluating(pretrained), torch.inference_mode():
        for index, layer in enumerate(layers_of(pretrained)):
            hooks.callback(layer.register_forward_hook(watch(index)).remove)
        for batch in batches:
            masks = {name: value for name, value in batch.items() if name.endswith("mask")}
            run_layers(pretrained, batch)
    return np.where(positions > 0, 1 - (similarity / positions).numpy(), np.nan)
