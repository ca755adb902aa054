"""Bridges: a kept block takes over, in closed form and without training, what the layers removed after it did.

The output map of the block's feed-forward part is refitted by ridge regression, so that the block's output comes close
to the state that the full model has after the removed run. Nothing is added: the checkpoint keeps its form and size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any, Generic, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layerwise.compression.compact import KeptLayers, Model, compact_model, kept_by_stack
from layerwise.compression.ridge import Ridge, Sums, ridge
from layerwise.models.families import Stack, family_of
from layerwise.models.inputs import IGNORED
from layerwise.models.layers import (
    pretrained_of,
    run_layers,
    shifts_labels,
    stacks_of,
    state_of,
)
from layerwise.models.modes import evaluating

Batches = Sequence[Mapping[str, Tensor]]
Features = Literal["inner", "branch"]
HELD_OUT = 5  # every fifth example chooses the ridge strength


@dataclass(frozen=True)
class Gap:
    """A run of removed layers.

    Attributes:
        stack: Name of the stack.
        removed: Indices in the full model's stack.
        bridge: Index of the kept layer in front of it, which stands in for it; None where there is none.
        explained: Share of the run's effect that the bridge gives on held-out examples: weighted R squared, where 0 is
            no better than the bare cut (in BERT: than the cut with the output normalisation taken over); `nan`
            without a bridge.
        strength: Chosen ridge strength, in units of the mean eigenvalue; infinite where the map was left as it was.
    """

    stack: str
    removed: tuple[int, ...]
    bridge: int | None
    explained: float
    strength: float


@dataclass(frozen=True)
class Bridged(Generic[Model]):
    """A compact model with bridges, and how well each of them does."""

    model: Model
    gaps: tuple[Gap, ...]


def bridged_model(
    model: Model,
    kept_layers: KeptLayers,
    batches: Batches,
    features: Features = "inner",
    read_share: float = 0.5,
) -> Bridged[Model]:
    """A compact model whose kept layers stand in for the removed runs behind them.

    Gaps are solved in order, each on the states that the compact model has with the bridges before it. A post-norm
    layer (BERT) cannot absorb a linear map, since a normalisation follows the sum: there the layer also takes over the
    output normalisation of the last removed layer, and its output map is refitted to the sum that goes into it, up to
    the shift and scale of each position. Layers removed before the first kept one have no bridge.

    Args:
        model: A supported `transformers` model or a `Recommender`; it is left as it was.
        kept_layers: As for `compact_model`.
        batches: Keyword dictionaries for the model's forward; masked positions do not count. With `labels`, the
            positions that predict one get `read_share` of their row's weight.
        features: What is regressed on: the feed-forward part's `"inner"` activations, so that its output map is
            replaced, or its `"branch"` output, so that the map is followed by a square one (ReplaceMe).
        read_share: Weight of the read positions among all of a row, in [0, 1].

    Returns:
        The compact model, its weights copies, and the gaps in order.

    Raises:
        ValueError: If there is no batch, `features` or `read_share` is out of range, or as for `compact_model`.

    References:
        Shopkhoev et al. 2025 (ReplaceMe), section 3, for `"branch"`; here with a ridge towards the bare cut that is
        chosen on held-out examples, weights by position, several gaps in order, and padding left out.
    """
    if features not in ("inner", "branch"):
        raise ValueError(f'features must be "inner" or "branch", got {features!r}')
    if not 0 <= read_share <= 1:
        raise ValueError(f"read_share must lie in [0, 1], got {read_share}")
    if not batches:
        raise ValueError("a bridge needs at least one batch to learn from, got none")
    compact = compact_model(model, kept_layers)
    full, small = pretrained_of(model), pretrained_of(compact)
    gaps = [
        _bridge(full, small, stack, kept, removed, batches, features, read_share)
        for stack, kept in kept_by_stack(full, kept_layers).items()
        for removed in _runs(kept, len(stacks_of(full)[stack]))
    ]
    return Bridged(compact, tuple(gaps))


def _runs(kept: Sequence[int], depth: int) -> list[tuple[int, ...]]:
    """The runs of neighbouring layers between, before and after the kept ones."""
    runs = [tuple(range(low + 1, high)) for low, high in pairwise((-1, *kept, depth))]
    return [run for run in runs if run]


def _bridge(
    full: PreTrainedModel,
    compact: PreTrainedModel,
    stack: Stack,
    kept: tuple[int, ...],
    removed: tuple[int, ...],
    batches: Batches,
    features: Features,
    read_share: float,
) -> Gap:
    """Lets the kept layer in front of a removed run stand in for it, in place."""
    if removed[0] == 0:
        return Gap(stack.name, removed, None, float("nan"), float("nan"))
    bridge = removed[0] - 1
    pair = _Pair(
        full, compact, stack, stacks_of(full)[stack][removed[-1]], stacks_of(compact)[stack][kept.index(bridge)]
    )
    found = pair.refit(batches, features, read_share)
    return Gap(stack.name, removed, bridge, found.explained, found.strength)


def position_weights(model: PreTrainedModel, stack: Stack, batch: Mapping[str, Tensor], read_share: float) -> Tensor:
    """How much each position of a stack counts, fp64, *batch x length*.

    Padding counts nothing. Each row adds up to the number of its other positions; those that predict a label share
    `read_share` of it evenly, all of them share the rest. Only the last stack is read.
    """
    tokens = batch.get(stack.ids, batch.get("labels"))  # a decoder may be fed by its labels,
    if tokens is None or tokens.ndim == 1:
        tokens = batch["input_ids"]  # or, in a classifier, by what the encoder reads
    counts = batch.get(stack.mask, torch.ones_like(tokens)).double()
    labels = batch.get("labels")
    if labels is None or labels.shape != counts.shape or stack != list(stacks_of(model))[-1]:
        return counts
    read = (labels != IGNORED).double()
    if shifts_labels(model):
        read = nn.functional.pad(read[:, 1:], (0, 1)) * (counts > 0)
    rows, reads = counts.sum(1, keepdim=True), read.sum(1, keepdim=True)
    mixed = (1 - read_share) * counts + read_share * read * rows / reads.clamp(min=1)
    return torch.where(reads > 0, mixed, counts)


@dataclass(frozen=True)
class _Pair:
    """A layer of the compact model, and the layer of the full one whose output it is to give."""

    full: PreTrainedModel
    compact: PreTrainedModel
    stack: Stack
    wanted: nn.Module
    layer: nn.Module

    def refit(self, batches: Batches, features: Features, read_share: float) -> Ridge:
        """Refits, in place, the layer's output map."""
        family = family_of(self.full.config)
        projection, norm = _output_map(self.layer, family.branches), family.output_norm
        if norm is not None:
            self.layer.get_submodule(norm).load_state_dict(self.wanted.get_submodule(norm).state_dict())
        parts: tuple[list[Sums], list[Sums]] = ([], [])
        with evaluating(self.full, self.compact), torch.no_grad():
            for number, batch in enumerate(batches):
                goal, now, inner, branch = self._observe(batch, projection, norm)
                rows = inner if features == "inner" else branch
                if projection.bias is not None:
                    rows = nn.functional.pad(rows, (0, 1), value=1.0)  # its coefficients change the bias
                weights = position_weights(self.full, self.stack, batch, read_share)
                held_out = (torch.arange(len(rows), device=rows.device) + number) % HELD_OUT == 0
                for part, chosen in zip(parts, (~held_out, held_out), strict=True):
                    table = rows[chosen].flatten(0, 1), (goal - now)[chosen].flatten(0, 1)
                    part.append(Sums.of(*table, weights[chosen].flatten()))
            found = ridge(reduce(add, parts[0]), reduce(add, parts[1]))
            _fold(projection, found.coefficients, features)
        return found

    def _observe(
        self, batch: Mapping[str, Tensor], projection: nn.Module, norm: str | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The sum that is wanted and the one that the layer has, fp64; what enters and leaves its output map."""
        with _watched(self.wanted, norm) as wanted, _watched(self.layer, norm) as layer, _watched(projection) as branch:
            run_layers(self.full, batch)
            run_layers(self.compact, batch)
        (inner, outer), goal, now = branch[0], wanted[0][1].double(), layer[0][1].double()
        if norm is not None:  # the sum before the normalisation, which ignores its shift and scale
            goal, now = wanted[0][0].double(), layer[0][0].double()
            goal = (goal - goal.mean(-1, keepdim=True)) / goal.std(-1, keepdim=True)
            goal = goal * now.std(-1, keepdim=True) + now.mean(-1, keepdim=True)
        return goal, now, inner, outer


def _output_map(layer: nn.Module, branches: Sequence[str]) -> "nn.Linear | Conv1D":
    """The linear map through which a layer's feed-forward part writes to the residual stream."""
    modules = dict(layer.named_modules())
    found = [modules[path] for path in branches if path in modules][-1]
    assert isinstance(found, nn.Linear | Conv1D)
    return found


@contextmanager
def _watched(module: nn.Module, path: str | None = None) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects what enters and leaves a module, or its part at `path`, at each call inside the block."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        seen.append((inputs[0], state_of(output)))

    handle = (module.get_submodule(path) if path else module).register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def _fold(projection: "nn.Linear | Conv1D", coefficients: Tensor, features: Features) -> None:
    """Adds a fitted map, *features (and 1) x hidden*, to the output map, in place; computed in fp64, then cast."""
    transposed = isinstance(projection, Conv1D)  # keeps its weight *in x out*
    weight = (projection.weight if transposed else projection.weight.T).double()  # in x hidden
    bias = None if projection.bias is None else projection.bias.double()
    size = weight.shape[0 if features == "inner" else 1]
    change, offset = coefficients[:size], coefficients[size:].sum(0)
    if features == "branch":  # y -> y + y @ change, for y = x @ weight + bias
        offset = offset if bias is None else offset + bias @ change
        change = weight @ change
    weight = weight + change
    projection.weight.copy_(weight if transposed else weight.T)
    if bias is not None:
        projection.bias.copy_(bias + offset)
