"""Models whose layers are known by construction: what an instrument must find in them, it can be held to.

Llama only; the names of its weights stand here because they are written one by one, and nothing else reads them.
"""

from collections.abc import Sequence
from typing import Any

import torch

from layerwise.data.arrays import IntArray
from layerwise.models.families import Shape
from layerwise.models.recommender import Recommender, build_recommender

GATE = 32.0  # far enough out for SiLU to be the identity in fp32


def pointer_chain(pointers: Sequence[IntArray], max_length: int = 8) -> Recommender:
    """A Llama that needs every layer: each follows one pointer, from the item at hand to the next.

    The states are one-hot vectors of items. Layer i moves the one at item c to item `pointers[i][c]`, so that the item
    with the largest score after L layers is the end of a chain of L pointers that starts at the last event. Attention
    writes nothing, and which items came before changes nothing.

    Args:
        pointers: One permutation of the items per layer, each *num_items*.
        max_length: Number of most recent events that the model reads.

    Raises:
        ValueError: If a layer's pointers are no permutation of the items.
    """
    num_items = len(pointers[0])
    for index, pointer in enumerate(pointers):
        if sorted(pointer.tolist()) != list(range(num_items)):
            raise ValueError(f"the pointers of layer {index} must be a permutation of {num_items} items, got {pointer}")
    shape = Shape(len(pointers), hidden=num_items, intermediate=num_items, num_heads=2)
    recommender = build_recommender("llama", num_items, max_length, shape, seed=0)
    unit, length = torch.eye(num_items), num_items**0.5  # of a one-hot state after the norm
    with torch.no_grad():
        embeddings: Any = recommender.model.get_input_embeddings()
        embeddings.weight.zero_()
        embeddings.weight[:num_items] = unit
        layers: list[Any] = list(recommender.layers)
        for layer, pointer in zip(layers, pointers, strict=True):
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.gate_proj.weight.copy_(unit * GATE / length)
            layer.mlp.up_proj.weight.copy_(unit / GATE / length)
            layer.mlp.down_proj.weight.copy_(unit[:, torch.from_numpy(pointer)] - unit)
    return recommender.eval()


def follow(pointers: Sequence[IntArray], starts: IntArray) -> IntArray:
    """The items at the ends of the chains that begin at these items."""
    for pointer in pointers:
        starts = pointer[starts]
    return starts


def with_identity_layers(recommender: Recommender, num_layers: int, working: Sequence[int], seed: int) -> Recommender:
    """A deeper Llama that computes the same: its further layers compute, and write nothing to the residual stream.

    Args:
        recommender: A Llama with as many layers as `working` names; it is left as it was.
        num_layers: Depth of the result.
        working: Where the given layers stand in the result, increasing; the other ones are identity layers.
        seed: Decides the weights of what the identity layers compute in vain.

    Raises:
        ValueError: If `working` does not name one place for every given layer.
    """
    given = recommender.layers
    if len(working) != len(given) or list(working) != sorted(set(working) & set(range(num_layers))):
        raise ValueError(f"working must be {len(given)} increasing places below {num_layers}, got {tuple(working)}")
    config: Any = recommender.model.config
    shape = Shape(num_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)
    deep = build_recommender("llama", recommender.num_items, recommender.max_length, shape, seed)
    outside = {name: value for name, value in recommender.state_dict().items() if ".layers." not in name}
    deep.load_state_dict(outside, strict=False)
    with torch.no_grad():
        layers: list[Any] = list(deep.layers)
        for layer in layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    for place, layer in zip(working, given, strict=True):
        deep.layers[place].load_state_dict(layer.state_dict())
    return deep.eval()
