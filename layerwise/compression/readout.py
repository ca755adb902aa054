"""Readout refit: the output matrix learns, in closed form, to read the final states that a compact model has.

It is separate from bridges, which mend states inside; both may be used, the readout last.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Generic

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.compression.bridge import HELD_OUT, Batches, position_weights
from layerwise.compression.compact import Model
from layerwise.compression.ridge import Ridge, Sums, ridge
from layerwise.models.families import UnsupportedArchitectureError
from layerwise.models.layers import forward_inputs, pretrained_of, stacks_of
from layerwise.models.modes import evaluating


@dataclass(frozen=True)
class Readout(Generic[Model]):
    """A model with a refitted output matrix.

    Attributes:
        model: A copy of the compact model with its own output matrix, no longer tied to the input embeddings.
        explained: Share of the difference between the full model's final states and the compact one's that the map
            gives on held-out examples (weighted R squared; 0 is no better than the readout as it was).
        strength: Chosen ridge strength, in units of the mean eigenvalue; infinite where no map helped, so that the
            output matrix has its old values.
    """

    model: Model
    explained: float
    strength: float


def refit_readout(compact: Model, full: Model, batches: Batches, read_share: float = 0.5) -> Readout[Model]:
    """A copy of a compact model that reads its final states as if they were the full model's.

    A square map M is fitted by ridge regression, such that s + s M comes close to the full model's final state for
    the compact model's s. It is folded into the output matrix E (*vocabulary x hidden*): (s + s M) E' = s (E (I + M'))'
    where ' transposes. Final states are what enters the output embedding module, so BERT's transform is behind them.

    It costs parameters: the output matrix is untied from the input embeddings, which adds *vocabulary x hidden* of
    them to memory and checkpoint where they were tied (BERT's output bias adds *vocabulary* more), and nothing where
    they were not. The checkpoint stays one that `transformers` alone reads.

    Args:
        compact: A supported `transformers` model with a language-modelling head, or a `Recommender`; as cut from
            `full`, bridged or not, with the output matrix of `full` (after training, E may be another one, and then
            states like the full model's are not scored as it would score them). It is left as it was.
        full: The model that it was cut from, of the same kind; left as it was.
        batches: Keyword dictionaries for the models' forward; masked positions do not count. With `labels`, the
            positions that predict one get `read_share` of their row's weight.
        read_share: Weight of the read positions among all of a row, in [0, 1].

    Returns:
        The refitted model on the same device, of the same dtype and in the same mode, with R squared and strength.

    Raises:
        ValueError: If there is no batch, `read_share` is out of range, or the two models' final states have
            different widths.
        UnsupportedArchitectureError: If a model has no output embeddings, or if its configuration ties them to the
            input embeddings whatever it is told (T5), so that a checkpoint could not hold two matrices.

    References:
        Xu et al. 2025 (SLMRec), figure of quality by layer: where a head reads another layer than the one it was
        trained on, quality falls far below that of a model trained to this depth. The closed form is ours; its ridge
        pulls towards the readout as it was.
    """
    if not 0 <= read_share <= 1:
        raise ValueError(f"read_share must lie in [0, 1], got {read_share}")
    if not batches:
        raise ValueError("a readout needs at least one batch to learn from, got none")
    small, large = pretrained_of(compact), pretrained_of(full)
    widths = [_head(each).in_features for each in (small, large)]
    if widths[0] != widths[1]:
        raise ValueError(f"final states must be equally wide, got {widths[0]} (compact) and {widths[1]} (full)")
    _check_can_untie(small)
    found = _fit(small, large, batches, read_share)
    refitted = copy.deepcopy(compact)
    _fold(pretrained_of(refitted), found.coefficients)
    return Readout(refitted, found.explained, found.strength)


def _head(model: PreTrainedModel) -> nn.Linear:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} has no output embeddings to refit; give a model with a language-modelling head"
        )
    return head


def _check_can_untie(model: PreTrainedModel) -> None:
    """A configuration that is read back must not tie what was untied."""
    config = model.config
    if type(config).from_dict(config.to_dict() | {"tie_word_embeddings": False}).tie_word_embeddings:
        raise UnsupportedArchitectureError(
            f"{type(config).__name__} ties output to input embeddings whenever it is loaded, so a checkpoint cannot "
            "hold a refitted output matrix; use bridges (bridged_model) or healing for this family"
        )


def _fit(compact: PreTrainedModel, full: PreTrainedModel, batches: Batches, read_share: float) -> Ridge:
    """The map M, *hidden x hidden*, from the compact model's final states to what the full model's add to them."""
    stack = list(stacks_of(full))[-1]
    parts: tuple[list[Sums], list[Sums]] = ([], [])
    with evaluating(full, compact), torch.no_grad():
        for number, batch in enumerate(batches):
            inputs = forward_inputs(full, batch)
            states, wanted = _final_states(compact, inputs), _final_states(full, inputs)
            weights = position_weights(full, stack, batch, read_share)
            held_out = (torch.arange(len(states), device=states.device) + number) % HELD_OUT == 0
            for part, chosen in zip(parts, (~held_out, held_out), strict=True):
                rows = states[chosen].flatten(0, 1), (wanted - states)[chosen].flatten(0, 1)
                part.append(Sums.of(*rows, weights[chosen].flatten()))
    return ridge(reduce(add, parts[0]), reduce(add, parts[1]))


def _final_states(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """What enters the output embeddings, *batch x length x hidden*, fp64."""
    with _entering(_head(model)) as seen:
        model(**inputs)
    return seen[0].double()


@contextmanager
def _entering(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what enters a module at each call inside the block."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def _fold(model: PreTrainedModel, change: Tensor) -> None:
    """Gives the model an output matrix E + E M' of its own, in place; computed in fp64, then cast."""
    head = _head(model)
    matrix = head.weight.detach().double()
    matrix = (matrix + matrix @ change.T).to(head.weight.dtype)
    head.weight = nn.Parameter(matrix, requires_grad=head.weight.requires_grad)
    if head.bias is not None:  # BERT ties it, too, by the same switch, and would miss it when loaded
        head.bias = nn.Parameter(head.bias.detach().clone(), requires_grad=head.bias.requires_grad)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)  # as a fresh load has them
