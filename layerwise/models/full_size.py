"""Models of the sizes that are deployed, with random weights: for time and memory, which no weight's value decides.

Nothing is downloaded: the shapes are those of the configurations on the hub, written down here. A figure that was made
with such a model has to say that its weights are random.
"""

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from layerwise.models.families import family_of
from layerwise.models.inputs import INPUTS
from layerwise.models.recommender import Recommender


def _llama(layers: int, hidden: int, intermediate: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 128_256,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": tied,
    }


def _qwen3(layers: int, hidden: int, intermediate: int, heads: int, tied: bool) -> dict[str, Any]:
    fields = _llama(layers, hidden, intermediate, heads, tied)
    return {**fields, "model_type": "qwen3", "vocab_size": 151_936, "head_dim": 128, "max_position_embeddings": 40_960}


FULL_SIZES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": _llama(16, 2048, 8192, 32, tied=True),
    "llama-3.2-3b": _llama(28, 3072, 8192, 24, tied=True),
    "llama-3.1-8b": _llama(32, 4096, 14_336, 32, tied=False),
    "qwen3-0.6b": _qwen3(28, 1024, 3072, 16, tied=True),
    "qwen3-1.7b": _qwen3(28, 2048, 6144, 16, tied=True),
    "qwen3-4b": _qwen3(36, 2560, 9728, 32, tied=True),
    "qwen3-8b": _qwen3(36, 4096, 12_288, 32, tied=False),
    "gpt2-xl": {"model_type": "gpt2", "vocab_size": 50_257, "n_layer": 48, "n_embd": 1600, "n_head": 25},
    "bert-large": {
        "model_type": "bert",
        "vocab_size": 30_522,
        "num_hidden_layers": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
    },
    "t5-large": {
        "model_type": "t5",
        "vocab_size": 32_128,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "d_model": 1024,
        "d_kv": 64,
        "d_ff": 4096,
        "num_heads": 16,
    },
}
"""Fields of the configuration by short name of the checkpoint, as the hub has them."""


def random_language_model(
    name: str,
    vocabulary: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> PreTrainedModel:
    """A language model of full size with random weights, made where it is to be; on `meta` it takes no memory.

    Args:
        name: One of `FULL_SIZES`.
        vocabulary: Number of tokens instead of the checkpoint's own.
        device: Where it is made.
        dtype: Precision of its weights.

    Raises:
        ValueError: If there is no such size.
    """
    if name not in FULL_SIZES:
        raise ValueError(f"no full size is named {name!r}; there are {', '.join(FULL_SIZES)}")
    own = {"vocab_size": vocabulary} if vocabulary else {}
    nothing_special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = AutoConfig.for_model(**FULL_SIZES[name] | own | nothing_special)
    with torch.device(device):
        model: PreTrainedModel = family_of(config).auto.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def random_recommender(
    name: str,
    num_items: int,
    max_length: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> Recommender:
    """A recommender with the layers of a full size, where items take the place of words; random weights.

    Args:
        name: One of `FULL_SIZES`.
        num_items: Size of the catalogue.
        max_length: Number of most recent events that are read.
        device: Where it is made.
        dtype: Precision of its weights.

    Raises:
        ValueError: If there is no such size.
    """
    config = AutoConfig.for_model(**FULL_SIZES[name]) if name in FULL_SIZES else None
    special = len(INPUTS[family_of(config).inputs](num_items, max_length).special) if config else 0
    model = random_language_model(name, num_items + special, device, dtype)
    return Recommender(model, num_items, max_length).eval()
