"""A recommender whose layers are watched while it is trained."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from layerwise.models.attention import AttentionTrace, recorded_attention
from layerwise.models.layers import stacks_of, traced
from layerwise.models.recommender import Recommender


@dataclass(frozen=True)
class Seen:
    """What one pass did inside.

    Attributes:
        embedded: What entered the first layer of each stack, *batch x length x hidden*.
        states: What left each layer, counted through all stacks.
        attention: Queries, keys and values of each layer; empty where they were not asked for.
    """

    embedded: list[Tensor]
    states: list[Tensor]
    attention: AttentionTrace


def observe(
    recommender: Recommender, inputs: Mapping[str, Tensor], watches_attention: bool, embedding_dropout: float = 0.0
) -> tuple[Tensor, Seen]:
    """Final states, as `Recommender.states` gives them, and what was seen on the way."""
    with ExitStack() as watching:
        trace = watching.enter_context(traced(recommender.model))
        recorded = watching.enter_context(recorded_attention(recommender.model)) if watches_attention else None
        states = Recommender.states(recommender, inputs, embedding_dropout)
    starts = [0]
    for layers in stacks_of(recommender.model).values():
        starts.append(starts[-1] + len(layers))
    embedded = [trace.inputs[start] for start in starts[:-1]]
    return states, Seen(embedded, trace.outputs, recorded or {})


class ObservedRecommender(Recommender):
    """A recommender that remembers what its latest pass did inside, if in training mode; it shares the watched model.

    Args:
        recommender: What is watched.
        watches_attention: Whether queries, keys and values are remembered, too.
        learned_weights: Number of pairs of layers whose weights are learned.
    """

    def __init__(self, recommender: Recommender, watches_attention: bool, learned_weights: int = 0) -> None:
        super().__init__(recommender.model, recommender.num_items, recommender.max_length)
        self.training = recommender.training
        self.watches_attention = watches_attention
        self.seen: Seen | None = None
        self.running_distances: Tensor
        self.register_buffer("running_distances", torch.zeros(learned_weights, device=recommender.model.device))

    def states(self, inputs: Mapping[str, Tensor], embedding_dropout: float = 0.0) -> Tensor:
        """Final states, as for `Recommender`; after a training pass `seen` says the rest, after another it is None."""
        if not self.training:
            self.seen = None
            return super().states(inputs, embedding_dropout)
        states, self.seen = observe(self, inputs, self.watches_attention, embedding_dropout)
        return states


def plain(recommender: Recommender) -> Recommender:
    """A recommender without memory around the same model."""
    bare = Recommender(recommender.model, recommender.num_items, recommender.max_length)
    bare.training = recommender.training
    return bare
