"""How a family reads item tokens: what it is given to score, and what it is trained on. Arrays in, arrays out.

Items are tokens `0 .. num_items - 1`; the token after them is padding, which also starts a decoder. A masked model has
one more token, the mask; an encoder-decoder has one that ends the history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from layerwise.data.arrays import IntArray

IGNORED = -100  # the label that `transformers` leaves out of a loss


@dataclass(frozen=True)
class Window:
    """One training example: inputs by argument name, and which output positions predict which items.

    Attributes:
        inputs: Tokens by argument, each *length*.
        positions: Output positions that have a target, *num_targets*.
        items: The targets, *num_targets*.
    """

    inputs: dict[str, IntArray]
    positions: IntArray
    items: IntArray


@dataclass(frozen=True)
class Causal:
    """Every position predicts the next item; the last one is asked.

    Padding stands on the right, where causal attention never sees it, so no attention mask is needed.
    """

    num_items: int
    max_length: int
    special: ClassVar[tuple[str, ...]] = ("padding",)
    asks_for_mask: ClassVar[bool] = False

    @property
    def positions(self) -> int:
        """Longest sequence that the model must take; with labels, the target stands among the tokens."""
        return self.max_length + 1

    def prompt(self, history: IntArray) -> Window:
        """What is scored: one target, unknown."""
        tokens = history[-self.max_length :]
        return Window({"input_ids": tokens}, np.array([len(tokens) - 1]), np.empty(0, dtype=np.int64))

    def window(self, sequence: IntArray, rng: np.random.Generator) -> Window:
        """A random stretch; each of its positions predicts the item after it."""
        crop = _crop(sequence, self.max_length + 1, rng)
        return Window({"input_ids": crop[:-1]}, np.arange(len(crop) - 1), crop[1:])

    def labelled(self, sequence: IntArray) -> dict[str, IntArray]:
        """Arguments of `transformers`: the labels are the tokens themselves, all but the last ignored."""
        tokens = sequence[-self.max_length - 1 :]
        return {"input_ids": tokens, "labels": _only_last(tokens)}


@dataclass(frozen=True)
class Masked:
    """A mask after the history is to be filled in; in training, further items are masked (a cloze).

    References:
        Sun et al. 2019 (BERT4Rec), sections 3.5 and 3.6; here the last item of a training window is always masked, so
        that training looks like scoring, and half of the others: more targets per window.
    """

    num_items: int
    max_length: int
    mask_share: float = 0.5
    special: ClassVar[tuple[str, ...]] = ("padding", "mask")
    asks_for_mask: ClassVar[bool] = True

    @property
    def positions(self) -> int:
        """Longest sequence that the model must take."""
        return self.max_length + 1

    def prompt(self, history: IntArray) -> Window:
        """What is scored: the mask after the newest events."""
        tokens = np.append(history[-self.max_length :], self.num_items + 1)
        return Window({"input_ids": tokens}, np.array([len(tokens) - 1]), np.empty(0, dtype=np.int64))

    def window(self, sequence: IntArray, rng: np.random.Generator) -> Window:
        """A random stretch whose last item and a share of the others are masked."""
        crop = _crop(sequence, self.max_length + 1, rng)
        hidden = rng.random(len(crop)) < self.mask_share
        hidden[-1] = True
        tokens = np.where(hidden, self.num_items + 1, crop)
        return Window({"input_ids": tokens}, np.flatnonzero(hidden), crop[hidden])

    def labelled(self, sequence: IntArray) -> dict[str, IntArray]:
        """Arguments of `transformers`: the last item is masked, and the label stands where the mask is."""
        tokens = sequence[-self.max_length - 1 :]
        return {"input_ids": np.append(tokens[:-1], self.num_items + 1), "labels": _only_last(tokens)}


@dataclass(frozen=True)
class EncoderDecoder:
    """The encoder reads the history and a token that ends it; the decoder's first state predicts the next item.

    In training the decoder goes on: each of its states predicts the item after those that it was given. The token at
    the end (T5's `</s>`) says which events are the newest, since a decoder's attention over encoded states has no
    positions.
    """

    num_items: int
    max_length: int
    special: ClassVar[tuple[str, ...]] = ("padding", "end of history")
    asks_for_mask: ClassVar[bool] = True

    @property
    def positions(self) -> int:
        """Longest sequence that the model must take."""
        return self.max_length + 1

    def prompt(self, history: IntArray) -> Window:
        """What is scored: the decoder's start."""
        inputs = {"input_ids": self._ended(history), "decoder_input_ids": np.array([self.num_items])}
        return Window(inputs, np.array([0]), np.empty(0, dtype=np.int64))

    def window(self, sequence: IntArray, rng: np.random.Generator) -> Window:
        """A sequence split at a random event: what comes before is encoded, half a history of the rest is decoded."""
        split = int(rng.integers(1, len(sequence)))
        items = sequence[split : split + max(1, self.max_length // 2)]
        inputs = {
            "input_ids": self._ended(sequence[:split]),
            "decoder_input_ids": np.insert(items[:-1], 0, self.num_items),
        }
        return Window(inputs, np.arange(len(items)), items)

    def labelled(self, sequence: IntArray) -> dict[str, IntArray]:
        """Arguments of `transformers`: one label, of the decoder's first state."""
        tokens, start = sequence[-self.max_length - 1 :], np.array([self.num_items])
        return {"input_ids": self._ended(tokens[:-1]), "decoder_input_ids": start, "labels": tokens[-1:]}

    def _ended(self, history: IntArray) -> IntArray:
        return np.append(history[-self.max_length :], self.num_items + 1)


Inputs = Causal | Masked | EncoderDecoder

INPUTS: dict[str, type[Causal] | type[Masked] | type[EncoderDecoder]] = {
    "causal": Causal,
    "masked": Masked,
    "encoder-decoder": EncoderDecoder,
}


def padded(rows: Sequence[IntArray], padding: int) -> IntArray:
    """Rows of different length as one array *rows x longest*, filled up on the right."""
    table = np.full((len(rows), max(len(row) for row in rows)), padding, dtype=np.int64)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    return table


def _crop(sequence: IntArray, size: int, rng: np.random.Generator) -> IntArray:
    """A random stretch of `size` events, or all where there are fewer."""
    end = len(sequence) if len(sequence) <= size else int(rng.integers(size, len(sequence) + 1))
    return sequence[max(0, end - size) : end]


def _only_last(tokens: IntArray) -> IntArray:
    labels = np.full(len(tokens), IGNORED, dtype=np.int64)
    labels[-1] = tokens[-1]
    return labels
