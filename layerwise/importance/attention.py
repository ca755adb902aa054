"""What the layers attend to: how evenly, how far back, and how much to the newest events; by layer and example."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.importance.influence import counted, newest, stack_by_layer
from layerwise.importance.likelihood import Batches
from layerwise.models.families import UnsupportedArchitectureError
from layerwise.models.layers import layers_of, pretrained_of, run_layers
from layerwise.models.modes import evaluating


@dataclass(frozen=True)
class AttentionProfile:
    """Self-attention by layer and example, each *num_layers x examples*; the mean over heads and over queries.

    A query whose value is fixed by what it can see at all says nothing about the model and is left out; `nan` where no
    query remains, such as in a decoder that is only started.

    Attributes:
        entropy: Entropy over the logarithm of the number of keys that the query sees, in [0, 1]: 0 where all mass is
            on one key, 1 for uniform attention. Queries that see one key are left out.
        distance: Mean distance between query and key, in tokens, over that of uniform attention to the keys that the
            query sees: 1 for uniform attention, less for nearer keys, 0 for the query's own position. Queries that see
            one key are left out.
        recent: Mass on the newest keys that the query sees, in [0, 1]. Queries that see no more than that many are
            left out.
    """

    entropy: NDArray[np.float64]
    distance: NDArray[np.float64]
    recent: NDArray[np.float64]


def attention_profile(
    model: nn.Module,
    batches: Batches,
    recent: int = 5,
    queries: Literal["all", "last"] = "all",
) -> AttentionProfile:
    """Entropy, distance and recency of every layer's self-attention, for each example.

    Real maps: the model runs with its eager attention, and each map is read where it arises and dropped. A decoder's
    attention to what was encoded is left out. A bypassed layer attends to nothing: `nan`.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was, with its own
            attention implementation.
        batches: Keyword dictionaries for its forward; queries and keys are the positions that count, as in
            `block_influence`.
        recent: Number of newest keys whose mass is taken, at least 1. The token that asks (a mask) or ends (T5) a
            history is one of them.
        queries: `"all"`, or `"last"` for the last position that counts: the one that a recommender reads.

    Returns:
        The profile, examples in the order of the batches; *num_layers x 0* without a batch.

    Raises:
        ValueError: If `recent` or `queries` is out of range, or if a query's attention to the keys that it should see
            does not sum to 1.
        UnsupportedArchitectureError: If a layer has no self-attention.
    """
    if recent < 1 or queries not in ("all", "last"):
        raise ValueError(f'expected recent >= 1 and queries "all" or "last", got {recent} and {queries!r}')
    pretrained = pretrained_of(model)
    stacks, layers = stack_by_layer(pretrained), layers_of(pretrained)
    measured = [torch.empty(3, len(layers), 0, dtype=torch.float64)]
    current: Mapping[str, Tensor] = {}

    def watch(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], tuple[Any, ...]], None]:
        def hook(attention: nn.Module, _: tuple[Tensor, ...], output: tuple[Any, ...]) -> None:
            weights = output[-1]  # batch x heads x length x length
            real = counted(current, stacks[index], weights[:, 0])
            visible = _visible(attention, real)
            _check_sums(weights, visible, real, index)
            asked = newest(real) if queries == "last" else real
            measured[-1][:, index] = _measures(weights.double(), visible, asked, recent).cpu()

        return hook

    with ExitStack() as hooks, evaluating(pretrained), _eager(pretrained), torch.inference_mode():
        for index, layer in enumerate(layers):
            hooks.callback(_self_attention(layer).register_forward_hook(watch(index)).remove)
        for batch in batches:
            current = batch
            examples = len(next(iter(batch.values())))
            measured.append(torch.full((3, len(layers), examples), torch.nan, dtype=torch.float64))
            run_layers(pretrained, batch)
    return AttentionProfile(*torch.cat(measured, dim=-1).numpy())


def _measures(weights: Tensor, visible: Tensor, asked: Tensor, recent: int) -> Tensor:
    """Entropy, distance and recent mass, *3 x batch*; each from the queries for which it is free."""
    seen = visible.sum(-1)  # batch x queries
    distances = _ago(weights.shape[-1], weights.device).abs()
    uniform = (visible * distances).sum(-1) / seen
    entropy = torch.special.entr(weights).sum(-1).mean(1) / seen.log()
    distance = (weights * distances).sum(-1).mean(1) / uniform
    mass = (weights * newest(visible, recent)[:, None]).sum(-1).mean(1)
    chosen = asked & (seen > 1), asked & (seen > 1), asked & (seen > recent)
    return torch.stack(
        [
            torch.where(free, values, 0).sum(-1) / free.sum(-1)
            for values, free in zip((entropy, distance, mass), chosen, strict=True)
        ]
    )


def _visible(attention: Any, real: Tensor) -> Tensor:
    """Which keys each query sees, *batch x queries x keys*: real ones, none after it where attention is causal."""
    ago = _ago(real.shape[1], real.device)
    reach = getattr(attention, "sliding_window", None) or real.shape[1]
    return real[:, None, :] & (ago < reach) & ((ago >= 0) | (not attention.is_causal))


def _ago(length: int, device: torch.device) -> Tensor:
    """Position of the query minus that of the key, *queries x keys*."""
    places = torch.arange(length, device=device)
    return places[:, None] - places


def _check_sums(weights: Tensor, visible: Tensor, real: Tensor, index: int) -> None:
    sums = (weights.float() * visible[:, None]).sum(-1).transpose(1, 2)[real]
    worst = (sums - 1).abs().max() if len(sums) else sums.new_zeros(())
    if not worst <= 1e-5 + torch.finfo(weights.dtype).eps:
        raise ValueError(
            f"attention to the keys that a query should see must sum to 1; in layer {index} it is off by {worst:.2g}. "
            "Do the masks of the batch say which positions are padding?"
        )


def _self_attention(layer: nn.Module) -> nn.Module:
    """The module that returns the map as its last output: in `transformers` the first that knows if it is causal."""
    for module in layer.modules():
        if hasattr(module, "is_causal"):
            return module
    raise UnsupportedArchitectureError(f"expected self-attention in a layer, got {type(layer).__name__} without it")


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Inside the block, attention returns its maps; `output_attentions` would leave hooks on the model for good."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
