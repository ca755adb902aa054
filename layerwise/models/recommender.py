"""A recommender: a transformer backbone whose last state, times the item matrix, scores the whole catalogue."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.families import Shape, family_named, layers_of, scale_residual_outputs
from layerwise.models.modes import evaluating


class Recommender(nn.Module):
    """An item-token recommender: item codes are the vocabulary, the token after them is padding.

    Sequences are padded on the right. Under causal attention the state at the last event never sees the padding,
    so no attention mask is needed.

    Args:
        model: A causal language model of a supported family whose vocabulary is `num_items + 1` tokens.
        num_items: Size of the catalogue.
        max_length: Number of most recent events that are read; older ones are left out.

    Raises:
        ValueError: If the vocabulary does not fit the catalogue.
    """

    def __init__(self, model: PreTrainedModel, num_items: int, max_length: int) -> None:
        super().__init__()
        vocabulary = model.get_input_embeddings().num_embeddings
        if vocabulary != num_items + 1:
            raise ValueError(
                f"expected a vocabulary of num_items + 1 = {num_items + 1} tokens (items and padding), "
                f"got {vocabulary}; build the model for this catalogue"
            )
        self.model = model
        self.num_items = num_items
        self.max_length = max_length

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        return layers_of(self.model)

    @property
    def item_matrix(self) -> Tensor:
        """Output vectors of the items, *num_items x hidden*."""
        head: Tensor = self.model.get_output_embeddings().weight
        return head[: self.num_items]

    def pad(self, sequences: Sequence[IntArray], length: int | None = None) -> Tensor:
        """The newest events of each sequence as tokens, padded on the right.

        Args:
            sequences: Item codes, oldest first; one array per row, none empty.
            length: Number of columns; by default that of the longest row, at most `max_length`.

        Returns:
            *batch x length*, int64, on the model's device.

        Raises:
            ValueError: If a sequence is empty or holds a code outside `[0, num_items)`.
        """
        self._check(sequences)
        length = length or min(self.max_length, max(len(sequence) for sequence in sequences))
        tokens = np.full((len(sequences), length), self.num_items, dtype=np.int64)
        for row, sequence in enumerate(sequences):
            newest = sequence[-length:]
            tokens[row, : len(newest)] = newest
        return torch.from_numpy(tokens).to(self.model.device)

    def _check(self, sequences: Sequence[IntArray]) -> None:
        """Before padding: the padding token is no item, but could not be told from one afterwards."""
        for row, sequence in enumerate(sequences):
            if len(sequence) == 0:
                raise ValueError(f"history {row} is empty; a recommendation needs at least one event")
        codes = np.concatenate([np.empty(0, dtype=np.int64), *sequences])
        wrong = codes[(codes < 0) | (codes >= self.num_items)]
        if len(wrong):
            raise ValueError(f"item codes must lie within [0, {self.num_items}), got {wrong[0]}")

    def batch(self, histories: Sequence[IntArray]) -> dict[str, Tensor]:
        """Arguments of `forward` for these histories: `input_ids` *batch x length* and `last` *batch*."""
        input_ids = self.pad(histories)
        lengths = [min(len(history), input_ids.shape[1]) for history in histories]
        return {"input_ids": input_ids, "last": torch.tensor(lengths, device=input_ids.device) - 1}

    def labelled_batches(self, sequences: Sequence[IntArray], batch_size: int = 64) -> list[dict[str, Tensor]]:
        """Batches for `layer_scores`, one example per sequence: its last event is to be predicted from the others.

        Args:
            sequences: Item codes, oldest first; those with fewer than two events are left out.
            batch_size: Examples per batch; sequences of similar length stand together.

        Returns:
            Dictionaries of `input_ids`, `attention_mask` and `labels`, each *batch x length*; labels are -100 but
            at the last event, as `transformers` expects them.
        """
        usable = sorted((s[-self.max_length - 1 :] for s in sequences if len(s) > 1), key=len)
        batches = []
        for start in range(0, len(usable), batch_size):
            part = usable[start : start + batch_size]
            input_ids = self.pad(part, length=len(part[-1]))
            rows, last = range(len(part)), [len(sequence) - 1 for sequence in part]
            labels = torch.full_like(input_ids, -100)
            labels[rows, last] = input_ids[rows, last]
            mask = (input_ids != self.num_items).long()
            batches.append({"input_ids": input_ids, "attention_mask": mask, "labels": labels})
        return batches

    def states(self, input_ids: Tensor, embedding_dropout: float = 0.0) -> Tensor:
        """States after the final norm, *batch x length x hidden*."""
        embedded = self.model.get_input_embeddings()(input_ids)
        embedded = nn.functional.dropout(embedded, embedding_dropout, training=self.training)
        states: Tensor = self.model.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return states

    def forward(self, input_ids: Tensor, last: Tensor) -> Tensor:
        """Scores of every item after position `last`, *batch x num_items*, fp32."""
        rows = torch.arange(len(last), device=last.device)
        states = self.states(input_ids)[rows, last]
        return states.float() @ self.item_matrix.float().T

    def scores(self, histories: Sequence[IntArray], batch_size: int = 128) -> FloatArray:
        """Scores of every item for every history, in evaluation mode and without gradients.

        Histories are batched by length, so that little padding is computed; the order of rows is kept.

        Args:
            histories: Item codes per row, oldest first.
            batch_size: Rows per forward pass; it does not change the result beyond rounding.

        Returns:
            *len(histories) x num_items*, fp32.

        Raises:
            ValueError: If a history is empty or holds a code outside `[0, num_items)`.
        """
        self._check(histories)  # here, since batches are sorted: the row in the message is the caller's
        scores = np.empty((len(histories), self.num_items), dtype=np.float32)
        order = np.argsort([min(len(history), self.max_length) for history in histories], kind="stable")
        with evaluating(self), torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                scores[rows] = self(**self.batch([histories[row] for row in rows])).cpu().numpy()
        return scores

    def save(self, folder: Path) -> None:
        """Writes a plain Hugging Face checkpoint; the catalogue and history length go into its configuration."""
        config = self.model.config
        self.model.config = copy.deepcopy(config)
        self.model.config.update({"num_items": self.num_items, "max_history": self.max_length})
        try:
            self.model.save_pretrained(folder)
        finally:
            self.model.config = config

    @classmethod
    def load(cls, folder: Path) -> "Recommender":
        """Reads a checkpoint that `save` wrote.

        Raises:
            ValueError: If the configuration does not say the catalogue size and history length, or if weights
                are missing or left over.
        """
        model, report = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        if report["missing_keys"] or report["unexpected_keys"]:
            raise ValueError(
                f"{folder} does not fit its configuration: missing {sorted(report['missing_keys'])}, "
                f"left over {sorted(report['unexpected_keys'])}"
            )
        for field in ("num_items", "max_history"):
            if not hasattr(model.config, field):
                raise ValueError(f"{folder}/config.json has no {field!r}; was it written by Recommender.save?")
        return cls(model, model.config.num_items, model.config.max_history)


def build_recommender(
    family: str,
    num_items: int,
    max_length: int,
    shape: Shape,
    seed: int,
    attention_dropout: float = 0.0,
) -> Recommender:
    """A fresh recommender with random weights, residual outputs scaled for its depth.

    Args:
        family: Name of a supported family.
        num_items: Size of the catalogue.
        max_length: Number of most recent events that are read.
        shape: Layers, widths and heads.
        seed: Decides the initial weights; the global generator is left as it was.
        attention_dropout: Share of attention weights dropped in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator, too
        model = family_named(family).build(num_items + 1, shape, attention_dropout)
    scale_residual_outputs(model)
    return Recommender(model, num_items, max_length)
