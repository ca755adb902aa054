"""A pretrained language model under a catalogue: items take the place of words."""

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from layerwise.models.families import Shape, family_of
from layerwise.models.inputs import INPUTS
from layerwise.models.recommender import Recommender


def with_catalogue(model: PreTrainedModel, num_items: int, max_length: int, seed: int = 0) -> Recommender:
    """A recommender with the layers of a pretrained language model, to be trained on interactions.

    Layers, normalisations and positions are the pretrained ones. What belongs to words is new: token vectors and biases
    of the output are drawn at random, the vectors with the spread of the old ones, since the layers are used to that.
    One matrix embeds the items and scores them.

    Args:
        model: A language model of a supported family, with its head; left as it was.
        num_items: Size of the catalogue.
        max_length: Number of most recent events that are read.
        seed: Decides the new weights; the global generator is left as it was.

    Raises:
        ValueError: If the model cannot take as many positions, or has no language model head.
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    family = family_of(model.config)
    inputs = INPUTS[family.inputs](num_items, max_length)
    if model.get_output_embeddings() is None:
        raise ValueError(f"expected a language model with its head, got {type(model).__name__}")
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < inputs.positions:
        raise ValueError(
            f"the model takes {positions} positions, histories of {max_length} items need {inputs.positions}; "
            f"ask for histories of at most {positions - (inputs.positions - max_length)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh = type(model)(_config_of(model, num_items, num_items + len(inputs.special)))
        spread = float(model.get_input_embeddings().weight.detach().float().std())
        nn.init.normal_(fresh.get_input_embeddings().weight, std=spread)
    new = fresh.state_dict()
    words = _words(fresh)
    kept = {name: weight for name, weight in model.state_dict().items() if name in new and name not in words}
    fresh.load_state_dict(new | kept)
    fresh.tie_weights()
    return Recommender(fresh.to(model.device, model.dtype).eval(), num_items, max_length)


def shape_of(config: PretrainedConfig) -> Shape:
    """Layers of all stacks, widths and heads of a checkpoint, as its configuration has them.

    Raises:
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    depth = sum(getattr(config, stack.depth) for stack in family_of(config).stacks)
    fields = ("intermediate_size", "d_ff", "n_inner")
    width = next((value for name in fields if (value := getattr(config, name, None))), 4 * config.hidden_size)
    return Shape(depth, config.hidden_size, width, config.num_attention_heads)


def _config_of(model: PreTrainedModel, padding: int, vocabulary: int) -> PretrainedConfig:
    config = copy.deepcopy(model.config)
    fields = {"vocab_size": vocabulary, "pad_token_id": padding, "bos_token_id": None, "eos_token_id": None}
    if hasattr(config, "decoder_start_token_id") and config.is_encoder_decoder:
        fields |= {"decoder_start_token_id": padding, "eos_token_id": padding + 1}
    else:
        fields |= {"tie_word_embeddings": True}  # an encoder-decoder's says whether outputs are scaled
    config.update({**fields, "use_cache": False})
    return config


def _words(model: PreTrainedModel) -> set[str]:
    """Names of the weights that have one row or entry per word."""
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    owned = {id(parameter) for head in heads for parameter in head.parameters()}
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in owned}
