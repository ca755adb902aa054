"""What each layer knows when the recommender is asked: its output state at one position of each history."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerwise.data.arrays import IntArray
from layerwise.models.layers import stacks_of, traced
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender


def asked_states(recommender: Recommender, histories: Sequence[IntArray], batch_size: int = 128) -> NDArray[np.float32]:
    """The state that leaves each layer at the position that is asked, before any final norm.

    Asked is the last event of a causal model, the mask after the history of a masked one, and the decoder's start of
    an encoder-decoder. In an encoder's layers, which have no such position, it is the token that ends the history.
    The states are taken at the layers, since the last entry of `hidden_states` is after the final norm.

    Args:
        recommender: It is left as it was.
        histories: Item codes, oldest first, one array per row; only the newest `max_length` events are read.
        batch_size: Rows per forward pass, of similar length; it does not change the result beyond rounding.

    Returns:
        *num_layers x rows x hidden*; layers are counted through both stacks of an encoder-decoder, rows stand in the
        order of `histories`.

    Raises:
        ValueError: If a history is empty or holds a code outside the catalogue.
    """
    if empty := [row for row, history in enumerate(histories) if len(history) == 0]:
        raise ValueError(f"a state needs at least one event, but these histories are empty: {empty}")
    states = np.empty((len(recommender.layers), len(histories), recommender.item_matrix.shape[1]), dtype=np.float32)
    order = np.argsort([min(len(history), recommender.max_length) for history in histories], kind="stable")
    with evaluating(recommender), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            states[:, rows] = _asked(recommender, recommender.batch([histories[row] for row in rows]))
    return states


def _asked(recommender: Recommender, batch: dict[str, Tensor]) -> NDArray[np.float32]:
    """One batch's states, *num_layers x batch x hidden*; the last stack answers, those before it only read."""
    last = batch.pop("last")
    with traced(recommender) as trace:
        recommender.states(batch)
    *reading, answering = [(stack, len(layers)) for stack, layers in stacks_of(recommender).items()]
    positions = [batch[stack.mask].sum(dim=1) - 1 for stack, depth in reading for _ in range(depth)]
    positions += [last] * answering[1]
    rows = torch.arange(len(last), device=last.device)
    asked = [state[rows, position] for state, position in zip(trace.outputs, positions, strict=True)]
    return torch.stack(asked).float().cpu().numpy()
