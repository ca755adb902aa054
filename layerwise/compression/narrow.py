"""A narrow model: as deep as the full one, with fewer heads and feed-forward channels; a plain Hugging Face checkpoint.

The rival of depth: structured pruning by magnitude. The matrices are really smaller, nothing is masked.
"""

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from layerwise.compression.compact import (
    Model,
    _check_weights,
    _leave_out_absent_modules,
    _Origins,
    _take_buffers,
    _take_flags,
    _tie,
    kept_by_stack,
    layer_parameters,
)
from layerwise.compression.selection import select_layers
from layerwise.models.layers import layer_prefixes, layers_of, pretrained_of, stacks_of
from layerwise.models.recommender import Recommender
from layerwise.models.widths import Part, widths_of


def narrow_model(model: Model, num_heads: int, intermediate: int) -> Model:
    """A model whose layers hold only their heads and channels of largest magnitude.

    It computes what the full model computes with the removed heads' columns of the attention's output map and the
    removed channels' columns of the feed-forward output map set to zero, and is saved and loaded by `transformers`
    alone. Every layer chooses its own heads and channels; T5's self-attention chooses the same heads in all layers of a
    stack, by the sum over them, since they share a table of position biases. Where query heads share a key/value head
    they stay or go together.

    Args:
        model: A supported `transformers` model or a `Recommender`; it is left as it was.
        num_heads: Query heads per attention to keep, one of `widths_of(config).head_counts(config)`: at most the
            model's, a multiple of the query heads that share a key/value head and, in Llama, a divisor of the hidden
            size, as `transformers` demands it.
        intermediate: Feed-forward channels per layer to keep, from 1 to the model's.

    Returns:
        A model of the same class, its weights copies, on the same device, of the same dtype and in the same mode.

    Raises:
        ValueError: If a number is out of range, if adapters are not yet merged or stand at gaps, or if weights are
            quantised or not in memory.
        UnsupportedArchitectureError: If the architecture is unknown or cannot have fewer heads (GPT-2, BERT).

    References:
        Michel et al. 2019 for removing heads, Li et al. 2017 for the norm of what is removed as its score, Ma et al.
        2023 (LLM-Pruner) for counting all the weights that go with a unit. The norm is squared here, and biases do
        not count.
    """
    if isinstance(model, Recommender):
        if type(model) is not Recommender:
            raise ValueError(
                f"a {type(model).__name__} would lose what it adds; narrow the Recommender that it was made from"
            )
        smaller = narrow_model(model.model, num_heads, intermediate)
        recommender = Recommender(smaller, model.num_items, model.max_length)
        recommender.training = model.training  # its own mode alone; `train` would set every module's
        return recommender
    config = widths_of(model.config).narrowed(model.config, num_heads, intermediate)
    _check_weights(model)
    unmoved = _Origins(model, kept_by_stack(model, {}))  # no layer is removed, so every name stays
    with torch.device("meta"), no_init_weights():
        narrow = type(model)(config)
    _leave_out_absent_modules(model, narrow, unmoved)
    if model.can_generate():
        narrow.generation_config = copy.deepcopy(model.generation_config)
    weights = _weights(model, num_heads, intermediate)
    narrow.load_state_dict(copy.deepcopy(weights), assign=True)  # tied ones copied once
    _tie(narrow, weights)
    _take_buffers(model, narrow, unmoved)
    _take_flags(model, narrow, unmoved)
    return narrow


def narrow_shape(model: PreTrainedModel | Recommender, share: float) -> tuple[int, int]:
    """The numbers of heads and channels for `narrow_model` that leave a share of the layers' parameters.

    Each number of heads goes with the largest number of channels that does not take the layers above the share, so that
    less than one channel per layer is missing; of these pairs the one whose shares of heads and channels differ least.
    Models of few heads keep a larger share of one than of the other.

    Args:
        model: A supported `transformers` model or a `Recommender`.
        share: Share of the parameters of all layers to keep, normalisations included, in (0, 1].

    Returns:
        `(num_heads, intermediate)`.

    Raises:
        ValueError: If the share lies outside (0, 1], or is less than the smallest model holds.
        UnsupportedArchitectureError: If the architecture is unknown or cannot have fewer heads.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of parameters to keep must lie in (0, 1], got {share}")
    model = pretrained_of(model)
    widths = widths_of(model.config)
    heads, channels, sharing = widths.sizes(model.config)
    per_unit = _parameters(model, widths.attention) // (heads // sharing)
    per_channel = _parameters(model, widths.feed_forward) // channels
    full = layer_parameters(model)
    shapes = []
    for num_heads in widths.head_counts(model.config):
        others = full - (heads - num_heads) // sharing * per_unit - channels * per_channel
        intermediate = min(channels, math.floor((share * full - others) / per_channel))
        if intermediate >= 1:
            shapes.append((num_heads, intermediate))
    if not shapes:
        raise ValueError(f"the narrowest model keeps a larger share of the parameters than {share}")
    return min(shapes, key=lambda shape: abs(shape[0] / heads - shape[1] / channels))


def _parameters(model: PreTrainedModel, parts: tuple[Part, ...]) -> int:
    """Number of parameters, in all layers, that belong to heads, or to channels."""
    return sum(
        layer.get_parameter(name).numel()
        for layer in layers_of(model)
        for part in parts
        for name in part.dimensions(layer)
    )


def _weights(model: PreTrainedModel, num_heads: int, intermediate: int) -> dict[str, Tensor]:
    """The narrow model's weights by name; those that do not shrink are in the memory of the full model's."""
    weights: dict[str, Tensor] = model.state_dict()
    widths = widths_of(model.config)
    heads, channels, sharing = widths.sizes(model.config)
    plans = [(part, heads // sharing, num_heads // sharing) for part in widths.attention]
    plans += [(part, channels, intermediate) for part in widths.feed_forward]
    prefixes = layer_prefixes(model)
    for stack, layers in stacks_of(model).items():
        for part, units, keep in plans:
            for index, kept in enumerate(_kept_units(layers, part, units, keep)):
                for name, dim in part.dimensions(layers[index]).items():
                    key = f"{prefixes[stack]}{index}.{name}"
                    weights[key] = _taken(weights[key], dim, units, kept)
    return weights


def _kept_units(layers: nn.ModuleList, part: Part, units: int, keep: int) -> list[tuple[int, ...]]:
    """The units of a part that each layer of a stack keeps; of equal scores the earlier."""
    scores = [_magnitudes(layer, part, units) for layer in layers]
    if part.table:
        scores = [np.sum(scores, axis=0)] * len(layers)
    return [select_layers(score, keep) for score in scores]


def _magnitudes(layer: nn.Module, part: Part, units: int) -> NDArray[np.float64]:
    """Sum of the squared weights of each unit, in all linear maps of the part, *units*."""
    total = np.zeros(units)
    for name, dim in part.matrices(layer).items():
        by_unit = layer.get_parameter(name).detach().double().movedim(dim, 0).reshape(units, -1)
        total += by_unit.square().sum(1).cpu().numpy()
    return total


def _taken(tensor: Tensor, dim: int, units: int, kept: tuple[int, ...]) -> Tensor:
    """A copy that holds only the kept units, each a run of neighbours along `dim`."""
    index = torch.tensor(kept, device=tensor.device)
    runs: Tensor = tensor.unflatten(dim, (units, -1))
    return runs.index_select(dim, index).flatten(dim, dim + 1)
