"""What is timed: finding the best items of the catalogue, and decoding one token with the vocabulary head.

Both are modules that `compare_latency` calls like any other, and whose layers it counts. The weights may be random:
time does not depend on their values, and a figure that was measured so has to say it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import StaticCache

from layerwise.evaluation.prepared import Prepared
from layerwise.models.families import family_of
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender


class Scoring(nn.Module):
    """Histories in, the best items out: layers, last position, item head over the whole catalogue, top k.

    What follows the layers is computed for the position that is asked and no other; `Recommender.forward` transforms
    all of them in a masked model, which is a fixed cost that does not shrink with the layers. Any supported language
    model is a `Recommender` once the last tokens of its vocabulary are called special. Masks and position biases are
    made by `Prepared`, in fewer operations and to the same bit; full and compact models alike.

    Args:
        recommender: Scores the catalogue; shared, not copied.
        k: Number of items that are found, at most the catalogue.
        shows_states: Whether the states that were asked, *batch x hidden*, are handed on, too. Random weights score two
            histories much alike; the states tell them apart, and so an audit the output of another input.

    Raises:
        ValueError: If k is below 1 or above the number of items.
    """

    def __init__(self, recommender: Recommender, k: int = 10, shows_states: bool = False) -> None:
        super().__init__()
        if not 1 <= k <= recommender.num_items:
            raise ValueError(f"k must lie within [1, {recommender.num_items}], the catalogue, got {k}")
        self.recommender, self.k, self.shows_states = recommender, k, shows_states
        self.prepared = Prepared(recommender.model)

    @property
    def model(self) -> PreTrainedModel:
        """The `transformers` model, by which the layers are found."""
        return self.recommender.model

    def forward(self, last: Tensor, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Scores and codes of the best items, each *batch x k*, best first; arguments as `Recommender.batch` makes."""
        with _asked_only(self.model, last), self.prepared.using(inputs) as ready:
            states = self.recommender.states(ready)  # batch x 1 x hidden
        scores, items = self._item_scores(states[:, 0]).topk(self.k)
        return (scores, items, states[:, 0]) if self.shows_states else (scores, items)

    def _item_scores(self, states: Tensor) -> Tensor:
        """Scores *batch x items* in fp32, for states *batch x hidden*.

        A CUDA device multiplies in half precision and adds up in fp32: the item matrix need not be converted first.
        """
        if states.is_cuda and states.dtype in (torch.bfloat16, torch.float16):
            scores = torch.mm(states, self.recommender.item_matrix.T, out_dtype=torch.float32)
            bias = getattr(self.model.get_output_embeddings(), "bias", None)
            return scores if bias is None else scores + bias[: self.recommender.num_items]
        return self.recommender.item_scores(states.float())


@contextmanager
def _asked_only(model: PreTrainedModel, last: Tensor) -> Iterator[None]:
    """Inside, the base model hands on the state at position `last` alone; a decoder has no other when it is asked."""

    def narrow(_: nn.Module, __: Any, output: Any) -> Any:
        rows = torch.arange(len(last), device=last.device)
        output.last_hidden_state = output.last_hidden_state[rows, last][:, None]
        return output

    hook = model.base_model.register_forward_hook(narrow)
    try:
        yield
    finally:
        hook.remove()


class Decoding(nn.Module):
    """One new token per row, greedily, over the whole vocabulary, from a cache that holds the prompt's keys and values.

    The prompt is read when the module is made, outside any clock. Every call appends a token to it and forgets it
    again, so that all calls do the same work; as in real decoding, a call reads the keys and values that the one before
    has read. The cache is static: nothing of the prompt is copied, and a call can be captured as a graph.

    Args:
        model: A causal language model of a supported family; shared, not copied.
        prompt: Tokens *batch x length*, on the model's device.

    Raises:
        ValueError: If the family is not causal, or the model has no vocabulary head.
    """

    def __init__(self, model: PreTrainedModel, prompt: Tensor) -> None:
        super().__init__()
        if family_of(model.config).inputs != "causal" or model.get_output_embeddings() is None:
            raise ValueError(f"only causal models with a vocabulary head decode, got {type(model).__name__}")
        self.model, self.length = model, prompt.shape[1]
        with torch.no_grad(), evaluating(model):  # in inference mode, no call outside of one could write to the cache
            self.cache = filled_cache(model, prompt, room=1)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits *batch x vocabulary* after the new tokens *batch x 1*, and the tokens that come next, *batch*."""
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.length)
        logits = self.model(input_ids, past_key_values=self.cache, use_cache=True).logits[:, -1]
        return logits, logits.argmax(-1)


def filled_cache(model: PreTrainedModel, prompt: Tensor, room: int) -> StaticCache:
    """A cache of `transformers` that holds a prompt, *batch x length*, and has room for that many more tokens."""
    cache = StaticCache(config=model.config, max_cache_len=prompt.shape[1] + room)
    model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def random_tokens(number: int, vocabulary: int, shape: tuple[int, int], seed: int) -> list[Tensor]:
    """That many tensors of random tokens, each *batch x length*; from the seed, whatever the global generator does."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocabulary, shape, generator=generator) for _ in range(number)]
