"""Which weights of a student are trained: its last layers and the item matrix, or low-rank changes of its layers."""

import copy

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerwise.models.layers import layers_of
from layerwise.models.recommender import Recommender

try:
    import peft
except ImportError:  # the extra layerwise[lora]
    peft = None


def only_last(recommender: Recommender, layers: int = 1) -> Recommender:
    """A copy of which only the last layers, what stands behind them and the item matrix are trained.

    Where the item matrix is tied to the token vectors, these are trained with it; position tables and whatever else
    stands in front of the trained layers are not. In T5 the last layers are the decoder's.

    Args:
        recommender: Left as it was.
        layers: Number of trained layers, in [0, num_layers].

    Raises:
        ValueError: If there are not so many layers.

    References:
        Lu et al. 2024 (Reassessing Layer Pruning in LLMs), arXiv 2411.15558: head and last three layers, ahead of LoRA.
    """
    if not 0 <= layers <= len(recommender.layers):
        raise ValueError(f"trained layers must be between 0 and {len(recommender.layers)}, got {layers}")
    chosen = copy.deepcopy(recommender)
    places = {parameter: place for place, parameter in enumerate(chosen.model.parameters())}  # in order of computation
    of_layers = [[places[parameter] for parameter in layer.parameters()] for layer in chosen.layers]
    start = min(of_layers[-layers]) if layers else max(of_layers[-1]) + 1
    for parameter, place in places.items():
        parameter.requires_grad_(place >= start)
    chosen.model.get_output_embeddings().requires_grad_(True)
    return chosen


def with_lora(recommender: Recommender, rank: int = 8, seed: int = 0) -> Recommender:
    """A copy of which only low-rank changes of the linear maps inside the layers are trained; see `merged`.

    Args:
        recommender: Left as it was.
        rank: Rank of each change, at least 1; it is scaled by 2 (alpha is twice the rank).
        seed: Decides the changes' initial weights; they start at zero effect.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If the recommender carries masks (merged changes would fill what was pruned) or adapters at gaps.

    References:
        Hu et al. 2022 (LoRA), section 4.1, on all linear maps as in Dettmers et al. 2023 (QLoRA), section 4.
    """
    if peft is None:
        raise ImportError("LoRA needs peft; install it with: pip install 'layerwise[lora]'")
    if type(recommender) is not Recommender:
        raise ValueError(f"LoRA would change what a {type(recommender).__name__} adds; start from a plain Recommender")
    adapted = copy.deepcopy(recommender)
    names = {module: name for name, module in adapted.model.named_modules()}
    maps = [m for layer in layers_of(adapted.model) for m in layer.modules() if isinstance(m, nn.Linear | Conv1D)]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[names[module] for module in maps],
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in maps),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator, too
        peft.inject_adapter_in_model(config, adapted.model)
    return adapted


def merged(recommender: Recommender) -> Recommender:
    """A plain copy of what `with_lora` gave, after training: the changes are part of the weights."""
    plain = copy.deepcopy(recommender)
    for name, module in list(plain.model.named_modules()):
        if not hasattr(module, "lora_A"):
            continue
        module.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(plain.model.get_submodule(parent), own, module.get_base_layer())
    plain.model.requires_grad_(True)
    if hasattr(plain.model, "peft_config"):
        del plain.model.peft_config
    return plain
