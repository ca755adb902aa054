"""How much a layer, or a run of layers, turns the states that pass through it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.likelihood import Batches
from layerwise.models.families import Stack
from layerwise.models.layers import layers_of, pretrained_of, run_layers, stacks_of, state_of, traced
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
    stacks = stack_by_layer(pretrained)
    similarity = torch.zeros(len(stacks), dtype=torch.float64)
    positions = torch.zeros(len(stacks), dtype=torch.float64)
    current: Mapping[str, Tensor] = {}

    def watch(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            cosine = nn.functional.cosine_similarity(inputs[0].double(), state_of(output).double(), dim=-1)
            counts = counted(current, stacks[index], cosine)
            similarity[index] += cosine[counts].sum().cpu()
            positions[index] += counts.sum().cpu()

        return hook

    with ExitStack() as hooks, evaluating(pretrained), torch.inference_mode():
        for index, layer in enumerate(layers_of(pretrained)):
            hooks.callback(layer.register_forward_hook(watch(index)).remove)
        for batch in batches:
            current = batch
            run_layers(pretrained, batch)
    return np.where(positions > 0, 1 - (similarity / positions).numpy(), np.nan)


def angular_distance(model: nn.Module, batches: Batches, window: int = 1) -> NDArray[np.float64]:
    """Mean angle between the states before and after each run of `window` layers, at the last position that counts.

    With `window` the number of layers to cut, the smallest value stands at the first layer of the most redundant
    run. As in `block_influence`, the states are taken at the layers themselves.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was.
        batches: Keyword dictionaries for its forward; positions count as in `block_influence`. The last one that
            counts is the newest of an example, whichever side is padded.
        window: Layers in a run, in [1, num_layers].

    Returns:
        One value per first layer of a run, *num_layers - window + 1*, in [0, 1], as a share of half a turn; the
        mean over examples. `nan` for a run that would cross from an encoder into its decoder, and if no example
        has a position that counts.

    Raises:
        ValueError: If the window does not fit the model.

    References:
        Gromov et al. 2024 (The Unreasonable Ineffectiveness of the Deeper Layers, arXiv 2403.17887), section 3.2.
    """
    pretrained = pretrained_of(model)
    stacks = stack_by_layer(pretrained)
    if not 1 <= window <= len(stacks):
        raise ValueError(f"window must lie within [1, {len(stacks)}], the number of layers, got {window}")
    runs = [(first, first + window - 1) for first in range(len(stacks) - window + 1)]
    turned, examples = torch.zeros(2, len(runs), dtype=torch.float64)
    with evaluating(pretrained), torch.inference_mode():
        for batch in batches:
            with traced(pretrained) as trace:
                run_layers(pretrained, batch)
            for run, (first, last) in enumerate(runs):
                if stacks[first] == stacks[last]:
                    before, after = trace.inputs[first], trace.outputs[last]
                    asked = newest(counted(batch, stacks[first], before))
                    cosine = nn.functional.cosine_similarity(before[asked].double(), after[asked].double(), dim=-1)
                    turned[run] += (cosine.clamp(-1, 1).arccos() / torch.pi).sum().cpu()
                    examples[run] += len(cosine)
    return np.asarray(turned / examples)


def stack_by_layer(model: nn.Module) -> list[Stack]:
    """The stack that each layer belongs to, *num_layers*."""
    return [stack for stack, layers in stacks_of(model).items() for _ in layers]


def counted(batch: Mapping[str, Tensor], stack: Stack, states: Tensor) -> Tensor:
    """Which positions of a stack's states *batch x length x ...* count, *batch x length*: all without a mask."""
    mask = batch.get(stack.mask)
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask.bool()


def newest(counts: Tensor, number: int = 1) -> Tensor:
    """The last `number` true entries along the last axis, same shape; all of them where there are fewer."""
    return counts & (counts.flip(-1).cumsum(-1).flip(-1) <= number)
