"""Will a user like an item? The question as text: "good Toy Story (1995), bad Congo (1995), Next: Heat (1995)"."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from layerwise.data.likes import Examples, Likes
from layerwise.models.prompts import Prompts

MARKS = ("bad", "good")  # one token each in common vocabularies; what was liked stands before its title
ENDING = " Next:"


def like_prompts(
    tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], max_tokens: int, likes: Likes, examples: Examples
) -> list[list[int]]:
    """Token ids of each example: the newest titles of the history that fit, marked as liked or not, and the candidate.

    Args:
        tokenizer: Any `transformers` tokenizer.
        titles: Text of each item; one without a text leaves no trace in a history.
        max_tokens: Longest prompt.
        likes: Where the histories come from.
        examples: A part of it.
    """
    marked = [f"{mark} {title}" if title else "" for mark in MARKS for title in titles]
    prompts = Prompts(tokenizer, [*marked, *titles], max_tokens)
    num_items, rows = len(titles), []
    for position, item in zip(examples.positions, examples.items, strict=True):
        items, liked = likes.history(int(position))
        codes = np.where(liked, items + num_items, items)
        rows.append(prompts(codes.tolist(), ENDING, candidate=2 * num_items + int(item)))
    return rows
