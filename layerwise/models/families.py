"""The one file that knows architectures: where a family keeps its layers, how it is fed, what an index changes.

A family is added by one entry in `FAMILIES`; everything else in the package asks this file. Beside it, `widths` knows
where the heads and channels of a layer lie, for those who cut them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

Embed = Callable[[Tensor], Tensor]
"""From tokens *batch x length* to their vectors *batch x length x hidden*."""


class UnsupportedArchitectureError(TypeError):
    """The model belongs to no family that this library knows."""


@dataclass(frozen=True)
class Shape:
    """Size of a backbone.

    Attributes:
        num_layers: Layers in all; an encoder-decoder has half of them, rounded up, in its encoder.
        hidden: Width of the residual stream.
        intermediate: Width of a gated feed-forward part; a family with two matrices there instead of three, or with
            a second attention, gets the width that makes its parameters as many.
        num_heads: Attention heads.
    """

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int

    @property
    def ungated(self) -> int:
        """Width of a feed-forward part of two matrices that holds as many parameters."""
        return round(1.5 * self.intermediate)


@dataclass(frozen=True)
class Stack:
    """A run of layers, each fed by the one before it.

    Attributes:
        name: What a mapping of kept layers calls it.
        path: Path of the layer list inside the base model.
        depth: Configuration field that holds the number of layers.
        ids: Argument of the model's forward that holds its tokens.
        mask: Argument that says which of them count.
    """

    name: str
    path: str
    depth: str
    ids: str = "input_ids"
    mask: str = "attention_mask"


@dataclass(frozen=True)
class Family:
    """What the library needs to know about one architecture.

    Attributes:
        name: Short name used in tiers, claims and reports.
        model_types: Values of `config.model_type` that belong to the family.
        stacks: Its runs of layers, in the order of computation.
        branches: Paths inside a layer of the linear maps that write to the residual stream; the feed-forward one
            is the last. Where a layer lacks a path (cross-attention in an encoder) it is left out.
        inputs: How a recommender of this family is fed; see `layerwise.models.inputs`.
        auto: Reads a recommender's checkpoint.
        build: Makes an item-token model from `(vocabulary, padding token, shape, positions, dropout inside layers)`.
        states: Final states, such that their product with the output embedding gives the scores.
        output_norm: Path inside a layer of the normalisation that follows its last sum (post-norm); None where the
            layer's output is that sum (pre-norm).
        per_layer: Configuration fields with one entry per layer, where the model has them.
        owned_by_first: Paths inside a layer that only the first layer of a stack has, for all of them.
        moved: A layer's weight after it moves, from `(configuration, path inside the layer, weight, old index, new
            index)`; a new tensor where the index matters.
        hand_on: What a bypassed layer returns, from the layer, the state that it hands on, and its arguments.
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
    branches: tuple[str, ...]
    inputs: Literal["causal", "masked", "encoder-decoder"]
    auto: Any
    build: Callable[[int, int, Shape, int, float], PreTrainedModel]
    states: Callable[[PreTrainedModel, Mapping[str, Tensor], Embed], Tensor]
    output_norm: str | None = None
    per_layer: tuple[str, ...] = ()
    owned_by_first: tuple[str, ...] = ()
    moved: Callable[[PretrainedConfig, str, Tensor, int, int], Tensor] = lambda config, path, weight, old, new: weight
    hand_on: Callable[[nn.Module, Tensor, Sequence[Any], Mapping[str, Any]], Any] = lambda layer, state, args, kw: state


def family_of(config: PretrainedConfig) -> Family:
    """The family that a model's configuration belongs to.

    Raises:
        UnsupportedArchitectureError: If no family lists the model type.
    """
    for family in FAMILIES.values():
        if config.model_type in family.model_types:
            return family
    raise UnsupportedArchitectureError(f"model type {config.model_type!r} is not supported; {_WHAT_IS}")


def family_named(name: str) -> Family:
    """The family with this name.

    Raises:
        UnsupportedArchitectureError: If there is none.
    """
    if name not in FAMILIES:
        raise UnsupportedArchitectureError(f"no family is named {name!r}; {_WHAT_IS}")
    return FAMILIES[name]


def normalised(norm: nn.Module, states: Tensor) -> Tensor:
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


# Llama and Qwen


def _build_llama(vocabulary: int, padding: int, shape: Shape, positions: int, dropout: float) -> PreTrainedModel:
    config = LlamaConfig(**_gated_fields(vocabulary, padding, shape, dropout))
    return _with_scaled_branches(LlamaForCausalLM(config), "self_attn.o_proj", "mlp.down_proj")


def _build_qwen(vocabulary: int, padding: int, shape: Shape, positions: int, dropout: float) -> PreTrainedModel:
    config = Qwen3Config(**_gated_fields(vocabulary, padding, shape, dropout), head_dim=shape.hidden // shape.num_heads)
    return _with_scaled_branches(Qwen3ForCausalLM(config), "self_attn.o_proj", "mlp.down_proj")


def _gated_fields(vocabulary: int, padding: int, shape: Shape, dropout: float) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "attention_dropout": dropout,
        "tie_word_embeddings": True,
        "use_cache": False,
        "pad_token_id": padding,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _with_scaled_branches(model: PreTrainedModel, *branches: str) -> PreTrainedModel:
    """A fresh model whose branches are scaled by 1 / sqrt(2 L), so that depth does not raise the stream's variance.

    References:
        Radford et al. 2019 (GPT-2), section 2.3.
    """
    family = family_of(model.config)
    for stack in family.stacks:
        layers = cast(nn.ModuleList, model.base_model.get_submodule(stack.path))
        for name, parameter in layers.named_parameters():
            if name.removesuffix(".weight").partition(".")[2] in branches:
                parameter.data.mul_((2 * len(layers)) ** -0.5)
    return model


def _causal_states(model: PreTrainedModel, inputs: Mapping[str, Tensor], embed: Embed) -> Tensor:
    embedded, mask = embed(inputs["input_ids"]), inputs.get("attention_mask")
    states: Tensor = model.base_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
    return states


# GPT-2


def _build_gpt2(vocabulary: int, padding: int, shape: Shape, positions: int, dropout: float) -> PreTrainedModel:
    return GPT2LMHeadModel(  # scales its branches by 1 / sqrt(2 L) by itself
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=shape.hidden,
            n_inner=shape.ungated,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_positions=positions,
            attn_pdrop=dropout,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            use_cache=False,
            pad_token_id=padding,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _gpt2_moved(config: PretrainedConfig, path: str, weight: Tensor, old: int, new: int) -> Tensor:
    """Where attention is divided by the layer's index + 1, the query makes up for another index."""
    if not config.scale_attn_by_inverse_layer_idx or old == new:
        return weight
    query = (new + 1) / (old + 1)
    if path.startswith("attn.c_attn"):  # query, key and value side by side
        factor = torch.ones(weight.shape[-1], device=weight.device, dtype=weight.dtype)
        factor[: config.hidden_size] = query
        return weight * factor
    return weight * query if path.startswith("crossattention.q_attn") else weight


# BERT


def _build_bert(vocabulary: int, padding: int, shape: Shape, positions: int, dropout: float) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.ungated,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            max_position_embeddings=positions,
            type_vocab_size=1,
            attention_probs_dropout_prob=dropout,
            hidden_dropout_prob=0.0,
            use_cache=False,
            pad_token_id=padding,
        )
    )


def _bert_states(model: PreTrainedModel, inputs: Mapping[str, Tensor], embed: Embed) -> Tensor:
    transform = cast(nn.Module, model.get_submodule("cls.predictions.transform"))
    states: Tensor = transform(_causal_states(model, inputs, embed))
    return states


# T5


def _build_t5(vocabulary: int, padding: int, shape: Shape, positions: int, dropout: float) -> PreTrainedModel:
    """T5 with the unscaled output of version 1.1: a scaled one learns the item matrix hidden**0.5 times more slowly."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=shape.hidden,
        d_kv=shape.hidden // shape.num_heads,
        d_ff=shape.ungated - shape.hidden,  # makes up for the decoder's second attention
        num_layers=shape.num_layers - shape.num_layers // 2,
        num_decoder_layers=shape.num_layers // 2,
        num_heads=shape.num_heads,
        dropout_rate=dropout,
        tie_word_embeddings=False,  # in T5 this says that outputs are not scaled; the matrices are tied all the same
        use_cache=False,
        pad_token_id=padding,
        decoder_start_token_id=padding,
        eos_token_id=padding + 1,
    )
    model = T5ForConditionalGeneration(config)
    nn.init.normal_(model.shared.weight, std=0.02)
    for stack in (model.encoder, model.decoder):
        _start_with_slopes(stack.get_submodule("block.0.layer.0.SelfAttention"))
    return _with_scaled_branches(model, *_T5_BRANCHES)


def _start_with_slopes(attention: Any) -> None:
    """Starts the relative position biases as penalties on distance; from noise they hardly learn in a short training.

    References:
        Press et al. 2022 (ALiBi), section 3; here steeper, for histories of tens of events.
    """
    table = attention.relative_attention_bias.weight  # buckets x heads
    slopes = 0.5 / 8.0 ** torch.arange(table.shape[1])
    distances = torch.arange(attention.relative_attention_max_distance)
    for direction in (-1, 1):
        buckets = attention._relative_position_bucket(
            direction * distances,
            not attention.is_decoder,
            attention.relative_attention_num_buckets,
            attention.relative_attention_max_distance,
        )
        for bucket in buckets.unique():
            table.data[bucket] = -slopes * distances[buckets == bucket].float().mean()


_T5_BRANCHES = (
    "layer.0.SelfAttention.o",
    "layer.1.EncDecAttention.o",
    "layer.1.DenseReluDense.wo",
    "layer.2.DenseReluDense.wo",
)


def _t5_states(model: PreTrainedModel, inputs: Mapping[str, Tensor], embed: Embed) -> Tensor:
    encoded = model.encoder(inputs_embeds=embed(inputs["input_ids"]), attention_mask=inputs.get("attention_mask"))
    states: Tensor = model.decoder(
        inputs_embeds=embed(inputs["decoder_input_ids"]),
        attention_mask=inputs.get("decoder_attention_mask"),
        encoder_hidden_states=encoded.last_hidden_state,
        encoder_attention_mask=inputs.get("attention_mask"),
        use_cache=False,
    ).last_hidden_state
    return states * model.config.d_model**-0.5 if model.config.scale_decoder_outputs else states


def _t5_hand_on(layer: nn.Module, state: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A bypassed first layer still makes the position biases that all layers of its stack add."""
    names = ("attention_mask", "position_bias", "encoder_hidden_states", "encoder_attention_mask")
    given = dict(zip((*names, "encoder_decoder_position_bias"), args, strict=False)) | dict(kwargs)
    bias, attention = given.get("position_bias"), layer.get_submodule("layer.0.SelfAttention")
    if bias is None and attention.has_relative_attention_bias:
        bias = attention.compute_bias(state.shape[1], state.shape[1], device=state.device)  # type: ignore[operator]
    return state, bias, given.get("encoder_decoder_position_bias")


_LAYERS = Stack("layers", "layers", "num_hidden_layers")
_GATED_BRANCHES = ("self_attn.o_proj", "mlp.down_proj")

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="llama",
            model_types=("llama",),
            stacks=(_LAYERS,),
            branches=_GATED_BRANCHES,
            inputs="causal",
            auto=AutoModelForCausalLM,
            build=_build_llama,
            states=_causal_states,
            per_layer=("layer_types",),
        ),
        Family(
            name="qwen3",
            model_types=("qwen3", "qwen2"),
            stacks=(_LAYERS,),
            branches=_GATED_BRANCHES,
            inputs="causal",
            auto=AutoModelForCausalLM,
            build=_build_qwen,
            states=_causal_states,
            per_layer=("layer_types",),
        ),
        Family(
            name="gpt2",
            model_types=("gpt2",),
            stacks=(Stack("layers", "h", "n_layer"),),
            branches=("attn.c_proj", "crossattention.c_proj", "mlp.c_proj"),
            inputs="causal",
            auto=AutoModelForCausalLM,
            build=_build_gpt2,
            states=_causal_states,
            moved=_gpt2_moved,
        ),
        Family(
            name="bert",
            model_types=("bert",),
            stacks=(Stack("layers", "encoder.layer", "num_hidden_layers"),),
            branches=("attention.output.dense", "crossattention.output.dense", "output.dense"),
            inputs="masked",
            auto=AutoModelForMaskedLM,
            build=_build_bert,
            states=_bert_states,
            output_norm="output.LayerNorm",
        ),
        Family(
            name="t5",
            model_types=("t5",),
            stacks=(
                Stack("encoder", "encoder.block", "num_layers"),
                Stack("decoder", "decoder.block", "num_decoder_layers", "decoder_input_ids", "decoder_attention_mask"),
            ),
            branches=_T5_BRANCHES,
            inputs="encoder-decoder",
            auto=AutoModelForSeq2SeqLM,
            build=_build_t5,
            states=_t5_states,
            owned_by_first=("layer.0.SelfAttention.relative_attention_bias",),
            hand_on=_t5_hand_on,
        ),
    )
}

_WHAT_IS = (
    f"supported families are {', '.join(FAMILIES)} (model types "
    f"{', '.join(kind for family in FAMILIES.values() for kind in family.model_types)}). "
    "A family is added by one entry in layerwise/models/families.py."
)
