"""Histories as text: the titles of a user's items become tokens of any `transformers` tokenizer."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_PROBE = "a"  # a text whose tokens every vocabulary has; what a tokenizer puts around it are its special tokens


class Prompts:
    """Token ids of a prompt: opening, titles of the history from old to new, ending, candidate.

    Titles are tokenised once. Where they do not all fit, the oldest are left out, each as a whole; the opening, the
    ending, the candidate and the tokenizer's own special tokens are never cut. What reads like a special token in a
    title stays plain text; in opening and ending it is one, so that an ending may hold `tokenizer.mask_token`.

    Args:
        tokenizer: Any `transformers` tokenizer.
        titles: Text of each item by its code; one with an empty text leaves no trace in a prompt.
        max_tokens: Longest prompt, special tokens included.
        opening: Text before the history.
        separator: Text after each title of the history.
        title_tokens: Longest title; what is beyond is left out.

    Raises:
        ValueError: If the tokenizer puts its special tokens elsewhere than around a text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        max_tokens: int,
        opening: str = "",
        separator: str = ",",
        title_tokens: int = 32,
    ) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self._before, self._after = _special_tokens(tokenizer)
        self._texts: dict[str, list[int]] = {"": []}
        self._before = self._before + self._text(opening)
        self._separator = self._text(separator)
        spaced = [f" {title}" if title else "" for title in titles]  # byte-pair words include the space before them
        ids = tokenizer(spaced, add_special_tokens=False, split_special_tokens=True)["input_ids"] if spaced else []
        self._titles: list[list[int]] = [title[:title_tokens] for title in ids]

    def __call__(self, history: Sequence[int], ending: str = "", candidate: int | None = None) -> list[int]:
        """The prompt of one history.

        Args:
            history: Item codes, oldest first.
            ending: Text after the history, such as a question or a marker.
            candidate: Item whose title follows the ending.

        Raises:
            ValueError: If what is never cut takes more than `max_tokens`.
        """
        asked = self._text(ending) + ([] if candidate is None else self._titles[candidate]) + self._after
        room = self.max_tokens - len(self._before) - len(asked)
        if room < 0:
            raise ValueError(f"max_tokens is {self.max_tokens}, but without any history a prompt takes {-room} more")
        pieces: list[list[int]] = []
        for item in reversed(history):
            title = self._titles[item]
            piece = title + self._separator if title else []
            if len(piece) > room:
                break
            room -= len(piece)
            pieces.append(piece)
        return self._before + [token for piece in reversed(pieces) for token in piece] + asked

    def _text(self, text: str) -> list[int]:
        if text not in self._texts:
            self._texts[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._texts[text]


def padded(
    rows: Sequence[Sequence[int]], pad_token_id: int | None, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """Prompts of different length as one batch: `input_ids` and `attention_mask`, each *batch x longest*.

    Args:
        rows: Token ids by prompt.
        pad_token_id: The tokenizer's padding token.
        side: Where padding stands; `tokenizer.padding_side` says what a model was trained with.

    Raises:
        ValueError: If there is no padding token, or a prompt ends with it: classifiers of `transformers` read the
            last token that is no padding, and would read the one before.
    """
    if pad_token_id is None:
        raise ValueError(
            "the tokenizer has no padding token; set tokenizer.pad_token and model.config.pad_token_id, to the end "
            "token (tokenizer.eos_token) where no prompt ends with it"
        )
    if ending := [place for place, row in enumerate(rows) if row and row[-1] == pad_token_id]:
        raise ValueError(f"prompts {ending[:3]} end with the padding token {pad_token_id}; choose another for padding")
    longest = max((len(row) for row in rows), default=0)
    tokens = torch.full((len(rows), longest), pad_token_id)
    mask = torch.zeros_like(tokens)
    for place, row in enumerate(rows):
        part = slice(longest - len(row), longest) if side == "left" else slice(len(row))
        tokens[place, part] = torch.tensor(row, dtype=torch.long)
        mask[place, part] = 1
    return {"input_ids": tokens, "attention_mask": mask}


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    whole, plain = tokenizer(_PROBE)["input_ids"], tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise ValueError(f"{type(tokenizer).__name__} changes a text that it puts special tokens around: {whole}, {plain}")
