"""The one file that knows architectures: where a family keeps its layers, and what a layer writes to.

A family is added by one entry in `FAMILIES`; everything else in the package asks the functions below.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel


class UnsupportedArchitectureError(TypeError):
    """The model belongs to no family that this library knows."""


@dataclass(frozen=True)
class Family:
    """What the library needs to know about one architecture.

    Attributes:
        name: Short name used in tiers, claims and reports.
        model_types: Values of `config.model_type` that belong to the family.
        layers: Path of the layer list inside the base model.
        depth: Configuration field that holds the number of layers.
        per_layer: Configuration fields that hold one entry per layer, where the model has them.
        residual_outputs: Paths inside a layer of the linear maps that write to the residual stream.
        build: Makes a causal item-token model from `(vocabulary, shape, attention_dropout)`.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str
    depth: str
    per_layer: tuple[str, ...]
    residual_outputs: tuple[str, ...]
    build: Callable[[int, "Shape", float], PreTrainedModel]


@dataclass(frozen=True)
class Shape:
    """Size of a backbone: number of layers, hidden width, width of the feed-forward part, heads."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int


def _build_llama(vocabulary: int, shape: Shape, attention_dropout: float) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_heads,
            attention_dropout=attention_dropout,
            tie_word_embeddings=True,
            use_cache=False,
            pad_token_id=vocabulary - 1,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="llama",
            model_types=("llama",),
            layers="layers",
            depth="num_hidden_layers",
            per_layer=("layer_types",),
            residual_outputs=("self_attn.o_proj", "mlp.down_proj"),
            build=_build_llama,
        ),
    )
}


def family_of(config: PretrainedConfig) -> Family:
    """The family that a model's configuration belongs to.

    Raises:
        UnsupportedArchitectureError: If no family lists the model type.
    """
    for family in FAMILIES.values():
        if config.model_type in family.model_types:
            return family
    raise UnsupportedArchitectureError(
        f"model type {config.model_type!r} is not supported; supported families are {sorted(FAMILIES)}. "
        "A family is added by one entry in layerwise/models/families.py."
    )


def family_named(name: str) -> Family:
    """The family with this name.

    Raises:
        UnsupportedArchitectureError: If there is none.
    """
    if name not in FAMILIES:
        raise UnsupportedArchitectureError(
            f"no family is named {name!r}; supported families are {sorted(FAMILIES)}. "
            "A family is added by one entry in layerwise/models/families.py."
        )
    return FAMILIES[name]


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The layers of a `transformers` model (or of a `Recommender`), first to last.

    Raises:
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    pretrained = pretrained_of(model)
    layers = pretrained.base_model.get_submodule(family_of(pretrained.config).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def pretrained_of(model: nn.Module) -> PreTrainedModel:
    """The `transformers` model itself, also when it stands inside a `Recommender`.

    Raises:
        UnsupportedArchitectureError: If there is none.
    """
    inner = model if isinstance(model, PreTrainedModel) else getattr(model, "model", None)
    if not isinstance(inner, PreTrainedModel):
        raise UnsupportedArchitectureError(
            f"expected a transformers model or a Recommender, got {type(model).__name__}"
        )
    return inner


def layer_prefix(model: PreTrainedModel) -> str:
    """Prefix of the layers' names in the state dict of `model`, such as `model.layers.`."""
    layers = layers_of(model)
    name: str = next(name for name, module in model.named_modules() if module is layers)
    return f"{name}."


def cut_config(config: PretrainedConfig, kept_layers: Sequence[int]) -> PretrainedConfig:
    """A copy of the configuration that describes only the kept layers; per-layer lists are selected by index."""
    family = family_of(config)
    fields = config.to_dict()
    fields[family.depth] = len(kept_layers)
    for name in family.per_layer:
        if fields.get(name) is not None:
            fields[name] = [fields[name][index] for index in kept_layers]
    return type(config).from_dict(fields, attn_implementation=config._attn_implementation)


def scale_residual_outputs(model: PreTrainedModel) -> None:
    """Scales, in place, what each layer of a fresh model writes to the residual stream by 1 / sqrt(2 L).

    Keeps the variance of the stream independent of depth at the start of training.

    References:
        Radford et al. 2019 (GPT-2), section 2.3.
    """
    family = family_of(model.config)
    layers = layers_of(model)
    with torch.no_grad():
        for layer in layers:
            for path in family.residual_outputs:
                weight = layer.get_parameter(f"{path}.weight")
                weight.mul_((2 * len(layers)) ** -0.5)


def normalised(norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """What a normalisation layer multiplies with its weight, same shape as `states`.

    Raises:
        UnsupportedArchitectureError: If the module is no normalisation that the library knows.
    """
    if isinstance(norm, nn.LayerNorm):
        return nn.functional.layer_norm(states, norm.normalized_shape, eps=norm.eps)
    if hasattr(norm, "variance_epsilon"):  # LlamaRMSNorm and its relatives
        mean_square = states.float().pow(2).mean(-1, keepdim=True)
        return states * torch.rsqrt(mean_square + cast(float, norm.variance_epsilon)).to(states.dtype)
    raise UnsupportedArchitectureError(
        f"per-example gradients know linear maps and normalisations, not {type(norm).__name__}; "
        "add it to layerwise/models/families.py"
    )


@contextmanager
def bypassed(model: nn.Module, removed_layers: Sequence[int]) -> Iterator[None]:
    """Inside the block, the removed layers of `model` hand their input on unchanged (the masked twin).

    Args:
        model: A supported `transformers` model or a `Recommender`; restored on leaving, also after an error.
        removed_layers: Indices in `[0, num_layers)`.
    """
    layers = layers_of(model)
    removed = [layers[index] for index in dict.fromkeys(removed_layers)]
    before = [vars(layer).get("forward") for layer in removed]  # set where bypasses nest or a tool wraps layers
    for layer in removed:
        layer.forward = _hand_on  # an instance attribute hides the class's method until it is deleted
    try:
        yield
    finally:
        for layer, forward in zip(removed, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


@contextmanager
def resumed(model: nn.Module, index: int, state: torch.Tensor) -> Iterator[None]:
    """Inside the block, `model` starts from the state that enters layer `index` and bypasses that layer.

    The layers before `index` are not computed, so removing each layer in turn costs about half as much as
    running the model once per layer.

    Args:
        model: A supported `transformers` model or a `Recommender`; restored on leaving, also after an error.
        index: The removed layer, in `[0, num_layers)`.
        state: *batch x length x hidden*, recorded at the input of that layer for the same batch.
    """
    layer = layers_of(model)[index]
    with bypassed(model, range(index + 1)):
        layer.forward = lambda *_, **__: state
        yield


def _hand_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states
