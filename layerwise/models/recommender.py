"""A recommender: a transformer backbone whose last state, times the item matrix, scores the whole catalogue."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.families import Shape, family_named, family_of
from layerwise.models.inputs import IGNORED, INPUTS, padded
from layerwise.models.layers import layers_of
from layerwise.models.modes import evaluating


@dataclass(frozen=True)
class Windows:
    """A batch of training windows: everything a loss may look at.

    Attributes:
        inputs: Arguments of `Recommender.states`, each *batch x length*.
        valid: *batch x length of the states*, true where the state has a target.
        items: *num_targets*, the targets, in the order of `valid`.
    """

    inputs: dict[str, Tensor]
    valid: Tensor
    items: Tensor


class Recommender(nn.Module):
    """An item-token recommender: item codes are the vocabulary, the tokens after them are special.

    The same class serves causal models (the last state is asked), masked ones (a mask after the history is asked)
    and encoder-decoders (the decoder's first state is asked); see `layerwise.models.inputs`.

    Args:
        model: A language model of a supported family whose vocabulary is the catalogue plus the special tokens of
            its kind of input; see there.
        num_items: Size of the catalogue.
        max_length: Number of most recent events that are read; older ones are left out.

    Raises:
        ValueError: If the vocabulary does not fit the catalogue.
        UnsupportedArchitectureError: If the architecture is unknown.
    """

    def __init__(self, model: PreTrainedModel, num_items: int, max_length: int) -> None:
        super().__init__()
        self._family = family_of(model.config)
        self.inputs = INPUTS[self._family.inputs](num_items, max_length)
        vocabulary, needed = model.get_input_embeddings().num_embeddings, num_items + len(self.inputs.special)
        if vocabulary != needed:
            raise ValueError(
                f"expected a vocabulary of {needed} tokens ({num_items} items and {', '.join(self.inputs.special)}), "
                f"got {vocabulary}; build the model for this catalogue"
            )
        self.model = model
        self.num_items = num_items
        self.max_length = max_length

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers, first to last; those of an encoder stand before those of its decoder."""
        return layers_of(self.model)

    @property
    def item_matrix(self) -> Tensor:
        """Output vectors of the items, *num_items x hidden*."""
        head: Tensor = self.model.get_output_embeddings().weight
        return head[: self.num_items]

    def item_scores(self, states: Tensor) -> Tensor:
        """Scores of every item, *... x num_items*, for states *... x hidden*, in the precision of the states."""
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        offset = bias[: self.num_items].to(states.dtype) if bias is not None else None
        return nn.functional.linear(states, self.item_matrix.to(states.dtype), offset)

    def _check(self, sequences: Sequence[IntArray]) -> None:
        """Before padding: a special token is no item, but could not be told from one afterwards."""
        for row, sequence in enumerate(sequences):
            if len(sequence) == 0:
                raise ValueError(f"history {row} is empty; a recommendation needs at least one event")
        codes = np.concatenate([np.empty(0, dtype=np.int64), *sequences])
        wrong = codes[(codes < 0) | (codes >= self.num_items)]
        if len(wrong):
            raise ValueError(f"item codes must lie within [0, {self.num_items}), got {wrong[0]}")

    def batch(self, histories: Sequence[IntArray]) -> dict[str, Tensor]:
        """Arguments of `forward` for these histories.

        Args:
            histories: Item codes, oldest first; one array per row.

        Returns:
            `input_ids` *batch x length* and `last` *batch*, the position that is asked; `attention_mask` and
            `decoder_input_ids` where the family needs them. On the model's device.

        Raises:
            ValueError: If a history is empty or holds a code outside `[0, num_items)`.
        """
        self._check(histories)
        prompts = [self.inputs.prompt(history) for history in histories]
        last = np.array([prompt.positions[-1] for prompt in prompts])
        return {**self._tensors([prompt.inputs for prompt in prompts]), "last": self._tensor(last)}

    def windows(self, sequences: Sequence[IntArray], rng: np.random.Generator) -> Windows:
        """One random training window of each sequence of two or more events."""
        self._check(sequences)
        windows = [self.inputs.window(sequence, rng) for sequence in sequences]
        tensors = self._tensors([window.inputs for window in windows])
        asked = tensors.get("decoder_input_ids", tensors["input_ids"])
        valid = np.zeros(asked.shape, dtype=bool)
        for row, window in enumerate(windows):
            valid[row, window.positions] = True
        return Windows(tensors, self._tensor(valid), self._tensor(np.concatenate([w.items for w in windows])))

    def labelled_batches(self, sequences: Sequence[IntArray], batch_size: int = 64) -> list[dict[str, Tensor]]:
        """Batches for `layer_scores`, one example per sequence: its last event is to be predicted from the others.

        Args:
            sequences: Item codes, oldest first; those with fewer than two events are left out.
            batch_size: Examples per batch; sequences of similar length stand together.

        Returns:
            Dictionaries of `input_ids`, `attention_mask`, `labels` and, for encoder-decoders, `decoder_input_ids`,
            as `transformers` expects them; labels are -100 but at the last event.

        Raises:
            ValueError: If a sequence holds a code outside `[0, num_items)`.
        """
        usable = sorted((s[-self.max_length - 1 :] for s in sequences if len(s) > 1), key=len)
        self._check(usable)
        examples = [self.inputs.labelled(sequence) for sequence in usable]
        starts = range(0, len(examples), batch_size)
        return [self._tensors(examples[start : start + batch_size], with_mask=True) for start in starts]

    def _tensors(self, rows: Sequence[Mapping[str, IntArray]], with_mask: bool | None = None) -> dict[str, Tensor]:
        """Rows of arguments as padded tensors, with a mask where the family asks for one."""
        fill = {name: IGNORED if name == "labels" else self.num_items for name in rows[0]}
        tables = {name: padded([row[name] for row in rows], fill[name]) for name in rows[0]}
        if with_mask or (with_mask is None and self.inputs.asks_for_mask):
            tables["attention_mask"] = padded([np.ones(len(row["input_ids"]), dtype=np.int64) for row in rows], 0)
        return {name: self._tensor(table) for name, table in tables.items()}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)

    def states(self, inputs: Mapping[str, Tensor], embedding_dropout: float = 0.0) -> Tensor:
        """Final states, which `item_scores` turns into scores, *batch x length x hidden*.

        Args:
            inputs: Tensors of `batch` (but `last`) or of `Windows`; `decoder_input_ids` among them decide the length.
            embedding_dropout: Share of the token vectors' entries that is dropped in training mode.
        """

        def embed(tokens: Tensor) -> Tensor:
            vectors = self.model.get_input_embeddings()(tokens)
            return nn.functional.dropout(vectors, embedding_dropout, training=self.training)

        return self._family.states(self.model, inputs, embed)

    def forward(self, input_ids: Tensor, last: Tensor, **others: Tensor) -> Tensor:
        """Scores of every item at position `last`, *batch x num_items*, fp32; the arguments are those of `batch`."""
        rows = torch.arange(len(last), device=last.device)
        states = self.states({"input_ids": input_ids, **others})[rows, last]
        return self.item_scores(states.float())

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
        auto = family_of(AutoConfig.from_pretrained(folder, local_files_only=True)).auto
        model, report = auto.from_pretrained(folder, local_files_only=True, output_loading_info=True)
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
    of = family_named(family)
    inputs = INPUTS[of.inputs](num_items, max_length)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator, too
        vocabulary = num_items + len(inputs.special)
        model = of.build(vocabulary, num_items, shape, inputs.positions, attention_dropout)
    return Recommender(model, num_items, max_length)
