"""A program that loads an exported checkpoint with `transformers` alone and recommends with it."""

from pathlib import Path
from typing import Any

from layerwise.models.families import Family, family_of
from layerwise.models.recommender import Recommender

# How a kind of input asks for the next item; {items} is the size of the catalogue, {special} the token after padding.
_ASKED = {
    "causal": ("history", "model(tokens).logits[0, -1]", "the last state scores the next item"),
    "masked": ("[*history, {special}]", "model(tokens).logits[0, -1]", "a mask stands for the next item"),
    "encoder-decoder": (
        "[*history, {special}]",
        "model(tokens, decoder_input_ids=torch.tensor([[{items}]])).logits[0, 0]",
        "a token ends the history, the decoder's first state scores the next item",
    ),
}

_PROGRAM = """\
import json
from pathlib import Path

import torch
from transformers import {auto}

folder = Path({folder!r})
items = json.loads((folder / "items.json").read_text())  # ids, in the order of their tokens
model = {auto}.from_pretrained(folder).eval()

history = [items.index(item) for item in items[:3]]  # put a user's own items here, oldest first
history = history[-{length}:]
tokens = torch.tensor([{tokens}])  # {remark}
with torch.inference_mode():
    scores = {scores}[:{items}]
    scores[history] = -torch.inf
print([items[item] for item in scores.topk({best}).indices])
"""


def recipe(recommender: Recommender, folder: str | Path) -> str:
    """The program as text; it prints the ids of the best items after a history, best first.

    Args:
        recommender: What was exported.
        folder: Where to, as the program is to call it.
    """
    family: Family = family_of(recommender.model.config)
    fields: dict[str, Any] = {"items": recommender.num_items, "special": recommender.num_items + 1}
    tokens, scores, remark = (part.format(**fields) for part in _ASKED[family.inputs])
    return _PROGRAM.format(
        auto=family.auto.__name__,
        folder=str(folder),
        length=recommender.max_length,
        tokens=tokens,
        remark=remark,
        scores=scores,
        items=recommender.num_items,
        best=min(10, recommender.num_items),
    )
