"""A text recommender: a history's titles through a pretrained backbone, one state, scores of the whole catalogue."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.families import family_of
from layerwise.models.item_head import ItemHead
from layerwise.models.layers import layers_of
from layerwise.models.loading import load_pretrained
from layerwise.models.modes import evaluating
from layerwise.models.prompts import Prompts, padded

Pooling = Literal["mean", "last"]
"""Which state stands for a prompt: the mean over its tokens, or the one that a family is asked for."""

ENDING = " Next:"  # what a prompt ends with where its last state is asked


class TextRecommender(nn.Module):
    """Histories as titles, scores for the whole catalogue in one forward pass.

    Which state stands for a history is decided by `pooling`. `"last"`: of a causal model the last token's, of a
    masked model that of a mask after the history, of an encoder-decoder the decoder's first. `"mean"`: the mean over
    the prompt's tokens, which sentence encoders such as MiniLM were trained for. Items start at the vectors of their
    own titles, read in the same way, so that an untrained recommender is a zero-shot one; see `text_recommender`.

    Rows are padded on the right, whatever `tokenizer.padding_side` says: with an attention mask no family sees what
    stands there, and positions start at 0. A tokenizer without a padding token gets its end token for it.

    Args:
        model: A backbone of a supported family, without a head.
        tokenizer: The one that the backbone was trained with.
        titles: Text of each item by its code; an empty one leaves no trace in a prompt.
        head: What turns states into scores.
        max_tokens: Longest prompt; the oldest titles that do not fit are left out.
        pooling: Which state stands for a prompt.

    Raises:
        ValueError: If the prompt may be longer than the positions of the backbone, head and titles differ in number,
            a masked model's tokenizer has no mask, there is neither padding nor end token, or the mean is asked of
            an encoder-decoder, whose decoder it would leave without work.
        UnsupportedArchitectureError: If the architecture is unknown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        head: ItemHead,
        max_tokens: int = 64,
        pooling: Pooling = "last",
    ) -> None:
        super().__init__()
        self.kind = family_of(model.config).inputs
        _check(model, tokenizer, titles, head, max_tokens, pooling, self.kind)
        self.model, self.head = model, head
        self.tokenizer, self.titles, self.max_tokens = tokenizer, list(titles), max_tokens
        self.pooling: Pooling = pooling
        self.prompts = Prompts(tokenizer, titles, max_tokens)
        self._start = _decoder_start(model) if self.kind == "encoder-decoder" else None
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        mask = f" {tokenizer.mask_token}" if self.kind == "masked" else ""
        self.ending = ENDING + mask if pooling == "last" else ""

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.titles)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers, first to last; those of an encoder stand before those of its decoder."""
        return layers_of(self.model)

    @property
    def item_matrix(self) -> Tensor:
        """Vectors of the items, *num_items x hidden*."""
        return self.head.items

    def rows(self, histories: Sequence[IntArray]) -> list[list[int]]:
        """Token ids of the prompt of each history.

        Raises:
            ValueError: If a history is empty or holds a code outside `[0, num_items)`.
        """
        for row, history in enumerate(histories):
            if len(history) == 0:
                raise ValueError(f"history {row} is empty; a recommendation needs at least one event")
        codes = np.concatenate([np.empty(0, dtype=np.int64), *histories])
        wrong = codes[(codes < 0) | (codes >= self.num_items)]
        if len(wrong):
            raise ValueError(f"item codes must lie within [0, {self.num_items}), got {wrong[0]}")
        return [self.prompts([int(item) for item in history], self.ending) for history in histories]

    def batch(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Arguments of `forward` for prompts: tokens and mask, *batch x longest*, and a decoder's start."""
        batch = {name: tensor.to(self.head.items.device) for name, tensor in padded(rows, self._pad).items()}
        if self._start is not None:
            batch["decoder_input_ids"] = batch["input_ids"].new_full((len(rows), 1), self._start)
        return batch

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What stands for each prompt, *batch x hidden*."""
        given = {name: tensor for name, tensor in batch.items() if name != "labels"}
        states: Tensor = self.model(**given, use_cache=False).last_hidden_state
        if self.pooling == "mean":
            weights = batch["attention_mask"].to(states.dtype)[..., None]
            return (states * weights).sum(dim=1) / weights.sum(dim=1)
        return states[torch.arange(len(states), device=states.device), self._asked(batch)]

    def _asked(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Position of the state that is asked, *batch*."""
        tokens, mask = batch["input_ids"], batch["attention_mask"]
        if self.kind == "encoder-decoder":
            return torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        wanted = tokens == self.tokenizer.mask_token_id if self.kind == "masked" else mask.bool()
        return (wanted * torch.arange(tokens.shape[1], device=tokens.device)).argmax(dim=1)

    def forward(self, **batch: Tensor) -> Tensor:
        """Scores of every item, *batch x num_items*, fp32; the arguments are those of `batch`."""
        scores: Tensor = self.head(self.states(batch))
        return scores

    def features(self, rows: Sequence[Sequence[int]], batch_size: int = 64) -> Tensor:
        """States of prompts in their order, *num_rows x hidden*, fp32, in evaluation mode and without gradients."""
        found = torch.empty(len(rows), self.head.items.shape[1], device=self.head.items.device)
        order = np.argsort([len(row) for row in rows], kind="stable")  # of like length: little padding is computed
        with evaluating(self), torch.no_grad():
            for start in range(0, len(order), batch_size):
                part = order[start : start + batch_size]
                found[torch.as_tensor(part)] = self.states(self.batch([rows[row] for row in part])).float()
        return found

    def scores(self, histories: Sequence[IntArray], batch_size: int = 64) -> FloatArray:
        """Scores of every item for every history, in evaluation mode and without gradients.

        Args:
            histories: Item codes per row, oldest first.
            batch_size: Prompts per forward pass; it does not change the result beyond rounding.

        Returns:
            *len(histories) x num_items*, fp32.

        Raises:
            ValueError: If a history is empty or holds a code outside `[0, num_items)`.
        """
        with torch.no_grad():
            return np.asarray(self.head(self.features(self.rows(histories), batch_size)).cpu().numpy())

    def labelled_batches(
        self, histories: Sequence[IntArray], items: IntArray, batch_size: int = 32
    ) -> list[dict[str, Tensor]]:
        """Batches for importance measures: those of `batch` with the next item of each history as `labels`, *batch*.

        A measure that looks at a loss takes `predict=text.predict` with them.
        """
        rows = self.rows(histories)
        order = np.argsort([len(row) for row in rows], kind="stable")
        starts = range(0, len(order), batch_size)
        parts = [order[start : start + batch_size] for start in starts]
        device = self.head.items.device
        return [
            {**self.batch([rows[row] for row in part]), "labels": torch.as_tensor(items[part], device=device)}
            for part in parts
        ]

    def predict(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores and labels of a labelled batch."""
        return self(**batch), batch["labels"]

    def on(self, model: PreTrainedModel) -> "TextRecommender":
        """The same recommender, its head copied, on another backbone of the same kind and width."""
        head = ItemHead(*self.head.items.shape)
        head.load_state_dict(self.head.state_dict())
        other = TextRecommender(model, self.tokenizer, self.titles, head, self.max_tokens, self.pooling)
        other.head.to(self.head.items.device)
        return other.train(self.training)

    def save(self, folder: Path) -> None:
        """Writes backbone and tokenizer as plain checkpoints, and what this class adds beside them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file({name: weight.cpu().contiguous() for name, weight in self.head.state_dict().items()}, folder / _HEAD)
        told = {"max_tokens": self.max_tokens, "pooling": self.pooling, "titles": self.titles}
        (folder / _TOLD).write_text(json.dumps(told))

    @classmethod
    def load(cls, folder: Path) -> "TextRecommender":
        """Reads what `save` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: If the folder lacks one of the files.
            ValueError: If weights are missing or left over.
        """
        for name in (_HEAD, _TOLD):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}; was it written by TextRecommender.save?")
        told, weights = json.loads((folder / _TOLD).read_text()), load_file(folder / _HEAD)
        head = ItemHead(*weights["items"].shape)
        head.load_state_dict(weights)
        model, tokenizer = load_pretrained(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model, tokenizer, told["titles"], head, told["max_tokens"], told["pooling"]).eval()


def text_recommender(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    max_tokens: int = 64,
    pooling: Pooling = "last",
) -> TextRecommender:
    """A zero-shot text recommender, in evaluation mode: an item's score is how near its title is to the history.

    Both are read by the same backbone; no interaction is looked at. With
    `pooling="last"` an item's title is read as a history of one.

    Args:
        model: See `TextRecommender`; it becomes part of the recommender.
        tokenizer: See there.
        titles: See there.
        max_tokens: See there.
        pooling: See there.

    Raises:
        ValueError: See there; and if no item has a title.
    """
    titled = [code for code, title in enumerate(titles) if title]
    if not titled:
        raise ValueError(f"none of the {len(titles)} items has a title; a text recommender needs them")
    hidden = model.get_input_embeddings().weight.shape[1]
    text = TextRecommender(model, tokenizer, titles, ItemHead(len(titles), hidden), max_tokens, pooling)
    text.to(model.device).eval()
    alone = pooling == "mean"
    rows = [text.prompts([], candidate=code) if alone else text.prompts([code], text.ending) for code in titled]
    vectors = torch.full((len(titles), hidden), torch.nan, device=text.head.items.device)
    vectors[titled] = text.features(rows)
    text.head.start_from(vectors)
    return text


_HEAD, _TOLD = "recommender.safetensors", "recommender.json"


def _decoder_start(model: PreTrainedModel) -> int:
    start = model.config.decoder_start_token_id
    if start is None:
        raise ValueError("the configuration has no decoder_start_token_id; set it to what the decoder was trained with")
    return int(start)


def _check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    head: ItemHead,
    max_tokens: int,
    pooling: str,
    kind: str,
) -> None:
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
    if pooling == "mean" and kind == "encoder-decoder":
        raise ValueError("pooling 'mean' would leave the decoder without work; use 'last', its first state")
    if pooling == "last" and kind == "masked" and tokenizer.mask_token_id is None:
        raise ValueError("a masked model is asked at a mask, but its tokenizer has no mask_token; use pooling='mean'")
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has neither a padding nor an end token; set tokenizer.pad_token")
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ValueError(f"max_tokens is {max_tokens}, but the backbone has {positions} positions")
    if len(titles) != len(head.items):
        raise ValueError(f"expected a title for each of the {len(head.items)} items of the head, got {len(titles)}")
