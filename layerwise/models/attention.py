"""What every layer's self-attention works with: queries, keys and values, and which keys a query sees."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from layerwise.models.families import UnsupportedArchitectureError
from layerwise.models.layers import layers_of, pretrained_of


@dataclass(frozen=True)
class LayerAttention:
    """What one layer's self-attention worked with; gradients flow through the tensors.

    Attributes:
        queries: After rotary embedding and norms, as they meet the keys, *batch x heads x length x head_dim*.
        keys: The same of the keys; keys that heads share are repeated for each.
        values: The same of the values.
        scaling: Factor of the products of queries and keys.
        mask: What hides keys, broadcasts to *batch x heads x queries x keys*: bool, true where a key is seen, or
            float, added to the scores; None where `is_causal` says it all.
        is_causal: Whether, without a mask, a query sees only its own position and those before it.
        position_bias: Added to the scores, broadcasts to *batch x heads x queries x keys*; None but in T5.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    scaling: float
    mask: Tensor | None
    is_causal: bool
    position_bias: Tensor | None

    def visible(self) -> Tensor:
        """Which keys each query sees, bool, broadcasts to *batch x heads x queries x keys*."""
        if self.mask is None:
            size = 1, 1, self.queries.shape[-2], self.keys.shape[-2]
            every = torch.ones(size, dtype=torch.bool, device=self.queries.device)
            return every.tril() if self.is_causal else every
        if self.mask.dtype == torch.bool:
            return self.mask
        return self.mask > torch.finfo(self.mask.dtype).min / 2

    def scores(self) -> Tensor:
        """Attention before its softmax, *batch x heads x queries x keys*; also of the keys that are not visible."""
        scores = self.queries @ self.keys.mT * self.scaling
        if self.position_bias is not None:
            scores = scores + self.position_bias
        if self.mask is not None and self.mask.dtype != torch.bool:
            scores = scores + self.mask.masked_fill(~self.visible(), 0)  # what a mask of the user's own adds to others
        return scores


AttentionTrace = dict[int, LayerAttention]
"""By index into `layers_of(model)`, first to last."""


@dataclass(eq=False)
class _Recording:
    places: dict[nn.Module, int]
    trace: AttentionTrace = field(default_factory=dict)


_active: list[_Recording] = []
# Attention modules are told apart by identity, so a copy of a model is not recorded, and goes on to work: the names
# below stay registered.
_NAMES = {"eager": "layerwise_eager", "sdpa": "layerwise_sdpa"}


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[AttentionTrace]:
    """Collects what each layer's self-attention works with during one forward pass inside the block.

    No attention map is computed for it, and the model computes what it computes outside. A decoder's attention to what
    was encoded is left out.

    Args:
        model: A supported `transformers` model or a `Recommender`; restored on leaving, also after an error.

    Yields:
        The trace, filled by the forward pass, and by a second one anew. A bypassed layer has no entry.

    Raises:
        UnsupportedArchitectureError: If the architecture is unknown, or a layer has no self-attention.
        ValueError: If the model's attention is neither eager nor sdpa: others hide keys in ways of their own.
    """
    pretrained = pretrained_of(model)
    recording = _Recording({_self_attention(layer): index for index, layer in enumerate(layers_of(pretrained))})
    configs = {id(part.config): part.config for part in pretrained.modules() if isinstance(part, PreTrainedModel)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    inside = [(config, _name(implementation)) for config, implementation in before]
    _active.append(recording)
    try:
        for config, name in inside:
            config._attn_implementation = name
        yield recording.trace
    finally:
        _active.remove(recording)
        for config, implementation in before:
            config._attn_implementation = implementation


def _name(implementation: str) -> str:
    if implementation in _NAMES.values():  # recordings nest
        return implementation
    if implementation not in _NAMES:
        raise ValueError(
            f"expected a model with one of the attention implementations {sorted(_NAMES)}, got {implementation!r}; "
            'choose one with model.set_attn_implementation("sdpa")'
        )
    return _NAMES[implementation]


def _self_attention(layer: nn.Module) -> nn.Module:
    """The module that calls the attention function: in `transformers` the first that knows if it is causal."""
    for module in layer.modules():
        if hasattr(module, "is_causal"):
            return module
    raise UnsupportedArchitectureError(f"expected self-attention in a layer, got {type(layer).__name__} without it")


def _recording(implementation: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """An attention function that records, and then leaves the work to the named one."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
    ) -> tuple[Tensor, Tensor | None]:
        for recording in _active:
            if module in recording.places:
                causal = implementation == "sdpa" and _is_causal(module, query, attention_mask, others)
                entry = _entry(query, key, value, attention_mask, causal, others)
                recording.trace[recording.places[module]] = entry
        eager = sys.modules[type(module).__module__].eager_attention_forward  # each architecture has its own
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
        output: tuple[Tensor, Tensor | None] = attention(module, query, key, value, attention_mask, **others)
        return output

    return attend


def _is_causal(module: Any, query: Tensor, mask: Tensor | None, others: dict[str, Any]) -> bool:
    """Whether sdpa hides later keys by itself, by the rule of `sdpa_attention_forward` in `transformers`."""
    told = others.get("is_causal")
    return mask is None and query.shape[-2] > 1 and bool(module.is_causal if told is None else told)


def _entry(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, others: dict[str, Any]
) -> LayerAttention:
    scaling = others.get("scaling")
    shared_by = query.shape[1] // key.shape[1]  # heads per head of keys and values
    if shared_by > 1:
        key, value = key.repeat_interleave(shared_by, 1), value.repeat_interleave(shared_by, 1)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return LayerAttention(query, key, value, scaling, mask, causal, others.get("position_bias"))


for _implementation, _registered in _NAMES.items():
    AttentionInterface.register(_registered, _recording(_implementation))
    AttentionMaskInterface.register(_registered, ALL_MASK_ATTENTION_FUNCTIONS[_implementation])
