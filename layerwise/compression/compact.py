"""A compact model: fewer layers, renumbered, with its own correct configuration; a plain Hugging Face checkpoint."""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from layerwise.models.families import Stack, family_of
from layerwise.models.layers import cut_config, layer_prefixes, layers_of, stacks_of
from layerwise.models.recommender import Recommender

Model = TypeVar("Model", PreTrainedModel, Recommender)
KeptLayers = Sequence[int] | Mapping[str, Sequence[int]]
"""Strictly increasing indices, counted through both stacks of an encoder-decoder, or such indices by name of stack."""


def compact_model(model: Model, kept_layers: KeptLayers, share_weights: bool = False) -> Model:
    """A smaller model that holds only the kept layers.

    It computes what the full model computes with the other layers bypassed, and is saved and loaded by
    `transformers` alone.

    Args:
        model: A supported `transformers` model or a `Recommender`; it is left as it was.
        kept_layers: Strictly increasing indices of layers of `model`. An encoder-decoder takes a mapping, such as
            `{"encoder": (0, 2), "decoder": (0,)}` (a stack that is not named is kept whole), or indices into
            `layers_of(model)`, where the encoder's layers come first.
        share_weights: Whether the compact model uses the very memory of the full model's weights, so that it costs
            none and training one trains the other, instead of copies. Weights that depend on a layer's index
            (GPT-2's inverse layer scaling) are copies all the same.

    Returns:
        A model of the same class, on the same device, of the same dtype and in the same mode.

    Raises:
        ValueError: If `kept_layers` is empty, out of range or not strictly increasing, if adapters are not yet merged
            or stand at gaps, or if weights are quantised or not in memory.
        TypeError: If `kept_layers` holds anything but whole numbers.
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    if isinstance(model, Recommender):
        if type(model) is not Recommender:
            raise ValueError(
                f"a {type(model).__name__} would lose what it adds; cut the Recommender that it was made from"
            )
        smaller = compact_model(model.model, kept_layers, share_weights)
        recommender = Recommender(smaller, model.num_items, model.max_length)
        recommender.training = model.training  # its own mode alone; `train` would set every module's
        return recommender
    kept = kept_by_stack(model, kept_layers)
    _check_weights(model)
    origin = _Origins(model, kept)
    with torch.device("meta"), no_init_weights():
        compact = type(model)(cut_config(model.config, kept))
    _leave_out_absent_modules(model, compact, origin)
    if model.can_generate():
        compact.generation_config = copy.deepcopy(model.generation_config)
    weights = _weights(model, compact, origin)
    compact.load_state_dict(weights if share_weights else copy.deepcopy(weights), assign=True)  # tied ones copied once
    _tie(compact, weights)
    _take_buffers(model, compact, origin)
    _take_flags(model, compact, origin)
    return compact


def kept_by_stack(model: PreTrainedModel, kept_layers: KeptLayers) -> dict[Stack, tuple[int, ...]]:
    """The kept layers of each stack, counted from the start of the stack.

    Raises:
        ValueError: If they are empty, out of range or not strictly increasing, or a stack has another name.
        TypeError: If they are not whole numbers.
    """
    depths = {stack: len(layers) for stack, layers in stacks_of(model).items()}
    if not isinstance(kept_layers, Mapping):
        kept, start, by_stack = check_kept_layers(kept_layers, sum(depths.values())), 0, {}
        for stack, depth in depths.items():
            by_stack[stack.name] = [index - start for index in kept if start <= index < start + depth]
            start += depth
            if not by_stack[stack.name]:
                raise ValueError(
                    f"kept_layers {kept} leave no layer of the {stack.name}, whose layers are "
                    f"{start - depth} to {start - 1}; keep one of each stack"
                )
        kept_layers = by_stack
    if unknown := set(kept_layers) - {stack.name for stack in depths}:
        raise ValueError(f"kept_layers must name {[stack.name for stack in depths]}, got {sorted(unknown)}")
    return {
        stack: check_kept_layers(kept_layers.get(stack.name, range(depth)), depth) for stack, depth in depths.items()
    }


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


def _check_weights(model: PreTrainedModel) -> None:
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError(
            "the model carries LoRA adapters, whose keys name layers by position; merge them before the cut "
            "(model.merge_and_unload() of peft), not after"
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("the model is quantised; cut it first and quantise the compact model")
    if absent := next((name for name, tensor in model.state_dict().items() if tensor.is_meta), None):
        raise ValueError(f"{absent} is not in memory (offloaded); load the model without a device map")


class _Origins:
    """Names in the full model of what the compact model holds."""

    def __init__(self, model: PreTrainedModel, kept: Mapping[Stack, tuple[int, ...]]) -> None:
        self._owned = family_of(model.config).owned_by_first
        self._prefixes = {prefix: kept[stack] for stack, prefix in layer_prefixes(model).items()}

    def layer(self, name: str) -> tuple[str, int, int] | None:
        """Path inside its layer, and the layer's old and new index, of a name of the compact model."""
        for prefix, kept in self._prefixes.items():
            if name.startswith(prefix):
                new, _, path = name.removeprefix(prefix).partition(".")
                return path, kept[int(new)], int(new)
        return None

    def __call__(self, name: str) -> str:
        """The same thing's name in the full model."""
        for prefix, kept in self._prefixes.items():
            if name.startswith(prefix):
                new, dot, rest = name.removeprefix(prefix).partition(".")
                shared = new == "0" and rest.startswith(self._owned) if self._owned else False
                return f"{prefix}{0 if shared else kept[int(new)]}{dot}{rest}"
        return name


def _weights(model: PreTrainedModel, compact: PreTrainedModel, origin: _Origins) -> dict[str, Tensor]:
    """The compact model's weights by name, in the memory of the full model's."""
    family, full = family_of(model.config), model.state_dict()
    weights = {name: full[origin(name)] for name in compact.state_dict()}
    for name, weight in weights.items():
        if place := origin.layer(name):
            path, old, new = place
            weights[name] = family.moved(model.config, path, weight, old, new)
    return weights


def _tie(compact: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Makes one parameter of those that are one in the full model, whatever its configuration says about tying."""
    first: dict[int, nn.Parameter] = {}
    for name, parameter in list(compact.named_parameters(remove_duplicate=False)):
        holder, _, leaf = name.rpartition(".")
        setattr(compact.get_submodule(holder), leaf, first.setdefault(weights[name].data_ptr(), parameter))


def _leave_out_absent_modules(model: PreTrainedModel, compact: PreTrainedModel, origin: _Origins) -> None:
    """Removes what the class builds by default but `model` was made without, such as BERT's pooler."""
    full = dict(model.named_modules())
    for name, module in list(compact.named_modules()):
        for child, _ in list(module.named_children()):
            if origin(name) in full and getattr(full[origin(name)], child, module) is None:
                setattr(module, child, None)


def _take_buffers(model: PreTrainedModel, compact: PreTrainedModel, origin: _Origins) -> None:
    """Copies what no state dict holds: rotary frequencies are fp32 also in a half-precision model."""
    buffers = dict(model.named_buffers())
    for name, _ in list(compact.named_buffers()):
        holder, _, leaf = name.rpartition(".")
        compact.get_submodule(holder)._buffers[leaf] = buffers[origin(name)].detach().clone()


def _take_flags(model: PreTrainedModel, compact: PreTrainedModel, origin: _Origins) -> None:
    """Gives every parameter its gradient flag and every module its mode."""
    flags = dict(model.named_parameters())
    for name, parameter in compact.named_parameters():
        parameter.requires_grad_(flags[origin(name)].requires_grad)
    modes = dict(model.named_modules())
    for name, module in compact.named_modules():
        module.training = modes[origin(name)].training
