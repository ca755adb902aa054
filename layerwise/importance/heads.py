"""Heads for other questions: what a linear map reads from the final state that a recommender is asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender


def asked_state(recommender: Recommender, histories: Sequence[IntArray]) -> Tensor:
    """Final state at the position that is asked, *histories x hidden*, with gradients where they are on."""
    batch = recommender.batch(histories)
    last = batch.pop("last")
    return recommender.states(batch)[torch.arange(len(last), device=last.device), last]


def answers(
    recommender: Recommender, head: nn.Module, histories: Sequence[IntArray], batch_size: int = 128
) -> FloatArray:
    """What a head makes of the final states, in evaluation mode and without gradients.

    Args:
        recommender: Gives the states.
        head: From states *rows x hidden* to *rows x outputs*; `nn.Identity()` gives the states themselves.
        histories: Item codes per row, oldest first; batched by length, the order of rows is kept.
        batch_size: Rows per pass.

    Returns:
        *histories x outputs*, fp32.
    """
    lengths = [min(len(history), recommender.max_length) for history in histories]
    order = np.argsort(lengths, kind="stable")
    parts = []
    with evaluating(recommender), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            parts.append(head(asked_state(recommender, [histories[row] for row in rows])).float().cpu().numpy())
    found = np.concatenate(parts)
    return found[np.argsort(order)]


def log_likelihood(logits: FloatArray, labels: IntArray) -> FloatArray:
    """Logarithm of the probability of each row's label, *rows*, in nats.

    Args:
        logits: *rows x classes*.
        labels: Class of each row.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    return np.asarray(shifted[rows, labels] - np.log(np.exp(shifted).sum(axis=1)), dtype=np.float64)
