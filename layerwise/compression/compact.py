"""A compact model: fewer layers, renumbered, with its own correct configuration; a plain Hugging Face checkpoint."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from layerwise.models.families import cut_config, layer_prefix, layers_of
from layerwise.models.recommender import Recommender

Model = TypeVar("Model", PreTrainedModel, Recommender)
Part = TypeVar("Part", bound=torch.Tensor | nn.Module)


def compact_model(model: Model, kept_layers: Sequence[int]) -> Model:
    """A smaller model that holds only the kept layers; its weights are copies.

    It computes what the full model computes with the other layers bypassed, and is saved and loaded by
    `transformers` alone.

    Args:
        model: A supported `transformers` model or a `Recommender`; it is left as it was.
        kept_layers: Strictly increasing indices of layers of `model`.

    Returns:
        A model of the same class, on the same device, of the same dtype and in the same mode.

    Raises:
        ValueError: If `kept_layers` is empty, out of range or not strictly increasing.
        TypeError: If `kept_layers` holds anything but whole numbers.
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    if isinstance(model, Recommender):
        recommender = Recommender(compact_model(model.model, kept_layers), model.num_items, model.max_length)
        recommender.training = model.training  # its own mode alone; `train` would set every module's
        return recommender
    kept = check_kept_layers(kept_layers, len(layers_of(model)))
    with no_init_weights():
        compact = type(model)(cut_config(model.config, kept))
    if model.can_generate():
        compact.generation_config = copy.deepcopy(model.generation_config)
    compact.to(device=model.device, dtype=model.dtype)
    weights = _renumbered(model.state_dict(), layer_prefix(model), kept)
    compact.load_state_dict(weights, strict=True)
    compact.tie_weights()
    _copy_buffers(model, compact, kept)
    _copy_flags(model, compact, kept)
    return compact


def check_kept_layers(kept_layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """The kept layers as a tuple.

    Raises:
        ValueError: If they are empty, out of range or not strictly increasing.
        TypeError: If they are not whole numbers.
    """
    if not all(isinstance(index, int | np.integer) for index in kept_layers):
        raise TypeError(f"kept_layers must be whole numbers, got {tuple(kept_layers)}")
    kept = tuple(int(index) for index in kept_layers)
    increasing = all(first < second for first, second in pairwise(kept))
    if not kept or not increasing or kept[0] < 0 or kept[-1] >= num_layers:
        raise ValueError(f"kept_layers must increase strictly within [0, {num_layers}), got {kept}")
    return kept


def removed_layers(kept_layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """The layers that are not kept."""
    return tuple(index for index in range(num_layers) if index not in set(kept_layers))


def layer_parameters(model: nn.Module) -> int:
    """Number of parameters in the layers of a model, without embeddings, head and final norm."""
    return sum(parameter.numel() for layer in layers_of(model) for parameter in layer.parameters())


def _renumbered(named: dict[str, Part], prefix: str, kept: tuple[int, ...]) -> dict[str, Part]:
    new_index = {str(old): str(new) for new, old in enumerate(kept)}
    renumbered = {}
    for name, part in named.items():
        if not name.startswith(prefix):
            renumbered[name] = part
            continue
        old, dot, rest = name.removeprefix(prefix).partition(".")
        if old in new_index:
            renumbered[f"{prefix}{new_index[old]}{dot}{rest}"] = part
    return renumbered


def _copy_buffers(model: PreTrainedModel, compact: PreTrainedModel, kept: tuple[int, ...]) -> None:
    """Copies what no state dict holds: rotary frequencies are fp32 also in a half-precision model."""
    buffers = _renumbered(dict(model.named_buffers()), layer_prefix(model), kept)
    for name, buffer in compact.named_buffers():
        buffer.data = buffers[name].detach().clone()


def _copy_flags(model: PreTrainedModel, compact: PreTrainedModel, kept: tuple[int, ...]) -> None:
    """Gives every parameter its gradient flag and every module its mode."""
    flags = _renumbered(dict(model.named_parameters()), layer_prefix(model), kept)
    for name, parameter in compact.named_parameters():
        parameter.requires_grad_(flags[name].requires_grad)
    modes = _renumbered(dict(model.named_modules()), layer_prefix(model), kept)
    for name, module in compact.named_modules():
        module.training = modes[name].training
